"""Products: y = x W^T + bias with a ready weight, for any number of tokens; which loop runs, on how many threads."""

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.running import few, many, panels, squares
from secateurs.running.amx import shape_of
from secateurs.running.curves import NONE
from secateurs.running.encoding import activate
from secateurs.running.features import has_amx
from secateurs.running.instructions import tile
from secateurs.running.ready import Bits, Left, Listed, Panels, Ready, Slabs, Tiled, is_integer
from secateurs.running.team import address
from secateurs.running.together import n_threads, together
from secateurs.running.wide import ROWS

Floats = np.ndarray[Any, np.dtype[np.float32]]
Tile = tuple[int, int, tuple[int, ...], Floats, Floats]  # (first token, tokens, width, x, y)

FEW = 4  # tokens that one loop over the weight serves
WIDTHS = (8, 16, 32, 64)  # tokens of a tile
PANEL_WIDTHS = (1, 2, 4, 8, 12)  # the same, of Panels
REGISTERS = 12  # sums of a tile that there is room for
SPREADING = 4  # products of 16 that spreading weights takes as long as
PARTS = 4  # of each thread: one that is held up leaves its parts to the others
AT_ONCE = 1 << 20  # bytes of float32 weights that are made of others together
GROUPS_FROM, GROUP_STEPS = 16, 64  # tokens from which on squares are faster for groups of so many steps
# And where a row has one scale.
SQUARES_FROM: dict[tuple[type[Ready], str], int] = {
    (Panels, "int8"): 4,
    (Panels, "uint8"): 4,
    (Panels, "uint16"): 4,
    (Panels, "float32"): 12,
    (Slabs, "int8"): 8,
    (Slabs, "uint8"): 8,
    (Slabs, "uint16"): 8,
    (Slabs, "float32"): 16,
}
FASTER = 4  # products of 16 in the time of one with a square
ALONE_NUMBERS = 20_000  # that one thread is done with before a second would have begun
ALONE = 400_000  # kept weights times tiles that one thread is done with before a second would have begun
ALONE_PANELS = 200_000  # of Panels: steps times the sums of one


def product(weight: Ready, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias, computed in float32.

    x        (..., columns), any strides, floating, on the CPU
    bias     (rows,)
    returns  (..., rows) in x's dtype
    """
    if x.shape[-1:] != (weight.columns,):
        raise InputError(
            f"The weight has {weight.columns} columns; x is {tuple(x.shape)}. Its last dimension must match."
        )
    if not x.is_cpu or not x.is_floating_point():
        raise InputError(f"Packed weights run on the CPU with floating inputs; x is {x.dtype} on {x.device}.")
    # Steps of torch are saved where they can be: one token of a small layer takes less than ten of them.
    floats = x.detach() if x.requires_grad else x
    if x.dtype != torch.float32:
        floats = floats.float()
    n = prod(x.shape[:-1])
    tokens: Floats = (floats if floats.is_contiguous() else floats.contiguous()).numpy().reshape(n, weight.columns)
    added = _NOTHING if bias is None else _as_floats(bias)
    if bias is not None and added.shape != (weight.rows,):
        raise InputError(
            f"The weight has {weight.rows} rows; the bias is {tuple(added.shape)}. It needs one for each row."
        )
    y = multiplied(weight, tokens, added)
    found = torch.from_numpy(y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.rows))
    return found if x.dtype == torch.float32 else found.to(x.dtype)


def multiplied(weight: Ready, tokens: Floats, bias: Floats, curve: int = NONE) -> Floats:
    """The product, contiguous, and one of curves.py's activations of it.

    tokens   (n, columns), contiguous
    bias     (rows,), or empty
    returns  (n, rows)
    """
    if weight.columns == 0 or tokens.size == 0 or weight.rows == 0:
        y = np.zeros((len(tokens), weight.rows), np.float32)
    elif isinstance(weight, Panels | Slabs):
        return _panels(weight, tokens, bias, curve)
    elif isinstance(weight, Left):
        y = _left(weight, np.take(tokens, weight.places, axis=1))
    elif len(tokens) <= FEW and not isinstance(weight, Tiled):
        y = _few(weight, tokens)
    else:
        y = _many(weight, tokens)
    if bias.size:
        y += bias
    return _curved(y, curve)


def _curved(y: Floats, curve: int) -> Floats:
    if curve != NONE:
        activate(y.reshape(-1), curve, *team_for(y.size))
    return y


def team_for(n: int) -> tuple[int, int]:
    """(where torch's team is, how many threads) for a loop over n numbers; (0, 1) without one."""
    threads = n_threads() if n > ALONE_NUMBERS else 1
    where = address() if threads > 1 else 0
    return where, threads if where else 1


_NOTHING: Floats = np.zeros(0, np.float32)


def _as_floats(bias: Tensor) -> Floats:
    found = bias.detach() if bias.requires_grad else bias
    if found.dtype != torch.float32 or not found.is_cpu:
        found = found.float().cpu()
    floats: Floats = found.numpy()
    return floats


def product_beside(weight: Ready, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product for tokens that stand side by side, as the loops for many want them: W x + bias.

    x        (columns, tokens), or several of them (n, columns, tokens)
    returns  (rows, tokens), or (n, rows, tokens), in x's dtype
    """
    if x.shape[-1] <= FEW or isinstance(weight, Left | Panels | Slabs) or weight.columns == 0 or weight.rows == 0:
        return product(weight, x.transpose(-1, -2), bias).transpose(-1, -2).contiguous()
    whole = x.detach().float().numpy().reshape(-1, *x.shape[-2:])
    out = np.empty((len(whole), weight.rows, x.shape[-1]), np.float32)
    for tokens, y in zip(whole, out, strict=True):
        tiles = []
        for first, n, width in _tiles(x.shape[-1]):
            taken = (np.empty if n == width else np.zeros)((weight.columns, width), np.float32)
            taken[:, :n] = tokens[:, first : first + n]
            tiles.append((first, n, tile(width), taken.reshape(-1), np.empty(weight.rows * width, np.float32)))
        _rows(weight, 8 * len(tiles), partial(_by_tile_beside, weight, tiles, y))
    if bias is not None:
        out += _as_floats(bias)[:, None]
    return torch.from_numpy(out.reshape(*x.shape[:-2], *out.shape[1:])).to(x.dtype)


def _panels(weight: Panels | Slabs, tokens: Floats, bias: Floats, curve: int) -> Floats:
    n, columns = len(tokens), weight.padded_columns
    is_squared = has_amx() and bool(weight.n_planes) and n >= _squares_from(weight)
    loops = _squares_for(weight, n, curve) if is_squared else _panels_for(weight, n)
    y = np.empty((-(-n // loops.n_tokens) * loops.n_tokens, weight.padded_rows), np.float32)
    flat = (tokens if weight.columns == columns else _padded(tokens, 16)).reshape(-1)
    threads = n_threads()
    if threads > 1 and weight.n_steps * loops.work < ALONE_PANELS:
        threads = 1
    where = address() if threads > 1 else 0
    if bias.size != weight.padded_rows:
        bias = np.concatenate([bias, np.zeros(weight.padded_rows - bias.size, np.float32)])
    out = y.reshape(-1)
    if where or threads == 1:
        loops.whole(loops.known, flat, columns, bias, out, *loops.given, where, threads)
    else:
        x, units = loops.placed(loops.known, flat, columns, len(y), *loops.given)
        n_parts = min(weight.starts.size - 1, PARTS * threads)
        given = n_parts, *loops.known, x, units, bias, out, *loops.told
        together([partial(loops.part, i, *given) for i in range(n_parts)], threads)
    if not is_squared:
        _curved(y, curve)
    return y if y.shape == (n, weight.rows) else np.ascontiguousarray(y[:n, : weight.rows])


def _squares_from(weight: Panels | Slabs) -> int:
    """From how many tokens on squares are faster: after each group of columns all sums are written and read."""
    width, n_groups = weight.squares.known[5]
    if n_groups == 1 or isinstance(weight, Slabs):
        return SQUARES_FROM[type(weight), weight.kept.dtype.name]
    return GROUPS_FROM if width >= GROUP_STEPS else sys.maxsize


class Loops(NamedTuple):
    """What runs some tokens of a weight.

    n_tokens  of a tile
    work      for each step of the weight, in products of 16
    known     of the weight
    whole     all of it, on one's own thread or on torch's
    given     what that, and `placed`, are told of a tile
    placed    the inputs, as `part` reads them
    part      one of several, on Python's threads
    told      what that is told of a tile
    """

    n_tokens: int
    work: int
    known: tuple[Any, ...]
    whole: Callable[..., None]
    given: tuple[Any, ...]
    placed: Callable[..., Any]
    part: Callable[..., None]
    told: tuple[Any, ...]


def _panels_for(weight: Panels | Slabs, n: int) -> Loops:
    wide, parts, planes = _tile_of(n, weight.n_planes if is_integer(weight) else 0)
    n_tiles = -(-n // len(wide))
    whole, part = _LOOPS[type(weight), n_tiles > 1]
    work, given = n_tiles * (SPREADING + len(parts)), (wide, parts, planes)
    return Loops(len(wide), work, weight.known, whole, given, panels.placed, part, given[:2])


def _squares_for(weight: Panels | Slabs, n: int, curve: int) -> Loops:
    n_tokens = -(-n // -(-n // ROWS))
    found = weight.squares
    given = _shape(n_tokens, found.n_bytes), found.kinds, curve
    planes, _, pieces, _ = found.kinds
    work = SPREADING + n * len(planes) * len(pieces) // FASTER
    return Loops(n_tokens, work, found.known, squares.run, given, squares.placed, squares.squared, given)


_shape = cache(shape_of)


# On one's own threads or on torch's; and on Python's.
_LOOPS: dict[tuple[type[Ready], bool], tuple[Callable[..., None], Callable[..., None]]] = {
    (Panels, False): (panels.run, panels.product),
    (Panels, True): (panels.run_expanded, panels.expanded),
    (Slabs, False): (panels.run_by_block, panels.by_block),
    (Slabs, True): (panels.run_by_block, panels.by_block),
}


@cache
def _tile_of(n: int, n_planes: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """What `panels.product` and `placed` are told a tile by, with which n tokens take least."""
    of_token = max(1, n_planes)
    some = [width for width in PANEL_WIDTHS if width * of_token <= REGISTERS]
    width = min(some, key=lambda width: -(-n // width) * (SPREADING + width * of_token))
    return (0,) * width, (0,) * (width * of_token), (0,) * n_planes


def _few(weight: Ready, tokens: Floats) -> Floats:
    n, columns = len(tokens), 32 * weight.stride
    if isinstance(weight, Bits) and n > 1:
        x, y = np.zeros((FEW, columns), np.float32), np.empty((FEW, weight.rows), np.float32)
        x[:n, : weight.columns] = tokens
        _rows(weight, 1, partial(_four, weight, x.reshape(-1), y))
        return y[:n]
    # Gathers pay on CPUs with AMX; AMD's take them apart into single loads.
    if isinstance(weight, Listed) and has_amx() and weight.kept.dtype != np.uint8:
        return _few_listed(weight, tokens)
    tokens, y = _padded(tokens), np.empty((n, weight.rows), np.float32)
    for i in range(n):
        _rows(weight, 1, partial(_one, weight, tokens[i], y[i]))
    return y


def _few_listed(weight: Listed, tokens: Floats) -> Floats:
    known = weight.places, weight.kept, weight.starts, weight.scales
    y = np.empty((len(tokens), weight.rows), np.float32)
    threads = n_threads() if int(weight.starts[-1]) >= ALONE else 1
    where = address() if threads > 1 else 0
    for x, out in zip(tokens, y, strict=True):
        if where or threads == 1:
            few.run_listed(*known, x, out, where, threads)
        else:
            n_parts = PARTS * threads
            together([partial(few.listed_by_16, i, n_parts, *known, x, out) for i in range(n_parts)], threads)
    return y


def _one(weight: Ready, x: Floats, y: Floats, low: int, high: int) -> None:
    if isinstance(weight, Bits):
        few.one(weight.mask, weight.kept, weight.starts, weight.scales, weight.width, x, low, high, y)
    elif isinstance(weight, Listed):
        few.listed(weight.places, weight.kept, weight.starts, weight.scales, x, low, high, y)


def _four(weight: Bits, x: Floats, y: Floats, low: int, high: int) -> None:
    few.four(weight.mask, weight.kept, weight.starts, weight.scales, weight.width, x, low, high, y)


def _padded(tokens: Floats, of: int = 32) -> Floats:
    """With zeros up to whole words of 32 columns, or as many others."""
    n, columns = tokens.shape
    if columns % of == 0:
        return tokens
    padded = np.zeros((n, columns + -columns % of), np.float32)
    padded[:, :columns] = tokens
    return padded


def _left(weight: Left, tokens: Floats) -> Floats:
    """A dense product of what is left; for many tokens torch's own, of as many rows at once as stay in the cache."""
    n, columns = tokens.shape
    if n <= FEW:
        y, tokens = np.empty((n, weight.rows), np.float32), _padded(tokens)
        for i in range(n):
            _rows(weight, 1, partial(_left_rows, weight, columns, tokens[i], y[i]))
        return y
    y, x = np.zeros((n, weight.rows), np.float32), torch.from_numpy(tokens)
    if columns == 0:
        return y
    is_exact = weight.kept.dtype == np.float32
    step = weight.rows if is_exact else max(1, AT_ONCE // (4 * columns))
    for low in range(0, weight.rows, step):
        high = min(low + step, weight.rows)
        begin, end = weight.starts[low], weight.starts[high]
        panel = weight.kept[begin:end] if is_exact else np.empty(end - begin, np.float32)
        if not is_exact:
            few.dense(weight.kept, weight.starts, weight.scales, columns, low, high, panel)
        is_left = np.diff(weight.starts[low : high + 1]) > 0
        y[:, low:high][:, is_left] = (x @ torch.from_numpy(panel).view(-1, columns).T).numpy()
    return y


def _left_rows(weight: Left, n: int, x: Floats, y: Floats, low: int, high: int) -> None:
    few.left(weight.kept, weight.starts, weight.scales, n, x, low, high, y)


def _many(weight: Ready, tokens: Floats) -> Floats:
    tiles, columns = [], weight.columns
    for first, n, width in _tiles(len(tokens)):
        x = (np.empty if n == width else np.zeros)(columns * width, np.float32)
        many.turn(tokens[first:].reshape(-1), n, columns, columns, x, width)
        tiles.append((first, n, tile(width), x, np.empty(weight.rows * width, np.float32)))
    out = np.empty((len(tokens), weight.rows), np.float32)
    _rows(weight, 8 * len(tiles), partial(_by_tile, weight, tiles, out))
    return out


def _by_tile(weight: Ready, tiles: list[Tile], out: Floats, low: int, high: int) -> None:
    for first, n, wide, x, y in tiles:
        _tile(weight, wide, x, y, low, high)
        width = 8 * len(wide)
        many.turn(y[low * width :], high - low, n, width, out[first:].reshape(-1)[low:], weight.rows)


def _by_tile_beside(weight: Ready, tiles: list[Tile], out: Floats, low: int, high: int) -> None:
    for first, n, wide, x, y in tiles:
        _tile(weight, wide, x, y, low, high)
        out[low:high, first : first + n] = y.reshape(weight.rows, -1)[low:high, :n]


def _tile(weight: Ready, wide: tuple[int, ...], x: Floats, y: Floats, low: int, high: int) -> None:
    kept, starts, scales = weight.kept, weight.starts, weight.scales
    if isinstance(weight, Bits):
        many.by_mask(weight.mask, kept, starts, scales, weight.width, x, low, high, y, wide)
    elif isinstance(weight, Listed):
        many.listed(weight.places, kept, starts, scales, x, low, high, y, wide)
    elif isinstance(weight, Tiled):
        h = weight.h
        many.by_block(weight.places, kept, starts, scales, h, weight.w, x, low // h, high // h, y, wide)


def _tiles(n: int) -> Iterator[tuple[int, int, int]]:
    """(first token, tokens, width) of tiles that cover n tokens, the last one the narrowest that holds the rest."""
    for first in range(0, n, WIDTHS[-1]):
        rest = min(n - first, WIDTHS[-1])
        yield first, rest, next(width for width in WIDTHS if width >= rest)


def _rows(weight: Ready, work: int, rows: Callable[[int, int], None]) -> None:
    """rows(low, high) over all rows, in parts that keep about as many weights each."""
    if n_threads() == 1 or int(weight.starts[-1]) * work < ALONE:
        rows(0, weight.rows)
        return
    n = min(n_threads(), weight.rows)
    n_parts = PARTS * n
    asked = weight.starts[-1] * np.arange(1, n_parts) // n_parts
    cuts = [0, *np.minimum(weight.height * np.searchsorted(weight.starts, asked), weight.rows).tolist(), weight.rows]
    together([partial(rows, low, high) for low, high in pairwise(cuts) if low < high], n)
