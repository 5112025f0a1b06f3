"""Encoding: what a layer of a transformer does between its products, in compiled loops: attention, norms, activation.

    mix(qkv, shape, mask, steps, room, out, where, n)              # attention
    norm(x, y, weight, bias, eps, added, out, where, n)            # added = x + y; out: its layer norm
    activate(y, kind, where, n)                                    # in place

All arrays are float32 and flat, one token after the other. n is how many threads, `where` team.address(), which one
thread does not need. Exponentials are polynomials: within 3e-7 of each, and erf within 2e-7.
"""

from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.running.instructions import add, every8, fma, load8, times_power, total, zeros8
from secateurs.running.many import turn
from secateurs.running.team import on_team
from secateurs.running.wide import PANEL, ROWS, all_of, floats, step, store

RELU, GELU, GELU_TANH = range(3)
TILE = (0,) * 8  # keys, or columns, whose products with 32 queries stay in registers
PARTS = 4  # of a thread: one that is held up leaves its parts to the others

_LOW, _HIGH, _LOG2E = np.float32(-87.0), np.float32(88.0), np.float32(1.4426950408889634)
_LN2_TOP, _LN2_REST = np.float32(0.693359375), np.float32(-2.12194440e-4)  # their sum is ln 2; the first has few bits
_WHOLE = np.float32(12582912.0)  # 1.5 * 2**23: what is added to it becomes whole
_ONE, _HALF, _ZERO = np.float32(1.0), np.float32(0.5), np.float32(0.0)
_C2, _C3, _C4, _C5, _C6 = (np.float32(1.0 / each) for each in (2, 6, 24, 120, 720))
_ROOT_HALF = np.float32(0.7071067811865476)
# erfc by Abramowitz & Stegun 1964, 7.1.26
_P, _A1, _A2 = np.float32(0.3275911), np.float32(0.254829592), np.float32(-0.284496736)
_A3, _A4, _A5 = np.float32(1.421413741), np.float32(-1.453152027), np.float32(1.061405429)
_TANH_A, _TANH_B = np.float32(1.5957691216057308), np.float32(0.044715)  # 2 sqrt(2 / pi)
_LEAST = np.float32(-np.inf)


@compiled
def exp(x: Any) -> Any:
    """e**x, float32; that of -87 below it, and of 88 above."""
    x = _LOW if x < _LOW else x
    x = _HIGH if x > _HIGH else x
    whole = x * _LOG2E + _WHOLE
    n = whole - _WHOLE
    r = x - n * _LN2_TOP - n * _LN2_REST
    p = _ONE + r * (_ONE + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
    return times_power(p, whole)


def room_of(shape: tuple[int, int, int, int, int]) -> int:
    """How many numbers of scratch `attend` wants for each part."""
    _, n_keys, _, _, dim = shape
    keys, columns = (-(-each // len(TILE)) * len(TILE) for each in (n_keys, dim))
    return PANEL * dim + keys * dim + n_keys * columns + keys * PANEL + columns * PANEL + 2 * PANEL


@compiled
def attend(i: int, n_parts: int, qkv: Any, shape: Any, mask: Any, steps: Any, room: Any, out: Any, wide: Any) -> None:
    """Part i of all sequences' heads: softmax(q k^T / sqrt(dim) + mask) v.

    qkv    (sequences * keys, 3 * heads * dim): of each token its query, key and value, each head after head
    shape  (sequences, keys, queries, heads, dim); the first tokens of a sequence ask
    mask   empty, or what is added to the score of query q and key k of sequence s:
           mask[s * steps[0] + q * steps[1] + k]
    room   n_parts times `room_of(shape)` numbers
    out    (sequences * queries, heads * dim)
    wide   TILE
    """
    n_sequences, n_keys, n_queries, heads, dim = shape
    n_wide, width = len(wide), heads * dim
    n_key_tiles, n_tiles = (n_keys + n_wide - 1) // n_wide, (dim + n_wide - 1) // n_wide
    padded, stride, n_room = n_tiles * n_wide, 3 * width, room.size // n_parts
    rest = room[i * n_room : (i + 1) * n_room]
    queries, rest = rest[: PANEL * dim], rest[PANEL * dim :]
    keys, rest = rest[: n_key_tiles * n_wide * dim], rest[n_key_tiles * n_wide * dim :]
    values, rest = rest[: n_keys * padded], rest[n_keys * padded :]
    scores, rest = rest[: n_key_tiles * n_wide * PANEL], rest[n_key_tiles * n_wide * PANEL :]
    mixed, rest = rest[: padded * PANEL], rest[padded * PANEL :]
    largest, whole = rest[:PANEL], rest[PANEL:]
    scale = _ONE / np.sqrt(np.float32(dim))
    for part in range(i * n_sequences * heads // n_parts, (i + 1) * n_sequences * heads // n_parts):
        sequence, head = part // heads, part % heads
        first = sequence * n_keys * stride + head * dim
        if n_keys == 1:  # it hears itself alone
            out[sequence * width + head * dim : sequence * width + (head + 1) * dim] = qkv[
                first + 2 * width : first + 2 * width + dim
            ]
            continue
        if n_keys < n_key_tiles * n_wide:
            keys[(n_key_tiles - 1) * n_wide * dim :] = _ZERO
        for tile in range(n_key_tiles):
            n = min(n_wide, n_keys - tile * n_wide)
            source = qkv[first + width + tile * n_wide * stride :]
            turn(source, n, dim, stride, keys[tile * n_wide * dim :], n_wide)
        if dim < padded:
            values[:] = _ZERO
        for j in range(n_keys):
            begin = first + 2 * width + j * stride
            values[j * padded : j * padded + dim] = qkv[begin : begin + dim]
        for query in range(0, n_queries, PANEL):
            n = min(PANEL, n_queries - query)
            if n < PANEL:
                queries[:] = _ZERO
            turn(qkv[first + query * stride :], n, dim, stride, queries, PANEL)
            for j in range(queries.size):
                queries[j] *= scale
            for tile in range(n_key_tiles):
                sums, there = floats(wide), tile * n_wide * dim
                for j in range(dim):
                    weights, others = all_of(queries, PANEL * j), all_of(queries, PANEL * j + ROWS)
                    sums = step(sums, weights, others, keys, there + j * n_wide)
                store(scores, tile * n_wide * PANEL, PANEL, sums)
            if mask.size:
                for q in range(n):
                    added = mask[sequence * steps[0] + (query + q) * steps[1] :]
                    for j in range(n_keys):
                        scores[j * PANEL + q] += added[j]
            _soften(scores[: n_keys * PANEL], largest, whole)
            for tile in range(n_tiles):
                sums = floats(wide)
                for j in range(n_keys):
                    weights, others = all_of(scores, PANEL * j), all_of(scores, PANEL * j + ROWS)
                    sums = step(sums, weights, others, values, j * padded + tile * n_wide)
                store(mixed, tile * n_wide * PANEL, PANEL, sums)
            for q in range(PANEL):
                whole[q] = _ONE / whole[q]
            for j in range(dim):
                row = mixed[j * PANEL : (j + 1) * PANEL]
                for q in range(PANEL):
                    row[q] *= whole[q]
            turn(mixed, dim, n, PANEL, out[(sequence * n_queries + query) * width + head * dim :], width)


@compiled
def _soften(scores: Any, largest: Any, whole: Any) -> None:
    """(keys, 32) scores become exponentials of what each is below the largest of its query; whole: their sums."""
    largest[:], whole[:] = _LEAST, _ZERO
    for j in range(0, scores.size, PANEL):
        row = scores[j : j + PANEL]
        for q in range(PANEL):
            largest[q] = row[q] if row[q] > largest[q] else largest[q]
    for j in range(0, scores.size, PANEL):
        row = scores[j : j + PANEL]
        for q in range(PANEL):
            row[q] = exp(row[q] - largest[q])
            whole[q] += row[q]


@compiled
def normed(i: int, n_parts: int, x: Any, y: Any, weight: Any, bias: Any, eps: float, added: Any, out: Any) -> None:
    """Part i of all tokens: added = x + y, or x where y is empty; out = (added - mean) / deviation * weight + bias."""
    width = weight.size
    n, whole, share = x.size // width, width // 8 * 8, _ONE / np.float32(width)
    for token in range(i * n // n_parts, (i + 1) * n // n_parts):
        begin, end = token * width, (token + 1) * width
        row, to = added[begin:end], out[begin:end]
        if y.size:
            first, second = x[begin:end], y[begin:end]
            for j in range(width):
                row[j] = first[j] + second[j]
        else:
            row[:] = x[begin:end]
        sums = zeros8()
        for j in range(0, whole, 8):
            sums = add(sums, load8(row, j))
        mean = total(sums)
        for j in range(whole, width):
            mean += row[j]
        mean *= share
        minus, sums = every8(-mean), zeros8()
        for j in range(0, whole, 8):
            apart = add(load8(row, j), minus)
            sums = fma(apart, apart, sums)
        squares = total(sums)
        for j in range(whole, width):
            squares += (row[j] - mean) * (row[j] - mean)
        factor = np.float32(_ONE / np.sqrt(squares * share + np.float32(eps)))
        for j in range(width):
            to[j] = (row[j] - mean) * factor * weight[j] + bias[j]


@compiled
def activated(i: int, n_parts: int, y: Any, kind: int) -> None:
    """Part i of all numbers, in place."""
    row = y[i * y.size // n_parts : (i + 1) * y.size // n_parts]
    if kind == RELU:
        for j in range(row.size):
            row[j] = _ZERO if row[j] < _ZERO else row[j]
    elif kind == GELU:
        for j in range(row.size):
            x = row[j]
            a = abs(x) * _ROOT_HALF
            t = _ONE / (_ONE + _P * a)
            half = _HALF * (t * (_A1 + t * (_A2 + t * (_A3 + t * (_A4 + t * _A5)))) * exp(-a * a))
            row[j] = x * half if x < _ZERO else x * (_ONE - half)
    else:
        for j in range(row.size):
            x = row[j]
            row[j] = x / (_ONE + exp(-_TANH_A * (x + _TANH_B * x * x * x)))


_attend_on_team, _normed_on_team, _activated_on_team = on_team(attend), on_team(normed), on_team(activated)


@compiled
def mix(qkv: Any, shape: Any, mask: Any, steps: Any, room: Any, out: Any, wide: Any, where: int, n: int) -> None:
    """All of `attend`; room as for PARTS parts of each thread, or of one thread for one."""
    if n == 1:
        attend(0, 1, qkv, shape, mask, steps, room, out, wide)
    else:
        _attend_on_team(where, n, PARTS * n, (PARTS * n, qkv, shape, mask, steps, room, out, wide))


@compiled
def norm(x: Any, y: Any, weight: Any, bias: Any, eps: float, added: Any, out: Any, where: int, n: int) -> None:
    """All of `normed`."""
    if n == 1:
        normed(0, 1, x, y, weight, bias, eps, added, out)
    else:
        _normed_on_team(where, n, PARTS * n, (PARTS * n, x, y, weight, bias, eps, added, out))


@compiled
def activate(y: Any, kind: int, where: int, n: int) -> None:
    """All of `activated`."""
    if n == 1:
        activated(0, 1, y, kind)
    else:
        _activated_on_team(where, n, PARTS * n, (PARTS * n, y, kind))
