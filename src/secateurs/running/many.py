"""Many: products of a packed weight with many tokens: each kept weight times a row of tokens side by side.

mask, kept, starts, scales as in few.py; columns as in few.listed
x     (columns * tile,): the tokens of one tile side by side
y     (rows * tile,): rows `low` to `high` are written
wide  tile(8), tile(16), tile(32) or tile(64)

Columns are taken a few at a time, so that their tokens stay in the first cache while all rows pass. Which columns a
row keeps is listed first, without a branch: the loop over them then ends once for a row, not once for every word.
"""

from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.running.features import has_avx512
from secateurs.running.instructions import (
    add,
    every_tile,
    fma,
    list8,
    load_tile,
    n_set,
    number,
    store_tile,
    times,
    turn8,
    word,
)

FOUR, EIGHT = (0,) * 4, (0,) * 8
ROWS = 512  # whose sums stay in the second cache
BYTES = 20 << 10  # of the tokens that stay in the first
LISTED_BYTES = (512 if has_avx512() else 20) << 10  # of listed columns: where AVX-512 was measured, half of the second


@compiled
def turn(source: Any, n: int, m: int, step: int, target: Any, to: int) -> None:
    """target[j * to + i] = source[i * step + j] for i < n and j < m, of 4 bytes each; in squares of 8 or 4."""
    whole, i = m // 8 * 8, 0
    while n - i >= 8:
        for j in range(0, whole, 8):
            turn8(source, i * step + j, step, target, j * to + i, to, EIGHT)
        i += 8
    if n - i >= 4:
        for j in range(0, whole, 8):
            turn8(source, i * step + j, step, target, j * to + i, to, FOUR)
        i += 4
    for k in range(n):
        for j in range(whole if k < i else 0, m):
            target[j * to + k] = source[k * step + j]


@compiled
def by_mask(
    mask: Any, kept: Any, starts: Any, scales: Any, width: int, x: Any, low: int, high: int, y: Any, wide: Any
) -> None:
    """One tile of tokens."""
    stride = mask.size // (starts.size - 1)
    n_groups = (stride + width - 1) // width
    n_words = min(max(1, BYTES // (4 * 8 * 32 * len(wide))), width)
    places, columns = np.empty(ROWS, np.int64), np.empty(32 * n_words + 8, np.int32)
    for begin in range(low, high, ROWS):
        end = min(begin + ROWS, high)
        for row in range(begin, end):
            places[row - begin] = starts[row]
            store_tile(y, row, wide, every_tile(np.float32(0), wide))
        j = 0
        while j < stride:
            last = min(j + n_words, stride, (j // width + 1) * width)
            for row in range(begin, end):
                n = 0
                for k in range(j, last):
                    bits = word(mask, row * stride + k)
                    for i in range(4):
                        list8(columns, n, bits >> 8 * i & 0xFF, 32 * k + 8 * i)
                        n += n_set(bits >> 8 * i & 0xFF)
                at, scale = places[row - begin], number(scales, row * n_groups + j // width)
                sums, more, i = load_tile(y, row, wide), every_tile(np.float32(0), wide), 0
                if len(wide) < 8:  # narrow tiles would wait for the last sum; two of the widest have no room
                    while i < n - 1:
                        weight = every_tile(scale * number(kept, at + i), wide)
                        sums = fma(weight, load_tile(x, np.int64(columns[np.uint64(i)]), wide), sums)
                        weight = every_tile(scale * number(kept, at + i + 1), wide)
                        more = fma(weight, load_tile(x, np.int64(columns[np.uint64(i + 1)]), wide), more)
                        i += 2
                while i < n:
                    weight = every_tile(scale * number(kept, at + i), wide)
                    sums = fma(weight, load_tile(x, np.int64(columns[np.uint64(i)]), wide), sums)
                    i += 1
                store_tile(y, row, wide, add(sums, more))
                places[row - begin] = at + n
            j = last


@compiled
def listed(columns: Any, kept: Any, starts: Any, scales: Any, x: Any, low: int, high: int, y: Any, wide: Any) -> None:
    """The same of listed columns."""
    places = np.empty(ROWS, np.int64)
    n_columns, step = x.size // (8 * len(wide)), LISTED_BYTES // (4 * 8 * len(wide))
    for begin in range(low, high, ROWS):
        end = min(begin + ROWS, high)
        for row in range(begin, end):
            places[row - begin] = starts[row]
            store_tile(y, row, wide, every_tile(np.float32(0), wide))
        for limit in range(step, n_columns + step, step):
            for row in range(begin, end):
                at, last = places[row - begin], starts[row + 1]
                sums, scale = load_tile(y, row, wide), number(scales, row)
                stop = at
                while stop < last and np.int64(columns[np.uint64(stop)]) < limit:
                    stop += 1
                more = every_tile(np.float32(0), wide)
                if len(wide) < 8:  # as in by_mask
                    while at < stop - 1:
                        column = np.int64(columns[np.uint64(at)])
                        sums = fma(every_tile(scale * number(kept, at), wide), load_tile(x, column, wide), sums)
                        column = np.int64(columns[np.uint64(at + 1)])
                        more = fma(every_tile(scale * number(kept, at + 1), wide), load_tile(x, column, wide), more)
                        at += 2
                while at < stop:
                    column = np.int64(columns[np.uint64(at)])
                    sums = fma(every_tile(scale * number(kept, at), wide), load_tile(x, column, wide), sums)
                    at += 1
                sums = add(sums, more)
                store_tile(y, row, wide, sums)
                places[row - begin] = at


@compiled
def by_block(
    places: Any, kept: Any, starts: Any, scales: Any, h: int, w: int, x: Any, low: int, high: int, y: Any, wide: Any
) -> None:
    """The same of kept blocks of h rows and w columns; `low` to `high` count rows of blocks."""
    for of_blocks in range(low, high):
        for row in range(of_blocks * h, (of_blocks + 1) * h):
            store_tile(y, row, wide, every_tile(np.float32(0), wide))
        for block in range(starts[of_blocks] // (h * w), starts[of_blocks + 1] // (h * w)):
            first = np.int64(places[block]) * w
            for i in range(h):
                at = (block * h + i) * w
                sums, more = load_tile(y, of_blocks * h + i, wide), every_tile(np.float32(0), wide)
                for j in range(0, w - 1, 2):
                    sums = fma(every_tile(number(kept, at + j), wide), load_tile(x, first + j, wide), sums)
                    more = fma(every_tile(number(kept, at + j + 1), wide), load_tile(x, first + j + 1, wide), more)
                if w & 1:
                    sums = fma(every_tile(number(kept, at + w - 1), wide), load_tile(x, first + w - 1, wide), sums)
                store_tile(y, of_blocks * h + i, wide, add(sums, more))
        for row in range(of_blocks * h, (of_blocks + 1) * h):
            store_tile(y, row, wide, times(load_tile(y, row, wide), every_tile(number(scales, row), wide)))
