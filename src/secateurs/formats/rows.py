"""Rows: what is left when whole rows and columns are dropped, as one dense matrix.

rows, columns  uint8: bit i of byte j is whether row (column) 8 j + i is kept
"""

from typing import TYPE_CHECKING

import numpy as np

from secateurs.exact.kinds import Stored
from secateurs.formats.packed import Grid, Keep, Packed, Places, linear, nbytes, packed_from, weight_from
from secateurs.formats.values import Values

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.formats.bits import Weight

__all__ = ["linear", "nbytes", "pack", "unpack"]


def pack(weight: "Weight", keep: "Weight | None" = None, values: str | Values = "exact") -> Packed:
    """The rows and columns that have kept weights; without keep, those that are not all +0.0."""
    return packed_from("rows", weight, keep, values, places_of, gather)


def unpack(packed: Packed) -> "Tensor":
    """The dense weight."""
    return weight_from(packed, scatter)


def places_of(keep: Keep, grid: Grid) -> Places:
    """The rows and columns of a keep array (rows * columns,)."""
    seen = keep.reshape(grid)
    return {
        "rows": np.packbits(seen.any(axis=1), bitorder="little"),
        "columns": np.packbits(seen.any(axis=0), bitorder="little"),
    }


def gather(places: Places, grid: Grid, stored: Stored) -> Stored:
    """The weights of the kept rows and columns, row by row."""
    found: Stored = stored.reshape(grid)[np.ix_(*left_of(places, grid))]
    return found.reshape(-1)


def scatter(places: Places, grid: Grid, kept: Stored) -> Stored:
    """The dense weights."""
    stored = np.zeros(grid, kept.dtype)
    rows, columns = left_of(places, grid)
    stored[np.ix_(rows, columns)] = kept.reshape(rows.size, columns.size)
    return stored.reshape(-1)


def left_of(places: Places, grid: Grid) -> tuple[Stored, Stored]:
    """(the kept rows, the kept columns)."""
    rows = np.flatnonzero(np.unpackbits(places["rows"], count=grid[0], bitorder="little"))
    columns = np.flatnonzero(np.unpackbits(places["columns"], count=grid[1], bitorder="little"))
    return rows, columns
