"""Stock: what the configuration of a transformers network can say about sizes, so that stock code loads the result.

    sayable(module, groups)      the groups that a configuration has a size for
    evenly(module, ..., dead)    of the dead units, as many in each layer as all layers have
    says_depth, say_depth        the same for whole layers
    say_it(module, ...)          set the configuration of a network that was cut; returns why it cannot be said, or ""
    other_shapes(module, config) why a configuration does not say the shapes that the network has, or ""

Whether a configuration says the right thing is never guessed: a network is built from it, without memory, and its
shapes are compared. Nothing here imports transformers.
"""

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from secateurs.groups.axes import Axis, Bools
from secateurs.groups.finding import Group, Structure

WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "d_ff")
DEPTH, OF_EACH_LAYER = "num_hidden_layers", ("layer_types",)
HEADS, KV_HEADS, HEAD_DIM = "num_attention_heads", "num_key_value_heads", "head_dim"


def is_stock(module: nn.Module) -> bool:
    """Whether it is a network of transformers."""
    return hasattr(module, "config") and hasattr(module, "save_pretrained")


def sayable(module: nn.Module, groups: Sequence[Group]) -> list[Group]:
    """The groups that the network's configuration has a size for: all, where it has no configuration."""
    if not is_stock(module):
        return list(groups)
    has_heads = hasattr(module.config, HEADS)
    return [group for group in groups if (has_heads if group.kind == "head" else _width(module.config, group.n_units))]


def evenly(module: nn.Module, structure: Structure, dead: Mapping[str, Bools]) -> dict[str, Bools]:
    """For a network of transformers, as many dead units in each layer as the layer with the fewest has."""
    if not is_stock(module):
        return dict(dead)
    alike: dict[tuple[str, int], list[str]] = defaultdict(list)
    for group in structure.groups:
        alike[(group.kind, group.n_units)].append(group.name)
    says = {group.name for group in sayable(module, structure.groups)}
    gone = {}
    for names in alike.values():
        least = min(int(dead[name].sum()) for name in names)
        for name in names:
            units = np.zeros_like(dead[name])
            units[np.flatnonzero(dead[name])[: least if name in says else 0]] = True
            gone[name] = units
    return gone


def says_depth(module: nn.Module, stack: Any) -> bool:
    """Whether the network's configuration says how many elements this list has: yes, where it has no configuration."""
    return not is_stock(module) or getattr(module.config, DEPTH, None) == stack.n_all


def say_depth(module: Any, left: Mapping[str, Sequence[int]]) -> str:
    """Change the configuration of a network that loses whole layers; returns why it cannot be said, or ""."""
    if not is_stock(module):
        return ""
    if len(left) > 1 or getattr(module.config, DEPTH, None) != len(module.get_submodule(next(iter(left)))):
        return "the configuration has no number for these layers"
    ((_, places),) = left.items()
    for name in OF_EACH_LAYER:
        if isinstance(values := getattr(module.config, name, None), list | tuple):
            setattr(module.config, name, [values[i] for i in places])
    setattr(module.config, DEPTH, len(places))
    return ""


def say_it(module: nn.Module, structure: Structure, counts: Mapping[Axis, int]) -> str:
    """Change the configuration of a network that was cut to what it is now, if that can be said; else why not."""
    if not is_stock(module):
        return ""
    old: Any = module.config
    if all(counts[group.axis] == group.n_units for group in structure.groups):
        return other_shapes(module, old)
    changes: dict[str, set[int]] = defaultdict(set)
    for group in structure.groups:
        now = counts[group.axis]
        if group.kind == "head" and hasattr(old, HEADS):
            heads, kv = getattr(old, HEADS), getattr(old, KV_HEADS, None)
            changes[HEADS].add(heads * now // group.n_units)
            if kv is not None:
                changes[KV_HEADS].add(now if kv == group.n_units else kv)
            if now != group.n_units:
                changes[HEAD_DIM].add(getattr(old, HEAD_DIM, None) or old.hidden_size // heads)
        elif group.kind != "head" and (name := _width(old, group.n_units)):
            changes[name].add(now)
        elif now != group.n_units:
            return f"the configuration has no size for '{group.name}'"
    if uneven := {name: sizes for name, sizes in changes.items() if len(sizes) > 1}:
        name, sizes = next(iter(uneven.items()))
        return f"layers differ in {name}: {', '.join(map(str, sorted(sizes)))}"
    new = copy.deepcopy(old)
    for name, sizes in changes.items():
        setattr(new, name, next(iter(sizes)))
    if why := other_shapes(module, new):
        said = ", ".join(f"{name}={next(iter(sizes))}" for name, sizes in changes.items())
        return f"with {said} {why}"
    for name, sizes in changes.items():
        setattr(old, name, next(iter(sizes)))
    return ""


def other_shapes(module: nn.Module, config: Any) -> str:
    """Why this configuration does not say the shapes of a network, whatever was cut from it when; "" where it does."""
    kind: Any = type(module)
    try:
        with torch.device("meta"):
            built = kind(config)
    except (ValueError, TypeError) as error:
        return f"the configuration refuses it: {error}"
    said, now = ({name: tuple(t.shape) for name, t in each.state_dict().items()} for each in (built, module))
    odd = next((name for name in [*now, *said] if now.get(name) != said.get(name)), None)
    return "" if odd is None else f"'{odd}' of {kind.__name__} has another shape"


def _width(config: Any, n: int) -> str:
    """The name under which a configuration says that a feed-forward layer has n units, or ""."""
    for name in WIDTHS:
        if getattr(config, name, None) == n:
            return name
        if name == "n_inner" and hasattr(config, name) and config.n_inner is None and n == 4 * config.hidden_size:
            return name
    return ""
