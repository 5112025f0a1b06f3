"""Panels: products of a packed weight whose rows stand 32 side by side, with any number of tokens.

mask    (panels * steps * 2,): which weights of the first and the last 16 rows, and 1 (float32: uint16), 2 (bfloat16:
        uint32) or 4 columns (int8 and int4: uint64), are kept; bits as `wide.spread` has them
kept    in that order; int4 begins each 16 rows with a whole byte; 64 bytes behind the last may be read
starts  (panels + 1,) int64: where each panel's kept weights begin
scales  (panels * groups * 32,) bfloat16 as uint16; `width` steps share one
totals  (panels * groups * 32,) int32, or int16 where `ready` says so: of integers, the sums of a row's kept weights
x       (tiles * steps * words of a step,) uint32: for each column the tokens of a tile, float32; or, for integers, for
        each step what `rounded` made of the tokens of a tile
bias    (panels * 32,) float32
units   (tiles * tokens of a tile,) float32: what the sums of a token are multiplied by in the end
y       (tokens, 32 * panels): those of a part are written

Weights are spread once for all tokens of a tile, whose sums stay in registers: two for each token; for many tiles, once
for all of them, into the cache. What is not kept is multiplied like the rest, but takes no byte; blocks that are not
kept take no time either.

The inputs of integer weights are unsigned: the highest byte of each is more than it stands for by 128. So sums begin
with -128 times the total of the weights.
"""

from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.running.many import turn
from secateurs.running.team import on_team
from secateurs.running.wide import (
    AHEAD,
    PANEL,
    ROWS,
    add,
    all_of,
    ask,
    begun,
    bits_at,
    bytes_of,
    finished,
    floats,
    got,
    larger,
    largest,
    n_taken,
    put,
    rows_at,
    scaled,
    scales_at,
    sizes,
    soon,
    soon_masked,
    spread,
    step,
    store,
    zeros,
)

LINE = 64  # bytes of a vector
PARTS = 16  # of a thread: one that is held up leaves its parts to the others


@compiled
def product(
    i: int,
    n_parts: int,
    mask: Any,
    kept: Any,
    starts: Any,
    scales: Any,
    totals: Any,
    width: int,
    x: Any,
    units: Any,
    bias: Any,
    y: Any,
    wide: Any,
    parts: Any,
) -> None:
    """One tile with part i of the panels.

    wide, parts  tuples as long as a tile has tokens, and as a step has sums for each half
    """
    n_panels = starts.size - 1
    n_steps = mask.size // (2 * n_panels)
    n_groups, of_step = (n_steps + width - 1) // width, x.size // n_steps  # 4 divides both
    for panel in range(i * n_panels // n_parts, (i + 1) * n_panels // n_parts):
        at, whole = starts[panel], floats(wide)
        for group in range(n_groups):
            a = begun(parts, wide, kept, totals, PANEL * (panel * n_groups + group))
            b, c, d = zeros(parts, kept), zeros(parts, kept), zeros(parts, kept)
            begin, end = group * width, min((group + 1) * width, n_steps)
            if len(parts) < 3:  # each step would wait for the sums of the last
                for j in range(begin, end, 4):
                    here, there = 2 * (panel * n_steps + j), j * of_step
                    a, at = both(a, mask, here, kept, at, x, there)
                    b, at = both(b, mask, here + 2, kept, at, x, there + of_step)
                    c, at = both(c, mask, here + 4, kept, at, x, there + 2 * of_step)
                    d, at = both(d, mask, here + 6, kept, at, x, there + 3 * of_step)
            else:
                for j in range(begin, end):
                    a, at = both(a, mask, 2 * (panel * n_steps + j), kept, at, x, j * of_step)
            a = add(add(a, b), add(c, d))
            whole = scaled(whole, a, scales_at(scales, PANEL * (panel * n_groups + group)))
        store(y, PANEL * panel, PANEL * n_panels, finished(whole, units, 0, rows_at(bias, PANEL * panel)))


@compiled
def both(sums: Any, mask: Any, here: int, kept: Any, at: int, x: Any, there: int) -> tuple[Any, int]:
    """One step of both halves of a panel; the sums, and where the next kept weights begin."""
    bits, more = bits_at(mask, here), bits_at(mask, here + 1)
    middle = at + n_taken(kept, bits)
    soon(kept, at)
    soon_masked(mask, here)
    sums = step(sums, spread(kept, at, bits), spread(kept, middle, more), x, there)
    return sums, middle + n_taken(kept, more)


@compiled
def expanded(
    i: int,
    n_parts: int,
    mask: Any,
    kept: Any,
    starts: Any,
    scales: Any,
    totals: Any,
    width: int,
    x: Any,
    units: Any,
    bias: Any,
    y: Any,
    wide: Any,
    parts: Any,
) -> None:
    """All tiles; each panel is spread into the cache before them."""
    n_panels, n_tokens = starts.size - 1, len(wide)
    n_steps, n_tiles = mask.size // (2 * n_panels), units.size // n_tokens
    n_groups, of_step = (n_steps + width - 1) // width, x.size // (n_tiles * n_steps)
    room = np.empty(2 * LINE * n_steps + LINE, np.int8)
    room = room[-room.ctypes.data % LINE :]
    for panel in range(i * n_panels // n_parts, (i + 1) * n_panels // n_parts):
        at = starts[panel]
        for j in range(n_steps):
            here = 2 * (panel * n_steps + j)
            bits, more = bits_at(mask, here), bits_at(mask, here + 1)
            middle = at + n_taken(kept, bits)
            ask(kept, at, AHEAD)  # from the second cache
            put(room, 2 * LINE * j, spread(kept, at, bits))
            put(room, 2 * LINE * j + LINE, spread(kept, middle, more))
            at = middle + n_taken(kept, more)
        for tile in range(n_tiles):
            whole = floats(wide)
            for group in range(n_groups):
                sums = begun(parts, wide, kept, totals, PANEL * (panel * n_groups + group))
                for j in range(group * width, min((group + 1) * width, n_steps)):
                    one, other = got(room, 2 * LINE * j, kept), got(room, 2 * LINE * j + LINE, kept)
                    ask(mask, 2 * ((panel + 1) * n_steps + j), 0)  # of the next panel, while this one is multiplied
                    ask(kept, at, LINE * j)
                    sums = step(sums, one, other, x, (tile * n_steps + j) * of_step)
                whole = scaled(whole, sums, scales_at(scales, PANEL * (panel * n_groups + group)))
            whole = finished(whole, units, tile * n_tokens, rows_at(bias, PANEL * panel))
            store(y, PANEL * (tile * n_tokens * n_panels + panel), PANEL * n_panels, whole)


@compiled
def by_block(
    i: int,
    n_parts: int,
    places: Any,
    kept: Any,
    starts: Any,
    scales: Any,
    totals: Any,
    w: int,
    columns: int,
    n_steps: int,
    x: Any,
    units: Any,
    bias: Any,
    y: Any,
    wide: Any,
    parts: Any,
) -> None:
    """The same of kept blocks of 32 rows and w columns, which 16 divides, with one scale for a row.

    places   the block column of each
    kept     panel by panel, block after block, each in the order of `product`
    columns  of a step, of which all columns have n_steps
    """
    n_panels, n_tokens = starts.size - 1, len(wide)
    n_tiles, half, of_block = units.size // n_tokens, ROWS * columns, w // columns
    words = x.size // (n_tiles * n_steps)
    for panel in range(i * n_panels // n_parts, (i + 1) * n_panels // n_parts):
        for tile in range(n_tiles):
            at, whole = starts[panel], floats(wide)
            a, b = begun(parts, wide, kept, totals, PANEL * panel), zeros(parts, kept)
            for block in range(starts[panel] // (PANEL * w), starts[panel + 1] // (PANEL * w)):
                there = (tile * n_steps + np.int64(places[block]) * of_block) * words
                if len(parts) < 3:
                    for j in range(0, of_block, 2):
                        soon(kept, at)
                        a = step(a, all_of(kept, at), all_of(kept, at + half), x, there + j * words)
                        at += 2 * half
                        soon(kept, at)
                        b = step(b, all_of(kept, at), all_of(kept, at + half), x, there + (j + 1) * words)
                        at += 2 * half
                else:
                    for j in range(of_block):
                        soon(kept, at)
                        a = step(a, all_of(kept, at), all_of(kept, at + half), x, there + j * words)
                        at += 2 * half
            whole = scaled(whole, add(a, b), scales_at(scales, PANEL * panel))
            whole = finished(whole, units, tile * n_tokens, rows_at(bias, PANEL * panel))
            store(y, PANEL * (tile * n_tokens * n_panels + panel), PANEL * n_panels, whole)


@compiled
def unit_of(tokens: Any, first: int, columns: int, n_bits: int) -> Any:
    """What the inputs of the token that begins at tokens[first] become multiples of; NaN where one is not finite.

    For 8 bits its largest by 127; else a power of two, of which the largest is less than 2**(n_bits - 1) times as much.
    """
    most = sizes(tokens, first)
    for column in range(16, columns, 16):
        most = larger(most, sizes(tokens, first + column))
    size = largest(most)
    if size >= 0x7F800000:
        return np.float32(np.nan)
    size = max(size, 0x0B800000)  # 2**-104, of whose unit, 2**-126, there is an inverse
    if n_bits == 8:
        return np.int32(size).view(np.float32) / np.float32(127)
    return np.int32(((size >> 23) - n_bits + 2) << 23).view(np.float32)


@compiled
def rounded(tokens: Any, columns: int, x: Any, units: Any, n_tokens: int, planes: Any) -> None:
    """Inputs as integers of 8 len(planes) bits, for int8 weights: x and units of all tiles.

    tokens   (tokens * columns,) float32; 16 divides the columns
    x        filled with 128 in every byte, which stand for zero

    Of 8 bits 127 is the largest input of a token; of more, one is a power of two, so that as many whole numbers as fit
    stay what they are. A token that is not finite becomes NaN.
    """
    n_planes, words = len(planes), columns // 4
    part, n = n_tokens * n_planes, tokens.size // columns
    found = np.full(part * columns, 128, np.uint8)  # of one tile: (token, plane, column)
    for first in range(0, n, n_tokens):
        last = min(first + n_tokens, n)
        for t in range(first, last):
            unit, to = unit_of(tokens, t * columns, columns, 8 * n_planes), (t - first) * n_planes * columns
            units[t] = unit
            if np.isnan(unit):
                found[to : to + n_planes * columns] = 128
                continue
            for column in range(0, columns, 16):
                bytes_of(tokens, t * columns + column, np.float32(1) / unit, found, to + column, columns, planes)
        turn(found.view(np.uint32), (last - first) * n_planes, words, words, x[first * n_planes * words :], part)


@compiled
def placed(known: Any, tokens: Any, columns: int, n_padded: int, wide: Any, parts: Any, planes: Any) -> tuple[Any, Any]:
    """x and units of n_padded tokens, the last of which may be none; arguments as of `run`.

    tokens  (n * columns,) float32; 16 divides the columns
    planes  as long as an input has bytes where weights are integers, else empty
    """
    n_tokens = len(wide)
    if len(planes):
        x, units = np.full(n_padded * columns // 4 * len(planes), 0x80808080, np.uint32), np.zeros(n_padded, np.float32)
        rounded(tokens, columns, x, units, n_tokens, planes)
    else:
        x, units = tokens.view(np.uint32), np.ones(n_padded, np.float32)
        if n_tokens > 1:
            source, x = x, np.zeros(n_padded * columns, np.uint32)
            for first in range(0, tokens.size // columns, n_tokens):
                n = min(n_tokens, tokens.size // columns - first)
                turn(source[first * columns :], n, columns, columns, x[first * columns :], n_tokens)
    return x, units


@compiled
def run(
    known: Any, tokens: Any, columns: int, bias: Any, y: Any, wide: Any, parts: Any, planes: Any, where: int, n: int
) -> None:
    """All of `product`, on n threads: few steps in Python, where a small product would spend most of its time.

    known  its arguments from `mask` to `width`
    where  team.address(), which one thread does not need
    """
    n_panels = known[2].size - 1
    x, units = placed(known, tokens, columns, y.size // (PANEL * n_panels), wide, parts, planes)
    if n == 1:
        product(0, 1, *known, x, units, bias, y, wide, parts)  # type: ignore[call-arg]
    else:
        n_parts = min(n_panels, PARTS * n)
        _product_on_team(where, n, n_parts, (n_parts, *known, x, units, bias, y, wide, parts))


@compiled
def run_expanded(
    known: Any, tokens: Any, columns: int, bias: Any, y: Any, wide: Any, parts: Any, planes: Any, where: int, n: int
) -> None:
    """The same of `expanded`."""
    n_panels = known[2].size - 1
    x, units = placed(known, tokens, columns, y.size // (PANEL * n_panels), wide, parts, planes)
    if n == 1:
        expanded(0, 1, *known, x, units, bias, y, wide, parts)  # type: ignore[call-arg]
    else:
        n_parts = min(n_panels, PARTS * n)
        _expanded_on_team(where, n, n_parts, (n_parts, *known, x, units, bias, y, wide, parts))


@compiled
def run_by_block(
    known: Any, tokens: Any, columns: int, bias: Any, y: Any, wide: Any, parts: Any, planes: Any, where: int, n: int
) -> None:
    """The same of `by_block`; known are its arguments from `places` to `n_steps`."""
    n_panels = known[2].size - 1
    x, units = placed(known, tokens, columns, y.size // (PANEL * n_panels), wide, parts, planes)
    if n == 1:
        by_block(0, 1, *known, x, units, bias, y, wide, parts)  # type: ignore[call-arg]
    else:
        n_parts = min(n_panels, PARTS * n)
        _by_block_on_team(where, n, n_parts, (n_parts, *known, x, units, bias, y, wide, parts))


_product_on_team, _expanded_on_team, _by_block_on_team = on_team(product), on_team(expanded), on_team(by_block)
