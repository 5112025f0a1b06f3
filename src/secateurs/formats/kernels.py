"""Kernels: the loops that take kept weights out of an array and put them back, compiled by numba.

stored  (rows * n_columns,) the bits of a weight, unsigned
mask    (rows * ceil(n_columns / 8),) bytes: bit i of a row's byte j is its column 8 j + i; every row begins a byte
kept    the weights whose bit is set, in order, and SLACK more that are written or read and mean nothing
A branch on a random bit costs more than a few loads, and a counter that waits for the last one is slow too: the eight
places of a byte come from tables, and all eight are moved at once.
"""

from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.formats import eights

SLACK = 8

_BITS = np.arange(256)[:, None] >> np.arange(8) & 1  # (byte, place)
_N_SET = _BITS.sum(axis=1)
_N_BEFORE = (_BITS.cumsum(axis=1) - _BITS).astype(np.uint8)  # set bits below each place
_WHERE = np.argsort(1 - _BITS, axis=1, kind="stable").astype(np.uint8)
_WHERE[np.arange(8) >= _N_SET[:, None]] = 0  # (byte, k): the place of its k-th set bit, then zeros


@compiled
def n_set(mask: Any) -> int:
    """How many bits are set."""
    n = 0
    for byte in mask:
        n += _N_SET[byte]
    return n


@compiled
def gather(stored: Any, mask: Any, n_columns: int, kept: Any) -> int:
    """Write the kept weights to `kept`; how many there are."""
    stride = (n_columns + 7) // 8
    n = 0
    for row in range(stored.size // n_columns):
        for j in range(n_columns // 8):
            byte = mask[row * stride + j]
            eights.take(stored, row * n_columns + 8 * j, _WHERE, byte, kept, n)
            n += _N_SET[byte]
        for column in range(n_columns // 8 * 8, n_columns):
            kept[n] = stored[row * n_columns + column]
            n += mask[row * stride + stride - 1] >> (column & 7) & 1
    return n


@compiled
def scatter(mask: Any, kept: Any, n_columns: int, stored: Any) -> int:
    """Write the kept weights to where their bit is set and zero elsewhere; how many bits are set."""
    stride = (n_columns + 7) // 8
    n = 0
    for row in range(stored.size // n_columns):
        for j in range(n_columns // 8):
            byte = mask[row * stride + j]
            eights.put(kept, n, _N_BEFORE, byte, stored, row * n_columns + 8 * j)
            n += _N_SET[byte]
        for column in range(n_columns // 8 * 8, n_columns):
            is_set = mask[row * stride + stride - 1] >> (column & 7) & 1
            stored[row * n_columns + column] = kept[n] * kept.dtype.type(is_set)
            n += is_set
    return n


@compiled
def only(keep: Any, stored: Any, found: Any) -> None:
    """The weights that are kept, zero elsewhere; one bool for each."""
    cast = stored.dtype.type
    for i in range(stored.size):
        found[i] = stored[i] * cast(keep[i])


@compiled
def narrow(numbers: Any, width: int, packed: Any) -> None:
    """Write `width` <= 32 bits of every number, lowest first, one after the other from each byte's lowest bit on."""
    room, n_bits, at = np.int64(0), 0, 0
    for number in numbers:
        room |= np.int64(number) << n_bits
        n_bits += width
        while n_bits >= 8:
            packed[at] = room & 255
            room >>= 8
            n_bits -= 8
            at += 1
    if n_bits:
        packed[at] = room & 255


@compiled
def widen(packed: Any, width: int, numbers: Any) -> None:
    """Read back what `narrow` wrote."""
    room, n_bits, at = np.int64(0), 0, 0
    mask = (np.int64(1) << width) - 1
    for i in range(numbers.size):
        while n_bits < width:
            room |= np.int64(packed[at]) << n_bits
            n_bits += 8
            at += 1
        numbers[i] = room & mask
        room >>= width
        n_bits -= width


@compiled
def gaps_of(places: Any, gaps: Any) -> int:
    """Write how far every place is from the one before, in 16 bits; how many numbers that takes.

    places  ascending; the first is counted from -1, so that no distance is 0
    gaps    0 stands for 65535 places without a weight; where it is empty, they are only counted
    """
    n, last = 0, np.int64(-1)
    for place in places:
        gap = place - last
        last = place
        while gap > 65535:
            if gaps.size:
                gaps[n] = 0
            n += 1
            gap -= 65535
        if gaps.size:
            gaps[n] = gap
        n += 1
    return n


@compiled
def places_of(gaps: Any, size: int, places: Any) -> int:
    """Write the places that `gaps_of` was given; how many, or -1 where one is not below `size`."""
    n, at = 0, np.int64(-1)
    for gap in gaps:
        at += 65535 if gap == 0 else np.int64(gap)
        if at >= size:
            return -1
        if gap:
            places[n] = at
            n += 1
    return n


@compiled
def turn(stored: Any, by: int, bits: int, turned: Any) -> None:
    """Move the top `by` bits of each of `bits` to the low end."""
    cast = stored.dtype.type
    up, down = cast(by), cast(bits - by)
    for i in range(stored.size):
        turned[i] = cast(cast(stored[i] << up) | cast(stored[i] >> down))


@compiled
def part(turned: Any, shift: int, plane: Any) -> None:
    """The byte of every number that stands `shift` bits above the lowest."""
    cast = turned.dtype.type
    down = cast(shift)
    for i in range(turned.size):
        plane[i] = np.uint8(turned[i] >> down)


@compiled
def merge(plane: Any, shift: int, turned: Any) -> None:
    """Put that byte back into numbers that have zeros there."""
    cast = turned.dtype.type
    up = cast(shift)
    for i in range(plane.size):
        turned[i] = cast(turned[i] | cast(cast(plane[i]) << up))
