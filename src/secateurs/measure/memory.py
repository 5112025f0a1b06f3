"""Memory: the bytes that a process holds, its own and those of files that it has mapped instead of read; less of them.

Weights that were mapped are resident like those that were read, so both count; libraries are not the network's.
Only Linux says.
"""

import ctypes
import gc
import mmap
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def anonymous_bytes(process: int | str = "self") -> int | None:
    """Resident memory that belongs to no file, now; None where the system does not say."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def mapped_bytes() -> int:
    """Resident pages of the files that this process has mapped, libraries aside; 0 where the system does not say."""
    n_bytes, is_counted = 0, False
    try:
        for line in Path("/proc/self/smaps").read_text().splitlines():
            words = line.split()
            if not words[0].endswith(":"):  # a new mapping: addresses, rights, offset, device, inode, path
                is_counted = len(words) > 5 and words[5].startswith("/") and ".so" not in words[5]
            elif is_counted and words[0] == "Rss:":
                n_bytes += 1024 * int(words[1])
    except OSError:
        pass
    return n_bytes


def give_back() -> None:
    """Let the system have what nothing refers to any more, and the memory that malloc keeps for later."""
    gc.collect()
    trim()


def trim() -> None:
    """Let the system have the memory that malloc keeps for later; where the C library cannot, nothing happens."""
    if sys.platform == "linux" and (known := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        known(0)


def page_out(weights: "Iterable[Tensor]") -> None:
    """Let go of the pages of a file that weights, no longer used, were mapped from: their neighbours keep the mapping.

    Should one be used after all, it is read again. What lies in no file, or where any of it was changed, is left alone.
    """
    mappings, step = _unchanged_mappings(), mmap.PAGESIZE
    for weight in weights:
        start = weight.data_ptr()
        low, high = -(-start // step) * step, (start + weight.nbytes) // step * step
        if low < high and any(begin <= low and high <= end for begin, end in mappings):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), mmap.MADV_DONTNEED)


def _unchanged_mappings() -> list[tuple[int, int]]:
    """(begin, end) of mapped files that this process has not written to: no page of its own, in memory or swap."""
    found, begun = [], (0, 0)
    own = -1  # kB; -1: no file
    try:
        for line in [*Path("/proc/self/smaps").read_text("utf-8").splitlines(), "0-0 end"]:
            words = line.split()
            if not words[0].endswith(":"):
                if own == 0:
                    found.append(begun)
                begin, _, end = words[0].partition("-")
                begun = int(begin, 16), int(end, 16)
                own = 0 if len(words) > 5 and words[5].startswith("/") else -1
            elif own >= 0 and words[0] in ("Anonymous:", "Swap:"):
                own += int(words[1])
    except OSError:
        pass
    return found
