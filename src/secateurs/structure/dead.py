"""Dead units: those whose removal changes no output, whatever the input; and the constants they leave behind.

    bury(module, structure) -> {group: bool per unit}      True = dead; its constant is folded, its weights are zeroed

A unit is dead where every layer that reads it multiplies it by zeros, or reads the same value whatever the input (a row
of zeros: its bias, through the activation) and can take that value into its own bias.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.groups.axes import Bools
from secateurs.groups.constants import inputs_that_are_known
from secateurs.groups.finding import Group, Slice, Structure
from secateurs.layers import unwrap
from secateurs.layout import layout_of

Constants = Mapping[str, Tensor]


def bury(module: nn.Module, structure: Structure, example_inputs: Any) -> dict[str, Bools]:
    """Find the dead units, fold what they contribute into the layers that read them, and zero their weights, in place.

    Repeats, because what only feeds dead units is dead; one unit of each group is never dead.
    """
    module = unwrap(module)
    dead: dict[str, Bools] = {group.name: np.zeros(group.n_units, bool) for group in structure.groups}
    readers = {name.rpartition(".")[0] for name, _ in structure.trace.consumed}
    while True:
        known = inputs_that_are_known(module, example_inputs, sorted(readers))
        found = False
        for group in structure.groups:
            new = _dead(module, structure, group, known) & ~dead[group.name]
            if (new | dead[group.name]).all():
                new[np.flatnonzero(~dead[group.name])[0]] = False
            if new.any():
                fold(module, group, new, known)
                zero(module, structure, group, new)
                dead[group.name] |= new
                found = True
        if not found:
            return dead


def zero(module: nn.Module, structure: Structure, group: Group, units: Bools) -> None:
    """Set every weight that belongs to these units to zero."""
    tensors = dict(module.named_parameters())
    for each in group.slices:
        if each.tensor in structure.parameters:
            tensor = tensors[each.tensor]
            with torch.no_grad():
                tensor.index_fill_(each.dim, _indices(each.units, units).to(tensor.device), 0.0)


def fold(module: nn.Module, group: Group, units: Bools, known: Constants) -> None:
    """Add to the bias of every reader what these units contribute to it."""
    for each in group.slices:
        if not each.is_consumed:
            continue
        layer, weight = _reader(module, each.tensor)
        if weight is None:
            continue
        at = _indices(each.units, units).to(weight.device)
        values = known.get(each.tensor.rpartition(".")[0])
        if values is None:  # the example does not reach it: its weights for these units are zero
            continue
        constant = values.index_select(0, at)
        columns = weight.index_select(1, at)  # (out, units, *kernel)
        contributed = (columns.flatten(2).sum(2) if columns.dim() > 2 else columns) @ constant.nan_to_num(0.0)
        if bool((contributed != 0).any()):  # then there is a bias, or the units would not be dead
            with torch.no_grad():
                layer.bias.add_(contributed)


def _dead(module: nn.Module, structure: Structure, group: Group, known: Constants) -> Bools:
    """Which units of a group no reader needs."""
    dead = np.ones(group.n_units, bool)
    tensors = dict(module.named_parameters())
    for each in group.slices:
        if not each.is_consumed:
            continue
        weight = tensors[each.tensor].detach()
        nonzero = (weight != 0).transpose(0, each.dim).flatten(1).any(1).cpu().numpy()
        needed = nonzero & ~_is_foldable(module, each, known)
        dead[each.units[needed & (each.units >= 0)]] = False
    return dead


def _is_foldable(module: nn.Module, read: Slice, known: Constants) -> Bools:
    """Which input features of a reader are constants that its bias can take."""
    layer, weight = _reader(module, read.tensor)
    values = known.get(read.tensor.rpartition(".")[0])
    if layer is None or weight is None or values is None:
        return np.zeros(len(read.units), bool)
    # Beside zero padding a constant is not the same everywhere.
    has_edges = getattr(layer, "padding_mode", "") == "zeros" and layer.padding not in ("valid", (0,), (0, 0))
    has_place = layer.bias is not None and not has_edges
    foldable: Bools = ((values == 0) | (~values.isnan() & has_place)).cpu().numpy()
    return foldable


def _reader(module: nn.Module, name: str) -> tuple[Any, Tensor | None]:
    """The layer that reads with this weight, and the weight as (out, in, *kernel); (None, None) if it is no layer."""
    prefix, _, own = name.rpartition(".")
    layer = module.get_submodule(prefix)
    is_layer = isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or type(layer).__name__ == "Conv1D"
    if not is_layer or own != "weight":
        return None, None
    return layer, layout_of(layer, own).turn(dict(layer.named_parameters())[own].detach())


def _indices(units: "np.ndarray[Any, Any]", chosen: Bools) -> Tensor:
    """The indices of a dimension that belong to the chosen units."""
    return torch.from_numpy(np.flatnonzero((units >= 0) & chosen[np.maximum(units, 0)]))
