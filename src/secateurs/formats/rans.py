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
    counts = np.zeros(256, np.int64)
    _count(plane, counts)
    n_values = int(np.count_nonzero(counts))
    share = counts[counts > 0] / max(1, plane.size)
    ideal = -float(plane.size * (share * np.log2(share)).sum()) / 8
    if ideal + _n_head(n_values) >= share_of_size * plane.size:
        return None
    tables = [frequencies(counts, bits) for bits in range(MIN_BITS, MAX_BITS + 1) if n_values <= 1 << bits]
    sizes = [float((counts * (np.log2(table.sum()) - np.log2(np.maximum(table, 1)))).sum()) for table in tables]
    # The fewest bits that are as good to a thousandth: a smaller table stays in the cache when decoding.
    table = next(table for table, size in zip(tables, sizes, strict=True) if size <= min(sizes) * 1.001 + 8)
    words, states = np.empty(plane.size + LANES, np.uint16), np.empty(LANES, np.int64)
    n_words = _encode(plane, table, int(table.sum()).bit_length() - 1, words, states)
    return b"".join(
        (
            bytes([int(table.sum()).bit_length() - 1]),
            np.packbits(table > 0, bitorder="little").tobytes(),
            table[table > 0].astype("<u2").tobytes(),
            np.array([[x & 0xFFFF, x >> 16 & 0xFFFF, x >> 32] for x in states.tolist()], "<u2").tobytes(),
            words[:n_words][::-1].astype("<u2").tobytes(),
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


@compiled
def _count(plane: Any, counts: Any) -> None:
    for value in plane:
        counts[value] += 1


@compiled
def _encode(plane: Any, table: Any, bits: int, words: Any, states: Any) -> int:
    starts = np.zeros(256, np.int64)
    for value in range(1, 256):
        starts[value] = starts[value - 1] + table[value - 1]
    for lane in range(LANES):
        states[lane] = _LOW
    n_words = 0
    for i in range(plane.size - 1, -1, -1):
        x, value = states[i % LANES], plane[i]
        frequency = table[value]
        if x >> (48 - bits) >= frequency:
            words[n_words] = x & 0xFFFF
            n_words += 1
            x >>= 16
        # Exact: both are below 2**48, and a quotient of doubles errs by less than 1 / frequency.
        quotient = np.int64(np.float64(x) / np.float64(frequency))
        states[i % LANES] = (quotient << bits) + starts[value] + x - quotient * frequency
    return n_words


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
        slot = slots[a & mask]
        plane[i] = slot & 255
        a = (slot >> 24) * (a >> bits) + (slot >> 8 & 0xFFFF)
        slot = slots[b & mask]
        plane[i + 1] = slot & 255
        b = (slot >> 24) * (b >> bits) + (slot >> 8 & 0xFFFF)
        slot = slots[c & mask]
        plane[i + 2] = slot & 255
        c = (slot >> 24) * (c >> bits) + (slot >> 8 & 0xFFFF)
        slot = slots[d & mask]
        plane[i + 3] = slot & 255
        d = (slot >> 24) * (d >> bits) + (slot >> 8 & 0xFFFF)
        if a < _LOW:
            a = a << 16 | np.int64(words[at])
            at += 1
        if b < _LOW:
            b = b << 16 | np.int64(words[at])
            at += 1
        if c < _LOW:
            c = c << 16 | np.int64(words[at])
            at += 1
        if d < _LOW:
            d = d << 16 | np.int64(words[at])
            at += 1
        if at > n_words:
            return False
    for i in range(plane.size // LANES * LANES, plane.size):
        slot = slots[a & mask]
        plane[i] = slot & 255
        a = (slot >> 24) * (a >> bits) + (slot >> 8 & 0xFFFF)
        if a < _LOW:
            a = a << 16 | np.int64(words[at])
            at += 1
        a, b, c = b, c, a
    # Three bytes at most were left: the states changed places, and all are the same again if nothing is wrong.
    return bool(at == n_words and a == _LOW and b == _LOW and c == _LOW and d == _LOW)
