"""Shrinking: an ordinary smaller network, with every unit that was chosen, or is dead, really gone.

    shrink(module, masks_or_recipe, example_inputs) -> Shrunk(module, report, ...)

From masks: the units that the masks leave dead, for free. From a recipe: its budget's units, by its score.
The given network is not changed.
"""

import copy
import statistics
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateurs.errors import InputError, RecipeError, RequestWarning
from secateurs.groups.axes import Bools
from secateurs.groups.finding import Structure, find_groups
from secateurs.groups.tracing import call, evaluating
from secateurs.layers import unwrap
from secateurs.masks import Masks
from secateurs.recipe import Recipe, as_recipe
from secateurs.structure.choosing import Gone, check_recipe, choose, chosen_groups
from secateurs.structure.cutting import CHANGED, Attributes, cut
from secateurs.structure.dead import bury, zero
from secateurs.structure.depth import (
    LAYERS,
    bypassed,
    find_stacks,
    layer_scores,
    left_of,
    macs_of,
    n_parameters_of,
    thin,
)
from secateurs.structure.stock import evenly, is_stock, other_shapes, say_depth, say_it, sayable, says_depth
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
    layers              {list of modules: which of its elements are left}, where whole layers are gone and no stock
                        configuration says so
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
    layers: Mapping[str, list[int]] = field(default_factory=dict)


def shrink(
    module: nn.Module,
    how: Masks | Recipe | str,
    example_inputs: Any,
    *,
    calibration: Iterable[Any] = (),
    loss: Loss | None = None,
    stock: bool = True,
) -> Shrunk:
    """The network without the units that `how` leaves dead, or chooses.

    how             masks: what they leave dead goes, and no output changes; or a recipe with unit row, channel, head or
                    layer, pool layer or model, budget sparsity(s), params(s), macs(s) or latency(8ms); or its line of
                    text
    example_inputs  a tensor, a tuple of arguments or a mapping of named ones; a batch of 2 or more
    calibration     for the scores activation (inputs like example_inputs) and taylor (whatever `loss` takes)
    loss            for taylor: function(network, batch) -> a number
    stock           of transformers: keep what its stock configuration can say. Dead units go equally many from each
                    layer, and layers that the configuration has no size for are left, unless the recipe's `only` names
                    them. False cuts all; the result may need `load_shrunk`

    RecipeError for what cannot be removed, before any work; InputError where the network cannot be run on the inputs.
    """
    how = how if isinstance(how, Masks) else as_recipe(how)
    small = _copied(unwrap(module))
    if isinstance(how, Masks):
        how.apply(small)
        structure = find_groups(small, example_inputs)
        outputs = outputs_of(small, example_inputs)
        dead = bury(small, structure, example_inputs)
        gone = evenly(small, structure, dead) if stock else dead
        return finish(small, structure, example_inputs, outputs, gone, dead)
    if how.schedule.name != "one_shot":
        raise RecipeError(
            f"Units are removed at once, not by a schedule '{how.schedule}'. Leave it out; with training in between, "
            "rounds(n) is for shrink_in_rounds."
        )
    if how.unit.kind == "layer":
        return _without_layers(small, how, example_inputs, list(calibration), loss, stock)
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

    def left(of: str, gone: Gone) -> float:
        if of == "latency":
            trial = copy.deepcopy(small)
            cut(trial, structure, {name: ~units for name, units in gone.items()})
            return _seconds(trial, example_inputs)
        counts = {group.axis: int((~gone[group.name]).sum()) for group in groups}
        if of == "params":
            return structure.n_parameters(counts) / structure.n_parameters()
        return structure.trace.macs(counts) / structure.trace.macs()

    chosen = choose(groups, scores, how, left)
    gone = {group.name: chosen.get(group.name, np.zeros(group.n_units, bool)) for group in structure.groups}
    for group in groups:
        zero(small, structure, group, gone[group.name])
    return finish(small, structure, example_inputs, outputs_of(small, example_inputs), gone, {})


def _copied(module: nn.Module) -> nn.Module:
    """Another of it; InputError where its weights are nowhere, or are made anew in every run."""
    if any(each.is_meta for each in module.parameters()):
        raise InputError(f"{type(module).__name__} is on the meta device: it has no weights to choose by. Load them.")
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        raise InputError(
            f"{type(module).__name__} cannot be copied: {error} If torch.nn.utils.prune is at work in it, make its "
            "zeros permanent first: torch.nn.utils.prune.remove(layer, 'weight')."
        ) from error


def _without_layers(
    small: nn.Module, how: Recipe, example_inputs: Any, calibration: list[Any], loss: Loss | None, stock: bool
) -> Shrunk:
    """The network without whole layers, proved on the example inputs against the same layers passed by."""
    check_recipe(how)
    structure = find_groups(small, example_inputs)
    stacks, reasons = find_stacks(small, structure, how)
    if stock and not how.only:
        stacks = [stack for stack in stacks if says_depth(small, stack)]
        if not stacks:
            raise RecipeError(
                f"The configuration of {type(small).__name__} has no number of its layers. With stock=False they are "
                "cut all the same; the result is then loaded by load_shrunk."
            )
    evidence = calibrate(small, structure, how.score.name, calibration, loss)
    scores = layer_scores(small, stacks, how, evidence, calibration)
    n_parameters, macs = structure.n_parameters(), structure.trace.macs()

    def names(gone: Gone) -> list[str]:
        pairs = [pair for stack in stacks for pair in zip(stack.layers(), gone[stack.name], strict=True)]
        return [layer for layer, is_gone in pairs if is_gone]

    def left(of: str, gone: Gone) -> float:
        if of == "latency":
            trial = copy.deepcopy(small)
            thin(trial, left_of(stacks, gone))
            return _seconds(trial, example_inputs)
        if of == "params":
            return 1 - n_parameters_of(small, names(gone)) / n_parameters
        return 1 - macs_of(structure, names(gone)) / macs

    gone = choose(stacks, scores, how, left)
    out = names(gone)
    with bypassed(small, out):
        outputs = outputs_of(small, example_inputs)[:1]  # others may be those of each layer
    report = []
    for name, tensor in small.named_parameters():
        shape = tuple(tensor.shape)
        layer = next((each for each in (*out, *reasons) if name.startswith(f"{each}.")), "")
        if len(shape) > 1 and layer in out:
            report.append(WeightReport(name, shape, (0,) * len(shape), "shrunk", f"'{layer}' is gone"))
        elif len(shape) > 1 and layer:
            report.append(WeightReport(name, shape, shape, "impossible", reasons[layer]))
        elif len(shape) > 1:
            is_in_stack = any(name.startswith(f"{each}.") for stack in stacks for each in stack.layers())
            why = "its layer was not to go" if is_in_stack else "in no layer that can go"
            report.append(WeightReport(name, shape, shape, "skipped", why))
    now = n_parameters - n_parameters_of(small, out), macs - macs_of(structure, out)
    lists = left_of(stacks, gone)
    why_not_stock = say_depth(small, lists) if lists else ""
    thin(small, lists, is_said=is_stock(small) and not why_not_stock)
    if is_stock(small) and not why_not_stock:
        why_not_stock = other_shapes(small, small.config)
    try:
        difference = _difference(outputs, outputs_of(small, example_inputs)[:1])
    except (InputError, AssertionError) as error:
        raise InputError(
            f"{type(small).__name__} does not run without {', '.join(out)}: {error} Skip these layers."
        ) from error
    if not difference <= TOLERANCE:
        raise InputError(
            f"{type(small).__name__} gives other outputs without {', '.join(out)} than when they are passed by (by "
            f"{difference:.2g} of the largest output): its code counts its layers. Skip these."
        )
    groups = tuple(GroupReport(stack.name, "layer", stack.n_units, int(gone[stack.name].sum()), 0) for stack in stacks)
    changed, layers = (dict(small.__dict__.get(key, {})) for key in (CHANGED, LAYERS))
    return Shrunk(
        small,
        groups,
        tuple(report),
        (n_parameters, now[0]),
        (macs, now[1]),
        changed,
        difference,
        why_not_stock,
        layers,
    )


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
    could_train = not _training_error(small, example_inputs)
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
    if could_train and (why := _training_error(small, example_inputs)):
        raise InputError(
            f"{type(small).__name__} runs without the units, but no more in training, where it does something else: "
            f"{why} Skip the layers whose outputs it takes there."
        )
    sizes = {group.n_units for group in structure.groups if gone[group.name].any()}
    if blind := sorted(name for name in structure.unreached if sizes & set(structure.shapes[name])):
        warnings.warn(
            f"The example inputs do not reach {', '.join(blind[:5])}{' and others' * (len(blind) > 5)}. Should it read "
            "what is gone, it no longer fits. Give inputs that come to it, or skip the layers before it.",
            RequestWarning,
            stacklevel=3,
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
        elif name in structure.left_out:
            report.append(WeightReport(name, before, after, "skipped", "left out by name"))
        else:
            reasons = dict.fromkeys(why for (own, _), why in structure.refused.items() if own == name)
            report.append(WeightReport(name, before, after, "impossible", "; ".join(reasons) or "one unit is left"))
    groups = tuple(
        GroupReport(
            g.name, g.kind, g.n_units, int(gone[g.name].sum()), int(dead[g.name].sum()) if g.name in dead else 0
        )
        for g in structure.groups
    )
    why_not_stock = say_it(small, structure, counts)
    n_parameters = structure.n_parameters(), structure.n_parameters(counts)
    macs = structure.trace.macs(), structure.trace.macs(counts)
    layers = dict(small.__dict__.get(LAYERS, {}))
    return Shrunk(small, groups, tuple(report), n_parameters, macs, attributes, difference, why_not_stock, layers)


def _training_error(module: nn.Module, example_inputs: Any) -> str:
    """What the network says when it runs in training mode; "" if it runs. It is left as it was, random numbers too."""
    modes = {part: part.training for part in module.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            call(module.train(), example_inputs)
    except Exception as error:
        return str(error)
    finally:
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return ""


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
