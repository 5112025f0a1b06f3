"""Kernels: the loops over bits, compiled by numba, each over one piece of an array.

stored  (n,) signed integers that hold a floating dtype; stored & mask is the key, which is never negative
Integers are cast back to the array's width at every step: numba widens them, and LLVM then uses half a vector.
Inner loops run over slices from 0 on: an index that might be negative would be checked, one by one.
"""

from typing import Any

import numpy as np
from numba.extending import overload

from secateurs.exact.compiled import compiled
from secateurs.exact.lanes import N_LANES, compare, first, keep_best, n_set

FEW = 48  # are compared each with each
BLOCK = 1 << 30  # weights that a counter of 32 bits counts
TILE = 1024  # weights that are decided before any of them is written


def _sign(stored: Any) -> Any:
    """How far the sign bit stands from the lowest bit; known when a kernel is compiled."""
    raise NotImplementedError


@overload(_sign)
def _sign_compiled(stored: Any) -> Any:
    # A shift by a number that is known only later would widen every weight to 64 bits.
    width = stored.dtype.bitwidth
    place = getattr(np, f"int{width}")(width - 1)

    def sign(stored: Any) -> Any:  # with the annotations of `_sign`, as numba wants
        return place

    return sign


@compiled
def collect(stored: Any, mask: Any, low: Any, high: Any, end: Any, found: Any) -> tuple[int, int, bool]:
    """(keys below low, keys in [low, high], whether all are below `end`); those inside are written to `found`.

    found  has room for stored.size
    """
    n_below, n_found, odd = 0, 0, np.uint32(0)
    n_whole = stored.size // N_LANES * N_LANES
    for start in range(0, n_whole, N_LANES):
        below, inside, over = compare(stored, start, mask, low, high, end)
        n_below += n_set(below)
        odd |= over
        while inside:
            found[n_found] = stored[start + first(inside)] & mask
            n_found += 1
            inside = np.uint32(inside & np.uint32(inside - np.uint32(1)))
    for i in range(n_whole, stored.size):
        key = stored[i] & mask
        n_below += key < low
        odd |= np.uint32(key >= end)
        if key >= low and key <= high:
            found[n_found] = key
            n_found += 1
    return n_below, n_found, odd == 0


@compiled
def count(stored: Any, mask: Any, key: Any) -> tuple[int, int]:
    """(keys below key, keys equal to it)."""
    cast = stored.dtype.type
    n_below, n_equal = 0, 0
    for start in range(0, stored.size, 4096):
        part, below, equal = stored[start : start + 4096], np.int32(0), np.int32(0)
        for i in range(part.size):
            found = cast(part[i] & mask)
            below = np.int32(below + np.int32(found < key))
            equal = np.int32(equal + np.int32(found == key))
        n_below += int(below)
        n_equal += int(equal)
    return n_below, n_equal


@compiled
def _zero_part(part: Any, mask: Any, key: Any, tile: Any) -> int:
    """`zero_below` of a part that fits into `tile`."""
    cast = part.dtype.type
    one_less, equal = cast(key - 1), np.int32(0)
    for i in range(part.size):
        value = part[i]
        found = cast(value & mask)
        equal = np.int32(equal + np.int32(found == key))
        # All ones where found >= key. A conditional store would be a masked one, slow on some CPUs, and LLVM makes one
        # of this too where it is written to where it was read.
        tile[i] = value & cast(cast(one_less - found) >> _sign(part))
    for i in range(part.size):
        part[i] = tile[i]
    return int(equal)


@compiled
def zero_below(stored: Any, mask: Any, key: Any) -> int:
    """Zero, in place, every weight whose key is below `key`; how many stand at it."""
    tile = np.empty(TILE, stored.dtype)
    n_equal = 0
    for start in range(0, stored.size, TILE):
        n_equal += _zero_part(stored[start : start + TILE], mask, key, tile)
    return n_equal


@compiled
def zero_ties(stored: Any, mask: Any, key: Any, n_spared: int) -> None:
    """Zero, in place, every weight whose key is `key`, but for the first n_spared."""
    for i in range(stored.size):
        if stored[i] & mask == key:
            if n_spared > 0:
                n_spared -= 1
            else:
                stored[i] = 0


@compiled
def zero_neighbours(stored: Any, mask: Any, n_kernel: int, m: int, n_keep: int) -> None:
    """Zero, in place, all but the n_keep largest of every m consecutive inputs; among equals the earlier survives.

    stored  (rows * inputs * n_kernel,) where m divides the inputs
    Ranks a run of whole groups at a time: each weight is compared with the one `step` inputs on, for every step.
    """
    cast = stored.dtype.type
    group = m * n_kernel
    n = max(1, 2048 // group) * group
    rank, place, tile = np.empty(n, stored.dtype), np.empty(n, stored.dtype), np.empty(n, stored.dtype)
    padded = np.zeros(n + 2 * group, stored.dtype)
    keys = padded[group:]
    for i in range(n):
        place[i] = i // n_kernel % m
    for start in range(0, stored.size, n):
        run = stored[start : start + n]
        for i in range(run.size):
            keys[i] = cast(run[i] & mask)
            rank[i] = cast(-n_keep)
        for step in range(1, m):
            later, earlier = padded[group + step * n_kernel :], padded[group - step * n_kernel :]
            from_here, to_here = cast(m - step), cast(step)
            for i in range(run.size):
                key, at = keys[i], place[i]
                is_before = cast(cast(at < from_here) & cast(later[i] > key))
                rank[i] = cast(rank[i] + cast(is_before + cast(cast(at >= to_here) & cast(earlier[i] >= key))))
        for i in range(run.size):
            # All ones where fewer than n_keep come before it.
            tile[i] = run[i] & cast(rank[i] >> _sign(stored))
        for i in range(run.size):
            run[i] = tile[i]


@compiled
def zero_groups(stored: Any, mask: Any, group: Any, n_keep: Any) -> None:
    """`zero_neighbours` of a kernel of one, where m = len(group) divides the lanes.

    stored  (rows * inputs,), whole lanes
    """
    tile = np.empty(TILE, stored.dtype)
    for start in range(0, stored.size, TILE):
        part = stored[start : start + TILE]
        for place in range(0, part.size, N_LANES):
            keep_best(part, place, mask, group, n_keep, tile, place)
        for i in range(part.size):
            part[i] = tile[i]


@compiled
def _n_below(row: Any, mask: Any, a: Any, b: Any, c: Any, d: Any, block: int) -> tuple[int, int, int, int]:
    """How many keys of a row lie below each of four pivots; four cost little more than one."""
    cast = row.dtype.type
    n_a, n_b, n_c, n_d = 0, 0, 0, 0
    for start in range(0, row.size, block):
        part = row[start : start + block]
        below_a, below_b, below_c, below_d = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
        for i in range(part.size):
            key = cast(part[i] & mask)
            below_a = np.int32(below_a + np.int32(key < a))
            below_b = np.int32(below_b + np.int32(key < b))
            below_c = np.int32(below_c + np.int32(key < c))
            below_d = np.int32(below_d + np.int32(key < d))
        n_a, n_b, n_c, n_d = n_a + int(below_a), n_b + int(below_b), n_c + int(below_c), n_d + int(below_d)
    return n_a, n_b, n_c, n_d


@compiled
def _kth(row: Any, mask: Any, place: int, guess: int, spread: int, found: Any) -> tuple[int, int, int, int]:
    """(key at `place` of the row's ascending order, keys below it, keys equal to it, bits per place around it).

    guess, spread  where to look first; rows of one layer resemble each other
    found          room for the row
    Brackets the key by counting, each time where the counts so far point to, until few are left to sort.
    """
    cast = row.dtype.type
    low, high = 0, int(mask)
    n_low, n_high = 0, row.size  # keys below low; keys up to high
    while n_high - n_low > FEW and low < high:
        if guess < 0:
            share = (place + 0.5 - n_low) / (n_high - n_low)
            guess = low + int(share * float(high - low))
            spread = int(float(high - low) * 2.0 / (n_high - n_low)) + 1
            far = max(guess - low, high - guess) // 2
        else:
            far = 4 * spread
        pivots = (
            min(max(guess - far, low + 1), high),
            min(max(guess - spread, low + 1), high),
            min(max(guess + spread, low + 1), high),
            min(max(guess + far, low + 1), high),
        )
        counts = _n_below(row, mask, cast(pivots[0]), cast(pivots[1]), cast(pivots[2]), cast(pivots[3]), BLOCK)
        for i in range(4):
            if counts[i] <= place and pivots[i] > low:
                low, n_low = pivots[i], counts[i]
            elif counts[i] > place and pivots[i] - 1 < high:
                high, n_high = pivots[i] - 1, counts[i]
        guess = -1
    width = (high - low) // max(1, n_high - n_low)
    if low == high:
        return low, n_low, n_high - n_low, width
    n_found = collect(row, mask, cast(low), cast(high), cast(mask), found)[1]
    few = found[:n_found]
    for each in range(n_found):
        key, below, equal = few[each], np.int32(0), np.int32(0)
        for i in range(few.size):
            below = np.int32(below + np.int32(few[i] < key))
            equal = np.int32(equal + np.int32(few[i] == key))
        if below <= place - n_low < below + equal:
            return int(key), n_low + int(below), int(equal), width
    return -1, 0, 0, width  # never: one of them stands at every place


@compiled
def zero_rows(stored: Any, mask: Any, n_columns: int, n_keep: int) -> None:
    """Zero, in place, all but the n_keep > 0 largest of every row; among equals the earlier survives.

    stored  (rows * n_columns,)
    """
    cast = stored.dtype.type
    found = np.empty(n_columns, stored.dtype)
    guess, width = -1, 0
    error = int(np.sqrt(n_columns) / 4) + 1  # places by which like rows differ
    for start in range(0, stored.size, n_columns):
        row = stored[start : start + n_columns]
        guess, n_below, n_equal, width = _kth(row, mask, n_columns - n_keep, guess, width * error + 1, found)
        n_spared = n_keep - (n_columns - n_below - n_equal)
        if n_equal > n_spared:
            zero_ties(row, mask, cast(guess), n_spared)
        _zero_part(row, mask, cast(guess), found)
