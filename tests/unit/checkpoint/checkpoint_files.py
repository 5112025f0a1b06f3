"""Files to open, made by hand, so that any byte of them can be wrong."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

BITS = {"F32": 32, "F16": 16, "BF16": 16, "I64": 64, "BOOL": 8, "F8_E4M3": 8, "F4": 4, "F64": 64}


def header_file(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with this header: JSON as text or bytes, or what is to become JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[int], start: int) -> dict[str, Any]:
    """What a header says of one tensor."""
    n_bits = BITS[dtype]
    for size in shape:
        n_bits *= size
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + n_bits // 8]}


def write_f32(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of float32 tensors in the order given."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name, values in tensors.items():
        header[name] = entry("F32", list(values.shape), start)
        start += 4 * values.size
    path.write_bytes(header_file(header, b"".join(values.astype("<f4").tobytes() for values in tensors.values())))
    return path


def ones(*shape: int) -> np.ndarray:
    """A tensor whose values do not matter."""
    return np.ones(shape, np.float32)


def hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file under a directory."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# The command line, in a process that says at its end how much memory of its own it had at its peak.
PEAK = """
import sys, threading, time
from secateurs.cli import main

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024

peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
try:
    main()
finally:
    print("peak", peak, file=sys.stderr)
"""
