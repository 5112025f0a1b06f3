"""Permuting: columns put where n:m keeps more of them, the outputs of the network unchanged.

    permute(module, "2:4", example_inputs) -> report     then prune(module, Recipe.parse("2:4"))

What makes a layer's inputs and the layer that reads them are reordered together: the hidden units of an MLP and of a
transformer's feed-forward layers, the channels between convolutions (BatchNorm with them), within each head the values
that the attention's output layer reads, and a residual stream that does not leave the network, if its norms take all of
it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateurs.budgets import Top
from secateurs.column_order import Ints, kept, permutation, sizes_of
from secateurs.errors import InputError, RecipeError
from secateurs.groups.axes import Axis
from secateurs.groups.finding import Group, Slice, Structure, find_groups
from secateurs.groups.tracing import call, evaluating
from secateurs.layers import layers, unwrap
from secateurs.layout import Layout
from secateurs.recipe import Recipe, n_of_m

# Why the tracing lets nothing of a dimension go, where its units may still change places: within each head; and where a
# norm takes all of them, which the outputs show, as it may be one of groups.
WIDTH = "the width of a head"
ACROSS = {"normalised across", "averaged or added up"}
TOLERANCE = 1e-3  # of the largest output: far above rounding, far below a wrong order
STRICT = 2e-5  # where it is the outputs that decide
ROUNDINGS = 8  # or so many steps of the dtype, where these are coarser


@dataclass(frozen=True)
class PermutedWeight:
    """What n:m keeps of one weight, as shares of the sum of |weight|; None where n:m does not fit it.

    before, after  n:m of the columns in their old and new order
    most           n of every m of each row, wherever they stand: what no order can pass
    reason         why its columns stand where they stood; "" if they were reordered
    """

    name: str
    shape: tuple[int, ...]
    before: float | None = None
    after: float | None = None
    most: float | None = None
    reason: str = ""

    @property
    def closed(self) -> float:
        """The share of the gap between `before` and `most` that the new order closes; 0 where there is no gap."""
        if self.before is None or self.after is None or self.most is None or self.most <= self.before:
            return 0.0
        return (self.after - self.before) / (self.most - self.before)


def permute(
    module: nn.Module,
    pattern: str | Recipe,
    example_inputs: Any,
    *,
    skip: Iterable[str] = (),
    only: Iterable[str] = (),
    seed: int = 0,
) -> tuple[PermutedWeight, ...]:
    """Reorder what `module` may reorder, in place, so that n:m keeps more; every prunable weight, reported.

    pattern         "2:4", or a recipe of a pool of neighbours and top(n)
    example_inputs  a tensor, a tuple of arguments, or a mapping of named ones; a batch of 2 or more
    skip, only      shell-style patterns of parameter names: whose units may be reordered; a residual stream, which has
                    many makers, only without them

    Permute before an optimizer is made: what it remembers would belong to other weights. RecipeError for a pattern that
    is not n:m; InputError, and an unchanged network, where the outputs on the example inputs would change.
    """
    n, m = _n_of_m(pattern)
    module = unwrap(module)
    structure = find_groups(module, example_inputs, skip, only)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    layouts = {layer.name: layer.layout for layer in layers(module) if layer.is_prunable}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    outputs = _outputs(module, example_inputs)
    reordered = set()
    chosen = [(slices, False) for slices in _exchangeable(structure)]
    streams = [] if tuple(skip) or tuple(only) else [(slices, True) for slices in _streams(structure)]
    for slices, is_doubtful in chosen + streams:
        readers = [each for each in slices if each.is_consumed and each.tensor in layouts]
        read = [rows for each in readers for rows in _columns(tensors[each.tensor], layouts[each.tensor], each, m)]
        if not read:
            continue
        order = permutation(np.concatenate(read), n, m, seed)
        for each in slices:
            _reorder(tensors[each.tensor], each, order)
        if is_doubtful and not _is_close(outputs, _outputs(module, example_inputs), STRICT):
            for each in slices:
                _reorder(tensors[each.tensor], each, np.argsort(order))
            continue
        reordered |= {each.tensor for each in readers}
    if not _is_close(outputs, _outputs(module, example_inputs), TOLERANCE):
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(before[name])
        raise InputError(
            f"{type(module).__name__} gives other outputs when its units change places: its code knows them by their "
            "place. Nothing was changed. Name the layers that may be reordered in `only`."
        )
    report = []
    for name, layout in layouts.items():
        old, new = layout.turn(before[name]), layout.turn(tensors[name].detach())
        if old.shape[1] % m:
            report.append(PermutedWeight(name, tuple(old.shape), reason=f"{m} does not divide its inputs"))
            continue
        why = structure.refused.get((name, int(not layout.is_turned)), "its inputs keep their places")
        report.append(_judged(name, old, new, n, m, "" if name in reordered else why))
    return tuple(report)


def _n_of_m(pattern: str | Recipe) -> tuple[int, int]:
    """(n, m) of "2:4" or of a recipe."""
    if isinstance(pattern, str):
        return n_of_m(pattern)
    if pattern.pool.kind != "neighbours" or pattern.unit.kind != "element" or not isinstance(pattern.budget, Top):
        raise RecipeError(f"Columns are permuted for n:m, such as '2:4'; '{pattern}' is something else.")
    return pattern.budget.n, pattern.pool.n


def _exchangeable(structure: Structure) -> Iterator[list[Slice]]:
    """Sets of slices whose units may change places, in all of them alike."""
    for group in structure.groups:
        if group.kind == "head":
            yield from _within_heads(structure, group)
        else:
            yield list(group.slices)


def _streams(structure: Structure) -> Iterator[list[Slice]]:
    """Residual streams: what many layers add to and read, with norms that take all of it."""
    axes, consumed = structure.trace.axes, structure.trace.consumed
    places: dict[Axis, list[tuple[str, int]]] = {}
    for name, own in axes.items():
        for d, axis in enumerate(own):
            if axis.find().kind == "leaf":
                places.setdefault(axis.find(), []).append((name, d))
    for leaf, found in places.items():
        if leaf.size > 1 and leaf.why and ACROSS.issuperset(leaf.why) and leaf not in _inner(structure):
            yield [Slice(name, d, axes[name][d].units_of(leaf), (name, d) in consumed) for name, d in found]


def _inner(structure: Structure) -> set[Axis]:
    """The leaves of flattened dimensions."""
    every = [axis.find() for own in structure.trace.axes.values() for axis in own]
    return {leaf for axis in every if axis.kind != "leaf" for leaf in axis.leaves()}


def _within_heads(structure: Structure, group: Group) -> Iterator[list[Slice]]:
    """For each head, the places of its values: from the rows that make them to the columns that read them."""
    axes = structure.trace.axes
    read = [each for each in group.slices if each.is_consumed]
    leaves = [leaf for each in read for leaf in axes[each.tensor][each.dim].leaves() if leaf is not group.axis]
    for width in dict.fromkeys(leaves):
        places = [(name, d) for name, own in axes.items() for d, axis in enumerate(own) if width in axis.leaves()]
        marked = [(name, d, axes[name][d].units_of(width), axes[name][d].units_of(group.axis)) for name, d in places]
        # Where no head stands with it, all heads share the order, as the gains of a norm within each head do.
        if width.why != [WIDTH] or any((heads < 0)[units >= 0].any() for _, _, units, heads in marked):
            continue
        for head in range(group.n_units):
            yield [
                Slice(name, d, np.where(heads == head, units, -1), (name, d) in structure.trace.consumed)
                for name, d, units, heads in marked
            ]


def _columns(weight: Tensor, layout: Layout, read: Slice, m: int) -> Iterator[np.ndarray[Any, Any]]:
    """|columns| of a reader as (rows, units), one part for each run of its units; nothing where groups of m do not
    hold neighbouring units."""
    sizes = sizes_of(layout.turn(weight))
    if read.dim != int(not layout.is_turned) or len(read.units) != len(sizes):
        return
    n_units = int(read.units.max()) + 1
    places = np.flatnonzero(read.units >= 0)
    for run in places.reshape(-1, n_units) if len(places) % n_units == 0 else ():
        is_run = (np.diff(run) == 1).all() and (read.units[run] == np.arange(n_units)).all()
        if is_run and run[0] % m == 0 and n_units % m == 0:
            yield sizes[run].T


def _reorder(tensor: Tensor, each: Slice, order: Ints) -> None:
    """Put unit order[i] where unit i is, in place."""
    index = np.arange(len(each.units))
    for unit, taken in enumerate(order):
        index[each.units == unit] = np.flatnonzero(each.units == taken)
    with torch.no_grad():
        tensor.copy_(tensor.index_select(each.dim, torch.from_numpy(index).to(tensor.device)))


def _outputs(module: nn.Module, example_inputs: Any) -> list[Tensor]:
    with evaluating(module), torch.no_grad():
        found = tree_leaves(call(module, example_inputs))
    return [tensor.clone() for tensor in found if isinstance(tensor, Tensor) and tensor.is_floating_point()]


def _is_close(before: Sequence[Tensor], after: Sequence[Tensor], tolerance: float) -> bool:
    return all(
        bool((a - b).abs().max() <= max(tolerance, ROUNDINGS * torch.finfo(b.dtype).eps) * b.abs().max())
        for b, a in zip(before, after, strict=True)
        if b.numel()
    )


def _judged(name: str, before: Tensor, after: Tensor, n: int, m: int, reason: str) -> PermutedWeight:
    """What n:m keeps of a weight (out, in, *kernel) in its old and new order."""
    old, new = sizes_of(before), sizes_of(after)
    total = float(old.sum()) or 1.0
    most = kept(old, len(old) * n // m, len(old)) / total
    return PermutedWeight(name, tuple(before.shape), kept(old, n, m) / total, kept(new, n, m) / total, most, reason)
