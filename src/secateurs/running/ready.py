"""Ready: a packed weight as the loops read it: whole words of bits, kept weights with room behind them.

A format becomes one of six ways to say where the kept weights are; n:m becomes bits:

    Bits      bitmask, nm      a word for every 32 columns of a row
    Panels    the same where the CPU has AVX-512 (and AMX): 32 rows side by side
    Listed    index            the column of every kept weight
    Tiled     blocks           the block columns of every row of blocks
    Slabs     the same where the CPU has AVX-512, of blocks of 32 rows, whose columns 16 divides
    Left      rows             the columns that are left, which a row has all of or none
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import Any, ClassVar, NamedTuple

import numpy as np

from secateurs.errors import InputError, PatternError
from secateurs.exact.kinds import KINDS, Stored
from secateurs.formats.bits import grid_of
from secateurs.formats.blocks import block_map
from secateurs.formats.index import where
from secateurs.formats.nm import keep_of
from secateurs.formats.packed import Packed
from secateurs.formats.rows import left_of
from secateurs.running import laying
from secateurs.running.features import ways
from secateurs.running.wide import COLUMNS, PANEL, ROWS

ROOM = 64  # bytes behind the last kept weight that a load may touch
_ONE = 0x3F80  # 1 as bfloat16
_FACTOR = {8: 2.0**-24, 4: 2.0**-28}  # what the loops leave in codes of so many bits
_PANELS = 2.0**24  # by how much less those of panels leave
_WORDS = 2048  # of columns whose products of bytes an int32 can hold the sum of
_FEW_WORDS = 8  # of columns whose integers add up to an int16
_LEAST = 2.0**-80  # of weights that AMX multiplies
EXACT = 3  # planes of 8 bits of an input, which are as exact as float32


@dataclass(frozen=True, eq=False)
class Ready:
    """What all have.

    rows, columns  of the weight
    kept           float32, bfloat16 as uint16, int8, or int4 two to a byte of uint8; then ROOM
    starts         (rows + 1,) int64: where each row's (of Tiled: each row of blocks', of Panels: each panel's) begin in
                   `kept`
    scales         (rows * groups,) bfloat16 as uint16
    width          words of 32 columns that share a scale
    """

    rows: int
    columns: int
    kept: Stored
    starts: Stored
    scales: Stored
    width: int

    MADE: ClassVar[tuple[str, ...]] = ()  # arrays that are made of the others, and not saved

    @property
    def height(self) -> int:
        """Rows of one entry of `starts`."""
        return 1

    def portable(self) -> "Ready":
        """The same weight as a CPU of any kind has it, in arrays of the same names."""
        return self

    def with_arrays(self, arrays: dict[str, Stored]) -> "Ready":
        """A portable weight of this shape with other arrays."""
        values: dict[str, Any] = dict(arrays)
        return replace(self, **values)

    def is_sound(self) -> bool:
        """Of a portable weight: whether its arrays are as long as they say, and no place is outside: no loop looks."""
        raise NotImplementedError

    def alike(self, arrays: dict[str, Stored]) -> "Ready | None":
        """A portable weight of this shape and of these arrays; None where they do not fit it, or each other."""
        kinds = {"kept": self.kept.dtype, "starts": np.int64, "scales": np.uint16, "mask": np.uint32}
        if any(each.ndim != 1 or each.dtype != kinds.get(key, vars(self)[key].dtype) for key, each in arrays.items()):
            return None
        found = self.with_arrays(arrays)
        return found if found.is_sound() else None

    def _begins_at(self, starts: Stored) -> bool:
        """Whether rows begin there, and as many weights and scales are stored."""
        n, n_groups = int(starts[-1]), -(-self.stride // max(1, self.width))
        n_bytes = -(-n // 2) if self.kept.dtype == np.uint8 else n * self.kept.itemsize
        is_whole = self.kept.nbytes >= n_bytes + ROOM and self.scales.size == self.rows * n_groups
        return is_whole and np.array_equal(self.starts, starts)

    def _is_rising(self) -> bool:
        """Whether `starts` has one for every row (or row of blocks) and an end, none before the last."""
        n = self.rows // self.height + 1
        return self.starts.size == n and self.starts[0] == 0 and bool((np.diff(self.starts) >= 0).all())

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

    def is_sound(self) -> bool:
        if self.mask.size != self.rows * self.stride:
            return False
        words = self.mask.reshape(self.rows, -1)
        beyond = words[:, -1:] >> np.uint32((self.columns - 1) % 32) >> np.uint32(1)
        return not beyond.any() and self._begins_at(_ends(np.bitwise_count(words).sum(axis=1)))


class Squares(NamedTuple):
    """How `squares.run` runs panels or slabs.

    known, kinds  what it wants of them
    n_bytes       of a square of inputs
    """

    known: tuple[Any, ...]
    kinds: tuple[tuple[int, ...], ...]
    n_bytes: int


def _kinds(weight: "Panels | Slabs", blocks: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    planes, one, three = (0,) * weight.n_planes, (0,), (0, 0, 0)
    pieces = three if weight.kept.dtype == np.float32 else one
    return planes, planes if is_integer(weight) else one, pieces, blocks


@dataclass(frozen=True, eq=False)
class Panels(Ready):
    """mask, kept, starts, scales and totals as in panels.py.

    n_planes  bytes of an input, where kept weights are integers: 3 are as exact as float32, 1 is its own trade; of
              floats how many bfloat16 AMX takes an input apart into: 3, or 0 where it would lose part of a weight
    """

    mask: Stored
    totals: Stored
    n_planes: int

    MADE = ("totals",)

    @cached_property
    def padded_columns(self) -> int:
        """With those that fill the last 16."""
        return self.columns + -self.columns % 16

    @cached_property
    def padded_rows(self) -> int:
        """With those that fill the last panel."""
        return self.rows + -self.rows % PANEL

    @property
    def of_step(self) -> int:
        """Columns that are spread at once."""
        return COLUMNS[self.kept.dtype.name]

    @property
    def n_steps(self) -> int:
        """Of all halves of panels."""
        return int(self.mask.size)

    @cached_property
    def known(self) -> tuple[Any, ...]:
        """What `panels.run` wants of it; the last is how many steps share a scale."""
        return self.mask, self.kept, self.starts, self.scales, self.totals, _words(self) * 32 // self.of_step

    @cached_property
    def squares(self) -> Squares:
        """How `squares.run` runs it."""
        n_steps = self.padded_columns // self.of_step
        width = min(_words(self) * 32 // self.of_step, n_steps)
        known = self.mask, self.kept, self.starts, self.scales, self.totals, (width, -(-n_steps // width))
        return Squares(known, _kinds(self, ()), 64)

    @classmethod
    def of(cls, bits: Bits, n_planes: int) -> "Panels":
        """The same weight."""
        kept, is_even, is_whole = _singles(bits), bits.kept.dtype == np.uint8, is_integer(bits)
        columns = COLUMNS[bits.kept.dtype.name]
        n_panels, n_steps = -(-bits.rows // PANEL), (bits.columns + -bits.columns % 16) // columns
        mask = np.zeros(n_panels * n_steps * 2, f"u{2 * columns}")
        laid = np.zeros(int(bits.starts[-1]) + is_even * mask.size + 1, kept.dtype)
        starts = np.zeros(n_panels + 1, np.int64)
        n = laying.lay(bits.mask, kept, bits.starts, columns, mask, laid, starts, is_even)
        laid = _stored_as(bits, laid[:n])
        scales = np.repeat(bits.scales.reshape(bits.rows, -1), -(-bits.width // _words(bits)), axis=1)
        scales = scales[:, : -(-bits.stride // _words(bits))]
        # Short groups have many totals, which an int16 holds.
        is_short = bits.width < bits.stride and _words(bits) <= _FEW_WORDS
        totals = np.zeros(0, np.int16 if is_whole and is_short else np.int32)
        if is_whole:
            scales = _times(scales, _PANELS)
            sums = np.zeros(scales.shape, np.int64)
            laying.add_up(bits.mask, _signed(kept), bits.starts, _words(bits), sums)
            totals = _side_by_side(sums.astype(totals.dtype))
        return cls(
            bits.rows, bits.columns, _with_room(laid), starts,
            _side_by_side(scales), bits.width, mask, totals, n_planes if is_whole else _n_pieces(kept),
        )  # fmt: skip

    def with_arrays(self, arrays: dict[str, Stored]) -> Bits:
        return Bits(self.rows, self.columns, width=self.width, **arrays)

    def portable(self) -> Bits:
        columns, is_even = self.of_step, self.kept.dtype == np.uint8
        n_panels = self.starts.size - 1
        words = self.mask.reshape(n_panels, -1, 2).transpose(0, 2, 1)[:, :, None]  # (panel, half, row, step)
        shifts = (np.arange(ROWS) * columns).astype(self.mask.dtype)[:, None]
        some = words >> shifts & self.mask.dtype.type((1 << columns) - 1)
        counts = np.bitwise_count(some).sum(axis=3, dtype=np.int64).reshape(-1)[: self.rows]
        starts, kept = _ends(counts), _singles(self)
        found, mask = np.zeros(int(starts[-1]), kept.dtype), np.zeros(self.rows * self.stride, np.uint32)
        laying.unlay(self.mask, kept, self.starts, columns, mask, found, starts, is_even)
        found = _stored_as(self, found)
        scales = self.scales.reshape(n_panels, -1, PANEL).transpose(0, 2, 1).reshape(PANEL * n_panels, -1)
        scales = scales[: self.rows, :: -(-self.width // _words(self))]
        if is_integer(self):
            scales = _times(scales, 1 / _PANELS)
        return Bits(
            self.rows, self.columns, _with_room(found), starts, np.ascontiguousarray(scales).reshape(-1), self.width,
            mask,
        )  # fmt: skip


def _side_by_side(of_rows: Stored) -> Stored:
    """What each group of each row has (rows, groups), panel by panel: (panels * groups * 32,)."""
    rows, n_groups = of_rows.shape
    panels = np.pad(of_rows, ((0, -rows % PANEL), (0, 0))).reshape(-1, PANEL, n_groups)
    return np.ascontiguousarray(panels.transpose(0, 2, 1)).reshape(-1)


def _words(weight: Ready) -> int:
    """Words of 32 columns that share a scale in panels: those of the weight, or a part that divides them."""
    if weight.width >= weight.stride:
        return min(weight.width, _WORDS)
    return weight.width if weight.width <= _WORDS else gcd(weight.width, _WORDS)


def is_integer(weight: Ready) -> bool:
    """Whether its kept weights are integers."""
    return weight.kept.dtype in (np.int8, np.uint8)


def _n_pieces(kept: Stored) -> int:
    """Planes of an input that AMX multiplies floats with: it takes numbers below 2**-126 for zero, such as the last
    bits of small weights."""
    floats = kept.view(np.float32) if kept.dtype == np.float32 else (kept.astype(np.uint32) << 16).view(np.float32)
    sizes = np.abs(floats[floats != 0])
    return EXACT if not sizes.size or bool(sizes.min() > _LEAST and sizes.max() < 1 / _LEAST) else 0


def _singles(weight: Ready) -> Stored:
    """Kept weights, one an element: int4 in the lower half of a byte."""
    if weight.kept.dtype != np.uint8:
        return weight.kept
    found: Stored = np.stack([weight.kept & 15, weight.kept >> 4], axis=1).reshape(-1)
    return found


def _signed(singles: Stored) -> Stored:
    """These as `wide.spread` has them: of int4 16 times as much."""
    return singles if singles.dtype == np.int8 else (singles << 4).view(np.int8)


def _stored_as(weight: Ready, singles: Stored) -> Stored:
    """The reverse."""
    if weight.kept.dtype != np.uint8:
        return singles
    whole = np.append(singles, np.zeros(singles.size % 2, np.uint8))
    found: Stored = whole[::2] | whole[1::2] << 4
    return found


def _times(scales: Stored, factor: float) -> Stored:
    """bfloat16 times a power of two."""
    found = (scales.astype(np.uint32) << 16).view(np.float32) * np.float32(factor)
    return (found.view(np.uint32) >> 16).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class Listed(Ready):
    """places  (n_kept,) uint16, or uint32 beyond 65,536 columns: the column of every kept weight."""

    places: Stored

    def is_sound(self) -> bool:
        is_listed = self._is_rising() and self.starts[-1] == self.places.size
        return is_listed and self._begins_at(self.starts) and bool((self.places < self.columns).all())


@dataclass(frozen=True, eq=False)
class Tiled(Ready):
    """places  (n_blocks,) uint16 or uint32: the block column of every kept block, which are h rows of w columns."""

    places: Stored
    h: int
    w: int

    @property
    def height(self) -> int:
        return self.h

    def is_sound(self) -> bool:
        of_block = self.h * self.w
        is_tiled = self._is_rising() and self.starts[-1] == self.places.size * of_block
        is_inside = bool((self.places < self.columns // self.w).all()) and not (self.starts % of_block).any()
        return is_tiled and is_inside and self._begins_at(self.starts)


@dataclass(frozen=True, eq=False)
class Slabs(Ready):
    """places, kept, starts, scales and totals as in panels.by_block; blocks have w columns; n_planes as of Panels."""

    places: Stored
    totals: Stored
    w: int
    n_planes: int

    MADE = ("totals",)

    @property
    def of_step(self) -> int:
        """Columns of a step."""
        return COLUMNS[self.kept.dtype.name]

    @property
    def n_steps(self) -> int:
        """Of all halves of panels."""
        return int(self.starts[-1]) // (ROWS * self.of_step)

    @cached_property
    def known(self) -> tuple[Any, ...]:
        """What `panels.run_by_block` wants of it."""
        steps = self.w, self.of_step, self.columns // self.of_step
        return self.places, self.kept, self.starts, self.scales, self.totals, *steps

    @cached_property
    def squares(self) -> Squares:
        """How `squares.run` runs it."""
        of = self.w // self.of_step, self.columns // self.w
        whole = 64 if is_integer(self) else 32  # columns of a square
        n_bytes = 64 * gcd(self.w, whole) // whole
        return Squares((self.places, self.kept, self.starts, self.scales, self.totals, of), _kinds(self, (0,)), n_bytes)

    @property
    def padded_columns(self) -> int:
        """All of them."""
        return self.columns

    @property
    def padded_rows(self) -> int:
        """All of them."""
        return self.rows

    @classmethod
    def of(cls, tiled: Tiled, n_planes: int) -> "Slabs":
        """The same weight."""
        columns = COLUMNS[tiled.kept.dtype.name]
        singles = _singles(tiled)[: int(tiled.starts[-1])]
        blocks = singles.reshape(-1, 2, ROWS, tiled.w // columns, columns)
        laid = _stored_as(tiled, blocks.transpose(0, 3, 1, 2, 4).reshape(-1))
        scales, totals, is_whole = tiled.scales, np.zeros(0, np.int32), is_integer(tiled)
        if is_whole:
            scales = _times(scales, _PANELS)
            of_block = _signed(singles).reshape(-1, PANEL, tiled.w).sum(axis=2, dtype=np.int64)
            before = np.vstack([np.zeros(PANEL, np.int64), of_block.cumsum(axis=0)])
            sums = np.diff(before[tiled.starts // (PANEL * tiled.w)], axis=0)
            totals = sums.reshape(-1).astype(np.int32)
        return cls(
            tiled.rows, tiled.columns, _with_room(laid), tiled.starts, scales, tiled.width, tiled.places, totals,
            tiled.w, n_planes if is_whole else _n_pieces(laid),
        )  # fmt: skip

    def with_arrays(self, arrays: dict[str, Stored]) -> Tiled:
        return Tiled(self.rows, self.columns, width=self.width, h=PANEL, w=self.w, **arrays)

    def portable(self) -> Tiled:
        columns = self.of_step
        blocks = _singles(self)[: int(self.starts[-1])].reshape(-1, self.w // columns, 2, ROWS, columns)
        found = _stored_as(self, blocks.transpose(0, 2, 3, 1, 4).reshape(-1))
        scales = _times(self.scales, 1 / _PANELS) if is_integer(self) else self.scales
        return Tiled(
            self.rows, self.columns, _with_room(found), self.starts, scales, self.width, self.places, PANEL, self.w
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Left(Ready):
    """places  (n,) uint16 or uint32: the columns that are left; a row begins where it ends if none of it is."""

    places: Stored

    def is_sound(self) -> bool:
        is_left = self._is_rising() and bool(np.isin(np.diff(self.starts), (0, self.places.size)).all())
        return is_left and self._begins_at(self.starts) and bool((self.places < self.columns).all())


def ready(packed: Packed, n_planes: int = EXACT) -> Ready:
    """The packed weight, ready; InputError for values that do not run, PatternError where they do in other formats.

    n_planes  of Panels, for integers; where others run, inputs stay float32
    """
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
            blocks = np.nonzero(found)[1].astype(_shortest(found.shape[1]))
            return fitted(Tiled(rows, columns, kept, starts, scales, width, blocks, h, w), n_planes)
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
        mask = places["mask"].reshape(rows, -(-columns // 8))
    else:
        raise InputError(f"Weights packed as {packed.format} do not run; {', '.join(RUNNING)} do.")
    whole = np.ascontiguousarray(np.pad(mask, ((0, 0), (0, -mask.shape[1] % 4)))).view(np.uint32)
    bits = Bits(rows, columns, kept, _ends(np.bitwise_count(whole).sum(axis=1)), scales, width, whole.reshape(-1))
    return fitted(bits, n_planes)


def fitted(weight: Ready, n_planes: int = EXACT) -> Ready:
    """A portable weight as this CPU runs it best."""
    if ways() not in ("amx", "avx512") or weight.rows == 0 or weight.columns == 0:
        return weight
    if isinstance(weight, Bits):
        return Panels.of(weight, n_planes)
    if isinstance(weight, Tiled) and weight.h == PANEL and weight.w % 16 == 0 and weight.stride <= _WORDS:
        return Slabs.of(weight, n_planes)
    return weight


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
