"""Dead units: those whose removal changes no output, whatever the input; and the constants they leave behind.

    bury(module, structure) -> {group: bool per unit}      True = dead; its constant is folded, its weights are zeroed

A unit is dead where every layer that reads it multiplies it by zeros, or reads the same value whatever the input (a row
of zeros: its bias, through the activation) and can take that value into its own bias. Layers with one weight between
them take one value, or none.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.groups.axes import Bools
from secateurs.groups.constants import common, inputs_that_are_known
from secateurs.groups.finding import Group, Slice, Structure
from secateurs.layers import unwrap
from secateurs.layout import layout_of

Readers = Mapping[str, Mapping[str, Any]]  # {weight: {name of a layer that holds it: the layer}}
Constants = Mapping[str, Tensor]


def bury(module: nn.Module, structure: Structure, example_inputs: Any) -> dict[str, Bools]:
    """Find the dead units, fold what they contribute into the layers that read them, and zero their weights, in place.

    Repeats, because what only feeds dead units is dead; one unit of each group is never dead.
    """
    module = unwrap(module)
    dead: dict[str, Bools] = {group.name: np.zeros(group.n_units, bool) for group in structure.groups}
    readers = {name: _readers(module, structure, name) for name, _ in structure.trace.consumed}
    while True:
        known = _known(module, readers, example_inputs)
        found = False
        for group in structure.groups:
            new = _dead(module, group, readers, known) & ~dead[group.name]
            if (new | dead[group.name]).all():
                new[np.flatnonzero(~dead[group.name])[0]] = False
            if new.any():
                _fold(group, new, readers, known)
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


def _fold(group: Group, units: Bools, readers: Readers, known: Constants) -> None:
    """Add to the bias of every reader what these units contribute to it."""
    for each in group.slices:
        if not each.is_consumed or each.tensor not in known:  # what is not known is read with weights of zero
            continue
        layers = list(readers[each.tensor].values())
        weight = layout_of(layers[0], "weight").turn(layers[0].weight.detach())
        at = _indices(each.units, units).to(weight.device)
        constant = known[each.tensor].index_select(0, at)
        columns = weight.index_select(1, at)  # (out, units, *kernel)
        contributed = (columns.flatten(2).sum(2) if columns.dim() > 2 else columns) @ constant.nan_to_num(0.0)
        if bool((contributed != 0).any()):  # then there is a bias, or the units would not be dead
            with torch.no_grad():
                for bias in {id(layer.bias): layer.bias for layer in layers}.values():
                    bias.add_(contributed)


def _dead(module: nn.Module, group: Group, readers: Readers, known: Constants) -> Bools:
    """Which units of a group no reader needs."""
    dead = np.ones(group.n_units, bool)
    tensors = dict(module.named_parameters())
    for each in group.slices:
        if not each.is_consumed:
            continue
        weight = tensors[each.tensor].detach()
        nonzero = (weight != 0).transpose(0, each.dim).flatten(1).any(1).cpu().numpy()
        needed = nonzero & ~_is_foldable(each, readers, known)
        dead[each.units[needed & (each.units >= 0)]] = False
    return dead


def _is_foldable(read: Slice, readers: Readers, known: Constants) -> Bools:
    """Which input features of a weight's readers are constants that their biases can take."""
    if read.tensor not in known:
        return np.zeros(len(read.units), bool)
    values, has_place = known[read.tensor], all(map(_has_place, readers[read.tensor].values()))
    foldable: Bools = ((values == 0) | (~values.isnan() & has_place)).cpu().numpy()
    return foldable


def _has_place(layer: Any) -> bool:
    """Whether its bias can take a constant: beside zero padding it is not the same everywhere."""
    has_edges = getattr(layer, "padding_mode", "") == "zeros" and layer.padding not in ("valid", (0,), (0, 0))
    return layer.bias is not None and not has_edges


def _readers(module: nn.Module, structure: Structure, name: str) -> dict[str, Any]:
    """Every layer that holds a weight, by its name; {} where one of them is no layer."""
    found = {}
    for each in (name, *structure.trace.aliases.get(name, ())):
        prefix, _, own = each.rpartition(".")
        layer = module.get_submodule(prefix)
        is_layer = isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or type(layer).__name__ == "Conv1D"
        if not is_layer or own != "weight":
            return {}
        found[prefix] = layer
    return found


def _known(module: nn.Module, readers: Readers, example_inputs: Any) -> dict[str, Tensor]:
    """Of each weight the value of every feature that it meets, where that is the same in all of its readers, else NaN.

    None of a weight that the example does not bring to all of them.
    """
    found = inputs_that_are_known(
        module, example_inputs, sorted({layer for each in readers.values() for layer in each})
    )
    return {
        name: common(torch.stack([found[layer] for layer in layers], 1))
        for name, layers in readers.items()
        if layers and all(layer in found for layer in layers)
    }


def _indices(units: "np.ndarray[Any, Any]", chosen: Bools) -> Tensor:
    """The indices of a dimension that belong to the chosen units."""
    return torch.from_numpy(np.flatnonzero((units >= 0) & chosen[np.maximum(units, 0)]))
