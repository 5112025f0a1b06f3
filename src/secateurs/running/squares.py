"""Squares: products of panels and slabs with many tokens where the CPU has AMX.

mask    as in panels.py; of slabs their `places`
kept, starts, scales, totals, units and bias as in panels.py
of      (steps of a row that share a scale, or of a block; how many of these a row has)
x       uint8: for each two tiles of tokens, each plane of their inputs and each square of weights the bytes of every
        token; the last square of a group may be a part
y       (tiles * tokens of a tile, 32 * panels): those of a part are written
shape   amx.shape_of(tokens of a tile, bytes of a square)
kinds   four tuples, of which the length counts:
        planes  of an input: of integers each 8 bits, of floats each a bfloat16
        apart   those whose sums are not the same: all of integers, of floats one
        pieces  of a weight: three bfloat16 of a float32, else one
        blocks  one of slabs, none of panels
curve   which of curves.py's activations follows

The 32 rows of a panel are spread into the first cache, a few squares at a time, and multiplied with two tiles of tokens
at once: four sums for four squares that are loaded, as many as the registers hold. The first two tiles are multiplied
while the next square is spread. Inputs come from the second cache; where they do not fit, tokens are taken in parts.
Of floats, inputs are three bfloat16, whose sum they are: what is left out of a product is less than 2**-24 of it.

No array is sliced, or put into a tuple, inside a loop: it would be counted as used, and to count has the CPU wait until
all that was written before is in the cache.
"""

from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.running.amx import begin, clear, end, inputs_from, multiply, plus, sums_from, sums_to, weights_from
from secateurs.running.curves import NONE, curved
from secateurs.running.panels import LINE, unit_of
from secateurs.running.team import on_team
from secateurs.running.wide import (
    AHEAD,
    PANEL,
    all_of,
    ask,
    begun,
    bits_at,
    bytes_of,
    finished,
    floats,
    halves_of,
    n_taken,
    put_pair,
    rows_at,
    scaled,
    scales_at,
    spread,
    store,
)

PARTS = 4  # of a thread: fewer than of panels, as each shapes registers and waits for its last sums
STEPS = 16  # of a whole square, each of 4 columns of int8 or 2 of bfloat16
SQUARES = STEPS * 2 * LINE  # bytes of two squares: of 32 rows
RING = 4  # squares that are there at once where the first tiles are the last
ROOM = 32 << 10  # bytes of weights that stay in the first cache
TOKENS = 1 << 20  # bytes of inputs that stay in the second
ONE, TWO = (0,), (0, 0)


@compiled
def squared(
    i: int,
    n_parts: int,
    mask: Any,
    kept: Any,
    starts: Any,
    scales: Any,
    totals: Any,
    of: Any,
    x: Any,
    units: Any,
    bias: Any,
    y: Any,
    shape: Any,
    kinds: Any,
    curve: int,
) -> None:
    """Part i of the panels with all tiles."""
    planes, apart, pieces, blocks = kinds
    width, n_groups = of
    n_panels, n_tokens, n_bytes, steps = starts.size - 1, int(shape[48]), int(shape[24]), _steps(shape, kinds)
    n_tiles, n_steps = units.size // n_tokens, mask.size // (2 * n_panels)
    n_squares = (width + steps - 1) // steps  # of a group, or of a block
    n_all = n_groups * n_squares
    sizes = n_tokens, n_bytes, n_all, n_panels
    n_pairs = max(1, min((n_tiles + 1) // 2, TOKENS // (2 * n_tokens * len(planes) * n_all * n_bytes)))
    is_ring = n_pairs == 1 and len(apart) == 1
    n_some = max(1, ROOM // (len(pieces) * SQUARES))
    where = np.empty(n_all, np.int64)
    room = np.empty((RING if is_ring else n_some) * len(pieces) * SQUARES + LINE, np.int8)
    room = room[-room.ctypes.data % LINE :]
    of_tile = n_tokens * PANEL
    of_sums = 2 * len(apart) * of_tile
    # Those of one pair are finished while others are multiplied.
    sums = np.empty((n_pairs + 1) * of_sums + LINE, np.int32)
    sums = sums[-sums.ctypes.data % LINE // 4 :]
    free, before = 0, (0, 0, 0, 0, 0)
    begin(shape)
    for first_tile in range(0, n_tiles, 2 * n_pairs):
        last_tile = min(n_tiles, first_tile + 2 * n_pairs)
        for panel in range(i * n_panels // n_parts, (i + 1) * n_panels // n_parts):
            at = starts[panel]
            for group in range(1 if len(blocks) else n_groups):
                if len(blocks):
                    of_block = width * PANEL * _columns(kinds)
                    first, n = at // of_block, (starts[panel + 1] - at) // of_block * n_squares
                    step, last_step = 0, n * steps
                    for square in range(n):
                        where[square] = mask[first + square // n_squares] * n_squares + square % n_squares
                else:
                    n, step = n_squares, panel * n_steps + group * width
                    last_step = panel * n_steps + min((group + 1) * width, n_steps)
                    for square in range(n):
                        where[square] = group * n_squares + square
                for square in range(0, max(1, n), n if is_ring and n else n_some):
                    n_now = n - square if is_ring else min(n_some, n - square)
                    steps_left, is_new = (step + square * steps, last_step, steps), square == 0
                    for tile in range(first_tile, last_tile, 2):
                        mine = (free + (tile - first_tile) // 2) % (n_pairs + 1) * of_sums
                        is_pair, these = tile + 1 < n_tiles, (tile, square, n_now, mine)
                        for own in range(len(apart)):
                            if own == 0 and tile == first_tile:
                                if is_pair:
                                    at = _first(
                                        TWO, mask, at, steps_left, is_new, these, room, kept, x, where, sums, sizes,
                                        kinds,
                                    )  # fmt: skip
                                else:
                                    at = _first(
                                        ONE, mask, at, steps_left, is_new, these, room, kept, x, where, sums, sizes,
                                        kinds,
                                    )  # fmt: skip
                            elif is_pair:
                                _further(TWO, own, is_new, these, room, kept, x, where, sums, sizes, kinds)
                            else:
                                _further(ONE, own, is_new, these, room, kept, x, where, sums, sizes, kinds)
                            # Before these sums are written: what is loaded waits for what is written 4096 bytes apart.
                            if own == 0:
                                _finished(before, sums, kept, scales, totals, units, bias, y, sizes, apart, curve)
                            if is_pair:
                                sums_to(TWO, sums, mine + own * 2 * of_tile, of_tile)
                            else:
                                sums_to(ONE, sums, mine + own * 2 * of_tile, of_tile)
                        before = panel, group, tile, min(2, n_tiles - tile) if square + n_now == n else 0, mine
                free = (free + n_pairs) % (n_pairs + 1)
    _finished(before, sums, kept, scales, totals, units, bias, y, sizes, apart, curve)
    end()


@compiled
def _columns(kinds: Any) -> int:
    """Of a step."""
    planes, apart, pieces, _ = kinds
    return 4 if len(apart) == len(planes) else 2 >> len(pieces) // 3


@compiled
def _steps(shape: Any, kinds: Any) -> int:
    """Of a square; two of float32, a column each, are one of bfloat16."""
    return int(shape[24]) // 4 << len(kinds[2]) // 3


@compiled
def _spread(room: Any, to: int, mask: Any, kept: Any, at: int, begin: int, end: int, steps: int, kinds: Any) -> int:
    """Steps that fill a square, or zeros behind them; where the next kept weights begin."""
    _, _, pieces, blocks = kinds
    apart = 2 * LINE >> len(pieces) // 3
    end = min(begin + steps, end)
    for j in range(begin, end, 2):
        there = to + (j - begin) * apart
        if len(blocks):
            n = LINE // kept.itemsize
            for line in range(4):
                ask(kept, at + line * n, AHEAD)
            put_pair(room, there, all_of(kept, at), all_of(kept, at + 2 * n), SQUARES)
            put_pair(room, there + LINE, all_of(kept, at + n), all_of(kept, at + 3 * n), SQUARES)
            at += 4 * n
        else:
            bits, more = bits_at(mask, 2 * j), bits_at(mask, 2 * j + 1)
            following, last = bits_at(mask, 2 * j + 2), bits_at(mask, 2 * j + 3)
            b = at + n_taken(kept, bits)
            c = b + n_taken(kept, more)
            d = c + n_taken(kept, following)
            ask(kept, at, AHEAD)
            ask(kept, c, AHEAD)
            put_pair(room, there, spread(kept, at, bits), spread(kept, c, following), SQUARES)
            put_pair(room, there + LINE, spread(kept, b, more), spread(kept, d, last), SQUARES)
            at = d + n_taken(kept, last)
    if end - begin < steps:
        for piece in range(len(pieces)):
            room[to + piece * SQUARES + (end - begin) * apart : to + (piece + 1) * SQUARES] = 0
    return at


@compiled
def _multiplied(
    pair: Any, place: int, square: int, own: int, tile: int, room: Any, kept: Any, x: Any, sizes: Any, kinds: Any
) -> None:
    """One square of weights, which is at this place of the room, with one or two tiles."""
    planes, apart, pieces, _ = kinds
    n_tokens, n_bytes, n_all, _ = sizes
    n_planes, n_added = len(planes), len(planes) // len(apart)
    of_square = n_tokens * n_bytes
    for piece in range(len(pieces)):
        weights_from(room, (place * len(pieces) + piece) * SQUARES)
        for plane in range(own * n_added, (own + 1) * n_added - piece):
            at = ((tile // 2 * n_planes + plane) * n_all + square) * 2 * of_square
            inputs_from(pair, x, at, n_bytes, of_square)
            multiply(pair, kept)


@compiled
def _first(
    pair: Any,
    mask: Any,
    at: int,
    steps_left: Any,
    is_new: bool,
    these: Any,
    room: Any,
    kept: Any,
    x: Any,
    where: Any,
    sums: Any,
    sizes: Any,
    kinds: Any,
) -> int:
    """The first tiles with some squares, each of which they are multiplied with after the next is spread.

    these  the first tile; the first square, and how many, in `where`; where their sums begin
    """
    of_square = len(kinds[2]) * SQUARES
    begin, end, steps = steps_left
    tile, first, n, mine = these
    ring = room.size // of_square
    _begun(pair, 0, is_new, mine, sums, sizes)
    for square in range(n):
        to = square % ring * of_square
        at = _spread(room, to, mask, kept, at, begin + square * steps, end, steps, kinds)
        if square:
            before = where[first + square - 1]
            _multiplied(pair, (square - 1) % ring, before, 0, tile, room, kept, x, sizes, kinds)
    if n:
        _multiplied(pair, (n - 1) % ring, where[first + n - 1], 0, tile, room, kept, x, sizes, kinds)
    return at


@compiled
def _further(
    pair: Any,
    own: int,
    is_new: bool,
    these: Any,
    room: Any,
    kept: Any,
    x: Any,
    where: Any,
    sums: Any,
    sizes: Any,
    kinds: Any,
) -> None:
    """Tiles with squares that are all spread."""
    tile, first, n, mine = these
    _begun(pair, own, is_new, mine, sums, sizes)
    for square in range(n):
        _multiplied(pair, square, where[first + square], own, tile, room, kept, x, sizes, kinds)


@compiled
def _begun(pair: Any, own: int, is_new: bool, mine: int, sums: Any, sizes: Any) -> None:
    of_tile = sizes[0] * PANEL
    if is_new:
        clear(pair)
    else:
        sums_from(pair, sums, mine + own * 2 * of_tile, of_tile)


@compiled
def _finished(
    which: Any,
    sums: Any,
    kept: Any,
    scales: Any,
    totals: Any,
    units: Any,
    bias: Any,
    y: Any,
    sizes: Any,
    apart: Any,
    curve: int,
) -> None:
    """What came of a group is added to y.

    which  its panel, its number, the first tile and how many, and where their sums begin
    """
    panel, group, tile, n_tiles, mine = which
    if n_tiles == 0:
        return
    n_tokens, _, _, n_panels = sizes
    n_groups, row, stride = scales.size // (PANEL * n_panels), PANEL * panel, PANEL * n_panels
    of_group = PANEL * (panel * n_groups + group)
    none, by, added = begun(apart, ONE, kept, totals, of_group), scales_at(scales, of_group), rows_at(bias, row)
    for t in range(n_tiles * n_tokens):
        token = tile * n_tokens + t
        there = token * stride + row
        whole = rows_at(y, there) if group else floats(ONE)
        whole = scaled(whole, plus(none, sums, mine + t * PANEL, 2 * n_tokens * PANEL), by)
        if group == n_groups - 1:
            whole = finished(whole, units, token, added)
            if curve != NONE:
                whole = curved(whole[0], curve), curved(whole[1], curve)
        store(y, there, stride, whole)


@compiled
def laid(
    i: int, n_parts: int, tokens: Any, columns: int, of_group: int, x: Any, units: Any, shape: Any, kinds: Any
) -> None:
    """Part i of the tokens becomes x and units.

    tokens    (n * columns,) float32; 16 divides the columns
    of_group  columns of a group, or of a block
    """
    planes, apart, _, _ = kinds
    n_planes, n_tokens, n_bytes, n = len(planes), int(shape[48]), int(shape[24]), tokens.size // columns
    is_integer = len(apart) == n_planes
    in_square = n_bytes if is_integer else n_bytes // 2  # columns
    n_squares, of_square = (of_group + in_square - 1) // in_square, n_tokens * n_bytes
    n_groups = (columns + of_group - 1) // of_group
    of_plane = n_groups * n_squares * 2 * of_square
    for t in range(i * n // n_parts, (i + 1) * n // n_parts):
        tile, place = t // n_tokens, t % n_tokens
        unit = unit_of(tokens, t * columns, columns, 8 * n_planes if is_integer else 2)
        units[t] = unit
        if np.isnan(unit):
            continue
        begin = tile // 2 * n_planes * of_plane + (tile % 2 * n_tokens + place) * n_bytes
        factor = np.float32(1) / unit
        for group in range(n_groups):
            end, to = min((group + 1) * of_group, columns), begin + group * n_squares * 2 * of_square
            for first in range(group * of_group, end, in_square):
                for column in range(first, min(first + in_square, end), 16):
                    if is_integer:
                        bytes_of(tokens, t * columns + column, factor, x, to + column - first, of_plane, planes)
                    else:
                        halves_of(tokens, t * columns + column, factor, x, to + 2 * (column - first), of_plane, planes)
                to += 2 * of_square


@compiled
def placed(known: Any, tokens: Any, columns: int, n_padded: int, shape: Any, kinds: Any, curve: int) -> tuple[Any, Any]:
    """x and units of n_padded tokens, on one thread; arguments as of `run`."""
    x, units = _room(known, columns, n_padded, shape, kinds)
    laid(0, 1, tokens, columns, known[5][0] * _columns(kinds), x, units, shape, kinds)
    return x, units


@compiled
def _room(known: Any, columns: int, n_padded: int, shape: Any, kinds: Any) -> tuple[Any, Any]:
    planes, apart, _, _ = kinds
    n_tokens, n_bytes, steps = int(shape[48]), int(shape[24]), _steps(shape, kinds)
    width, n_groups = known[5]
    n_squares = n_groups * ((width + steps - 1) // steps)
    x = np.empty((n_padded // n_tokens + 1) // 2 * 2 * n_tokens * len(planes) * n_squares * n_bytes + LINE, np.uint8)
    x = x[-x.ctypes.data % LINE :]
    if len(apart) < len(planes) and n_squares * n_bytes // 2 != columns:
        x[:] = 0  # what fills up squares is multiplied with zeros, and must not be NaN
    return x, np.zeros(n_padded, np.float32)


@compiled
def run(
    known: Any, tokens: Any, columns: int, bias: Any, y: Any, shape: Any, kinds: Any, curve: int, where: int, n: int
) -> None:
    """All of `squared`, on n threads.

    known   its arguments from `mask` to `of`
    tokens  (n * columns,) float32; 16 divides the columns
    where   team.address(), which one thread does not need
    """
    n_panels = known[2].size - 1
    x, units = _room(known, columns, y.size // (PANEL * n_panels), shape, kinds)
    given = tokens, columns, known[5][0] * _columns(kinds), x, units, shape, kinds
    if n == 1:
        laid(0, 1, *given)
        squared(0, 1, *known, x, units, bias, y, shape, kinds, curve)  # type: ignore[call-arg]
    else:
        _laid_on_team(where, n, n, (n, *given))
        n_parts = min(n_panels, PARTS * n)
        _squared_on_team(where, n, n_parts, (n_parts, *known, x, units, bias, y, shape, kinds, curve))


_laid_on_team, _squared_on_team = on_team(laid), on_team(squared)
