"""Compliance: whether the zeros of a file or a live network keep a pattern that hardware takes, group by group.

    compliance("pruned/", "2:4").holds          compliance(module, "block(4, 4)").tensors[0].n_held

Counted on the stored bits: groups run along in / groups of the layer, at each output and kernel position.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.prunable import entry_reasons
from secateurs.checkpoint.tensors import Checkpoint, Entry
from secateurs.errors import PatternError
from secateurs.exact.kinds import KINDS
from secateurs.recipe import n_of_m
from secateurs.units import Shape, Unit, canonical, element

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Held:
    """One prunable tensor under the pattern.

    n_groups  groups of m neighbours, or blocks
    n_held    of them, groups with at most n weights; blocks of zeros alone or without any
    n_dead    of them, those of zeros alone
    reason    why the pattern does not fit the shape; "" where it does
    """

    name: str
    shape: Shape
    n_groups: int = 0
    n_held: int = 0
    n_dead: int = 0
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether the pattern fits, and every group keeps it."""
        return not self.reason and self.n_held == self.n_groups


@dataclass(frozen=True)
class Compliance:
    """Every prunable tensor under one pattern."""

    pattern: str
    tensors: tuple[Held, ...]

    @property
    def holds(self) -> bool:
        """Whether it holds in every tensor that it fits, and fits one or more."""
        fitting = [each for each in self.tensors if not each.reason]
        return bool(fitting) and all(each.holds for each in fitting)


def compliance(
    source: "str | os.PathLike[str] | Checkpoint | nn.Module",
    pattern: str,
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
) -> Compliance:
    """Whether every prunable tensor keeps the pattern.

    source      a file, a directory, a name on the hub, a live network, or a Checkpoint that is open
    pattern     n:m, such as "2:4", or blocks, such as "block(4, 4)"
    only, skip  patterns of the names to look at, as in a recipe

    RecipeError for a pattern that means nothing, InputError for a source that cannot be read.
    """
    unit, n, m = read_pattern(pattern)
    if not isinstance(source, Checkpoint):
        with open_checkpoint(source) as checkpoint:
            return compliance(checkpoint, pattern, only=only, skip=skip)
    reasons = entry_reasons(source.entries, tuple(skip), tuple(only))
    chosen = [entry for entry, reason in zip(source.entries, reasons, strict=True) if not reason]
    return Compliance(pattern, tuple(_held(source, entry, unit, n, m) for entry in chosen))


def read_pattern(pattern: str) -> tuple[Unit, int, int]:
    """(unit, n, m) of "2:4" or "block(4, 4)"; of blocks, n and m are 0."""
    if ":" in pattern:
        return element, *n_of_m(pattern)
    unit = Unit.parse(pattern)
    if unit.kind != "block":
        raise PatternError(f"A pattern is n:m, such as '2:4', or blocks, such as 'block(4, 4)'; got '{pattern}'.")
    return unit, 0, 0


def _held(checkpoint: Checkpoint, entry: Entry, unit: Unit, n: int, m: int) -> Held:
    kind = KINDS[entry.dtype]
    alive = _seen(entry, checkpoint.stored(entry) & kind.storage.type(kind.mask) != 0)
    size = canonical(alive.shape)
    if m and size[1] % m:
        return Held(entry.name, entry.shape, reason=f"{size[1]} inputs, which groups of {m} do not divide")
    try:
        h, w = (1, m) if m else (unit.h, unit.w)
        r, c, k = unit.grid(alive.shape) if not m else (size[0], size[1] // m, size[2])
    except PatternError as error:
        return Held(entry.name, entry.shape, reason=str(error))
    counts = alive.reshape(r, h, c, w, k).sum(axis=(1, 3), dtype=np.int64)
    held = counts <= n if m else (counts == 0) | (counts == h * w)
    return Held(entry.name, entry.shape, counts.size, int(held.sum()), int((counts == 0).sum()))


def _seen(entry: Entry, flat: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """A stored tensor as (out, in / groups, *kernel)."""
    if not entry.is_turned:
        return flat.reshape(entry.shape)
    i, o, *kernel = entry.shape
    grouped = flat.reshape(entry.groups, i // entry.groups, o, *kernel).swapaxes(1, 2)
    return grouped.reshape(entry.groups * o, i // entry.groups, *kernel)
