"""Adaptive: a range coder whose probabilities follow what was seen; for small streams, and for masks with structure.

    code_bytes   bytes, each as the eight decisions of a binary tree (255 of them learn)
    code_mask    the bits of a keep matrix, predicted from their row, their column and their neighbours: real masks are
                 denser in some rows and columns than in others, which one probability for all does not know

One function codes and decodes, so that both make the same predictions. All of it is in whole numbers of 64 bits, and
docs/packed-files.md says each: a file decodes to the same bits on every machine.

The coder: [low, high] begins as [0, 2**32 - 1]. A decision whose chance to be 1 is p / 2**16 splits it at
low + ((high - low) * p >> 16): 1 takes the lower part, that number included, and 0 the rest. While the first bytes of
low and high are equal, that byte is written and both move up by 8 bits. At the end one byte is written, the first of
low plus 1; a reader takes what follows the end as zeros. Mahoney's lpaq has this coder and the mixing of chances:
http://mattmahoney.net/dc/#lpaq
"""

import math
from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.exact.kinds import Stored

STEP = 256  # of the logistic scale: a chance p stands at STEP * ln(p / (1 - p))
WIDE = 12 * STEP  # beyond it a chance is as good as certain
_CHANCE = np.array([min(65535, max(1, round(65536 / (1 + math.exp(-x / STEP))))) for x in range(-WIDE, WIDE + 1)])
_LOGIT = np.array([round(STEP * math.log((i + 0.5) / (4095.5 - i))) for i in range(4096)])
_RATE = np.array([655360 // (10 * n + 16) for n in range(1024)])  # how far a chance moves the n-th time, of 65536
_N_CHANCE, _N_BYTES = 500, 1000  # after so many times a chance moves no slower
_WEIGHTS = np.array([-19661, 39322, 39322, 6554, 6554, 0])  # of 65536: where the mixing begins
_N_SETS = 8  # rows with weights of their own; all later rows share the last


def encode_bytes(plane: Stored) -> bytes:
    """The coded (n,) uint8."""
    coded = np.empty(plane.size + plane.size // 4 + 64, np.uint8)
    return coded[: code_bytes(_own(plane), coded, False)].tobytes()


def decode_bytes(coded: Stored, n: int) -> Stored:
    """(n,) uint8; of a damaged stream, any."""
    plane = np.empty(n, np.uint8)
    code_bytes(plane, _own(coded), True)
    return plane


def encode_mask(keep: Stored, n_columns: int) -> bytes:
    """The coded (rows * n_columns,) uint8 of zeros and ones."""
    coded = np.empty(keep.size // 4 + 64, np.uint8)
    return coded[: code_mask(_own(keep), n_columns, coded, False)].tobytes()


def decode_mask(coded: Stored, n: int, n_columns: int) -> Stored:
    """(n,) uint8 of zeros and ones; of a damaged stream, any."""
    keep = np.empty(n, np.uint8)
    code_mask(keep, n_columns, _own(coded), True)
    return keep


def _own(array: Stored) -> Stored:
    """The same, writable: one compiled function does both directions, and writes to both arrays."""
    return np.require(array, requirements=["C", "W"])


@compiled
def _begin(coder: Any, stream: Any, is_decoding: bool) -> None:
    coder[0], coder[1], coder[2], coder[3] = 0, 0xFFFFFFFF, 0, 0
    if is_decoding:
        for _ in range(4):
            coder[2] = coder[2] << 8 | (stream[coder[3]] if coder[3] < stream.size else 0)
            coder[3] += 1


@compiled
def _code_bit(coder: Any, stream: Any, is_decoding: bool, chance: int, bit: int) -> int:
    """One decision; coder is (low, high, what is read, bytes written or read)."""
    low, high = coder[0], coder[1]
    middle = low + ((high - low) * chance >> 16)
    if is_decoding:
        bit = 1 if coder[2] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) & 0xFF000000 == 0:
        if is_decoding:
            coder[2] = (coder[2] << 8 & 0xFFFFFFFF) | (stream[coder[3]] if coder[3] < stream.size else 0)
        elif coder[3] < stream.size:
            stream[coder[3]] = low >> 24
        coder[3] += 1
        low, high = low << 8 & 0xFFFFFFFF, (high << 8 & 0xFFFFFFFF) | 255
    coder[0], coder[1] = low, high
    return bit


@compiled
def _end(coder: Any, stream: Any, is_decoding: bool) -> int:
    if not is_decoding and coder[3] < stream.size:
        stream[coder[3]] = (coder[0] >> 24) + 1
    return int(coder[3] + 1)


@compiled
def _learn(chances: Any, counts: Any, at: int, bit: int, most: int) -> None:
    chances[at] += (65535 * bit - chances[at]) * _RATE[counts[at]] >> 16
    counts[at] = min(counts[at] + 1, most)


@compiled
def _step(logit: int, n: int) -> int:
    """Which of n equal steps from -9 to 9 times STEP it is in."""
    return int(min(max((logit + 9 * STEP) * n // (18 * STEP), 0), n - 1))


@compiled
def code_bytes(plane: Any, stream: Any, is_decoding: bool) -> int:
    """Code plane into stream, or decode it from there; how many bytes of the stream that took."""
    coder = np.zeros(4, np.int64)
    chances, counts = np.full(256, 32768, np.int64), np.zeros(256, np.int64)
    _begin(coder, stream, is_decoding)
    for i in range(plane.size):
        node, byte = 1, 0 if is_decoding else int(plane[i])
        for place in range(7, -1, -1):
            chance = min(max(chances[node], 16), 65520)
            bit = _code_bit(coder, stream, is_decoding, chance, byte >> place & 1)
            _learn(chances, counts, node, bit, _N_BYTES)
            node = 2 * node + bit
        plane[i] = node & 255
    return _end(coder, stream, is_decoding)


@compiled
def code_mask(keep: Any, n_columns: int, stream: Any, is_decoding: bool) -> int:
    """Code keep into stream, or decode it from there; how many bytes of the stream that took."""
    coder = np.zeros(4, np.int64)
    _begin(coder, stream, is_decoding)
    weights = np.empty((_N_SETS, 6), np.int64)
    weights[:] = _WEIGHTS
    inputs = np.zeros(6, np.int64)
    # Of all weights, of the row, of each column (with one more on either side), and of two kinds of neighbourhood.
    whole, row = np.full(1, 32768, np.int64), np.full(1, 32768, np.int64)
    n_whole, n_row = np.zeros(1, np.int64), np.zeros(1, np.int64)
    columns, n_columns_seen = np.zeros(n_columns + 2, np.int64), np.full(n_columns + 2, 4, np.int64)
    beside, n_beside = np.full(128, 32768, np.int64), np.zeros(128, np.int64)
    around, n_around = np.full(512, 32768, np.int64), np.zeros(512, np.int64)
    above = np.zeros(n_columns + 2, np.int64)
    for start in range(0, keep.size, n_columns):
        row[0], n_row[0] = whole[0], 8
        before, last = 0, 0  # the two bits on the left; the one whose place in `above` is still needed
        mixed = weights[min(start // n_columns, _N_SETS - 1)]
        for column in range(n_columns):
            at = column + 1
            if start == 0:
                columns[at] = whole[0]
                near = whole[0]
            elif column == 0:
                near = columns[at + 1] if n_columns > 1 else columns[at]
            elif column == n_columns - 1:
                near = columns[at - 1]
            else:
                near = columns[at - 1] + columns[at + 1] >> 1
            inputs[0], inputs[1] = _LOGIT[whole[0] >> 4], _LOGIT[row[0] >> 4]
            inputs[2], inputs[5] = _LOGIT[columns[at] >> 4], _LOGIT[near >> 4]
            by_columns = _step(inputs[5], 32) * 4 + before
            neighbours = above[at - 1] | above[at] << 1 | above[at + 1] << 2
            by_rows = _step(inputs[1], 16) * 32 + neighbours * 4 + before
            inputs[3], inputs[4] = _LOGIT[beside[by_columns] >> 4], _LOGIT[around[by_rows] >> 4]
            total = 0
            for k in range(6):
                total += mixed[k] * inputs[k]
            chance = _CHANCE[min(max(total >> 16, -WIDE), WIDE) + WIDE]
            bit = _code_bit(coder, stream, is_decoding, chance, int(keep[start + column]))
            keep[start + column] = bit
            error = (65536 * bit - chance) * 6
            for k in range(6):
                mixed[k] += inputs[k] * error + 524288 >> 20
            _learn(whole, n_whole, 0, bit, _N_BYTES)
            _learn(row, n_row, 0, bit, _N_CHANCE)
            _learn(columns, n_columns_seen, at, bit, _N_CHANCE)
            _learn(beside, n_beside, by_columns, bit, _N_CHANCE)
            _learn(around, n_around, by_rows, bit, _N_CHANCE)
            above[at - 1] = last
            last = bit
            before = (before << 1 | bit) & 3
        above[n_columns] = last
    return _end(coder, stream, is_decoding)
