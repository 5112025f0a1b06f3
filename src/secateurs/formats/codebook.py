"""Codebook: the few numbers that stand best for many weights (k-means in one dimension), and how to train them on.

    numbers = fit(weights, 32)          # numbers, ascending
    codes   = codes_of(weights, numbers)
    numbers -= rate * gradient_of(codes, gradient, 32)   # one step of training the shared numbers

Han, Mao & Dally 2016, arXiv:1510.00149 (from a linear start, which keeps the large weights).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.exact.compiled import compiled
from secateurs.exact.kinds import Stored

Floats = NDArray[np.float64]

N_BINS = 1 << 16
MAX_STEPS = 300


def fit(weights: Floats, n: int) -> Floats:
    """(n,) numbers, ascending, that k-means finds from a linear start between the extremes.

    Weights are counted in N_BINS bins where there are more than that; the sum of squares never rises from one step to
    the next, and it stops when no number moves. A number that no weight is near stays where it is. Up to n different
    weights are their own numbers, to the last bit, and the largest stands for the numbers that are left over.
    """
    numbers: Floats = np.zeros(n)
    if not weights.size:
        return numbers
    different = np.unique(weights[:N_BINS])
    if different.size <= n:  # which the first of many weights mostly rule out
        different = np.unique(weights)
    if different.size <= n:
        return np.append(different, np.full(n - different.size, different[-1]))
    points, counts = _points(weights)
    numbers = np.linspace(points[0], points[-1], n)
    n_before = np.append(0.0, counts.cumsum())
    sum_before = np.append(0.0, (counts * points).cumsum())
    for _ in range(MAX_STEPS):
        edges = np.concatenate([[0], np.searchsorted(points, _middles(numbers)), [points.size]])
        held, total = np.diff(n_before[edges]), np.diff(sum_before[edges])
        moved = np.sort(np.divide(total, held, out=numbers.copy(), where=held > 0))
        if np.array_equal(moved, numbers):
            break
        numbers = moved
    return numbers


def different(stored: Stored, mask: np.unsignedinteger[Any], n: int) -> Stored | None:
    """The different bits among weights that are not zero; None where they are more than n. mask: all but the sign."""
    found = stored[:0]
    for start in range(0, stored.size, N_BINS):
        some = stored[start : start + N_BINS]
        found = np.unique(np.append(found, some[some & mask != 0]))
        if found.size > n:
            return None
    return found


def codes_of(weights: Floats, numbers: Floats) -> "NDArray[np.uint8]":
    """The place of the nearest number for every weight; half-way goes to the larger, and of equal numbers the first."""
    middles, found = _middles(numbers), np.empty(weights.shape, np.uint8)
    n_steps = middles.size.bit_length()
    edges = np.pad(middles, (0, (1 << n_steps) - 1 - middles.size), constant_values=np.inf)
    _search(edges, n_steps, weights.reshape(-1), found.reshape(-1))
    return found


def gradient_of(codes: "NDArray[np.uint8]", gradient: "NDArray[Any]", n: int) -> Floats:
    """(n,) the gradient of each shared number: the sum of those of the weights that share it."""
    return np.asarray(np.bincount(codes.reshape(-1), gradient.reshape(-1).astype(np.float64), n), np.float64)


def _middles(numbers: Floats) -> Floats:
    # Above the lower number also where the two are neighbours, so that each is nearest to itself.
    return np.maximum((numbers[1:] / 2 + numbers[:-1] / 2), np.nextafter(numbers[:-1], np.inf))


def _points(weights: Floats) -> tuple[Floats, Floats]:
    """(points, how often each), ascending: the weights themselves, or the means of equal bins."""
    if weights.size <= N_BINS:
        points, counts = np.unique(weights, return_counts=True)
        return points, counts.astype(np.float64)
    low, high = float(weights.min()), float(weights.max())
    width = (high - low) / N_BINS
    if not width > 0:
        return np.array([low]), np.array([float(weights.size)])
    bins = np.minimum(((weights - low) / width).astype(np.int64), N_BINS - 1)
    counts, sums = np.bincount(bins, minlength=N_BINS), np.bincount(bins, weights, N_BINS)
    used = counts > 0
    return np.sort(sums[used] / counts[used]), counts[used].astype(np.float64)


@compiled
def _search(edges: Any, n_steps: int, weights: Any, found: Any) -> None:
    """How many of the 2**n_steps - 1 edges, ascending, are at most each weight: always as many steps, and no branch."""
    for i in range(weights.size):
        at = np.uint64(0)
        for step in range(n_steps - 1, -1, -1):
            half = np.uint64(1 << step)
            at += half * np.uint64(weights[i] >= edges[at + half - np.uint64(1)])
        found[i] = at
