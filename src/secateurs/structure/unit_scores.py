"""Unit scores: how much each unit of a group is worth keeping.

    UNIT_SCORES[name](view) -> vector (n_units,), >= 0, larger = keep

`magnitude` and `random` are the words that single weights have too: the mean over all weights of the unit. To add one:
write it here, add its line to UNIT_SCORES and its name to OF_UNITS in scores.py.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.errors import RecipeError
from secateurs.groups.finding import Group, Slice, Structure
from secateurs.groups.tracing import by_feature, call, evaluating
from secateurs.recipe import Recipe

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What calibration showed: gradients of the loss by weight, and the mean size of each reader's input features."""

    gradients: dict[str, Tensor]
    inputs: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class View:
    """One group, the weights it cuts, and the evidence."""

    group: Group
    tensors: dict[str, Tensor]
    norms: frozenset[str]
    evidence: Evidence

    def added(self, values: Callable[[Slice], Tensor | None]) -> tuple[Tensor, Tensor]:
        """Per unit: the sum of what `values` gives for each slice's tensor (None leaves it out), and how many."""
        total = torch.zeros(self.group.n_units, dtype=torch.float64)
        n = torch.zeros_like(total)
        for each in self.group.slices:
            value = values(each) if each.tensor in self.tensors else None
            if value is None:
                continue
            flat = value.double().cpu().movedim(each.dim, 0).reshape(len(each.units), -1)
            at = torch.from_numpy(np.flatnonzero(each.units >= 0))
            unit = torch.from_numpy(each.units)[at]
            total.index_add_(0, unit, flat.sum(1)[at])
            n.index_add_(0, unit, torch.full((len(at),), float(flat.shape[1]), dtype=torch.float64))
        return total, n.clamp_min(1.0)

    def matrices(self, each: Slice) -> Tensor | None:
        """The weight of a slice where it has two dimensions or more."""
        tensor = self.tensors[each.tensor]
        return tensor if tensor.dim() > 1 else None


def magnitude(view: View) -> Tensor:
    """Mean |w| over all weights that go with the unit (its L1 norm)."""
    total, n = view.added(lambda each: None if view.matrices(each) is None else view.tensors[each.tensor].abs())
    return total / n


def l2(view: View) -> Tensor:
    """Root mean square of all weights that go with the unit (its L2 norm)."""
    total, n = view.added(lambda each: None if view.matrices(each) is None else view.tensors[each.tensor].square())
    return (total / n).sqrt()


def taylor(view: View) -> Tensor:
    """|sum of weight times gradient| over what makes the unit: how the loss would change, to first order.

    Molchanov et al. 2019, arXiv:1906.10771.
    """
    gradients = view.evidence.gradients
    total, _ = view.added(lambda each: None if each.is_consumed else view.tensors[each.tensor] * gradients[each.tensor])
    return total.abs()


def activation(view: View) -> Tensor:
    """Mean |input| of what reads the unit times the size of the weights it meets, as Wanda has it for single weights.

    Sun et al. 2023, arXiv:2306.11695.
    """

    def read(each: Slice) -> Tensor | None:
        inputs = view.evidence.inputs.get(each.tensor.rpartition(".")[0])
        if not each.is_consumed or inputs is None:
            return None
        tensor = view.tensors[each.tensor].abs()
        return tensor * inputs.view([-1 if d == each.dim else 1 for d in range(tensor.dim())])

    total, n = view.added(read)
    return total / n


def batch_norm(view: View) -> Tensor:
    """Mean |scale| of the BatchNorms that the unit passes. Liu et al. 2017, arXiv:1708.06519."""
    total, n = view.added(lambda each: view.tensors[each.tensor].abs() if each.tensor in view.norms else None)
    if not any(each.tensor in view.norms for each in view.group.slices):
        raise RecipeError(
            f"The score batch_norm needs a BatchNorm behind the units; '{view.group.name}' has none. Use magnitude or "
            "l2, or skip it."
        )
    return total / n


UNIT_SCORES: dict[str, Callable[[View], Tensor]] = {
    "magnitude": magnitude,
    "l2": l2,
    "taylor": taylor,
    "activation": activation,
    "batch_norm": batch_norm,
}
NEEDS_INPUTS = ("activation", "taylor")


def unit_scores(module: nn.Module, groups: Iterable[Group], recipe: Recipe, evidence: Evidence) -> dict[str, Tensor]:
    """The score of every unit, by group. RecipeError where a score is not one of units."""
    name = recipe.score.name
    if name != "random" and name not in UNIT_SCORES:
        raise RecipeError(f"The score '{name}' is not one of whole units: use {', '.join([*UNIT_SCORES, 'random'])}.")
    tensors = {key: tensor.detach() for key, tensor in module.named_parameters()}
    norms = frozenset(
        f"{key}.weight" for key, each in module.named_modules() if isinstance(each, nn.modules.batchnorm._NormBase)
    )
    found = {}
    for group in groups:
        view = View(group, tensors, norms, evidence)
        if name == "random":
            found[group.name] = recipe.score(torch.empty(group.n_units), name=group.name)
        else:
            found[group.name] = UNIT_SCORES[name](view)
    return found


def calibrate(
    module: nn.Module, structure: Structure, score: str, batches: Iterable[Any], loss: Loss | None
) -> Evidence:
    """Run the network over calibration batches for the evidence that a score needs.

    batches  inputs as `example_inputs`; for taylor whatever `loss` takes
    """
    gradients: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    if score == "taylor":
        if loss is None:
            raise RecipeError("The score taylor needs loss=function(network, batch), and calibration batches.")
        names, parameters = zip(*((n, p) for n, p in module.named_parameters() if p.is_floating_point()), strict=True)
        with evaluating(module), _learning(parameters), torch.enable_grad():
            for batch in batches:
                found = torch.autograd.grad(loss(module, batch), parameters, allow_unused=True)
                for name, parameter, gradient in zip(names, parameters, found, strict=True):
                    value = torch.zeros_like(parameter) if gradient is None else gradient
                    gradients[name] = gradients[name] + value if name in gradients else value
    elif score == "activation":
        with _listening(module, structure, inputs), evaluating(module), torch.no_grad():
            for batch in batches:
                call(module, batch)
    if score in NEEDS_INPUTS and not (gradients or inputs):
        raise RecipeError(f"The score {score} needs calibration batches: calibration=[...].")
    return Evidence(gradients, inputs)


@contextmanager
def _learning(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Frozen ones have gradients, too."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _listening(module: nn.Module, structure: Structure, inputs: dict[str, Tensor]) -> Iterator[None]:
    """Add up the mean |input| of every feature of the layers that read units."""

    def listen(name: str, layer: nn.Module, *given: Any) -> None:
        values = by_feature(layer, given)
        if not values.is_floating_point():
            return  # an embedding whose weight the head has, too, reads numbers of tokens
        sizes = values.abs().mean(1)
        inputs[name] = inputs[name] + sizes if name in inputs else sizes

    readers = sorted({name.rpartition(".")[0] for name, _ in structure.trace.consumed})
    hooks = [
        module.get_submodule(name).register_forward_pre_hook(partial(listen, name), with_kwargs=True)
        for name in readers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
