"""Survey kernels: one pass over the stored bits of a large tensor, as fast as memory gives them.

Every kernel takes a range of chunks, blocks or rows and adds to tables that its caller owns: counts are whole
numbers, and sums are kept for each chunk of a fixed size, so nothing depends on how many threads share the work.
"""

from typing import Any

import numpy as np

from secateurs.checkpoint.survey_counts import CHUNK, LANES
from secateurs.exact.compiled import compiled

Array = np.ndarray[Any, Any]


@compiled
def count_patterns(stored: Array, first: int, last: int, counts: Array) -> None:
    """counts[pattern] += 1 for every weight of a dtype of one or two bytes."""
    for i in range(first, last):
        counts[stored[i]] += 1


@compiled
def tally(
    stored: Array,
    values: Array,
    mask: Any,
    shift: Any,
    infinite: Any,
    first: int,
    last: int,
    counts: Array,
    numbers: Array,
    lanes: Array,
) -> None:
    """Counts by the leading bits of |w|, and the sums of every chunk as survey_counts describes them.

    counts[key >> shift] += 1
    numbers[chunk] = n_finite, n_zero, n_nan, pivot, low, high          lanes[chunk] = total, squares
    """
    for chunk in range(first, last):
        start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, len(stored))
        biggest, n_zero, n_nan = stored[start] & mask, 0, 0
        for i in range(start, stop):
            key = stored[i] & mask
            counts[key >> shift] += 1
            biggest = max(biggest, key)
            n_zero += key == 0
        total, squares = lanes[chunk, 0], lanes[chunk, 1]
        if biggest < infinite:
            n, pivot = stop - start, np.float64(values[start])
            low = high = values[start]
            whole = start + n // LANES * LANES
            for i in range(start, whole, LANES):
                for lane in range(LANES):
                    apart = values[i + lane] - pivot
                    total[lane] += apart
                    squares[lane] += apart * apart
            for i in range(whole, stop):
                apart = values[i] - pivot
                total[i - whole] += apart
                squares[i - whole] += apart * apart
            for i in range(start, stop):
                low, high = min(low, values[i]), max(high, values[i])
        else:
            n, pivot, low, high = 0, np.float64(0), values[start], values[start]
            for i in range(start, stop):
                if (stored[i] & mask) < infinite:
                    if n == 0:
                        pivot, low, high = np.float64(values[i]), values[i], values[i]
                    n += 1
                    apart = values[i] - pivot
                    total[(i - start) % LANES] += apart
                    squares[(i - start) % LANES] += apart * apart
                    low, high = min(low, values[i]), max(high, values[i])
                elif (stored[i] & mask) > infinite:
                    n_nan += 1
        numbers[chunk, 0], numbers[chunk, 1], numbers[chunk, 2] = n, n_zero, n_nan
        numbers[chunk, 3], numbers[chunk, 4], numbers[chunk, 5] = pivot, low, high


@compiled
def refine(
    stored: Array,
    mask: Any,
    top_shift: Any,
    wanted: Array,
    prefix_shift: Any,
    prefixes: Array,
    shift: Any,
    first: int,
    last: int,
    counts: Array,
) -> None:
    """Counts of the next bits of |w| among the keys that begin with one of the prefixes, exact zeros left out.

    wanted    [key >> top_shift] whether any prefix begins so
    counts    [which prefix, next bits] += 1
    """
    low_mask = counts.shape[1] - 1
    for i in range(first, last):
        key = stored[i] & mask
        # Of a pruned weight most are zero: counting them again, one after the other, would take most of the time.
        if key != 0 and wanted[key >> top_shift]:
            prefix = key >> prefix_shift
            for j in range(len(prefixes)):
                if prefixes[j] == prefix:
                    counts[j, np.int64(key >> shift) & low_mask] += 1
                    break


@compiled
def find_alive(
    stored: Array, mask: Any, n_inner: int, first: int, last: int, alive_outer: Array, alive_inner: Array
) -> None:
    """Which indices of the two stored dimensions have a weight other than zero, for (outer, inner, *kernel)."""
    width = len(stored) // len(alive_outer)
    n_kernel = width // n_inner
    n_waiting = np.sum(~alive_inner)
    for outer in range(first, last):
        start = outer * width
        n_alive = 0
        for i in range(start, start + width):
            n_alive += (stored[i] & mask) != 0
        alive_outer[outer] = n_alive > 0
        if n_waiting and n_alive:
            for inner in range(n_inner):
                if not alive_inner[inner]:
                    for i in range(start + inner * n_kernel, start + (inner + 1) * n_kernel):
                        if (stored[i] & mask) != 0:
                            alive_inner[inner] = True
                            n_waiting -= 1
                            break


@compiled
def count_groups(stored: Array, mask: Any, n_block: int, stride: int, first: int, last: int, counts: Array) -> None:
    """How many groups of consecutive inputs have few enough weights: counts of 1:4, 2:4 and 4:8.

    n_block  8, or 4 where only fours divide the input dimension
    stride   stored weights from one input to the next
    """
    for block in range(first, last):
        start = block * n_block * stride
        for i in range(start, start + stride):
            eight = 0
            for half in range(i, i + n_block * stride, 4 * stride):
                four = 0
                for j in range(4):
                    four += (stored[half + j * stride] & mask) != 0
                counts[0] += four <= 1
                counts[1] += four <= 2
                eight += four
            counts[2] += eight <= 4


@compiled
def count_bins(values: Array, step: float, first: int, last: int, negative: Array, positive: Array) -> None:
    """The counts of a grid of finite weights: bin k holds step * k < |w| <= step * (k + 1), the last one all beyond."""
    n_bins = len(positive)
    for i in range(first, last):
        value = np.float64(values[i])
        size = abs(value)
        if size == 0.0:
            continue
        k = n_bins if size / step >= n_bins else int(size / step)
        # The division rounds; the edges are what counts.
        while k > 0 and size <= step * k:
            k -= 1
        while k < n_bins and size > step * (k + 1):
            k += 1
        k = min(k, n_bins - 1)
        if value > 0:
            positive[k] += 1
        else:
            negative[k] += 1
