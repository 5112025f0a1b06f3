"""Column order: in which order of a weight's columns n:m keeps the most.

    order = permutation(weight, 2, 4)      n:m of weight[:, order] keeps no less than n:m of weight

Every group of m columns gives up one, and all that were given up are shared out anew, one to each group, as well as can
be. With column c in its free place, group g keeps of each row the n - 1 largest of its others and the larger of
their nth and |weight[row, c]|, so what every group would keep with every column is known from one pass, and who gets
which is an assignment problem. Other columns are given up in the next round, until hardly anything is gained.
Sizes are rounded to whole numbers before, so that sums are exact: equal weights and seeds give equal orders anywhere.

The question, and its answer by swapping pairs of columns: Pool & Yu 2021, "Channel Permutations for N:M Sparsity".
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import InputError, PatternError
from secateurs.exact.compiled import compiled
from secateurs.exact.threads import spread

if TYPE_CHECKING:
    from torch import Tensor

Ints = NDArray[np.int64]
MOST_GROUPS = 128  # that share out at once; assigning takes the cube of it
WINDOW = 16  # rounds that must together gain
LEAST_GAIN = 2e-5  # of what is kept, to go on
KICKED = 10  # one column of so many is put elsewhere, to leave an optimum that is only local
LEAST_KICKS, MOST_KICKS = 2, 16  # how often: few columns are searched soon, and are stuck soon


def permutation(weight: "Tensor | NDArray[Any]", n: int, m: int, seed: int = 0) -> Ints:
    """An order of the columns: place i takes column order[i]. By |weight| it keeps at least as much as the identity.

    weight  (out, in, *kernel), or scores in its place; rows that share their columns may be stacked
    n, m    n of every m consecutive columns are kept; m divides the columns
    seed    which columns are given up together

    PatternError where n:m does not fit, InputError for weights that are not finite.
    """
    sizes = sizes_of(weight)
    n_columns = len(sizes)
    if not 1 <= n <= m or n_columns % m:
        raise PatternError(
            f"{n}:{m} needs 1 <= n <= m and a multiple of {m} columns; the weight is {tuple(weight.shape)}."
        )
    identity = np.arange(n_columns)
    largest = sizes.max(initial=0.0)
    if n == m or n_columns <= m or largest == 0.0:
        return identity
    levels = (2**31 - 1) // sizes.shape[1]  # the sum over the rows fits into 32 bits
    whole = np.round(sizes / largest * levels).astype(np.int32)
    order = _searched(whole, n, m, np.random.default_rng(seed))
    # What counts are the weights, not their roundings.
    return order if kept(sizes[order], n, m) > kept(sizes, n, m) else identity


def kept(sizes: NDArray[Any], n: int, m: int) -> float:
    """The sum of the n largest of every m consecutive sizes of each row; sizes are (columns, rows)."""
    groups = np.sort(sizes.reshape(-1, m, sizes.shape[1]), axis=1)
    return float(groups[:, m - n :].sum(dtype=np.float64))


def sizes_of(weight: "Tensor | NDArray[Any]") -> NDArray[np.float64]:
    """|weight| as (columns, rows), every kernel position a row."""
    plain = weight if isinstance(weight, np.ndarray) else weight.detach().cpu().double().numpy()
    if plain.ndim < 2:
        raise PatternError(f"Only a weight of two or more dimensions has columns; this is {plain.shape}.")
    shape = plain.shape[1], plain.shape[0] * math.prod(plain.shape[2:])
    sizes = np.abs(np.moveaxis(plain, 1, 0).reshape(shape).astype(np.float64))
    if not np.isfinite(sizes).all():
        raise InputError("Weights that are infinite or not a number have no best order. Look for a diverged training.")
    return np.ascontiguousarray(sizes)


def _searched(sizes: NDArray[np.int32], n: int, m: int, random: np.random.Generator) -> Ints:
    """The best order of several searches, each from the best so far with some columns put elsewhere."""
    best = np.arange(len(sizes)).reshape(-1, m)
    most = _settle(sizes, best, n, random)
    for _ in range(min(MOST_KICKS, max(LEAST_KICKS, 4096 // best.size))):
        order = best.copy()
        some = random.choice(order.size, max(2, order.size // KICKED), replace=False)
        order.reshape(-1)[some] = order.reshape(-1)[random.permutation(some)]
        total = _settle(sizes, order, n, random)
        if total > most:
            best, most = order, total
    return best.reshape(-1)


def _settle(sizes: NDArray[np.int32], order: Ints, n: int, random: np.random.Generator) -> int:
    """Share out, in place, until hardly anything is gained; what is kept then."""
    n_groups, m = order.shape
    total = int(kept(sizes[order.reshape(-1)], n, m))
    gains: list[int] = []
    while len(gains) < WINDOW or sum(gains[-WINDOW:]) > LEAST_GAIN * total:
        places = random.integers(0, m, (n_groups,))
        batches: Iterable[Ints] = np.array_split(random.permutation(n_groups), -(-n_groups // MOST_GROUPS))
        found = spread(partial(_share_out, sizes, order, places, n), batches)
        gains.append(sum(found))
    return total + sum(gains)


def _share_out(sizes: NDArray[np.int32], order: Ints, places: Ints, n: int, groups: Ints) -> int:
    """Let each of these groups give up the column in its place, and share them out, in place; the gain."""
    places = places[groups]
    given = order[groups, places]
    is_other = np.arange(order.shape[1]) != places[:, None]
    others = order[groups][is_other].reshape(len(groups), -1)
    nth = np.sort(sizes[others], axis=1)[:, -n]  # (groups, rows): of the others; what a column must beat
    keeps = np.empty((len(groups), len(groups)), np.int32)
    _keeps(np.ascontiguousarray(nth), sizes[given], keeps)
    taken = np.empty(len(groups), np.int64)
    _assign(keeps, taken)
    before, after = keeps.diagonal(), keeps[np.arange(len(groups)), taken]
    gain = int(after.sum(dtype=np.int64) - before.sum(dtype=np.int64))
    if gain > 0:
        order[groups, places] = given[taken]
    return gain


@compiled
def _keeps(nth: Any, given: Any, keeps: Any) -> None:
    """keeps[g, c] = the sum over the rows of the larger of nth[g] and given[c]."""
    cast = nth.dtype.type
    for g in range(nth.shape[0]):
        bar = nth[g]
        for c in range(given.shape[0]):
            column, total = given[c], cast(0)
            for row in range(bar.size):
                total = cast(total + max(bar[row], column[row]))
            keeps[g, c] = total


@compiled
def _assign(keeps: Any, taken: Any) -> None:
    """taken[g] = the column of each group, every column once, so that the sum of keeps[g, taken[g]] is the largest.

    Shortest augmenting paths on the prices u + v <= -keeps: Jonker & Volgenant 1987.
    """
    n, far = keeps.shape[0], np.int64(1) << 60
    u, v = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    group_of, came_from = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)  # of columns; 0 is none
    for start in range(1, n + 1):
        group_of[0], column = start, 0
        slack, is_done = np.full(n + 1, far), np.zeros(n + 1, np.bool_)
        while group_of[column] != 0:
            is_done[column] = True
            group, least, nearest = group_of[column], far, 0
            for c in range(1, n + 1):
                if not is_done[c]:
                    reduced = -np.int64(keeps[group - 1, c - 1]) - u[group] - v[c]
                    if reduced < slack[c]:
                        slack[c], came_from[c] = reduced, column
                    if slack[c] < least:
                        least, nearest = slack[c], c
            for c in range(n + 1):
                if is_done[c]:
                    u[group_of[c]] += least
                    v[c] -= least
                else:
                    slack[c] -= least
            column = nearest
        while column != 0:
            group_of[column] = group_of[came_from[column]]
            column = came_from[column]
    for c in range(1, n + 1):
        taken[group_of[c] - 1] = c - 1
