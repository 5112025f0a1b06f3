"""Bitmask: one bit for every weight; the smallest of the plain ones from 5 to 94 % zeros, and the fastest.

mask  (rows * ceil(columns / 8),) uint8: bit i of a row's byte j is its column 8 j + i; every row begins a byte
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from secateurs.exact.kinds import Stored
from secateurs.exact.threads import spread
from secateurs.formats import kernels
from secateurs.formats.packed import Grid, Keep, Packed, Places, linear, nbytes, packed_from, weight_from
from secateurs.formats.values import Values

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.formats.bits import Weight

__all__ = ["linear", "nbytes", "pack", "unpack"]

RUN = 1 << 18  # weights that one task moves: fewer cost more in starting it, more fall out of the cache


def pack(weight: "Weight", keep: "Weight | None" = None, values: str | Values = "exact") -> Packed:
    """The kept weights, and a bit for every weight; without keep, all that is not +0.0 is kept."""
    return packed_from("bitmask", weight, keep, values, places_of, gather)


def unpack(packed: Packed) -> "Tensor":
    """The dense weight."""
    return weight_from(packed, scatter)


def places_of(keep: Keep, grid: Grid) -> Places:
    """The bits of a keep array (rows * columns,)."""
    if not _is_flat(grid):
        return {"mask": np.packbits(keep.reshape(grid), axis=1, bitorder="little").reshape(-1)}
    mask = np.empty(-(-keep.size // 8), np.uint8)

    def fill(start: int) -> None:
        mask[start // 8 : (start + RUN) // 8] = np.packbits(keep[start : start + RUN], bitorder="little")

    spread(fill, range(0, keep.size, RUN))
    return {"mask": mask}


def gather(places: Places, grid: Grid, stored: Stored) -> Stored:
    """The kept weights, row by row."""
    mask, runs = places["mask"], list(_runs(grid))
    n_kept = spread(lambda run: int(kernels.n_set(mask[run[1]])), runs)
    ends = np.cumsum([0, *n_kept])
    kept = np.empty(int(ends[-1]), stored.dtype)

    def move(i: int) -> None:
        of_weights, of_mask, width = runs[i]
        room = np.empty(n_kept[i] + kernels.SLACK, stored.dtype)
        kernels.gather(stored[of_weights], mask[of_mask], width, room)
        kept[ends[i] : ends[i + 1]] = room[: n_kept[i]]

    spread(move, range(len(runs)))
    return kept


def scatter(places: Places, grid: Grid, kept: Stored) -> Stored:
    """The dense weights."""
    mask, runs = places["mask"], list(_runs(grid))
    ends = np.cumsum([0, *spread(lambda run: int(kernels.n_set(mask[run[1]])), runs)])
    stored = np.empty(grid[0] * grid[1], kept.dtype)

    def move(i: int) -> None:
        of_weights, of_mask, width = runs[i]
        mine = kept[ends[i] : ends[i + 1] + kernels.SLACK]
        if mine.size < ends[i + 1] - ends[i] + kernels.SLACK:
            mine = np.append(mine, np.zeros(kernels.SLACK, kept.dtype))
        kernels.scatter(mask[of_mask], mine, width, stored[of_weights])

    spread(move, range(len(runs)))
    return stored


def _is_flat(grid: Grid) -> bool:
    """Whether the rows follow each other without unused bits, as if they were one."""
    return grid[1] % 8 == 0 or grid[0] <= 1


def _runs(grid: Grid) -> Iterator[tuple[slice, slice, int]]:
    """(its weights, its bytes of the mask, columns) of every task."""
    rows, columns = grid
    if _is_flat(grid):
        for start in range(0, rows * columns, RUN):
            end = min(start + RUN, rows * columns)
            yield slice(start, end), slice(start // 8, -(-end // 8)), end - start
        return
    step, stride = max(1, RUN // max(1, columns)), -(-columns // 8)
    for row in range(0, rows, step):
        end = min(row + step, rows)
        yield slice(row * columns, end * columns), slice(row * stride, end * stride), columns
