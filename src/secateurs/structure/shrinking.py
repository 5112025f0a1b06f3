"""Shrinking: an ordinary smaller network, with every unit that was chosen, or is dead, really gone.

    shrink(module, masks_or_recipe, example_inputs) -> Shrunk(module, report, ...)

From masks: the units that the masks leave dead, for free. From a recipe: its budget's units, by its score.
The given network is not changed.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateurs.errors import InputError
from secateurs.groups.axes import Bools
from secateurs.groups.finding import Structure, find_groups
from secateurs.groups.tracing import call, evaluating
from secateurs.layers import unwrap
from secateurs.masks import Masks
from secateurs.structure.cutting import Attributes, cut
from secateurs.structure.dead import bury

Outcome = Literal["shrunk", "skipped", "impossible"]
TOLERANCE = 1e-3  # of the largest output: far above rounding, far below a wrong cut


@dataclass(frozen=True)
class WeightReport:
    """What became of one weight: "shrunk", "skipped" (nothing of it was to go) or "impossible", with the reason."""

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class GroupReport:
    """One set of coupled units: how many there were, and how many are gone, of these dead without being asked for."""

    name: str
    kind: str
    n_units: int
    n_removed: int
    n_dead: int


@dataclass(frozen=True, eq=False)
class Shrunk:
    """The smaller network, and what was removed.

    n_parameters, macs  (before, after); multiply-adds of one run on the example inputs
    attributes          {module: {attribute: value}} that were changed beside the shapes
    difference          the largest difference of outputs to the network with the same units zeroed, as a share of
                        its largest output
    """

    module: nn.Module
    groups: tuple[GroupReport, ...]
    report: tuple[WeightReport, ...]
    n_parameters: tuple[int, int]
    macs: tuple[int, int]
    attributes: Attributes
    difference: float


def shrink(module: nn.Module, how: Masks, example_inputs: Any) -> Shrunk:
    """The network without the units that `how` leaves dead or does not choose.

    how             masks: what they leave dead goes, exactly
    example_inputs  a tensor, a tuple of arguments or a mapping of named ones; a batch of 2 or more

    InputError where the network cannot be run on the inputs.
    """
    small = copy.deepcopy(unwrap(module))
    how.apply(small)
    structure = find_groups(small, example_inputs)
    outputs = _outputs(small, example_inputs)
    dead = bury(small, structure, example_inputs)
    return finish(small, structure, example_inputs, outputs, dead, dead)


def finish(
    small: nn.Module,
    structure: Structure,
    example_inputs: Any,
    outputs: list[Tensor],
    gone: Mapping[str, Bools],
    dead: Mapping[str, Bools],
) -> Shrunk:
    """Cut units that no output needs any more, and prove it on the example inputs.

    outputs  what the network gives with them zeroed
    """
    counts = {group.axis: int((~gone[group.name]).sum()) for group in structure.groups}
    attributes = cut(small, structure, {name: ~units for name, units in gone.items()})
    try:
        difference = _difference(outputs, _outputs(small, example_inputs))
    except (InputError, AssertionError) as error:
        raise InputError(
            f"{type(small).__name__} keeps a size in its code that shrinking cannot change: {error} "
            "Take sizes from the tensors (x.shape, -1, flatten) or skip the layers this speaks of."
        ) from error
    if not difference <= TOLERANCE:
        raise InputError(
            f"{type(small).__name__} gives other outputs when its units are gone than when they are zero (by "
            f"{difference:.2g} of the largest output): its code uses a size that shrinking cannot see. Skip its layers."
        )
    now = {name: tuple(tensor.shape) for name, tensor in small.named_parameters()}
    report = []
    for name in now:
        before, reasons = structure.shapes[name], {d: why for (n, d), why in structure.refused.items() if n == name}
        if len(before) < 2:
            continue
        outcome: Outcome = "shrunk" if before != now[name] else "impossible" if len(reasons) > 1 else "skipped"
        reason = "" if outcome == "shrunk" else "; ".join(dict.fromkeys(list(reasons.values())[:2]))
        report.append(WeightReport(name, before, now[name], outcome, reason or "nothing of it was to go"))
    groups = tuple(
        GroupReport(g.name, g.kind, g.n_units, int(gone[g.name].sum()), int(dead[g.name].sum()))
        for g in structure.groups
    )
    n_parameters = structure.n_parameters(), structure.n_parameters(counts)
    macs = structure.trace.macs(), structure.trace.macs(counts)
    return Shrunk(small, groups, tuple(report), n_parameters, macs, attributes, difference)


def _outputs(module: nn.Module, example_inputs: Any) -> list[Tensor]:
    with evaluating(module), torch.no_grad():
        found = tree_leaves(call(module, example_inputs))
    return [tensor for tensor in found if isinstance(tensor, Tensor) and tensor.is_floating_point()]


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    """The largest difference, as a share of the largest value."""
    found = [
        float((b - a).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny))
        for b, a in zip(before, after, strict=True)
        if b.numel()
    ]
    return float(np.max(found)) if found else 0.0
