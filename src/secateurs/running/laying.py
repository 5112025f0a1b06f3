"""Laying: rows of a bitmask, one after the other, become panels of 32 rows side by side, and panels rows again."""

from typing import Any

import numpy as np

from secateurs.exact.compiled import compiled
from secateurs.running.wide import PANEL, ROWS


@compiled
def lay(mask: Any, kept: Any, starts: Any, columns: int, bits: Any, laid: Any, begins: Any, is_even: bool) -> Any:
    """Rows one after the other become panels; how many kept weights, and gaps, were written.

    mask, kept, starts   as in few.py, kept in any dtype of one element each
    columns              of a step
    bits, laid, begins   mask, kept and starts of the panels; `laid` has room for one more than it will hold
    is_even              16 rows of a step take an even number
    """
    n_rows, n_panels = starts.size - 1, begins.size - 1
    stride, n_steps = mask.size // max(1, n_rows), bits.size // (2 * n_panels)
    cursors, n = starts.copy(), np.int64(0)
    for panel in range(n_panels):
        begins[panel] = n
        for j in range(2 * n_steps):
            whole, there = np.uint64(0), j // 2 * columns
            first = PANEL * panel + ROWS * (j % 2)
            for row in range(first, min(first + ROWS, n_rows)):
                found = np.int64(0)
                if there // 32 < stride:
                    found = np.int64(mask[row * stride + there // 32]) >> (there % 32) & ((1 << columns) - 1)
                whole |= np.uint64(found) << np.uint64((row - first) * columns)
                for k in range(columns):
                    laid[n] = kept[cursors[row]]
                    n += found >> k & 1
                    cursors[row] += found >> k & 1
            bits[2 * panel * n_steps + j] = whole
            if is_even and n & 1:
                laid[n] = 0
                n += 1
    begins[n_panels] = n
    return n


@compiled
def unlay(bits: Any, laid: Any, begins: Any, columns: int, mask: Any, kept: Any, starts: Any, is_even: bool) -> None:
    """Panels become rows one after the other again.

    mask, kept  zeros; starts  as they were
    """
    n_rows, n_panels = starts.size - 1, begins.size - 1
    stride, n_steps = mask.size // max(1, n_rows), bits.size // (2 * n_panels)
    cursors = starts.copy()
    for panel in range(n_panels):
        n = begins[panel]
        for j in range(2 * n_steps):
            whole, there = np.uint64(bits[2 * panel * n_steps + j]), j // 2 * columns
            first = PANEL * panel + ROWS * (j % 2)
            for row in range(first, min(first + ROWS, n_rows)):
                found = np.int64(whole >> np.uint64((row - first) * columns)) & ((1 << columns) - 1)
                if found:
                    mask[row * stride + there // 32] |= np.uint32(found << there % 32)
                for k in range(columns):
                    if found >> k & 1:
                        kept[cursors[row]] = laid[n]
                        cursors[row] += 1
                        n += 1
            n += is_even and n & 1


@compiled
def add_up(mask: Any, kept: Any, starts: Any, width: int, sums: Any) -> None:
    """sums[row, group] += the integers that a row keeps in `width` words of its mask."""
    stride = mask.size // sums.shape[0]
    for row in range(sums.shape[0]):
        at = starts[row]
        for j in range(stride):
            bits = np.int64(mask[row * stride + j])
            while bits:
                sums[row, j // width] += kept[at]
                bits &= bits - 1
                at += 1
