"""Ints: weights as whole multiples of a scale that a row shares, or `group` neighbours of it; rows on all cores.

    code    the whole number nearest to weight / scale, half-way to even; 0 where the scale is 0
    scale   the smallest bfloat16 that takes the largest weight of the group to no more than the largest code; the next
            one below where that code would be missed
    weight  code * scale, rounded to the dtype

As the largest weight has the largest code, weights of float32 and float64 that were coded once are coded again as they
are (but for scales below 1e-38, of which there are few).

Quotients are doubles; products of 8 and 8 bits are exact in float32.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import InputError
from secateurs.exact.compiled import compiled
from secateurs.exact.kinds import Kind, Stored
from secateurs.exact.threads import spread

Floats = NDArray[np.floating[Any]]

RUN = 1 << 18  # weights that one task codes


def code(kind: Kind, stored: Stored, n_columns: int, width: int, n_bits: int) -> tuple[Stored, Stored]:
    """((n,) codes as bytes, the bits of a scale for every `width` neighbours of each row) of finite weights.

    stored  (rows * n_columns,), at least one weight
    """
    n_groups, largest = -(-n_columns // width), 2 ** (n_bits - 1) - 1
    codes = np.empty(stored.size, np.uint8)
    scales = np.empty((stored.size // n_columns, n_groups), np.uint16)

    def some(rows: slice, weights: slice) -> None:
        numbers = _numbers(kind, stored[weights])
        keys = numbers.view(f"i{numbers.itemsize}")
        peaks = np.empty(scales[rows].shape, keys.dtype)
        _peaks(keys, keys.dtype.type(np.iinfo(keys.dtype).max), n_columns, width, peaks)
        scales[rows] = _scales(peaks.view(numbers.dtype).astype(np.float64), largest)
        step = _bf16_values(scales[rows].max(keepdims=True)).astype(numbers.dtype)
        with np.errstate(over="ignore"):
            is_finite = bool(np.isfinite(kind.values(stored_as(kind, largest * step))).all())
        if not is_finite:
            raise InputError(
                f"The weights are too large for a scale in bfloat16: in {kind.name} they would become infinite. Only "
                "exact values can store them."
            )
        _code(numbers, n_columns, width, _bf16_values(scales[rows]).astype(np.float64), codes[weights])

    spread(lambda run: some(*run), _runs(stored.size, n_columns))
    return codes, scales.reshape(-1)


def decode(kind: Kind, codes: Stored, n_columns: int, width: int, scales: Stored, out: Stored) -> None:
    """Write the bits of the weights to `out` (n,); code 0 is +0.0."""
    if not codes.size:
        return
    steps = _bf16_values(scales).reshape(-1, -(-n_columns // width))

    def some(rows: slice, weights: slice) -> None:
        is_direct = kind.name in ("F32", "F64")
        numbers = _numbers(kind, out[weights]) if is_direct else np.empty(out[weights].size, np.float32)
        _decode(codes[weights].view(np.int8), n_columns, width, steps[rows].astype(numbers.dtype), numbers)
        if not is_direct:
            out[weights] = stored_as(kind, numbers)

    spread(lambda run: some(*run), _runs(codes.size, n_columns))


def stored_as(kind: Kind, numbers: Floats) -> Stored:
    """The bits of numbers, each rounded to the nearest of the dtype; half-way goes to even, as everywhere."""
    with np.errstate(over="ignore"):
        if kind.name == "F64":
            return numbers.astype(np.float64, copy=False).view(np.uint64)
        if kind.name == "F16":
            return numbers.astype(np.float16).view(np.uint16)
        found: Stored = numbers.astype(np.float32, copy=False).view(np.uint32)
    if kind.name == "F32":
        return found
    if kind.name != "BF16":
        raise InputError(f"Weights of {kind.name} have 8 bits already; store them as exact values.")
    # Products are rounded once; means of a codebook twice, which is seen in no error bound.
    return np.asarray(found + 0x7FFF + (found >> 16 & 1) >> 16, np.uint16)


def _runs(n: int, n_columns: int) -> Iterator[tuple[slice, slice]]:
    """(the rows, the weights) of every task."""
    step = max(1, RUN // n_columns)
    for row in range(0, n // n_columns, step):
        yield slice(row, row + step), slice(row * n_columns, (row + step) * n_columns)


def _numbers(kind: Kind, stored: Stored) -> Floats:
    """The numbers that stand in these bits, as float32 where that holds them."""
    if kind.name in ("F32", "F64"):
        found: Floats = stored.view(f"f{stored.itemsize}")
        return found
    return kind.values(stored).astype(np.float32)


def _scales(peaks: NDArray[np.float64], largest: int) -> Stored:
    """The bits of the scale for each largest weight."""
    above = _bf16_above(peaks / largest)
    with np.errstate(divide="ignore", invalid="ignore"):  # a scale of zero, which is kept
        is_missed = np.rint(peaks / _bf16_values(above)) < largest
        if is_missed.any():
            above -= is_missed & (np.rint(peaks / _bf16_values(above - is_missed)) == largest)
    return above


def _bf16_above(numbers: NDArray[np.float64]) -> Stored:
    """The bits of the smallest bfloat16 that is at least each number >= 0."""
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
    above = np.where(single < numbers, np.nextafter(single, np.float32(np.inf)), single)
    bits: Stored = above.view(np.uint32)
    return np.asarray((bits >> 16) + (bits & 0xFFFF != 0), np.uint16)


def _bf16_values(bits: Stored) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


# A group is cut out as an array of its own: numba makes vectors of loops that count from 0.


@compiled
def _peaks(keys: Any, mask: Any, n_columns: int, width: int, peaks: Any) -> None:
    """The largest key in every group: the largest size, as the bits of a float without its sign."""
    for row in range(peaks.shape[0]):
        for group in range(peaks.shape[1]):
            first, last = row * n_columns + group * width, row * n_columns + min((group + 1) * width, n_columns)
            mine, most = keys[first:last], keys.dtype.type(0)
            for i in range(mine.size):
                most = max(most, mine[i] & mask)
            peaks[row, group] = most


@compiled
def _code(numbers: Any, n_columns: int, width: int, steps: Any, codes: Any) -> None:
    for row in range(steps.shape[0]):
        for group in range(steps.shape[1]):
            first, last = row * n_columns + group * width, row * n_columns + min((group + 1) * width, n_columns)
            mine, found, step = numbers[first:last], codes[first:last], steps[row, group]
            if step > 0:
                for i in range(mine.size):
                    found[i] = np.uint8(np.int32(np.rint(np.float64(mine[i]) / step)))
            else:
                found[:] = 0


@compiled
def _decode(codes: Any, n_columns: int, width: int, steps: Any, numbers: Any) -> None:
    cast = numbers.dtype.type
    for row in range(steps.shape[0]):
        for group in range(steps.shape[1]):
            first, last = row * n_columns + group * width, row * n_columns + min((group + 1) * width, n_columns)
            mine, found, step = codes[first:last], numbers[first:last], steps[row, group]
            for i in range(mine.size):
                found[i] = cast(mine[i]) * step
