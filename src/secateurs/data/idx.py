"""idx: the file format of MNIST, plain or gzipped: magic, sizes, then bytes.

Every size the header declares is checked against the bytes that are there before anything is allocated.
Format: LeCun, Cortes & Burges, the MNIST database; all numbers are big-endian.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from secateurs.data.parts import MAX_BYTES, Array
from secateurs.errors import InputError

_UNSIGNED_BYTE = 0x08
_GZIP_MAX_RATIO = 1040  # deflate cannot pack better than about 1032 to 1


def read_idx(path: Path, n_dimensions: int) -> Array:
    """uint8 array of the file; InputError if it is not an idx file of bytes with so many dimensions."""
    is_packed = path.suffix == ".gz"
    try:
        present = path.stat().st_size
        with open(path, "rb") as raw:
            file: IO[bytes] = gzip.GzipFile(fileobj=raw) if is_packed else raw  # type: ignore[assignment]
            return _read(file, path, n_dimensions, present, is_packed)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"Cannot read '{path}': {error}. Fetch the file again.") from error


def _read(file: IO[bytes], path: Path, n_dimensions: int, present: int, is_packed: bool) -> Array:
    header = file.read(4 + 4 * n_dimensions)
    if len(header) < 4 or header[:2] != b"\0\0" or header[2] != _UNSIGNED_BYTE:
        raise InputError(f"'{path}' is not an idx file of bytes: it starts with {header[:4].hex() or 'nothing'}.")
    if header[3] != n_dimensions:
        raise InputError(f"'{path}' has {header[3]} dimensions; {n_dimensions} are needed. Are two files swapped?")
    if len(header) < 4 + 4 * n_dimensions:
        raise InputError(f"'{path}' ends within its header. Fetch the file again.")
    sizes = struct.unpack(f">{n_dimensions}I", header[4:])
    n_bytes = math.prod(sizes)
    bound = present * _GZIP_MAX_RATIO if is_packed else present - len(header)
    if n_bytes > min(bound, MAX_BYTES):
        raise InputError(
            f"'{path}' declares {' x '.join(map(str, sizes))} = {n_bytes:,} bytes, more than its {present:,} bytes on "
            "disk can hold. It is truncated or corrupt; fetch it again."
        )
    content = file.read(n_bytes + 1)
    if len(content) != n_bytes:
        found = f"{len(content):,}" if len(content) < n_bytes else "more"
        raise InputError(f"'{path}' declares {n_bytes:,} bytes of data but holds {found}. Fetch it again.")
    flat = np.frombuffer(content, dtype=np.uint8) if content else np.zeros(0, np.uint8)
    return flat.reshape(sizes)
