"""Encoding: what a layer of a transformer does between its products, in compiled loops: attention, norms, activation.

    mix(qkv, shape, mask, steps, room, out, where, n)              # attention
    norm(x, y, weight, bias, eps, added, out, where, n)            # added = x + y; out: its layer norm
    activate(y, kind, where, n)                                    # in place

All arrays are float32 and flat, one token after the other. n is how many threads, `where` team.address(), which one
thread does not need.
"""

from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.running.curves import (
    curved,
    every,
    exp,
    highest,
    inverse,
    put,
    put_some,
    some_of,
    total,
)
from secateurs.running.many import turn
from secateurs.running.team import on_team
from secateurs.running.wide import PANEL, ROWS, all_of, floats, step, store

TILE = (0,) * 8  # keys, or columns, whose products with 32 queries stay in registers
PARTS = 4  # of a thread: one that is held up leaves its parts to the others

_ONE, _ZERO = np.float32(1.0), np.float32(0.0)
_LEAST = np.float32(-np.inf)


def room_of(shape: tuple[int, int, int, int, int]) -> int:
    """How many numbers of scratch `attend` wants for each part."""
    _, n_keys, _, _, dim = shape
    keys, columns = (-(-each // len(TILE)) * len(TILE) for each in (n_keys, dim))
    return PANEL * dim + keys * dim + n_keys * columns + keys * PANEL + columns * PANEL + PANEL


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
    whole = rest[:PANEL]
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
            for j in range(0, queries.size, ROWS):
                put(queries, j, all_of(queries, j) * every(scale))
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
            _soften(scores[: n_keys * PANEL], whole)
            for tile in range(n_tiles):
                sums = floats(wide)
                for j in range(n_keys):
                    weights, others = all_of(scores, PANEL * j), all_of(scores, PANEL * j + ROWS)
                    sums = step(sums, weights, others, values, j * padded + tile * n_wide)
                store(mixed, tile * n_wide * PANEL, PANEL, sums)
            low, high = inverse(all_of(whole, 0)), inverse(all_of(whole, ROWS))
            for j in range(0, dim * PANEL, PANEL):
                put(mixed, j, all_of(mixed, j) * low)
                put(mixed, j + ROWS, all_of(mixed, j + ROWS) * high)
            turn(mixed, dim, n, PANEL, out[(sequence * n_queries + query) * width + head * dim :], width)


@compiled
def _soften(scores: Any, whole: Any) -> None:
    """(keys, 32) scores become exponentials of what each is below the largest of its query; whole: their sums."""
    for side in range(0, PANEL, ROWS):
        largest, sums = every(_LEAST), every(_ZERO)
        for j in range(side, scores.size, PANEL):
            largest = highest(all_of(scores, j), largest)
        for j in range(side, scores.size, PANEL):
            found = exp(all_of(scores, j) - largest)
            put(scores, j, found)
            sums = sums + found
        put(whole, side, sums)


@compiled
def normed(i: int, n_parts: int, x: Any, y: Any, weight: Any, bias: Any, eps: float, added: Any, out: Any) -> None:
    """Part i of all tokens: added = x + y, or x where y is empty; out = (added - mean) / deviation * weight + bias."""
    width = weight.size
    n, whole, share = x.size // width, width // ROWS * ROWS, _ONE / np.float32(width)
    rest = width - whole
    for token in range(i * n // n_parts, (i + 1) * n // n_parts):
        begin = token * width
        end = begin + whole
        sums = every(_ZERO)
        for j in range(begin, end, ROWS):
            found = all_of(x, j) + all_of(y, j) if y.size else all_of(x, j)
            put(added, j, found)
            sums = sums + found
        if rest:
            found = some_of(x, end, rest) + some_of(y, end, rest) if y.size else some_of(x, end, rest)
            put_some(added, end, rest, found)
            sums = sums + found
        mean = total(sums) * share
        middle, sums = every(mean), every(_ZERO)
        for j in range(begin, end, ROWS):
            apart = all_of(added, j) - middle
            sums = sums + apart * apart
        squares = total(sums)
        for j in range(end, begin + width):
            squares += (added[j] - mean) * (added[j] - mean)
        factor = every(np.float32(_ONE / np.sqrt(squares * share + np.float32(eps))))
        for j in range(0, whole, ROWS):
            found = (all_of(added, begin + j) - middle) * factor
            put(out, begin + j, found * all_of(weight, j) + all_of(bias, j))
        if rest:
            found = (some_of(added, end, rest) - middle) * factor
            found = found * some_of(weight, whole, rest) + some_of(bias, whole, rest)
            put_some(out, end, rest, found)


@compiled
def activated(i: int, n_parts: int, y: Any, kind: int) -> None:
    """Part i of all numbers, in place."""
    row = y[i * y.size // n_parts : (i + 1) * y.size // n_parts]
    end = row.size // ROWS * ROWS
    for j in range(0, end, ROWS):
        put(row, j, curved(all_of(row, j), kind))
    if end < row.size:
        put_some(row, end, row.size - end, curved(some_of(row, end, row.size - end), kind))


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
