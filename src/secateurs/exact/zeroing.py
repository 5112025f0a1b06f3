"""Zeroing: what does not live becomes zero, in place, in an array or in one stretch of it after the other."""

import math
from dataclasses import replace

import numpy as np

from secateurs.exact import kernels
from secateurs.exact.choose import Cut
from secateurs.exact.kinds import Kind, Stored, signed
from secateurs.exact.lanes import N_LANES
from secateurs.exact.parts import split
from secateurs.exact.threads import spread

MANY = 64  # neighbours from which on a group is cut as a row is, instead of comparing each with each


def zero_cut(stored: Stored, kind: Kind, cut: Cut) -> Cut:
    """Zero what `cut` does not keep, in place; returns the cut for the stretch that follows this one.

    stored  (n,) of the kind's storage, writable
    """
    mask = kind.key(kind.mask)
    if cut.key < 0:
        return cut
    if cut.key == kind.mask:
        stored[:] = 0
        return cut
    pieces = [signed(piece) for piece in split(stored)]
    n_ties = spread(lambda piece: kernels.zero_below(piece, mask, kind.key(cut.key)), pieces)
    spared = cut.n_ties
    crowded = []
    for piece, n in zip(pieces, n_ties, strict=True):
        if n > spared:
            crowded.append((piece, spared))
        spared = max(0, spared - n)
    spread(lambda each: kernels.zero_ties(each[0], mask, kind.key(cut.key), each[1]), crowded)
    return replace(cut, n_ties=spared)


def zero_rows(stored: Stored, kind: Kind, n_columns: int, n_keep: int) -> None:
    """Zero all but the n_keep largest of every row, in place.

    stored  (rows * n_columns,) of the kind's storage, writable
    """
    if n_keep == 0:
        stored[:] = 0
    elif n_keep < n_columns:
        mask = kind.key(kind.mask)
        pieces = split(stored, n_columns)
        spread(lambda piece: kernels.zero_rows(signed(piece), mask, n_columns, n_keep), pieces)


def zero_neighbours(stored: Stored, kind: Kind, shape: tuple[int, ...], m: int, n_keep: int) -> None:
    """Zero all but the n_keep largest of every m consecutive inputs, in place.

    stored  (prod(shape),) of the kind's storage, writable
    shape   (out, in, *kernel) where m divides in
    """
    n_kernel = math.prod(shape[2:])
    group = m * n_kernel
    if n_keep == 0 or not stored.size:
        stored[:] = 0
    elif n_keep < m and m > MANY:
        rows = np.ascontiguousarray(stored.reshape(-1, m, n_kernel).swapaxes(1, 2))
        zero_rows(rows.reshape(-1), kind, m, n_keep)
        stored.reshape(-1, m, n_kernel)[:] = rows.swapaxes(1, 2)
    elif n_keep < m:
        mask = kind.key(kind.mask)
        has_lanes = n_kernel == 1 and N_LANES % m == 0

        def zero(piece: Stored) -> None:
            n_lanes = piece.size // N_LANES * N_LANES if has_lanes else 0
            if n_lanes:
                kernels.zero_groups(signed(piece[:n_lanes]), mask, (0,) * m, kind.key(n_keep))
            if n_lanes < piece.size:
                kernels.zero_neighbours(signed(piece[n_lanes:]), mask, n_kernel, m, n_keep)

        spread(zero, split(stored, group))
