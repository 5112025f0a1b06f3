"""Survey counts: the exact numbers of one floating tensor from its stored bits.

    count(stored, kind, how)               -> Counts      zeros, NaN, spread, and all sizes by rank and by threshold
    find_structure(stored, kind, ...)      -> Structure   dead rows and columns, groups with few weights
    count_grid(stored, kind, step, ...)    -> (negative, positive)    counts of a histogram

Weights of one or two bytes are counted by their pattern. Of wider ones, small checkpoints are sorted with numpy, which
takes less time than loading the kernels does; large ones are read by the kernels: a first pass counts the leading bits
of |w|, a later one the next bits of the few bins that are asked about. Both ways give the same bits.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.exact.kinds import KINDS, Kind, Stored
from secateurs.exact.threads import spread

GROUPS = ("1:4", "2:4", "4:8")
CHUNK = 16_384  # weights that are summed together, whoever sums
LANES = 8  # sums side by side in a chunk
SORTED = 65_536  # weights up to which a tensor is sorted even where the kernels are loaded

_NATIVE = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
# The bits of |w| that each pass counts, from the leading ones down: where they begin.
_SHIFTS = {1: (0,), 2: (0,), 4: (16, 0), 8: (47, 31, 15, 0)}
_PIECE = 64 * CHUNK  # weights that numpy works on at a time, so that its copies stay small
_BLOCK = 256  # bins that are summed together
_AT_ONCE = 16  # tables that one pass fills
_MOST_IN_A_PART = 1 << 31  # weights: tables count in 32 bits, which halves what a pass must clear and keep in the cache

Counted = NDArray[Any]  # whole numbers


@dataclass(frozen=True)
class How:
    """Who counts: the kernels or numpy alone, and in how many parts a tensor is shared by threads."""

    has_kernels: bool = False
    n_parts: int = 1


@dataclass(frozen=True)
class Counts:
    """How many of what, and the spread of the finite weights; None where there is none.

    sizes  answers how many are at most so large, and which size stands at a rank
    """

    n: int
    n_zero: int
    n_nan: int
    n_inf: int
    mean: float | None
    sigma: float | None
    low: float | None
    high: float | None
    sizes: "Sizes"

    @property
    def n_finite(self) -> int:
        """How many are neither NaN nor infinite."""
        return self.n - self.n_nan - self.n_inf


class Sizes:
    """Interface: the sizes of a tensor's finite weights in order, as keys."""

    @abstractmethod
    def look(self, keys: Iterable[int], ranks: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
        """{key: how many keys are at most as large}, {rank: the key that stands there, counted from 0}."""


def count(stored: Stored, kind: Kind, how: How) -> Counts:
    """The counts of a tensor."""
    if how.has_kernels:
        stored = _ready(stored)
    return (_count_patterns if kind.item_size <= 2 else _count_wide)(stored, kind, how)


def tau_key(kind: Kind, tau: float) -> int:
    """The largest key that `w.abs() > tau` removes: tau as the dtype rounds it, but no infinite one.

    Numbers of one byte are compared with tau itself: torch compares none, and rounding would move it by up to 6 %.
    """
    return min(kind.key_upto(tau if kind.item_size == 1 else kind.rounded(tau)), kind.n_finite - 1)


def _kernels() -> ModuleType:
    """Loaded when first needed: numba takes half a second."""
    from secateurs.checkpoint import survey_kernels

    return survey_kernels


def _ready(stored: Stored) -> Stored:
    """As the kernels expect: aligned, which few files are not, and of one type whatever the source."""
    stored = stored.view() if stored.flags.aligned else stored.copy()
    stored.flags.writeable = False
    return stored


def _pieces(stored: Stored) -> Iterable[Stored]:
    return (stored[start : start + _PIECE] for start in range(0, stored.size, _PIECE))


def _added(
    shape: tuple[int, ...], n: int, size: int, n_parts: int, add: Callable[[int, int, Counted], None]
) -> Counted:
    """The sum of the tables that `add` fills for each part of 0 to n, which are `size` weights together."""
    n_parts = max(1, min(n, max(n_parts, -(-size // _MOST_IN_A_PART))))

    def one(part: int) -> Counted:
        table = np.zeros(shape, np.uint32)
        add(part * n // n_parts, (part + 1) * n // n_parts, table)
        return table

    tables = spread(one, range(n_parts))
    total = tables[0] if size < _MOST_IN_A_PART else tables[0].astype(np.int64)
    for table in tables[1:]:
        total += table
    return total


# ------------------------------------------------------------------------- dtypes of one or two bytes: every pattern


@cache
def _table(name: str) -> NDArray[np.float64]:
    """The value of every pattern of a dtype of one or two bytes."""
    kind = KINDS[name]
    with np.errstate(invalid="ignore"):  # signalling NaN
        return kind.values(np.arange(1 << 8 * kind.item_size, dtype=kind.storage))


def _patterns(stored: Stored, kind: Kind, how: How) -> Counted:
    """How often each pattern occurs."""
    n_patterns = 1 << 8 * kind.item_size
    if how.has_kernels and stored.size > SORTED:
        kernels = _kernels()

        def add(first: int, last: int, table: Counted) -> None:
            kernels.count_patterns(stored, first, last, table)

        return _added((n_patterns,), stored.size, stored.size, how.n_parts, add).astype(np.int64)
    counts = np.zeros(n_patterns, np.int64)
    for piece in _pieces(stored):
        counts += np.bincount(piece, minlength=n_patterns)
    return counts


def _count_patterns(stored: Stored, kind: Kind, how: How) -> Counts:
    patterns, values = _patterns(stored, kind, how), _table(kind.name)
    keys = patterns[: kind.mask + 1] + patterns[kind.mask + 1 :]
    there = np.isfinite(values) & (patterns > 0)
    mean = sigma = low = high = None
    if there.any():
        found, times = values[there], patterns[there]
        low, high = float(found.min()), float(found.max())
        mean = float((found * times).sum() / times.sum())
        sigma = math.sqrt(float((np.square(found - mean) * times).sum() / times.sum())) if low < high else 0.0
    return Counts(
        n=stored.size,
        n_zero=int(keys[0]),
        n_nan=int(patterns[np.isnan(values)].sum()),
        n_inf=int(patterns[np.isinf(values)].sum()),
        mean=mean,
        sigma=sigma,
        low=low,
        high=high,
        sizes=_Digits(stored, kind, how.n_parts, keys[: kind.n_finite], int(keys[0])),
    )


# ----------------------------------------------------------------------------------- dtypes of four or eight bytes


def _count_wide(stored: Stored, kind: Kind, how: How) -> Counts:
    sizes: Sizes
    if how.has_kernels and stored.size > SORTED:
        sums, leading = _tally(stored, kind, how.n_parts)
        sizes = _Digits(stored, kind, how.n_parts, leading, int(sums["n_zero"].sum()))
        n_nan = int(sums["n_nan"].sum())
    else:
        tasks: tuple[Callable[[], Any], ...] = (lambda: _in_order(stored, kind), lambda: _sums(stored, kind))
        order, sums = spread(lambda task: task(), tasks) if how.n_parts > 1 else [task() for task in tasks]
        n_finite, n_numbers = np.searchsorted(order, np.array([kind.n_finite, kind.n_finite + 1], kind.storage))
        sizes = _Sorted(order[:n_finite])
        n_nan = int(stored.size - n_numbers)
    n_zero, n_finite = int(sums["n_zero"].sum()), int(sums["n_finite"].sum())
    mean = sigma = low = high = None
    if n_finite:
        sums = sums[sums["n_finite"] > 0]
        low, high = float(sums["low"].min()), float(sums["high"].max())
        mean, sigma = _spread(sums)
        # Equal weights have no spread, whatever the rounding of their mean says.
        mean, sigma = (mean, sigma) if low < high else (low, 0.0)
    n_inf = stored.size - n_finite - n_nan
    return Counts(stored.size, n_zero, n_nan, n_inf, mean, sigma, low, high, sizes)


def _in_order(stored: Stored, kind: Kind) -> Stored:
    keys: Stored = stored & kind.storage.type(kind.mask)
    keys.sort()
    return keys


# Of every chunk of CHUNK weights. The weight at place i of a chunk is added to lane i % LANES as its distance from the
# pivot, the chunk's first finite weight; what is not finite counts as the pivot. A member is never farther from the
# mean than sqrt(CHUNK) standard deviations of the chunk, so little is lost where the sums are subtracted.
_SUMS = np.dtype(
    [
        *((word, np.int64) for word in ("n_finite", "n_zero", "n_nan")),
        *((word, np.float64) for word in ("pivot", "low", "high")),
        *((word, np.float64, (LANES,)) for word in ("total", "squares")),
    ]
)
Sums = NDArray[Any]


def _tally(stored: Stored, kind: Kind, n_parts: int) -> tuple[Sums, Counted]:
    """The sums of every chunk and the counts of the leading bits, by the kernels."""
    kernels, as_bits = _kernels(), kind.storage.type
    shift, values = _SHIFTS[kind.item_size][0], stored.view(_NATIVE[kind.name])
    n_chunks = -(-stored.size // CHUNK)
    numbers, lanes = np.zeros((n_chunks, 6)), np.zeros((n_chunks, 2, LANES))
    words = as_bits(kind.mask), as_bits(shift), as_bits(kind.n_finite)

    def add(first: int, last: int, table: Counted) -> None:
        kernels.tally(stored, values, *words, first, last, table, numbers, lanes)

    leading = _added(((kind.mask >> shift) + 1,), n_chunks, stored.size, n_parts, add)
    sums = np.zeros(n_chunks, _SUMS)
    for place, word in enumerate(("n_finite", "n_zero", "n_nan", "pivot", "low", "high")):
        sums[word] = numbers[:, place]
    sums["total"], sums["squares"] = lanes[:, 0], lanes[:, 1]
    return sums, leading


def _sums(stored: Stored, kind: Kind) -> Sums:
    """The sums of every chunk, by numpy."""
    sums = np.zeros(-(-stored.size // CHUNK), _SUMS)
    for at, piece in enumerate(_pieces(stored)):
        place = at * _PIECE // CHUNK
        for part in (piece[: piece.size // CHUNK * CHUNK], piece[piece.size // CHUNK * CHUNK :]):
            if part.size:
                rows = part.reshape(-1, min(part.size, CHUNK))
                sums[place : place + len(rows)] = _sums_of(rows, kind)
                place += len(rows)
    return sums


@np.errstate(over="ignore", invalid="ignore")  # the squares of huge float64 weights; signalling NaN
def _sums_of(rows: Stored, kind: Kind) -> Sums:
    """The sums of chunks of one length, (chunks, length)."""
    sums = np.zeros(len(rows), _SUMS)
    values = rows.view(_NATIVE[kind.name])
    is_finite = np.isfinite(values)
    sums["n_finite"] = np.count_nonzero(is_finite, axis=1)
    sums["n_zero"] = rows.shape[1] - np.count_nonzero(values, axis=1)
    sums["n_nan"] = np.count_nonzero(np.isnan(values), axis=1) if not is_finite.all() else 0
    first = values[np.arange(len(rows)), is_finite.argmax(axis=1)]
    pivot = np.where(sums["n_finite"] > 0, first, 0)[:, None]  # (chunks, 1)
    values = values if is_finite.all() else np.where(is_finite, values, pivot)
    sums["pivot"], sums["low"], sums["high"] = pivot[:, 0], values.min(axis=1), values.max(axis=1)
    if n_more := -rows.shape[1] % LANES:
        values = np.concatenate([values, np.repeat(pivot, n_more, axis=1).astype(values.dtype)], axis=1)
    # Places first: numpy then adds whole vectors, place after place, as the kernels do.
    lanes = values.reshape(len(rows), -1, LANES).transpose(1, 0, 2)
    apart = np.subtract(lanes, pivot.astype(np.float64), dtype=np.float64, order="C")  # (places, chunks, LANES)
    sums["total"] = apart.sum(axis=0)
    sums["squares"] = np.square(apart, out=apart).sum(axis=0)
    return sums


def _spread(sums: Sums) -> tuple[float, float]:
    """Mean and standard deviation from the sums of chunks; not finite where squares overflowed."""
    with np.errstate(over="ignore", invalid="ignore"):
        n = sums["n_finite"]
        total, squares = sums["total"].sum(axis=1), sums["squares"].sum(axis=1)
        means = sums["pivot"] + total / n
        mean = float((n * means).sum() / n.sum())
        apart = np.maximum(squares - total * total / n, 0.0) + n * np.square(means - mean)
        return mean, math.sqrt(float(apart.sum() / n.sum()))


class _Sorted(Sizes):
    """Keys in order."""

    def __init__(self, order: Stored) -> None:
        self.order = order

    def look(self, keys: Iterable[int], ranks: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
        kind = self.order.dtype.type
        at_most = {key: int(np.searchsorted(self.order, kind(key), side="right")) for key in keys}
        return at_most, {rank: int(self.order[rank]) for rank in ranks}


class _Digits(Sizes):
    """Keys counted by their leading bits; the next bits of a bin are counted when they are asked for."""

    def __init__(self, stored: Stored, kind: Kind, n_parts: int, leading: Counted, n_zero: int) -> None:
        self.stored, self.kind, self.n_parts, self.leading, self.n_zero = stored, kind, n_parts, leading, n_zero

    def look(self, keys: Iterable[int], ranks: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
        keys, ranks = set(keys), set(ranks)
        shifts = _SHIFTS[self.kind.item_size]
        # Of every key how many lie below its bin, of every rank its bin and its place inside; bin by bin finer.
        below = dict.fromkeys(keys, 0)
        prefix, place = dict.fromkeys(ranks, 0), {rank: rank for rank in ranks}
        tables = {0: self.leading}
        for level, shift in enumerate(shifts):
            if level:
                prefixes = {key >> shifts[level - 1] for key in keys} | set(prefix.values())
                tables = self._refine(sorted(prefixes), shifts[level - 1], shift)
            n_digits = len(self.leading) if level == 0 else 1 << (shifts[level - 1] - shift)
            for key in keys:
                table = tables[key >> shifts[level - 1] if level else 0]
                digit = (key >> shift) % n_digits
                below[key] += int(table[: digit + (shift == 0)].sum())  # in the end a bin is one key: the key's own
            for rank in ranks:
                digit, n_before = _at_rank(tables[prefix[rank]], place[rank])
                place[rank] -= n_before
                prefix[rank] = prefix[rank] * n_digits + digit
        return below, prefix

    def _refine(self, prefixes: Sequence[int], prefix_shift: int, shift: int) -> dict[int, Counted]:
        """{prefix: counts of the bits between the two shifts}, a few at a time, as each table has 65,536 counts."""
        if len(prefixes) > _AT_ONCE:
            rest = self._refine(prefixes[_AT_ONCE:], prefix_shift, shift)
            return self._refine(prefixes[:_AT_ONCE], prefix_shift, shift) | rest
        kernels, as_bits = _kernels(), self.kind.storage.type
        top_shift = _SHIFTS[self.kind.item_size][0]
        begins = np.zeros(len(self.leading), np.uint8)
        for place in reversed(range(len(prefixes))):
            begins[prefixes[place] >> (top_shift - prefix_shift)] = 1 + place
        words = as_bits(self.kind.mask), as_bits(top_shift), begins, as_bits(prefix_shift)
        table = np.array(prefixes, self.kind.storage)

        def add(first: int, last: int, counts: Counted) -> None:
            kernels.refine(self.stored, *words, table, as_bits(shift), first, last, counts)

        shape = len(prefixes), 1 << (prefix_shift - shift)
        found = _added(shape, self.stored.size, self.stored.size, self.n_parts, add)
        if prefixes[0] == 0:
            found[0, 0] += self.n_zero
        return dict(zip(prefixes, found, strict=True))


def _at_rank(table: Counted, rank: int) -> tuple[int, int]:
    """The bin that holds the rank, and how many lie in the bins before it; by blocks, as most of the table is far."""
    n_blocks = -(-len(table) // _BLOCK)
    blocks = np.cumsum(np.add.reduceat(table, np.arange(n_blocks) * _BLOCK, dtype=np.int64))
    block = int(np.searchsorted(blocks, rank, side="right"))
    n_before = int(blocks[block - 1]) if block else 0
    inside = np.cumsum(table[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.int64)
    digit = int(np.searchsorted(inside, rank - n_before, side="right"))
    return block * _BLOCK + digit, n_before + (int(inside[digit - 1]) if digit else 0)


# -------------------------------------------------------------------------------------- rows, columns and n:m groups


@dataclass(frozen=True)
class Structure:
    """Rows (outputs) and columns (inputs) without a weight, and groups of consecutive inputs with few weights.

    held  of each of GROUPS the share of groups with at most n weights; None where m does not divide the inputs
    """

    n_rows: int
    n_columns: int
    dead_rows: int
    dead_columns: int
    held: tuple[float | None, ...]


def find_structure(
    stored: Stored, kind: Kind, shape: Sequence[int], is_turned: bool, n_zero: int, how: How
) -> Structure:
    """The structure of a tensor of two or more dimensions, stored (out, in, *kernel), or (in, out, *kernel) if turned.

    n_zero  its exact zeros: without any, nothing needs to be read
    """
    n_outer, n_inner = shape[:2]
    n_inputs = n_outer if is_turned else n_inner
    sizes = [m for m in (4, 8) if stored.size and n_inputs % m == 0]
    stride = math.prod(shape[1:] if is_turned else shape[2:])  # stored weights from one input to the next
    dead, held = ((0, 0) if stored.size else (n_outer, n_inner)), [0, 0, 0]
    if n_zero and stored.size:
        look = _look_by_kernels if how.has_kernels and stored.size > SORTED else _look_by_numpy
        dead, held = look(stored, kind, shape, sizes, stride, how)
    if is_turned:
        n_outer, n_inner, dead = n_inner, n_outer, dead[::-1]
    of = {m: stored.size // m for m in sizes}
    shares = [n / of[m] if m in of else None for n, m in zip(held, (4, 4, 8), strict=True)]
    return Structure(n_outer, n_inner, *dead, tuple(shares))


Looked = tuple[tuple[int, int], list[int]]  # dead indices of the first two stored dimensions; groups that hold


def _look_by_numpy(
    stored: Stored, kind: Kind, shape: Sequence[int], sizes: Sequence[int], stride: int, how: How
) -> Looked:
    alive = (stored & kind.storage.type(kind.mask)) != 0
    by_place = alive.reshape(shape[0], shape[1], -1)
    by_place = by_place.any(axis=2) if by_place.shape[2] > 1 else by_place[:, :, 0]
    dead = int((~by_place.any(axis=1)).sum()), int((~by_place.any(axis=0)).sum())
    held = [0, 0, 0]
    if sizes:
        quarters = alive.view(np.uint8).reshape(-1, 4, stride)
        fours = quarters[:, 0] + quarters[:, 1] + quarters[:, 2] + quarters[:, 3]
        held[:2] = [int(np.count_nonzero(fours <= few)) for few in (1, 2)]
    if 8 in sizes:
        held[2] = int(np.count_nonzero(fours[0::2] + fours[1::2] <= 4))
    return dead, held


def _look_by_kernels(
    stored: Stored, kind: Kind, shape: Sequence[int], sizes: Sequence[int], stride: int, how: How
) -> Looked:
    kernels, mask, stored = _kernels(), kind.storage.type(kind.mask), _ready(stored)
    n_outer, n_inner = shape[:2]
    outer = np.zeros(n_outer, np.bool_)

    def add_alive(first: int, last: int, table: Counted) -> None:
        inner = np.zeros(n_inner, np.bool_)
        kernels.find_alive(stored, mask, n_inner, first, last, outer, inner)
        table += inner

    def add_groups(first: int, last: int, table: Counted) -> None:
        kernels.count_groups(stored, mask, max(sizes), stride, first, last, table)

    alive = _added((n_inner,), n_outer, stored.size, how.n_parts, add_alive)
    held = [0, 0, 0]
    if sizes:
        n_blocks = stored.size // (max(sizes) * stride)
        held = _added((3,), n_blocks, stored.size, how.n_parts, add_groups).tolist()
    return (int((~outer).sum()), int((alive == 0).sum())), held


# ----------------------------------------------------------------------------------------------------------- pictures


def count_grid(stored: Stored, kind: Kind, step: float, n_bins: int, how: How) -> tuple[Counted, Counted]:
    """(negative, positive) counts of finite weights with step * k < |w| <= step * (k + 1), the last of all beyond."""
    edges = step * np.arange(n_bins + 1, dtype=np.float64)
    if kind.item_size <= 2:
        patterns, values = _patterns(_ready(stored), kind, how), _table(kind.name)
        there = (patterns > 0) & (values != 0)
        sides = np.zeros((2, n_bins), np.int64)
        np.add.at(sides, _bins(values[there], edges), patterns[there])
        return sides[0], sides[1]
    if how.has_kernels and stored.size > SORTED:
        values = _ready(stored).view(_NATIVE[kind.name])

        def add(first: int, last: int, table: Counted) -> None:
            _kernels().count_bins(values, step, first, last, table[0], table[1])

        sides = _added((2, n_bins), stored.size, stored.size, how.n_parts, add)
        return sides[0], sides[1]
    sides = np.zeros((2, n_bins), np.int64)
    for piece in _pieces(stored):
        values = kind.values(piece)
        side, place = _bins(values[values != 0], edges)
        sides += np.bincount(side * n_bins + place, minlength=2 * n_bins).reshape(2, n_bins)
    return sides[0], sides[1]


def _bins(values: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(whether positive, bin) of values other than zero."""
    place = np.minimum(np.searchsorted(edges, np.abs(values), side="left"), len(edges) - 1) - 1
    return (values > 0).astype(np.int64), place
