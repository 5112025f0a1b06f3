"""Blocks: a bit for every h x w block; a block with any kept weight is stored whole, zeros included.

    map   uint8: bit i of byte j is block 8 j + i, counted row by row of blocks
    h, w  (1,) uint16
The blocks at the right and lower edge are cut where the weight ends. Kept weights go block by block, row by row within.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import PatternError
from secateurs.exact.kinds import Stored
from secateurs.formats.packed import Grid, Keep, Packed, Places, linear, nbytes, packed_from, weight_from
from secateurs.formats.values import Values

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.formats.bits import Weight

__all__ = ["linear", "nbytes", "pack", "unpack"]


def pack(
    weight: "Weight", keep: "Weight | None" = None, values: str | Values = "exact", h: int = 4, w: int = 4
) -> Packed:
    """The blocks of h rows and w columns that have kept weights; without keep, those that are not all +0.0."""
    return packed_from("blocks", weight, keep, values, lambda keep, grid: places_of(keep, grid, h, w), gather)


def unpack(packed: Packed) -> "Tensor":
    """The dense weight."""
    return weight_from(packed, scatter)


def places_of(keep: Keep, grid: Grid, h: int, w: int) -> Places:
    """The map of a keep array (rows * columns,)."""
    if not (1 <= h <= 65535 and 1 <= w <= 65535):
        raise PatternError(f"A block has 1 to 65535 rows and columns; got {h} x {w}.")
    found = map_of(keep.reshape(grid), h, w)
    return {
        "map": np.packbits(found.reshape(-1), bitorder="little"),
        "h": np.array([h], np.uint16),
        "w": np.array([w], np.uint16),
    }


def gather(places: Places, grid: Grid, stored: Stored) -> Stored:
    """The weights of the kept blocks, block by block."""
    return stored[order_of(*block_map(places, grid), grid)]


def scatter(places: Places, grid: Grid, kept: Stored) -> Stored:
    """The dense weights."""
    stored = np.zeros(grid[0] * grid[1], kept.dtype)
    stored[order_of(*block_map(places, grid), grid)] = kept
    return stored


def map_of(keep: Keep, h: int, w: int) -> Keep:
    """(block rows, block columns): whether any weight of the block is kept; keep is (rows, columns)."""
    rows, columns = keep.shape
    padded = np.pad(keep, ((0, -rows % h), (0, -columns % w)))
    return np.asarray(padded.reshape(padded.shape[0] // h, h, padded.shape[1] // w, w).any(axis=(1, 3)))


def order_of(blocks: Keep, h: int, w: int, grid: Grid) -> NDArray[np.int64]:
    """Where the weights of the kept blocks stand, block by block."""
    row, column = np.nonzero(blocks)
    rows = row[:, None, None] * h + np.arange(h)[:, None]  # (blocks, h, 1)
    columns = column[:, None, None] * w + np.arange(w)  # (blocks, 1, w)
    inside = (rows < grid[0]) & (columns < grid[1])
    places: NDArray[np.int64] = (rows * grid[1] + columns)[inside]
    return places


def block_map(places: Places, grid: Grid) -> tuple[Keep, int, int]:
    """(whether each block is kept: (block rows, block columns), h, w)."""
    h, w = int(places["h"][0]), int(places["w"][0])
    shape = -(-grid[0] // h), -(-grid[1] // w)
    bits = np.unpackbits(places["map"], count=shape[0] * shape[1], bitorder="little")
    return bits.astype(bool).reshape(shape), h, w
