"""Few: products of a packed weight with few tokens, one row of the weight after the other.

mask    (rows * stride,) uint32: bit i of a row's word j is its column 32 j + i; every row begins a word
starts  (rows + 1,) int64: where each row's kept weights begin in `kept`
scales  (rows * groups,) bfloat16 as uint16: what the kept weights of `width` words' columns are multiplied by
x       (tokens * 32 * stride,): zero beyond the columns
y       (rows,) or (4, rows): rows `low` to `high` are written

Bytes of the mask decide where the next kept weights go, 8 at once; none is asked one by one.
"""

from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.running.instructions import (
    add,
    every8,
    fma,
    gathered,
    load8,
    n_set,
    number,
    picked,
    prefetch,
    spread8,
    total,
    word,
    zeros8,
    zeros16,
)
from secateurs.running.team import on_team

AHEAD, LINE = 2048, 64  # bytes that are asked for before they are needed, and that memory gives at once
PARTS = 16  # of a thread: one that is held up leaves its parts to the others


@compiled
def one(mask: Any, kept: Any, starts: Any, scales: Any, width: int, x: Any, low: int, high: int, y: Any) -> None:
    """One token."""
    stride = x.size // 32
    n_groups = (stride + width - 1) // width
    ahead = AHEAD // kept.itemsize
    for row in range(low, high):
        at = starts[row]
        whole = zeros8()
        for group in range(n_groups):
            a, b, c, d = zeros8(), zeros8(), zeros8(), zeros8()
            for j in range(group * width, min((group + 1) * width, stride)):
                bits = word(mask, row * stride + j)
                column = 32 * j
                prefetch(kept, at + ahead)
                at1 = at + n_set(bits & 0xFF)
                at2 = at + n_set(bits & 0xFFFF)
                at3 = at + n_set(bits & 0xFFFFFF)
                a = fma(spread8(kept, at, bits & 0xFF), load8(x, column), a)
                b = fma(spread8(kept, at1, bits >> 8 & 0xFF), load8(x, column + 8), b)
                c = fma(spread8(kept, at2, bits >> 16 & 0xFF), load8(x, column + 16), c)
                d = fma(spread8(kept, at3, bits >> 24 & 0xFF), load8(x, column + 24), d)
                at += n_set(bits)
            whole = fma(every8(number(scales, row * n_groups + group)), add(add(a, b), add(c, d)), whole)
        y[row] = total(whole)


@compiled
def four(mask: Any, kept: Any, starts: Any, scales: Any, width: int, x: Any, low: int, high: int, y: Any) -> None:
    """Four tokens."""
    n = x.size // 4
    stride = n // 32
    n_groups = (stride + width - 1) // width
    ahead = AHEAD // kept.itemsize
    for row in range(low, high):
        at = starts[row]
        all_a, all_b, all_c, all_d = zeros8(), zeros8(), zeros8(), zeros8()
        for group in range(n_groups):
            a, b, c, d = zeros8(), zeros8(), zeros8(), zeros8()
            for j in range(group * width, min((group + 1) * width, stride)):
                bits = word(mask, row * stride + j)
                prefetch(kept, at + ahead)
                for i in range(4):
                    byte = bits >> 8 * i & 0xFF
                    weights, column = spread8(kept, at, byte), 32 * j + 8 * i
                    a = fma(weights, load8(x, column), a)
                    b = fma(weights, load8(x, n + column), b)
                    c = fma(weights, load8(x, 2 * n + column), c)
                    d = fma(weights, load8(x, 3 * n + column), d)
                    at += n_set(byte)
            scale = every8(number(scales, row * n_groups + group))
            all_a, all_b, all_c, all_d = (
                fma(scale, a, all_a),
                fma(scale, b, all_b),
                fma(scale, c, all_c),
                fma(scale, d, all_d),
            )
        y[0, row], y[1, row], y[2, row], y[3, row] = total(all_a), total(all_b), total(all_c), total(all_d)


@compiled
def listed(columns: Any, kept: Any, starts: Any, scales: Any, x: Any, low: int, high: int, y: Any) -> None:
    """One token; `columns` (as many as kept) says where each kept weight stands in its row."""
    for row in range(low, high):
        a = b = c = d = np.float32(0)
        begin, end = starts[row], starts[row + 1]
        whole = begin + (end - begin) // 4 * 4
        for at in range(begin, whole, 4):
            a += number(kept, at) * picked(x, columns, at)
            b += number(kept, at + 1) * picked(x, columns, at + 1)
            c += number(kept, at + 2) * picked(x, columns, at + 2)
            d += number(kept, at + 3) * picked(x, columns, at + 3)
        for at in range(whole, end):
            a += number(kept, at) * picked(x, columns, at)
        y[row] = number(scales, row) * ((a + b) + (c + d))


@compiled
def listed_by_16(i: int, n_parts: int, columns: Any, kept: Any, starts: Any, scales: Any, x: Any, y: Any) -> None:
    """Part i of the rows of the same, 16 weights at once, by AVX-512; not of int4."""
    n, of_line = starts.size - 1, LINE // kept.itemsize
    ahead, columns_ahead = AHEAD // kept.itemsize, AHEAD // columns.itemsize
    for row in range(i * n // n_parts, (i + 1) * n // n_parts):
        a, b = zeros16(), zeros16()
        at, end = starts[row], starts[row + 1]
        while at + 32 <= end:
            prefetch(columns, at + columns_ahead)
            prefetch(kept, at + ahead)
            prefetch(kept, at + ahead + of_line)
            a = gathered(a, x, columns, kept, at, 0xFFFF)
            b = gathered(b, x, columns, kept, at + 16, 0xFFFF)
            at += 32
        if at < end:
            bits = np.int64(1 << end - at) - 1
            a = gathered(a, x, columns, kept, at, bits & 0xFFFF)
            b = gathered(b, x, columns, kept, at + 16, bits >> 16)
        y[row] = number(scales, row) * total(add(a, b))


@compiled
def run_listed(columns: Any, kept: Any, starts: Any, scales: Any, x: Any, y: Any, where: int, n: int) -> None:
    """All of `listed_by_16`, on n threads; where is team.address(), which one thread does not need."""
    if n == 1:
        listed_by_16(0, 1, columns, kept, starts, scales, x, y)
    else:
        n_parts = min(starts.size - 1, PARTS * n)
        _on_team(where, n, n_parts, (n_parts, columns, kept, starts, scales, x, y))


_on_team = on_team(listed_by_16)


@compiled
def left(kept: Any, starts: Any, scales: Any, n: int, x: Any, low: int, high: int, y: Any) -> None:
    """One token, its n columns that are left (zeros to the next 32 behind them); a row has all of them or none."""
    tail, ahead = np.int64(1 << n % 8) - 1, AHEAD // kept.itemsize
    for row in range(low, high):
        a, b, c, d = zeros8(), zeros8(), zeros8(), zeros8()
        if starts[row + 1] > starts[row]:
            at, column = starts[row], 0
            while column + 32 <= n:
                prefetch(kept, at + column + ahead)
                a = fma(spread8(kept, at + column, 255), load8(x, column), a)
                b = fma(spread8(kept, at + column + 8, 255), load8(x, column + 8), b)
                c = fma(spread8(kept, at + column + 16, 255), load8(x, column + 16), c)
                d = fma(spread8(kept, at + column + 24, 255), load8(x, column + 24), d)
                column += 32
            while column + 8 <= n:
                a = fma(spread8(kept, at + column, 255), load8(x, column), a)
                column += 8
            if column < n:
                b = fma(spread8(kept, at + column, tail), load8(x, column), b)
        y[row] = number(scales, row) * total(add(add(a, b), add(c, d)))


@compiled
def dense(kept: Any, starts: Any, scales: Any, n: int, low: int, high: int, out: Any) -> None:
    """Write what is left of rows `low` to `high` to out, n float32 for each."""
    found = 0
    for row in range(low, high):
        if starts[row + 1] > starts[row]:
            scale = number(scales, row)
            for i in range(n):
                out[found * n + i] = scale * number(kept, starts[row] + i)
            found += 1
