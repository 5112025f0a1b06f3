"""Index: how far every kept weight is from the one before; smaller than bits where fewer than 1 of 16 is kept.

gaps  (n,) uint16: the distance in the row-major order of all weights, the first counted from -1; 0 says to go
      65535 on without a weight there
"""

from typing import TYPE_CHECKING

import numpy as np

from secateurs.exact.kinds import Stored
from secateurs.formats import kernels
from secateurs.formats.packed import Grid, Keep, Packed, Places, linear, nbytes, packed_from, weight_from
from secateurs.formats.values import Values

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.formats.bits import Weight

__all__ = ["linear", "nbytes", "pack", "unpack"]


def pack(weight: "Weight", keep: "Weight | None" = None, values: str | Values = "exact") -> Packed:
    """The kept weights, and 16 bits for each; without keep, all that is not +0.0 is kept."""
    return packed_from("index", weight, keep, values, places_of, gather)


def unpack(packed: Packed) -> "Tensor":
    """The dense weight."""
    return weight_from(packed, scatter)


def places_of(keep: Keep, grid: Grid) -> Places:
    """The distances of a keep array (rows * columns,)."""
    places = np.flatnonzero(keep)
    gaps = np.empty(kernels.gaps_of(places, np.empty(0, np.uint16)), np.uint16)
    kernels.gaps_of(places, gaps)
    return {"gaps": gaps}


def gather(places: Places, grid: Grid, stored: Stored) -> Stored:
    """The kept weights, row by row."""
    return stored[where(places, grid)]


def scatter(places: Places, grid: Grid, kept: Stored) -> Stored:
    """The dense weights."""
    stored = np.zeros(grid[0] * grid[1], kept.dtype)
    stored[where(places, grid)] = kept
    return stored


def where(places: Places, grid: Grid) -> Stored:
    """The places of the kept weights among all, row by row."""
    gaps = places["gaps"]
    found = np.empty(int(np.count_nonzero(gaps)), np.int64)
    n = kernels.places_of(gaps, grid[0] * grid[1], found)
    assert n == found.size, "places beyond the weight"
    return found
