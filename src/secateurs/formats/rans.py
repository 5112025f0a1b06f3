"""rANS: bytes that are drawn alike, to within a thousandth of their entropy; tables per stream, millions a second.

    coded = rans.encode(plane)           decoded = rans.decode(coded, plane.size)      a few bytes are coded elsewhere

What a coded stream holds, little endian:

    uint8       p, from 10 to 15: frequencies are of 2**p
    32 bytes    bit i of byte j: whether value 8 j + i occurs
    uint16 ...  the frequency of each value that occurs, ascending; together 2**p
    uint16 x 12 the four states at the end of coding, each as its low, middle and high 16 bits
    uint16 ...  words in the order in which decoding needs them

Four states take the bytes in turn: byte i is of state i % 4. To decode a byte from a state x: slot = x % 2**p; the
value is the one whose interval [start, start + frequency) holds slot, the intervals standing one after the other by
value; x = frequency * (x // 2**p) + slot - start; and if now x < 2**32, x = x * 2**16 + the next word. At the end every
state is 2**32 again, and no word is left.
Duda 2013, arXiv:1311.2540; Giesen 2014, arXiv:1402.3392. Written here in whole numbers, so that a file means the same
wherever and whenever it is read, and no library's next version can change that.
"""

from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.exact.kinds import Stored

LANES = 4
MIN_BITS, MAX_BITS = 10, 15
_LOW = 1 << 32  # states are in [_LOW, _LOW << 16)


def encode(plane: Stored, share_of_size: float = 1.0) -> bytes | None:
    """The coded stream of (n,) uint8; None where it would not be smaller than this share of it."""
    counts = counts_of(plane)
    n_values = int(np.count_nonzero(counts))
    share = counts[counts > 0] / max(1, plane.size)
    ideal = -float(plane.size * (share * np.log2(share)).sum()) / 8
    if ideal + _n_head(n_values) >= share_of_size * plane.size:
        return None
    tables = [frequencies(counts, bits) for bits in range(MIN_BITS, MAX_BITS + 1) if n_values <= 1 << bits]
    sizes = [float((counts * (np.log2(table.sum()) - np.log2(np.maximum(table, 1)))).sum()) for table in tables]
    # The fewest bits that are as good to a thousandth: a smaller table stays in the cache when decoding.
    table = next(table for table, size in zip(tables, sizes, strict=True) if size <= min(sizes) * 1.001 + 8)
    words, states = np.empty(plane.size, np.uint16), np.empty(LANES, np.int64)
    first = _encode(plane, table, int(table.sum()).bit_length() - 1, words, states)
    return b"".join(
        (
            bytes([int(table.sum()).bit_length() - 1]),
            np.packbits(table > 0, bitorder="little").tobytes(),
            table[table > 0].astype("<u2").tobytes(),
            np.array([[x & 0xFFFF, x >> 16 & 0xFFFF, x >> 32] for x in states.tolist()], "<u2").tobytes(),
            words[first:].astype("<u2", copy=False).tobytes(),
        )
    )


def decode(coded: Stored, n: int) -> Stored | None:
    """(n,) uint8 of a coded stream, also (..,) uint8; None where it is not one."""
    if coded.size < 33 or not MIN_BITS <= coded[0] <= MAX_BITS:
        return None
    bits = int(coded[0])
    occurs = np.unpackbits(coded[1:33], bitorder="little").astype(bool)
    n_values = int(occurs.sum())
    head = _n_head(n_values)
    if coded.size < head or (coded.size - head) % 2:
        return None
    table = np.zeros(256, np.int64)
    table[occurs] = coded[33 : 33 + 2 * n_values].copy().view("<u2")
    if int(table.sum()) != 1 << bits or not table[occurs].all():
        return None
    states = coded[33 + 2 * n_values : head].copy().view("<u2").astype(np.int64).reshape(LANES, 3)
    plane = np.empty(n, np.uint8)
    words = np.append(coded[head:], np.zeros(2 * LANES, np.uint8)).view("<u2")
    is_good = _decode(words, states @ np.array([1, 1 << 16, 1 << 32]), table, bits, plane)
    return plane if is_good else None


def frequencies(counts: Stored, bits: int) -> Stored:
    """(256,) at least 1 where a count is, together 2**bits, as near to the counts' shares as that goes."""
    total, room = int(counts.sum()), 1 << bits
    found = np.where(counts > 0, np.maximum(1, counts * room // max(1, total)), 0).astype(np.int64)
    missing = room - int(found.sum())
    if missing > 0:
        found[np.argmax(counts)] += missing
    while missing < 0:
        # Taken from where it costs least: a step less of a large frequency costs counts / frequency.
        costs = np.where(found > 1, counts / np.maximum(found, 1), np.inf)
        found[np.argmin(costs)] -= 1
        missing += 1
    return found


def _n_head(n_values: int) -> int:
    return 33 + 2 * n_values + 6 * LANES


def counts_of(plane: Stored, shift: int = 0, mask: int = 255) -> Stored:
    """(mask + 1,): how often each value of plane >> shift & mask occurs."""
    counts = np.zeros((LANES, mask + 1), np.int64)
    _count(plane, plane.dtype.type(shift), plane.dtype.type(mask), counts)
    return np.asarray(counts.sum(axis=0))


@compiled
def _count(plane: Any, shift: Any, mask: Any, counts: Any) -> None:
    # A count that has just been written is slow to read again: the next value, so often the same, has its own.
    end = plane.size // LANES * LANES
    for i in range(0, end, LANES):
        for lane in range(LANES):
            counts[lane, plane[i + lane] >> shift & mask] += 1
    for i in range(end, plane.size):
        counts[0, plane[i] >> shift & mask] += 1


@compiled
def _encode(plane: Any, table: Any, bits: int, words: Any, states: Any) -> int:
    """Fill `words` from its end; the place of the first."""
    limits, starts, others = np.zeros(256, np.int64), np.zeros(256, np.int64), np.zeros(256, np.int64)
    shares = np.zeros(256, np.float64)
    at = 0
    for value in range(256):
        limits[value], starts[value], others[value] = table[value] << (48 - bits), at, (1 << bits) - table[value]
        shares[value] = 1 / table[value] if table[value] else 0.0
        at += table[value]
    at, end = words.size, plane.size // LANES * LANES
    states[:] = _LOW
    for i in range(plane.size - 1, end - 1, -1):
        at = _put(states[i % LANES], limits[plane[i]], words, at)
        states[i % LANES] = _after(states[i % LANES], plane[i], limits, shares, starts, others)
    a, b, c, d = states[0], states[1], states[2], states[3]
    for i in range(end - LANES, -1, -LANES):
        at = _put(d, limits[plane[i + 3]], words, at)
        d = _after(d, plane[i + 3], limits, shares, starts, others)
        at = _put(c, limits[plane[i + 2]], words, at)
        c = _after(c, plane[i + 2], limits, shares, starts, others)
        at = _put(b, limits[plane[i + 1]], words, at)
        b = _after(b, plane[i + 1], limits, shares, starts, others)
        at = _put(a, limits[plane[i]], words, at)
        a = _after(a, plane[i], limits, shares, starts, others)
    states[0], states[1], states[2], states[3] = a, b, c, d
    return at


@compiled
def _put(x: int, limit: int, words: Any, at: int) -> int:
    # Written always and counted where it was due: no branch waits for random bits.
    words[at - 1] = np.uint16(x & 0xFFFF)
    return at - (x >= limit)


@compiled
def _after(x: int, value: int, limits: Any, shares: Any, starts: Any, others: Any) -> int:
    """The state that decodes to this value first: x // frequency * 2**bits + start + x % frequency."""
    if x >= limits[value]:
        x >>= 16
    # The quotient is exact: half-way between two integers doubles of 48 bits err by less than the way to either.
    return int(x + starts[value] + np.int64((x + 0.5) * shares[value]) * others[value])


@compiled
def _decode(words: Any, states: Any, table: Any, bits: int, plane: Any) -> bool:
    slots = np.empty(1 << bits, np.int64)  # frequency, offset within its interval, value
    at = 0
    for value in range(256):
        for offset in range(table[value]):
            slots[at] = table[value] << 24 | offset << 8 | value
            at += 1
    mask = np.int64((1 << bits) - 1)
    for state in states:
        if state < _LOW or state >= _LOW << 16:
            return False
    a, b, c, d = states[0], states[1], states[2], states[3]
    at, n_words = 0, words.size - LANES  # so many words more may be read before that is noticed
    for i in range(0, plane.size - 3, LANES):
        w, x, y, z = slots[a & mask], slots[b & mask], slots[c & mask], slots[d & mask]
        plane[i], plane[i + 1], plane[i + 2], plane[i + 3] = w & 255, x & 255, y & 255, z & 255
        a, at = _fed((w >> 24) * (a >> bits) + (w >> 8 & 0xFFFF), words, at)
        b, at = _fed((x >> 24) * (b >> bits) + (x >> 8 & 0xFFFF), words, at)
        c, at = _fed((y >> 24) * (c >> bits) + (y >> 8 & 0xFFFF), words, at)
        d, at = _fed((z >> 24) * (d >> bits) + (z >> 8 & 0xFFFF), words, at)
        if at > n_words:
            return False
    for i in range(plane.size // LANES * LANES, plane.size):
        slot = slots[a & mask]
        plane[i] = slot & 255
        a, at = _fed((slot >> 24) * (a >> bits) + (slot >> 8 & 0xFFFF), words, at)
        a, b, c = b, c, a
    # Three bytes at most were left: the states changed places, and all are the same again if nothing is wrong.
    return bool(at == n_words and a == _LOW and b == _LOW and c == _LOW and d == _LOW)


@compiled
def _fed(x: int, words: Any, at: int) -> tuple[int, int]:
    """(the state, with the next word where it needs one, the place of the word after)."""
    return (x << 16 | int(words[at]), at + 1) if x < _LOW else (x, at)
