"""Groups of a network: every set of coupled units, with the slices of tensors that live or die with each unit.

    find_groups(module, example_inputs) -> Structure(groups, refused, ...)

One run of the network on example inputs says which dimensions are one (tracing.py). A set of units that reaches the
network's input or output, is normalised or averaged across, or passes an operation that is not understood, is refused
with that reason. This is our own analysis, and not torch-pruning's dependency graph, because that takes every operation
it does not know for an elementwise one: what it misreads, it cuts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from secateurs.checkpoint.prunable import assert_known, overlaps
from secateurs.errors import InputError, RecipeError
from secateurs.groups.axes import Axis, Bools, Ints, fix
from secateurs.groups.tracing import Trace, trace
from secateurs.layers import unwrap

Kind = Literal["row", "channel", "head"]
PADS = "zero_channels"  # where a module that pads channels says how many: (before, after)


@dataclass(frozen=True, eq=False)
class Slice:
    """One dimension of one tensor that a group cuts.

    units        for each index of the dimension, the unit it belongs to; -1 where it belongs to none
    is_consumed  the dimension is summed over (a consumer's inputs), the unit is not made here
    """

    tensor: str
    dim: int
    units: Ints
    is_consumed: bool


@dataclass(frozen=True, eq=False)
class Group:
    """Coupled units: unit i is all indices marked i, in all slices.

    name  the first weight that makes the units
    kind  "head", "channel" (of convolutions) or "row"
    """

    name: str
    kind: Kind
    n_units: int
    slices: tuple[Slice, ...]
    axis: Axis


@dataclass(frozen=True, eq=False)
class Structure:
    """The groups of a network, and why other dimensions cannot be cut: {(tensor, dimension): reason}.

    unreached  weights that the example inputs never come to: what they would read is not known
    left_out   weights that make units which `skip` and `only` leave alone
    """

    groups: tuple[Group, ...]
    refused: Mapping[tuple[str, int], str]
    trace: Trace
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    unreached: frozenset[str]
    left_out: frozenset[str]

    def kept(self, live: Mapping[str, Bools]) -> dict[Axis, Bools]:
        """Which indices of each axis live, from which units of each group (by name) do."""
        return {group.axis: live[group.name] for group in self.groups if group.name in live}

    def n_parameters(self, n_kept: Mapping[Axis, int] | None = None) -> int:
        """Parameters, when of each axis in `n_kept` only so many indices are left."""
        sizes = [[axis.n_kept(dict(n_kept or {})) for axis in self.trace.axes[name]] for name in self.parameters]
        return sum(int(np.prod(size)) for size in sizes)


def find_groups(
    module: nn.Module, example_inputs: Any, skip: Iterable[str] = (), only: Iterable[str] = ()
) -> Structure:
    """Every set of units of the network that can be removed.

    example_inputs  a tensor, a tuple of arguments, or a mapping of named ones; a batch of 2 or more
    skip, only      shell-style patterns of parameter names; a group goes by the weights that make its units

    RecipeError for a pattern that matches no parameter, or where `only` names nothing that can be cut, with the
    reasons; InputError where parameters share memory in part, or the network does not run on the inputs.
    """
    module = unwrap(module)
    skip, only = tuple(skip), tuple(only)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert_known((*skip, *only), dict(module.named_parameters(remove_duplicate=False)), "parameter")
    _assert_apart(dict(module.named_parameters()))
    found = trace(module, example_inputs)
    _fix_pads(module, found)
    parameters = frozenset(name for name, _ in module.named_parameters())
    _fix_inner(found, parameters)
    members: dict[Axis, list[tuple[str, int]]] = {}
    for name, axes in found.axes.items():
        for d, axis in enumerate(axes):
            for leaf in dict.fromkeys(axis.leaves()):
                members.setdefault(leaf, []).append((name, d))
    unreached = frozenset(
        name
        for name, axes in found.axes.items()
        if name in parameters
        and len(axes) > 1
        and not any((name, d) in found.consumed for d in range(len(axes)))
        and all(len(members[leaf]) == 1 for axis in axes for leaf in axis.leaves())
    )
    groups: list[Group] = []
    left_out: set[str] = set()
    for leaf, places in members.items():
        made = [(name, d) for name, d in places if (name, d) not in found.consumed and name in parameters]
        if leaf.size < 2 or leaf.why or not made:
            continue
        if not any(place in found.consumed for place in places):
            is_known = any(name not in unreached for name, _ in places)
            fix(leaf, "nothing reads it" if is_known else "the example inputs do not reach it")
            continue
        name = made[0][0]
        names = [each for other, _ in made for each in (other, *found.aliases.get(other, ()))]
        if _matches(names, skip) or (only and not _matches(names, only)):
            left_out |= {other for other, _ in made}
            continue
        slices = tuple(
            Slice(other, d, found.axes[other][d].units_of(leaf), (other, d) in found.consumed) for other, d in places
        )
        is_conv = any(tensors[each.tensor].dim() > 2 for each in slices)
        kind: Kind = "head" if "head" in leaf.tags else "channel" if is_conv else "row"
        taken = {group.name for group in groups}
        groups.append(Group(name if name not in taken else f"{name}#{len(taken)}", kind, leaf.size, slices, leaf))
    refused = {
        (name, d): "; ".join(dict.fromkeys(why for leaf in axis.leaves() for why in leaf.why))
        for name, axes in found.axes.items()
        for d, axis in enumerate(axes)
        if name in parameters and all(leaf.why for leaf in axis.leaves())
    }
    if only and not groups:
        reasons = {why for (name, _), why in refused.items() if _matches([name], only)}
        raise RecipeError(
            f"Nothing that {', '.join(only)} names can be cut: {'; '.join(sorted(reasons)) or 'one unit is left'}."
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Structure(tuple(groups), refused, found, shapes, parameters, unreached, frozenset(left_out))


def _matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _assert_apart(parameters: Mapping[str, Tensor]) -> None:
    spans = []
    for name, tensor in parameters.items():
        if tensor.numel() and not tensor.is_meta:
            start = tensor.data_ptr()
            spans.append((str(tensor.device), start, start + tensor.numel() * tensor.element_size(), name))
    for name, why in overlaps(iter(spans)).items():
        raise InputError(f"'{name}' cannot be cut: {why}. Give each parameter memory of its own (clone it) first.")


def _fix_pads(module: nn.Module, found: Trace) -> None:
    """Zeros put around channels can change in number only where their module says how many it puts."""
    for name, before, after in found.pads:
        owner = module.get_submodule(name)
        if getattr(owner, PADS, None) != (before.size, after.size):
            for axis in (before, after):
                fix(axis, f"'{name}' puts so many zeros around it, and has no '{PADS}' to change")


def _fix_inner(found: Trace, parameters: frozenset[str]) -> None:
    """Of a flattened dimension whose parts could all go, only the outermost is cut: KV heads, not their copies."""
    for axes in (axes for name, axes in found.axes.items() if name in parameters):
        for axis in axes:
            for parts in _products(axis):
                free = [leaf for part in parts for leaf in part.leaves() if not leaf.why]
                outer = next((part for part in parts if any(not leaf.why for leaf in part.leaves())), None)
                kept = set(outer.leaves()) if outer is not None else set()
                for leaf in free:
                    if leaf not in kept:
                        fix(leaf, "goes with the units around it")


def _products(axis: Axis) -> list[list[Axis]]:
    axis = axis.find()
    inside = [found for part in axis.parts for found in _products(part)]
    return [*([axis.parts] if axis.kind == "product" else []), *inside]
