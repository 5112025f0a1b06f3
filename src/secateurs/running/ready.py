"""Ready: a packed weight as the loops read it: whole words of bits, kept weights with room behind them.

A format becomes one of four ways to say where the kept weights are; n:m becomes bits:

    Bits      bitmask, nm      a word for every 32 columns of a row
    Listed    index            the column of every kept weight
    Tiled     blocks           the block columns of every row of blocks
    Left      rows             the columns that are left, which a row has all of or none
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from secateurs.errors import InputError, PatternError
from secateurs.exact.kinds import KINDS, Stored
from secateurs.formats.bits import grid_of
from secateurs.formats.blocks import block_map
from secateurs.formats.index import where
from secateurs.formats.nm import keep_of
from secateurs.formats.packed import Packed
from secateurs.formats.rows import left_of

ROOM = 32  # bytes behind the last kept weight that a load may touch
_ONE = 0x3F80  # 1 as bfloat16
_FACTOR = {8: 2.0**-24, 4: 2.0**-28}  # what the loops leave in codes of so many bits


@dataclass(frozen=True, eq=False)
class Ready:
    """What all have.

    rows, columns  of the weight
    kept           float32, bfloat16 as uint16, int8, or int4 two to a byte of uint8; then ROOM
    starts         (rows + 1,) int64: where each row's (of Tiled: each row of blocks') begin in `kept`
    scales         (rows * groups,) bfloat16 as uint16
    width          words of 32 columns that share a scale
    """

    rows: int
    columns: int
    kept: Stored
    starts: Stored
    scales: Stored
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(each.nbytes for each in vars(self).values() if isinstance(each, np.ndarray))

    @property
    def density(self) -> float:
        """Stored weights by all."""
        return float(self.starts[-1]) / max(1, self.rows * self.columns)

    @property
    def stride(self) -> int:
        """Words of a row."""
        return -(-self.columns // 32)


@dataclass(frozen=True, eq=False)
class Bits(Ready):
    """mask  (rows * stride,) uint32: bit i of a row's word j is its column 32 j + i."""

    mask: Stored


@dataclass(frozen=True, eq=False)
class Listed(Ready):
    """places  (n_kept,) uint16, or uint32 beyond 65,536 columns: the column of every kept weight."""

    places: Stored


@dataclass(frozen=True, eq=False)
class Tiled(Ready):
    """places  (n_blocks,) uint16 or uint32: the block column of every kept block, which are h rows of w columns."""

    places: Stored
    h: int
    w: int


@dataclass(frozen=True, eq=False)
class Left(Ready):
    """places  (n,) uint16 or uint32: the columns that are left; a row begins where it ends if none of it is."""

    places: Stored


def ready(packed: Packed) -> Ready:
    """The packed weight, ready; InputError for values that do not run, PatternError where they do in other formats."""
    if len(packed.shape) != 2:
        raise InputError(f"A weight that runs is (out, in); this one is {packed.shape}. Reshape it before packing.")
    rows, columns = grid_of(packed.shape)
    kept, scales, width = _values(packed, columns)
    places = packed.places
    if packed.format == "index":
        at = where(places, (rows, columns))
        if scales.size != rows:
            raise PatternError("Index weights run with one scale per row; pack with int8 or int4 without a group.")
        of_row, of_column = np.divmod(at, columns)
        return Listed(
            rows,
            columns,
            kept,
            _ends(np.bincount(of_row, minlength=rows)),
            scales,
            width,
            of_column.astype(_shortest(columns)),
        )
    if packed.format == "blocks":
        found, h, w = block_map(places, (rows, columns))
        if scales.size != rows:
            raise PatternError("Blocks run with one scale per row; pack with int8 or int4 without a group.")
        if rows % h == 0 and columns % w == 0:
            starts = _ends(found.sum(axis=1) * h * w)
            return Tiled(
                rows, columns, kept, starts, scales, width, np.nonzero(found)[1].astype(_shortest(found.shape[1])), h, w
            )
        raise InputError(
            f"Blocks of {h} x {w} run where they divide the weight; it is {packed.shape}. Pack it as bitmask."
        )
    if packed.format == "rows":
        left, of_them = left_of(places, (rows, columns))
        if scales.size != rows:
            raise PatternError("Rows run with one scale per row; pack with int8 or int4 without a group.")
        starts = _ends(np.isin(np.arange(rows), left) * of_them.size)
        return Left(rows, columns, kept, starts, scales, width, of_them.astype(_shortest(columns)))
    if packed.format == "nm":
        mask = np.packbits(keep_of(places, (rows, columns)).reshape(rows, columns), axis=1, bitorder="little")
    elif packed.format == "bitmask":
        mask = places["mask"].reshape(rows, -1)
    else:
        raise InputError(f"Weights packed as {packed.format} do not run; {', '.join(RUNNING)} do.")
    whole = np.ascontiguousarray(np.pad(mask, ((0, 0), (0, -mask.shape[1] % 4)))).view(np.uint32)
    return Bits(rows, columns, kept, _ends(np.bitwise_count(whole).sum(axis=1)), scales, width, whole.reshape(-1))


RUNNING = ("bitmask", "index", "nm", "blocks", "rows")


def _shortest(n: int) -> type[np.unsignedinteger[Any]]:
    """What holds numbers below n."""
    return np.uint16 if n <= 1 << 16 else np.uint32


def _ends(counts: Any) -> Stored:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _values(packed: Packed, columns: int) -> tuple[Stored, Stored, int]:
    """(kept with room, scales, width)."""
    how, rows, stride = packed.values, packed.shape[0], max(1, -(-columns // 32))
    if how.is_exact:
        kinds = {"F32": np.float32, "BF16": np.uint16}
        if packed.dtype not in kinds:
            raise InputError(
                f"Exact weights run as F32 or BF16; these are {packed.dtype}. Convert them before packing."
            )
        return _with_room(packed.kept.view(kinds[packed.dtype])), np.full(rows, _ONE, np.uint16), stride
    if how.name != "int":
        raise InputError(f"Weights with {how} values do not run; exact, int8 and int4 do.")
    group = how.width(columns)
    if group < columns and group % 32:
        raise InputError(
            f"Groups run in multiples of 32 columns; these have {group}. Pack with {how.name}{how.n_bits}/64."
        )
    # A power of two moves the exponent alone: the product is a bfloat16 again.
    scales = KINDS["BF16"].values(packed.scales).astype(np.float32) * np.float32(_FACTOR[how.n_bits])
    scales = (scales.view(np.uint32) >> 16).astype(np.uint16)
    kept = packed.kept.view(np.int8) if how.n_bits == 8 else packed.kept
    return _with_room(kept), scales, stride if group >= columns else group // 32


def _with_room(kept: Stored) -> Stored:
    found = np.zeros(kept.size + ROOM // kept.itemsize, kept.dtype)
    found[: kept.size] = kept
    return found
