"""Cutting: tensors made smaller in place, and the numbers that layers keep about their own sizes set right.

    cut(module, structure, live) -> {module name: {attribute: value}}     what was set beyond the layers' own sizes
    resize(module, shapes, attributes)                                    the same for a fresh network, to load it

Layers whose sizes are known: those of SIZES. An attention says its numbers of heads and their width in all under one of
the names in HEADS and WIDTHS, a module that pads channels under PADS. To add a layer: give it a line in SIZES.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.groups.axes import Axis, Bools
from secateurs.groups.finding import PADS, Structure
from secateurs.layers import unwrap

Attributes = dict[str, dict[str, Any]]

HEADS = ("heads", "num_heads", "n_heads", "n_head", "num_attention_heads", "num_key_value_heads", "num_kv_heads")
WIDTHS = ("all_head_size", "split_size", "inner_dim")

CHANGED = "_changed_by_shrink"  # goes with the network, so that what is shrunk twice is saved whole
# {class: {attribute: dimension of the weight}}; transformers' Conv1D is known by name, so that nobody needs it.
SIZES: dict[str, dict[str, int]] = {
    "Linear": {"out_features": 0, "in_features": 1},
    "NonDynamicallyQuantizableLinear": {"out_features": 0, "in_features": 1},
    "Conv1d": {"out_channels": 0, "in_channels": 1},
    "Conv2d": {"out_channels": 0, "in_channels": 1},
    "Conv3d": {"out_channels": 0, "in_channels": 1},
    "ConvTranspose1d": {"out_channels": 1, "in_channels": 0},
    "ConvTranspose2d": {"out_channels": 1, "in_channels": 0},
    "ConvTranspose3d": {"out_channels": 1, "in_channels": 0},
    "Conv1D": {"nf": 1, "nx": 0},
    "Embedding": {"num_embeddings": 0, "embedding_dim": 1},
}


def cut(module: nn.Module, structure: Structure, live: Mapping[str, Bools]) -> Attributes:
    """Remove from the network, in place, every unit that does not live; `live` maps names of groups.

    Tied tensors stay tied. Returns what was set, now and at earlier cuts, that no layer's own shape tells.
    """
    module = unwrap(module)
    kept = structure.kept(live)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, axes in structure.trace.axes.items():
        cuts = {d: keep for d, keep in enumerate(axis.keep(kept) for axis in axes) if not keep.all()}
        if not cuts:
            continue
        value = tensors[name].detach()
        for d, keep in cuts.items():
            value = value.index_select(d, torch.from_numpy(keep.nonzero()[0]).to(value.device))
        _replace(module, (name, *structure.trace.aliases.get(name, ())), value)
    _set(module, _beyond_shapes(module, structure, kept))
    return dict(module.__dict__[CHANGED])


def resize(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], attributes: Attributes) -> None:
    """Give a fresh network the shapes (values unset) and attributes of one that was cut."""
    groups: dict[int, list[str]] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]:
        groups.setdefault(id(tensor), []).append(name)
        tensors[name] = tensor
    for names in groups.values():
        shape = next((shapes[name] for name in names if name in shapes), None)
        if shape is not None and shape != tuple(tensors[names[0]].shape):
            _replace(module, tuple(names), tensors[names[0]].detach().new_zeros(shape))
    _set(module, attributes)


def _replace(module: nn.Module, names: tuple[str, ...], value: Tensor) -> None:
    """Put a new value under all names of a tensor, and set the sizes of the layers that hold it."""
    parameter: nn.Parameter | None = None
    for name in names:
        prefix, _, own = name.rpartition(".")
        owner = module.get_submodule(prefix)
        if own in owner._buffers:
            owner._buffers[own] = value
            owner._non_persistent_buffers_set.discard(own)  # no code makes it anew in this size: it is saved
        else:
            old = owner._parameters[own]
            assert old is not None
            if parameter is None:
                parameter = nn.Parameter(value.contiguous(), requires_grad=old.requires_grad)
            owner._parameters[own] = parameter
        _set_sizes(owner)


def _set_sizes(layer: nn.Module) -> None:
    """The sizes that a layer keeps beside its tensors."""
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        first = next(t for t in (layer.weight, layer.running_mean) if t is not None)
        layer.num_features = len(first)
        return
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = tuple(weight.shape)
    for attribute, dim in SIZES.get(type(layer).__name__, {}).items():
        setattr(layer, attribute, weight.shape[dim])
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups > 1:
        layer.groups = layer.in_channels = weight.shape[0]  # depthwise: others are not cut


def _set(module: nn.Module, attributes: Attributes) -> None:
    changed = module.__dict__.setdefault(CHANGED, {})
    for name, values in attributes.items():
        changed[name] = {**changed.get(name, {}), **values}
        for attribute, value in values.items():
            setattr(module.get_submodule(name), attribute, value)


def _beyond_shapes(module: nn.Module, structure: Structure, kept: Mapping[Axis, Bools]) -> Attributes:
    """New numbers of heads and of zeros around channels, by the module that keeps them."""
    counts = {axis: int(keep.sum()) for axis, keep in kept.items()}
    attributes: Attributes = {}
    for group in structure.groups:
        if group.kind != "head" or counts.get(group.axis, group.n_units) == group.n_units:
            continue
        for each in group.slices:
            axis = structure.trace.axes[each.tensor][each.dim]
            attention = each.tensor.rpartition(".")[0].rpartition(".")[0]
            # Query heads are all leaves tagged so (KV heads times their copies), KV heads one of them.
            old, new = 1, 1
            for leaf in dict.fromkeys(axis.leaves()):
                if "head" in leaf.tags:
                    old, new = old * leaf.size, new * counts.get(leaf, leaf.size)
            changes = dict.fromkeys(HEADS, (old, new))
            if each.is_consumed:
                changes |= dict.fromkeys(WIDTHS, (axis.size, axis.n_kept(counts)))
            owner = module.get_submodule(attention)
            for attribute, change in changes.items():
                if getattr(owner, attribute, None) == change[0]:
                    attributes.setdefault(attention, {})[attribute] = change[1]
    for name, before, after in structure.trace.pads:
        now = (before.n_kept(counts), after.n_kept(counts))
        if now != (before.size, after.size) and hasattr(module.get_submodule(name), PADS):
            attributes.setdefault(name, {})[PADS] = now
    return attributes
