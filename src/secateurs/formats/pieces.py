"""Pieces: up to a million weights of one tensor as coded bytes, by whichever positions take the fewest.

    coded = encode(piece, stored, codebook)          decode(piece, coded.data, codebook, out)

A piece of coded bytes holds, one after the other (see streams.py for numbers and planes):

    positions   uint8, its low 7 bits the kind, and what that kind needs:
                0 all       nothing: every weight is stored
                1 bitmask   a plane of ceil(n / 8) bytes: bit i of byte j is weight 8 j + i
                2 index     a number, how many gaps; a plane of their high bytes, a plane of their low bytes; index.py
                3 nm        uint8 n, uint8 m, number k: n of every m weights that are k apart; where there are more than
                            256 choices a plane of their high bytes; a plane of their low bytes; nm.py
                4 blocks    numbers h and w; a plane of the map; blocks.py
                5 rows      a plane of the map of kept rows, one of the kept columns; positions of what is left
                6 model     a number, how many bytes follow; adaptive.py, code_mask
    minus       where the highest bit of the first byte is set: a plane, bit i of byte j for the weight 8 j + i of those
                not stored: it is -0.0 instead of +0.0
    scales      for int values: a plane of the high bytes, a plane of the low bytes
    values      of the stored weights in order. exact: as many planes as the dtype has bytes, the highest first, of the
                bits turned left by one for floating dtypes, so that the sign stands lowest and the exponent highest.
                int, codebook: one plane of codes
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secateurs.exact.kinds import Kind, Stored
from secateurs.formats import adaptive, ints, kernels, nm, rans
from secateurs.formats.blocks import map_of, order_of
from secateurs.formats.packed import Grid, Keep
from secateurs.formats.streams import DamageError, Reader, number, plane
from secateurs.formats.values import Values, code

ALL, BITMASK, INDEX, NM, BLOCKS, ROWS, MODEL = range(7)
POSITIONS = ("all", "bitmask", "index", "nm", "blocks", "rows", "model")
MINUS = 0x80
SIZE = 1 << 20  # weights of a piece
_BLOCKS = ((32, 32), (16, 16), (8, 8), (4, 4), (1, 16), (1, 8), (1, 4), (16, 1), (8, 1), (4, 1), (2, 2))

Order = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """What is known of a piece before it is read.

    storage      of its bits
    kind         None for dtypes that are no floating numbers, which are stored as exact
    n_kernel     weights of one input: 9 for a 3 x 3 convolution
    is_smallest  whether coders that are ten times slower are tried
    """

    storage: "np.dtype[np.unsignedinteger]"
    kind: Kind | None
    rows: int
    columns: int
    values: Values
    n_kernel: int = 1
    is_smallest: bool = False

    @property
    def n(self) -> int:
        """Weights."""
        return self.rows * self.columns

    @property
    def sign(self) -> int:
        """The bits of -0.0; 0 where that is not kept apart."""
        return 1 << self.kind.sign if self.kind is not None and self.values.is_exact else 0


@dataclass(frozen=True)
class Coded:
    """A coded piece, and where its bytes are.

    positions  the name of their kind, of what is left where rows are dropped
    n_kept     weights that are not zero
    drawn      how often each exponent (of lossy values: each code) occurs among the stored weights
    """

    data: bytes
    positions: str
    n_positions: int
    n_scales: int
    n_values: int
    n_kept: int
    drawn: NDArray[np.int64] = field(repr=False)


def encode(piece: Piece, stored: Stored, codebook: Stored) -> Coded:
    """The coded bytes of (n,) bits."""
    if piece.kind is None:
        codes, scales = stored, np.zeros(0, np.uint16)
    else:
        codes, scales = code(piece.values, piece.kind, stored, piece.columns, codebook)
    keep, minus = _kept(piece, stored, codes)
    # What a block covers beside what is kept is stored as +0.0, which neither a codebook nor a minus allows.
    may_cover = piece.values.name != "codebook" and not minus
    positions, order = _positions(piece, keep, (piece.rows, piece.columns), may_cover, 0)
    name = POSITIONS[positions[0]]
    if minus:
        positions = bytes([positions[0] | MINUS]) + positions[1:] + minus
    kept = _gathered(keep, codes) if order is None else codes[order]
    as_floats = piece.kind if piece.values.is_exact else None
    coded_scales = _planes(scales, None, piece.is_smallest) if scales.size else b""
    values = _planes(kept, as_floats, piece.is_smallest)
    drawn = _drawn(kept, as_floats, piece)
    data = positions + coded_scales + values
    n_kept = int(np.count_nonzero(keep))
    return Coded(data, name, len(positions), len(coded_scales), len(values), n_kept, drawn)


def decode(piece: Piece, data: Stored, codebook: Stored, out: Stored) -> None:
    """Write the bits of a coded piece to `out` (n,); DamageError where the bytes cannot be those of one."""
    reader = Reader(data)
    first = reader.byte()
    where = _read_positions(reader, first & ~MINUS, (piece.rows, piece.columns), 0)
    is_minus = None
    if first & MINUS:
        if not piece.sign:
            raise DamageError("minus zeros stand where there can be none")
        n_zero = piece.n - where.n_kept
        is_minus = np.unpackbits(reader.plane(-(-n_zero // 8)), count=n_zero, bitorder="little").astype(bool)
    n_scales = piece.rows * piece.values.n_scales(piece.columns) if piece.values.name == "int" else 0
    scales = _read_planes(reader, n_scales, np.dtype(np.uint16), None)[:n_scales] if n_scales else _NOTHING
    if scales.max(initial=0) >= 0x7F80:
        raise DamageError("a scale is negative, infinite or NaN")
    is_exact = piece.values.is_exact
    kept = _read_planes(
        reader, where.n_kept, piece.storage if is_exact else np.dtype(np.uint8), piece.kind if is_exact else None
    )
    reader.assert_end()
    if is_exact:
        where.scatter(kept, out)
        if is_minus is not None:
            out[_places(where.zeros(piece.n), is_minus)] = piece.sign
        return
    assert piece.kind is not None
    if piece.values.name == "codebook":
        if kept[: where.n_kept].max(initial=0) >= codebook.size:
            raise DamageError("a code is beyond the codebook")
        where.scatter(codebook[kept], out)
        return
    codes = np.empty(piece.n, np.uint8)
    where.scatter(kept, codes)
    ints.decode(piece.kind, codes, piece.columns, piece.values.width(piece.columns), scales, out)


_NOTHING: Stored = np.zeros(0, np.uint16)


def _kept(piece: Piece, stored: Stored, codes: Stored) -> tuple[Keep, bytes]:
    """(what is stored, the coded signs of the zeros that are not, b"" where all of them are +0.0)."""
    if piece.values.name == "int":
        return np.asarray(codes != 0), b""
    if piece.kind is not None and piece.values.name == "codebook":
        return np.asarray(stored & piece.storage.type(piece.kind.mask) != 0), b""
    keep = np.asarray(stored != 0)
    if piece.sign:
        # weight * keep leaves -0.0 wherever a negative weight was: a bit for each is less than its 32.
        is_minus = stored == piece.sign
        if np.count_nonzero(is_minus) > max(16, keep.size // 256):
            keep &= ~is_minus
            return keep, plane(np.packbits(is_minus[~keep], bitorder="little"), piece.is_smallest)
    return keep, b""


def _gathered(keep: Keep, codes: Stored) -> Stored:
    """The kept codes, in order."""
    n = int(np.count_nonzero(keep))
    if n == keep.size:
        return codes
    kept = np.empty(n + kernels.SLACK, codes.dtype)
    kernels.gather(codes, np.packbits(keep, bitorder="little"), codes.size, kept)
    return kept[:n]


def _drawn(kept: Stored, kind: Kind | None, piece: Piece) -> NDArray[np.int64]:
    """What the entropy bound counts: how often each exponent, or code, occurs; nothing of other dtypes."""
    if kind is not None:
        return rans.counts_of(kept, kind.n_mantissa, (1 << kind.n_exponent) - 1)
    return rans.counts_of(kept if piece.kind is not None else kept[:0])


def _planes(numbers: Stored, kind: Kind | None, is_smallest: bool) -> bytes:
    """The planes of numbers, the highest byte first; of floating numbers turned by one bit."""
    n_bits = 8 * numbers.itemsize
    if kind is not None:
        turned = np.empty_like(numbers)
        kernels.turn(numbers, 1, n_bits, turned)
        numbers = turned
    found = []
    for shift in range(n_bits - 8, -1, -8):
        bytes_ = np.empty(numbers.size, np.uint8)
        kernels.part(numbers, shift, bytes_)
        found.append(plane(bytes_, is_smallest))
    return b"".join(found)


def _read_planes(reader: Reader, n: int, storage: "np.dtype[np.unsignedinteger]", kind: Kind | None) -> Stored:
    """(n + SLACK,) numbers, the last of them zero."""
    n_bits = 8 * storage.itemsize
    numbers = np.zeros(n + kernels.SLACK, storage)
    for shift in range(n_bits - 8, -1, -8):
        kernels.merge(reader.plane(n), shift, numbers)
    if kind is not None:
        kernels.turn(numbers, n_bits - 1, n_bits, numbers)
    return numbers


def _positions(piece: Piece, keep: Keep, grid: Grid, may_cover: bool, depth: int) -> tuple[bytes, Order | None]:
    """(the smallest coded positions of (n,) keep, the order of the stored weights where it is not that of keep)."""
    n_kept = int(np.count_nonzero(keep))
    if n_kept == keep.size:
        return bytes([ALL]), None
    slow = piece.is_smallest
    found = [bytes([BITMASK]) + plane(np.packbits(keep, bitorder="little"), slow)]
    if 32 * n_kept <= keep.size:
        found.append(bytes([INDEX]) + _index(keep, slow))
    if not depth and (coded := _nm(keep, grid, piece.n_kernel, slow)):
        found.append(coded)
    if slow:
        coded = adaptive.encode_mask(keep.view(np.uint8), grid[1])
        found.append(bytes([MODEL]) + number(len(coded)) + coded)
    best, order = min(found, key=len), None
    covering = _blocks(keep, grid, n_kept, slow, may_cover)
    if covering is not None and len(covering[0]) < len(best):
        best, order = covering
    if not depth:
        seen = keep.reshape(grid)
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        if 100 * rows.size * columns.size <= 97 * keep.size:
            inside = seen[rows[:, None], columns].reshape(-1)
            inner, inner_order = _positions(piece, inside, (rows.size, columns.size), may_cover, 1)
            maps = (np.packbits(seen.any(axis=axis), bitorder="little") for axis in (1, 0))
            coded = bytes([ROWS]) + b"".join(plane(each, True) for each in maps) + inner
            if len(coded) < len(best):
                places = (rows[:, None] * grid[1] + columns).reshape(-1)
                return coded, None if inner_order is None else places[inner_order]
    return best, order


def _index(keep: Keep, slow: bool) -> bytes:
    places = np.flatnonzero(keep)
    gaps = np.empty(kernels.gaps_of(places, np.empty(0, np.uint16)), np.uint16)
    kernels.gaps_of(places, gaps)
    return number(gaps.size) + _planes(gaps, None, slow)


def _nm(keep: Keep, grid: Grid, n_kernel: int, slow: bool) -> bytes:
    """Coded n:m positions, for the m whose every group keeps as many; b"" where there is none."""
    for k in dict.fromkeys((1, n_kernel)):
        for m in (4, 8, 16, 2):
            if grid[1] % (m * k) or not keep.size:
                continue
            turned = keep.reshape(-1, m, k).swapaxes(1, 2).reshape(-1, m)
            n = int(np.count_nonzero(turned[0]))
            if not 0 < n < m or (np.count_nonzero(turned[:64], axis=1) != n).any():
                continue
            ranks = nm.ranks_of(turned.reshape(-1), n, m)
            if ranks is not None:
                ranks = ranks if math.comb(m, n) > 256 else ranks.astype(np.uint8)
                return bytes([NM, n, m]) + number(k) + _planes(ranks, None, slow)
    return b""


def _blocks(keep: Keep, grid: Grid, n_kept: int, slow: bool, may_cover: bool) -> tuple[bytes, Order] | None:
    """(coded map, order) of the first block size whose blocks are nearly all kept or all not."""
    seen = keep.reshape(grid)
    most = n_kept + n_kept // 64 if may_cover else n_kept
    if not _has_blocks(seen):
        return None
    for h, w in _BLOCKS:
        if h > grid[0] or w > grid[1]:
            continue
        found = map_of(seen, h, w)
        if h * w * np.count_nonzero(found) > 2 * n_kept + h * w:
            continue
        order = order_of(found, h, w, grid)
        if order.size <= most:
            bits = np.packbits(found.reshape(-1), bitorder="little")
            return bytes([BLOCKS]) + number(h) + number(w) + plane(bits, slow or bits.size < 4096), order
    return None


def _has_blocks(seen: Keep) -> bool:
    """Whether neighbours are alike more often than chance has it, in a row or in a column: most masks end here."""
    few = seen[:64]
    share = np.count_nonzero(few) / few.size
    by_chance = 2 * share * (1 - share)  # how often two weights differ
    return any(
        np.count_nonzero(here != there) <= 0.7 * by_chance * here.size
        for here, there in ((few[:, 1:], few[:, :-1]), (few[1:], few[:-1]))
        if here.size
    )


@dataclass(frozen=True)
class _Where:
    """Where stored weights go: everywhere, by a mask, or by places in an order of their own."""

    n_kept: int
    mask: Stored | None = None
    order: Order | None = None

    def scatter(self, kept: Stored, out: Stored) -> None:
        """Write (n_kept + SLACK,) to their places, zero elsewhere."""
        if self.order is not None:
            out[:] = 0
            out[self.order] = kept[: self.n_kept]
        elif self.mask is not None:
            kernels.scatter(self.mask, kept, out.size, out)
        else:
            out[:] = kept[: self.n_kept]

    def zeros(self, n: int) -> Keep:
        """(n,) True where nothing is stored."""
        if self.mask is not None:
            return ~np.unpackbits(self.mask, count=n, bitorder="little").astype(bool)
        found = np.full(n, self.order is not None)
        if self.order is not None:
            found[self.order] = False
        return found


def _places(among: Keep, chosen: Keep) -> Order:
    """The places of those True in `among` that are chosen."""
    return np.flatnonzero(among)[chosen]


def _of_keep(keep: Keep) -> _Where:
    return _Where(int(np.count_nonzero(keep)), np.packbits(keep, bitorder="little"))


def _read_positions(reader: Reader, what: int, grid: Grid, depth: int) -> _Where:
    n = grid[0] * grid[1]
    if what == ALL:
        return _Where(n)
    if what == BITMASK:
        mask = reader.plane(-(-n // 8))
        if n % 8 and mask[-1] >> n % 8:
            raise DamageError("a bitmask goes beyond its weights")
        return _Where(int(kernels.n_set(mask)), mask)
    if what == INDEX:
        gaps = _read_planes(reader, reader.number(n + n // 65535 + 1), np.dtype(np.uint16), None)[: -kernels.SLACK]
        places = np.empty(int(np.count_nonzero(gaps)), np.int64)
        if kernels.places_of(gaps, n, places) < 0:
            raise DamageError("a gap goes beyond the weights")
        keep = np.zeros(n, bool)
        keep[places] = True
        return _of_keep(keep)
    if what == NM:
        return _of_keep(_read_nm(reader, grid))
    if what == BLOCKS:
        h, w = reader.number(grid[0]), reader.number(grid[1])
        if not h or not w:
            raise DamageError("a block has no weights")
        shape = -(-grid[0] // h), -(-grid[1] // w)
        bits = np.unpackbits(reader.plane(-(-shape[0] * shape[1] // 8)), count=shape[0] * shape[1], bitorder="little")
        order = order_of(bits.astype(bool).reshape(shape), h, w, grid)
        return _Where(order.size, order=order)
    if what == ROWS and not depth:
        maps = [np.unpackbits(reader.plane(-(-size // 8)), count=size, bitorder="little") for size in grid]
        rows, columns = np.flatnonzero(maps[0]), np.flatnonzero(maps[1])
        inner = _read_positions(reader, reader.byte(), (rows.size, columns.size), 1)
        places = (rows[:, None] * grid[1] + columns).reshape(-1)
        if inner.order is not None:
            return _Where(inner.n_kept, order=places[inner.order])
        keep = np.zeros(n, bool)
        keep[places[~inner.zeros(places.size)]] = True
        return _of_keep(keep)
    if what == MODEL:
        if not n:
            raise DamageError("a model is of no weights")
        coded = reader.take(reader.number(reader.data.size))
        return _of_keep(adaptive.decode_mask(coded, n, grid[1]).view(np.bool_))
    raise DamageError(f"positions of the unknown kind {what}")


def _read_nm(reader: Reader, grid: Grid) -> Keep:
    n, m, k = reader.byte(), reader.byte(), reader.number(grid[1])
    if not 0 < n < m <= nm.MAX_M or not k or grid[1] % (m * k):
        raise DamageError(f"{n}:{m} of every {k}th does not fit {grid[1]} columns")
    n_choices, n_groups = math.comb(m, n), grid[0] * grid[1] // m
    ranks = _read_planes(reader, n_groups, np.dtype(np.uint16 if n_choices > 256 else np.uint8), None)[:n_groups]
    if ranks.max(initial=0) >= n_choices:
        raise DamageError(f"a choice is beyond the {n_choices} of {n}:{m}")
    return nm.keep_of_ranks(ranks, n, m).reshape(-1, k, m).swapaxes(1, 2).reshape(-1)
