"""Axes: the dimensions of all tensors of a network, and which of them are one.

    unify(a, b)        from now on both are the same dimension
    fix(axis, why)     nothing of it may be removed

An axis is a leaf (n indices that mean nothing but themselves), a product of axes (a flattened dimension: heads by
width), or a sum of them (a concatenation). Unifying works as in type inference: a leaf becomes what it is unified with,
products and sums are cut at each other's boundaries. What cannot be aligned is fixed, so a mistake here can only make
less removable, never wrong.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, final

import numpy as np

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@final
class Axis:
    """One dimension; compare only what `find` returns.

    parts   of a product or sum, the outer or earlier first
    why     reasons why nothing of it may go; only of leaves
    tags    what is known of a leaf: "head" (of an attention), "zeros" (put in front of or behind others)
    """

    __slots__ = ("kind", "parts", "same_as", "size", "tags", "why")

    def __init__(self, size: int, why: str = "", tag: str = "") -> None:
        self.size = size
        self.same_as: Axis | None = None
        self.kind: Literal["leaf", "product", "sum"] = "leaf"
        self.parts: list[Axis] = []
        self.why: list[str] = [why] if why else []
        self.tags: set[str] = {tag} if tag else set()

    def find(self) -> "Axis":
        """The axis that this one has become."""
        axis = self
        while axis.same_as is not None:
            axis = axis.same_as
        return axis

    def leaves(self) -> Iterator["Axis"]:
        """The leaves it is made of, one that stands in it twice twice."""
        axis = self.find()
        if axis.kind == "leaf":
            yield axis
        for part in axis.parts:
            yield from part.leaves()

    def keep(self, kept: dict["Axis", Bools]) -> Bools:
        """Which indices live when of each leaf named in `kept` only those live."""
        axis = self.find()
        if axis.kind == "leaf":
            return kept.get(axis, np.ones(axis.size, bool))
        parts = [part.keep(kept) for part in axis.parts]
        if axis.kind == "sum":
            return np.concatenate(parts)
        whole = parts[0]
        for part in parts[1:]:
            whole = np.logical_and.outer(whole, part).reshape(-1)
        return whole

    def units_of(self, leaf: "Axis") -> Ints:
        """For each index, the index of `leaf` it belongs to; -1 where it belongs to none."""
        axis = self.find()
        if axis.kind == "leaf":
            return np.arange(axis.size) if axis is leaf else np.full(axis.size, -1)
        parts = [part.units_of(leaf) for part in axis.parts]
        if axis.kind == "sum":
            return np.concatenate(parts)
        whole = parts[0]
        for part in parts[1:]:
            whole = np.maximum.outer(whole, part).reshape(-1)
        return whole

    def n_kept(self, kept: dict["Axis", int]) -> int:
        """How many indices are left when each leaf named in `kept` has only so many."""
        axis = self.find()
        if axis.kind == "leaf":
            return kept.get(axis, axis.size)
        parts = [part.n_kept(kept) for part in axis.parts]
        return sum(parts) if axis.kind == "sum" else int(np.prod(parts))


def product(parts: Sequence[Axis]) -> Axis:
    """The flattened dimension of several, the outermost first; parts of size 1 do not count."""
    flat = [axis for part in parts for axis in _parts(part, "product") if axis.size != 1]
    return _composite("product", flat, int(np.prod([axis.size for axis in flat])))


def total(parts: Sequence[Axis]) -> Axis:
    """The dimension of a concatenation; empty parts do not count."""
    flat = [axis for part in parts for axis in _parts(part, "sum") if axis.size != 0]
    return _composite("sum", flat, sum(axis.size for axis in flat))


def fix(axis: Axis, why: str) -> None:
    """Nothing of it may be removed."""
    for leaf in axis.leaves():
        if why not in leaf.why:
            leaf.why.append(why)


def unify(a: Axis, b: Axis) -> None:
    """Make two axes of one size the same, as finely cut as either."""
    a, b = a.find(), b.find()
    if a is b:
        return
    assert a.size == b.size, (a.size, b.size)
    if b.kind == "leaf":
        a, b = b, a
    if a.kind == "leaf":
        if any(leaf is a for leaf in b.leaves()):
            fix(b, "part of itself")
            return
        for why in a.why:
            fix(b, why)
        for leaf in b.leaves():
            leaf.tags |= a.tags
        a.same_as = b
    elif a.kind != b.kind or not _align(a, b):
        for axis in (a, b):
            fix(axis, "laid out in two ways that do not match")


def _parts(axis: Axis, kind: str) -> list[Axis]:
    axis = axis.find()
    return [inner for part in axis.parts for inner in _parts(part, kind)] if axis.kind == kind else [axis]


def _composite(kind: Literal["product", "sum"], parts: list[Axis], size: int) -> Axis:
    if len(parts) == 1:
        return parts[0]
    axis = Axis(size)
    if parts:
        axis.kind, axis.parts = kind, parts
    return axis


def _split(leaf: Axis, kind: Literal["product", "sum"], sizes: tuple[int, int]) -> list[Axis]:
    """Turn a leaf into two parts that inherit what is known of it."""
    leaf.kind, leaf.parts = kind, [Axis(size) for size in sizes]
    for part in leaf.parts:
        part.why, part.tags = list(leaf.why), set(leaf.tags)
    leaf.why, leaf.tags = [], set()
    return leaf.parts


def _align(a: Axis, b: Axis) -> bool:
    """Unify two products, or two sums, part by part from the last; False where their boundaries cross."""
    kind: Literal["product", "sum"] = "product" if a.kind == "product" else "sum"
    left, right = _parts(a, kind), _parts(b, kind)
    while left and right:
        x, y = left.pop().find(), right.pop().find()
        if x.size == y.size:
            unify(x, y)
            continue
        (large, rest), small = ((x, left), y) if x.size > y.size else ((y, right), x)
        if (kind == "product" and large.size % small.size) or large.kind not in ("leaf", kind):
            return False
        if large.kind == "leaf":
            first = large.size // small.size if kind == "product" else large.size - small.size
            rest.extend(_split(large, kind, (first, small.size)))
        else:
            rest.extend(_parts(large, kind))
        (right if rest is left else left).append(small)
    a.same_as = b
    return True
