"""Survey kernels: one pass over the stored bits of a large tensor, as fast as memory gives them.

Every kernel takes a range of chunks, blocks or rows and adds to tables that its caller owns: counts are whole
numbers, and sums are kept for each chunk of a fixed size, so nothing depends on how many threads share the work.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types

from secateurs.checkpoint.survey_counts import CHUNK, LANES
from secateurs.exact.compiled import compiled
from secateurs.exact.lanes import instruction

Array = np.ndarray[Any, Any]
cgutils: Any = _cgutils  # typed in parts only
PART = 4096  # weights that are looked through before those found are counted


@instruction
def add_apart(typing: Any, values: Any, n: Any, pivot: Any, total: Any, squares: Any) -> Any:
    """The distances of n * LANES values from the pivot, and their squares, added to as many sums side by side.

    Sums that stand in registers; a loop over arrays would write each down after every step.
    """
    if not all(isinstance(each, types.Array) and each.layout == "C" for each in (values, total, squares)):
        return None  # numba says that there is no such function

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums = ir.VectorType(ir.DoubleType(), LANES)
        numbers = ir.VectorType(context.get_data_type(values.dtype), LANES)

        def at(place: int, vector: Any, index: Any = None) -> Any:
            data = context.make_array(signature.args[place])(context, builder, args[place]).data
            data = data if index is None else builder.gep(data, [index])
            return builder.bitcast(data, vector.as_pointer())

        apart_from = cgutils.alloca_once_value(builder, ir.Constant(sums, [0.0] * LANES))
        for lane in range(LANES):
            with_it = builder.insert_element(builder.load(apart_from), args[2], ir.Constant(ir.IntType(32), lane))
            builder.store(with_it, apart_from)
        added = [cgutils.alloca_once_value(builder, builder.load(at(place, sums), align=8)) for place in (3, 4)]
        with cgutils.for_range(builder, args[1]) as loop:
            start = builder.mul(loop.index, ir.Constant(loop.index.type, LANES))
            value = builder.load(at(0, numbers, start), align=values.dtype.bitwidth // 8)
            value = value if numbers == sums else builder.fpext(value, sums)
            apart = builder.fsub(value, builder.load(apart_from))
            for each, more in zip(added, (apart, builder.fmul(apart, apart)), strict=True):
                builder.store(builder.fadd(builder.load(each), more), each)
        for place, each in zip((3, 4), added, strict=True):
            builder.store(builder.load(each), at(place, sums), align=8)
        return context.get_dummy_value()

    return types.void(values, types.intp, types.float64, total, squares), code


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
    cast = stored.dtype.type
    sign = cast(mask + 1)
    places = cast(stored.itemsize * 8 - 1)
    ends = np.empty(2, stored.dtype)
    sizes = ends.view(values.dtype)
    for chunk in range(first, last):
        start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, len(stored))
        part, numbered = stored[start:stop], values[start:stop]
        # One loop for each question: those that are vectors and the one that cannot be do not hold each other up.
        biggest, n_zero, least, most = cast(0), np.int32(0), cast(mask + mask + 1), cast(0)
        for i in range(part.size):
            key = cast(part[i] & mask)
            biggest = max(biggest, key)
            n_zero = np.int32(n_zero + np.int32(key == 0))
            # In the order of the numbers: all bits of a negative one are turned, of another the sign.
            order = cast(part[i] ^ cast(cast(cast(0) - cast(part[i] >> places)) | sign))
            least, most = min(least, order), max(most, order)
        for i in range(part.size):
            counts[(part[i] & mask) >> shift] += 1
        total, squares, n_nan = lanes[chunk, 0], lanes[chunk, 1], 0
        if biggest < infinite:
            n, pivot = part.size, np.float64(numbered[0])
            whole = n // LANES * LANES
            add_apart(numbered, n // LANES, pivot, total, squares)
            for i in range(whole, n):
                apart = numbered[i] - pivot
                total[i - whole] += apart
                squares[i - whole] += apart * apart
            ends[0] = least ^ (sign if least & sign else cast(mask + mask + 1))
            ends[1] = most ^ (sign if most & sign else cast(mask + mask + 1))
            low, high = sizes[0], sizes[1]
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
    begins: Array,
    prefix_shift: Any,
    prefixes: Array,
    shift: Any,
    first: int,
    last: int,
    counts: Array,
) -> None:
    """Counts of the next bits of |w| among the keys that begin with one of the prefixes, exact zeros left out.

    begins    [key >> top_shift] 1 + the place of the first of the prefixes that begin so, 0 where none does
    prefixes  ascending
    counts    [which prefix, next bits] += 1
    """
    cast = stored.dtype.type
    low_mask = counts.shape[1] - 1
    found = np.empty(PART, stored.dtype)
    for start in range(first, last, PART):
        part = stored[start : min(start + PART, last)]
        # Without a branch, as nobody can guess which weights are asked about. Of a pruned weight most are zero:
        # counting them again, one after the other, would take most of the time.
        n_found = 0
        for i in range(part.size):
            key = cast(part[i] & mask)
            found[n_found] = key
            n_found += int((begins[key >> top_shift] != 0) & (key != 0))
        for key in found[:n_found]:
            prefix = key >> prefix_shift
            for j in range(begins[key >> top_shift] - 1, len(prefixes)):
                if prefixes[j] >= prefix:
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
