"""n:m: n of every m consecutive inputs, said by which of the possible choices it is: 3 bits per group for 2:4.

    groups  uint8: of every group its number among the C(m, n) choices, in the fewest bits (2 for 1:4, 3 for 2:4, 7 for
            4:8), one after the other from the lowest bit on; groups go along a row's columns
    n, m    (1,) uint8
Choices are numbered by their bits, read as a number whose lowest bit is the first of the group.
"""

from functools import cache
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from secateurs.errors import PatternError
from secateurs.exact.kinds import Stored
from secateurs.formats import kernels
from secateurs.formats.packed import Grid, Keep, Packed, Places, linear, nbytes, packed_from, weight_from
from secateurs.formats.values import Values

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.formats.bits import Weight

__all__ = ["linear", "nbytes", "pack", "unpack"]

MAX_M = 16


def pack(
    weight: "Weight", keep: "Weight | None" = None, values: str | Values = "exact", n: int = 2, m: int = 4
) -> Packed:
    """The kept weights, n of every m columns, and which; PatternError unless keep is exactly that.

    Without keep, all that is not +0.0 is kept.
    """
    return packed_from("nm", weight, keep, values, lambda keep, grid: places_of(keep, grid, n, m), gather)


def unpack(packed: Packed) -> "Tensor":
    """The dense weight."""
    return weight_from(packed, scatter)


def places_of(keep: Keep, grid: Grid, n: int, m: int) -> Places:
    """The choices of a keep array (rows * columns,)."""
    if not 1 <= n <= m <= MAX_M:
        raise PatternError(f"n:m packs from 1:1 to n:{MAX_M}; got {n}:{m}.")
    if grid[1] % m:
        raise PatternError(f"{n}:{m} needs columns divisible by {m}; the weight has {grid[0]} rows of {grid[1]}.")
    ranks = ranks_of(keep, n, m)
    if ranks is None:
        raise PatternError(f"Not every {m} consecutive columns keep exactly {n}. Prune to {n}:{m}, or pack as bitmask.")
    width = _width(n, m)
    groups = np.empty(-(-ranks.size * width // 8), np.uint8)
    kernels.narrow(ranks, width, groups)
    return {"groups": groups, "n": np.array([n], np.uint8), "m": np.array([m], np.uint8)}


def gather(places: Places, grid: Grid, stored: Stored) -> Stored:
    """The kept weights, row by row."""
    return stored[keep_of(places, grid)]


def scatter(places: Places, grid: Grid, kept: Stored) -> Stored:
    """The dense weights."""
    stored = np.zeros(grid[0] * grid[1], kept.dtype)
    stored[keep_of(places, grid)] = kept
    return stored


def ranks_of(keep: Keep, n: int, m: int) -> Stored | None:
    """Which choice every m consecutive weights are; None where some are none."""
    patterns = np.zeros(keep.size // m, np.uint16)
    for i in range(m):
        patterns |= keep[i::m].astype(np.uint16) << i
    known, rank_of = _choices(n, m)
    ranks = rank_of[patterns]
    return ranks if not ranks.size or int(ranks.max()) < known.size else None


def keep_of_ranks(ranks: Stored, n: int, m: int) -> Keep:
    """The keep array (groups * m,) of these choices."""
    patterns = _choices(n, m)[0][ranks]
    return (patterns[:, None] >> np.arange(m, dtype=np.uint16) & 1).astype(bool).reshape(-1)


def keep_of(places: Places, grid: Grid) -> Keep:
    """The keep array (rows * columns,)."""
    n, m = int(places["n"][0]), int(places["m"][0])
    ranks = np.empty(grid[0] * grid[1] // m, np.uint16)
    kernels.widen(places["groups"], _width(n, m), ranks)
    return keep_of_ranks(ranks, n, m)


def _width(n: int, m: int) -> int:
    return (comb(m, n) - 1).bit_length()


@cache
def _choices(n: int, m: int) -> tuple[Stored, Stored]:
    """(the patterns by their rank, the rank of every pattern, 65535 where it is none)."""
    patterns = np.arange(1 << m, dtype=np.uint32)
    n_set = (patterns[:, None] >> np.arange(m) & 1).sum(axis=1)
    known = np.flatnonzero(n_set == n).astype(np.uint16)
    rank_of = np.full(1 << m, 65535, np.uint16)
    rank_of[known] = np.arange(known.size)
    return known, rank_of
