"""Shrinking: an ordinary smaller network, with every unit that was chosen, or is dead, really gone.

    shrink(module, masks_or_recipe, example_inputs) -> Shrunk(module, report, ...)

From masks: the units that the masks leave dead, for free. From a recipe: its budget's units, by its score.
The given network is not changed.
"""

import copy
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateurs.errors import InputError, RecipeError
from secateurs.groups.axes import Bools
from secateurs.groups.finding import Structure, find_groups
from secateurs.groups.tracing import call, evaluating
from secateurs.layers import unwrap
from secateurs.masks import Masks
from secateurs.recipe import Recipe
from secateurs.structure.choosing import Gone, choose, chosen_groups
from secateurs.structure.cutting import Attributes, cut
from secateurs.structure.dead import bury, zero
from secateurs.structure.stock import evenly, say_it, sayable
from secateurs.structure.unit_scores import Loss, calibrate, unit_scores

Outcome = Literal["shrunk", "skipped", "impossible"]
TOLERANCE = 1e-3  # of the largest output: far above float32's rounding, far below a wrong cut


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
    why_not_stock       of transformers: why the stock configuration cannot say these shapes; "" where it does
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
    why_not_stock: str = ""


def shrink(
    module: nn.Module,
    how: Masks | Recipe,
    example_inputs: Any,
    *,
    calibration: Iterable[Any] = (),
    loss: Loss | None = None,
    stock: bool = True,
) -> Shrunk:
    """The network without the units that `how` leaves dead, or chooses.

    how             masks: what they leave dead goes, and no output changes; or a recipe with unit row, channel or head,
                    pool layer or model, budget sparsity(s), params(s), macs(s) or latency(8ms)
    example_inputs  a tensor, a tuple of arguments or a mapping of named ones; a batch of 2 or more
    calibration     for the scores activation (inputs like example_inputs) and taylor (whatever `loss` takes)
    loss            for taylor: function(network, batch) -> a number
    stock           of transformers: keep what its stock configuration can say. Dead units go equally many from each
                    layer, and layers that the configuration has no size for are left, unless the recipe's `only` names
                    them. False cuts all; the result may need `load_shrunk`

    RecipeError for what cannot be removed, before any work; InputError where the network cannot be run on the inputs.
    """
    small = copy.deepcopy(unwrap(module))
    if isinstance(how, Masks):
        how.apply(small)
        structure = find_groups(small, example_inputs)
        outputs = outputs_of(small, example_inputs)
        dead = bury(small, structure, example_inputs)
        gone = evenly(small, structure, dead) if stock else dead
        return finish(small, structure, example_inputs, outputs, gone, dead)
    if how.schedule.name != "one_shot":
        raise RecipeError(
            f"Units are removed at once, not by a schedule '{how.schedule}'. Leave it out, and shrink again in time."
        )
    structure = find_groups(small, example_inputs, how.skip, how.only)
    groups = chosen_groups(structure, how)
    if stock and not how.only:
        groups = sayable(small, groups)
    if not groups:
        raise RecipeError(
            f"The configuration of {type(small).__name__} has no size for any '{how.unit}'. With stock=False they are "
            "cut all the same; the result is then loaded by load_shrunk."
        )
    evidence = calibrate(small, structure, how.score.name, calibration, loss)
    scores = unit_scores(small, groups, how, evidence)

    def seconds(gone: Gone) -> float:
        trial = copy.deepcopy(small)
        cut(trial, structure, {name: ~units for name, units in gone.items()})
        return _seconds(trial, example_inputs)

    chosen = choose(structure, groups, scores, how, seconds)
    gone = {group.name: chosen.get(group.name, np.zeros(group.n_units, bool)) for group in structure.groups}
    for group in groups:
        zero(small, structure, group, gone[group.name])
    return finish(small, structure, example_inputs, outputs_of(small, example_inputs), gone, {})


def _seconds(module: nn.Module, example_inputs: Any, n: int = 9) -> float:
    """Median time of one run."""
    with evaluating(module), torch.no_grad():
        times = []
        for _ in range(n + 2):
            start = time.perf_counter()
            call(module, example_inputs)
            times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


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
        difference = _difference(outputs, outputs_of(small, example_inputs))
    except (InputError, AssertionError) as error:
        raise InputError(
            f"{type(small).__name__} keeps a size in its code that shrinking cannot change: {error} "
            "Take sizes from the tensors (x.shape, -1, flatten) or skip the layers this speaks of."
        ) from error
    roundings = [8 * torch.finfo(tensor.dtype).eps for tensor in outputs]
    if not difference <= max([TOLERANCE, *roundings]):
        raise InputError(
            f"{type(small).__name__} gives other outputs when its units are gone than when they are zero (by "
            f"{difference:.2g} of the largest output): its code uses a size that shrinking cannot see. Skip its layers."
        )
    now = {name: tuple(tensor.shape) for name, tensor in small.named_parameters()}
    in_groups = {each.tensor for group in structure.groups for each in group.slices}
    report = []
    for name, after in now.items():
        before = structure.shapes[name]
        if len(before) < 2:
            continue
        if before != after:
            report.append(WeightReport(name, before, after, "shrunk"))
        elif name in in_groups:
            report.append(WeightReport(name, before, after, "skipped", "nothing of it was to go"))
        else:
            reasons = dict.fromkeys(why for (own, _), why in structure.refused.items() if own == name)
            report.append(WeightReport(name, before, after, "impossible", "; ".join(reasons) or "left out by name"))
    groups = tuple(
        GroupReport(
            g.name, g.kind, g.n_units, int(gone[g.name].sum()), int(dead[g.name].sum()) if g.name in dead else 0
        )
        for g in structure.groups
    )
    why_not_stock = say_it(small, structure, counts)
    n_parameters = structure.n_parameters(), structure.n_parameters(counts)
    macs = structure.trace.macs(), structure.trace.macs(counts)
    return Shrunk(small, groups, tuple(report), n_parameters, macs, attributes, difference, why_not_stock)


def outputs_of(module: nn.Module, example_inputs: Any) -> list[Tensor]:
    """Everything the network gives, as a list of tensors."""
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
