"""Products: y = x W^T + bias with a ready weight, for any number of tokens; which loop runs, on how many threads."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secateurs.errors import InputError
from secateurs.running import few, many
from secateurs.running.instructions import tile
from secateurs.running.ready import Bits, Listed, Ready, Tiled
from secateurs.running.together import n_threads, together

Floats = np.ndarray[Any, np.dtype[np.float32]]

FEW = 4  # tokens that one loop over the weight serves
WIDTHS = (8, 16, 32, 64)  # tokens of a tile
ALONE = 400_000  # kept weights times tiles that one thread is done with before a second would have begun


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
    if x.device.type != "cpu":
        raise InputError(f"Packed weights run on the CPU; x is on {x.device}.")
    tokens = x.detach().reshape(-1, weight.columns).to(torch.float32)
    n = len(tokens)
    if weight.columns == 0 or n == 0 or weight.rows == 0:
        y = torch.zeros(n, weight.rows)
    else:
        y = _few(weight, tokens) if n <= FEW and not isinstance(weight, Tiled) else _many(weight, tokens)
    if bias is not None:
        y += bias
    return y.to(x.dtype).reshape(*x.shape[:-1], weight.rows)


def _few(weight: Ready, tokens: Tensor) -> Tensor:
    n, beyond = len(tokens), 32 * weight.stride - weight.columns
    if isinstance(weight, Bits) and n > 1:
        x, y = F.pad(tokens, (0, beyond, 0, FEW - n)).reshape(-1).numpy(), np.empty((FEW, weight.rows), np.float32)
        _rows(weight, 1, partial(_four, weight, x, y))
        return torch.from_numpy(y[:n])
    out = torch.empty(n, weight.rows)
    padded = F.pad(tokens, (0, beyond)) if beyond else tokens.contiguous()
    for x, y in zip(padded.numpy(), out.numpy(), strict=True):
        _rows(weight, 1, partial(_one, weight, x, y))
    return out


def _one(weight: Ready, x: Floats, y: Floats, low: int, high: int) -> None:
    if isinstance(weight, Bits):
        few.one(weight.mask, weight.kept, weight.starts, weight.scales, weight.width, x, low, high, y)
    elif isinstance(weight, Listed):
        few.listed(weight.places, weight.kept, weight.starts, weight.scales, x, low, high, y)


def _four(weight: Bits, x: Floats, y: Floats, low: int, high: int) -> None:
    few.four(weight.mask, weight.kept, weight.starts, weight.scales, weight.width, x, low, high, y)


@dataclass(frozen=True, eq=False)
class _Tile:
    """Tokens `first` to `first + n`, side by side.

    x  (columns * width,)     y  (rows, width)
    """

    first: int
    n: int
    wide: tuple[int, ...]
    x: Floats
    y: Floats


def _many(weight: Ready, tokens: Tensor) -> Tensor:
    tiles = []
    for first, n, width in _tiles(len(tokens)):
        mine = F.pad(tokens[first : first + n], (0, 0, 0, width - n)).t().contiguous().reshape(-1)
        tiles.append(_Tile(first, n, tile(width), mine.numpy(), np.empty((weight.rows, width), np.float32)))
    out = torch.empty(len(tokens), weight.rows)
    _rows(weight, 8 * len(tiles), partial(_by_tile, weight, tiles, out))
    return out


def _by_tile(weight: Ready, tiles: list[_Tile], out: Tensor, low: int, high: int) -> None:
    kept, starts, scales = weight.kept, weight.starts, weight.scales
    for each in tiles:
        x, y, wide = each.x, each.y.reshape(-1), each.wide
        if isinstance(weight, Bits):
            many.by_mask(weight.mask, kept, starts, scales, weight.width, x, low, high, y, wide)
        elif isinstance(weight, Listed):
            many.listed(weight.places, kept, starts, scales, x, low, high, y, wide)
        elif isinstance(weight, Tiled):
            h = weight.h
            many.by_block(weight.places, kept, starts, scales, h, weight.w, x, low // h, high // h, y, wide)
        out[each.first : each.first + each.n, low:high] = torch.from_numpy(each.y[low:high, : each.n]).t()


def _tiles(n: int) -> Iterator[tuple[int, int, int]]:
    """(first token, tokens, width) of tiles that cover n tokens, the last one the narrowest that holds the rest."""
    for first in range(0, n, WIDTHS[-1]):
        rest = min(n - first, WIDTHS[-1])
        yield first, rest, next(width for width in WIDTHS if width >= rest)


def _rows(weight: Ready, work: int, rows: Callable[[int, int], None]) -> None:
    """rows(low, high) over all rows, in parts that keep about as many weights each."""
    n = min(n_threads(), weight.rows)
    if n == 1 or int(weight.starts[-1]) * work < ALONE:
        rows(0, weight.rows)
        return
    step = weight.h if isinstance(weight, Tiled) else 1
    asked = weight.starts[-1] * np.arange(1, n) // n
    cuts = [0, *(step * np.searchsorted(weight.starts, asked)).tolist(), weight.rows]
    together([partial(rows, low, high) for low, high in pairwise(cuts)])
