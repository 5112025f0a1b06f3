"""npz: numpy's archives, read without pickle, with every declared size checked before it is allocated."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from secateurs.data.parts import MAX_BYTES, Array, Part, Parts
from secateurs.errors import InputError

_NEEDED = ("x_train", "y_train", "x_test", "y_test")
_DEFLATE_MAX_RATIO = 1040


def read_npz(path: Path) -> Parts:
    """The splits of an archive with x_train, y_train, x_test, y_test and perhaps x_val, y_val."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(info.filename).stem: info for info in archive.infolist()}
            missing = [key for key in _NEEDED if key not in members]
            if missing:
                raise InputError(
                    f"'{path}' lacks {', '.join(missing)}; it holds {', '.join(sorted(members)) or 'nothing'}. "
                    f"Save the arrays under the names {', '.join(_NEEDED)}."
                )
            if ("x_val" in members) != ("y_val" in members):
                raise InputError(f"'{path}' has only one of x_val and y_val. Bring both, or neither.")
            keys = (*_NEEDED, *(key for key in ("x_val", "y_val") if key in members))
            arrays = {key: _read_array(archive, members[key], path) for key in keys}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"Cannot read '{path}' as an .npz archive: {error}. Save it with numpy.savez.") from error
    parts = {s: Part(arrays[f"x_{s}"], arrays[f"y_{s}"]) for s in ("train", "val", "test") if f"x_{s}" in arrays}
    return Parts(path.stem, f"'{path}'", f"file {path.name}", parts["train"], parts.get("val"), parts["test"])


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Array:
    what = f"'{path}': {info.filename}"
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran, dtype = read[version](file)
        except (ValueError, KeyError) as error:
            raise InputError(f"{what} is not a numpy array: {error}.") from error
        if dtype.hasobject:
            raise InputError(f"{what} holds Python objects, which are never unpickled. Save numbers (uint8 or float).")
        if dtype.kind not in "biufU" or not dtype.itemsize or any(n < 0 for n in shape):
            raise InputError(f"{what} is {dtype} of shape {shape}; save numbers, or text for labels.")
        n_bytes = math.prod(shape) * dtype.itemsize
        # The directory of a zip file may lie, so the packed bytes have the last word.
        packed = min(info.compress_size, path.stat().st_size)
        present = min(info.file_size - file.tell(), packed * _DEFLATE_MAX_RATIO)
        if n_bytes > min(present, MAX_BYTES):
            raise InputError(
                f"{what} declares {n_bytes:,} bytes but at most {max(present, 0):,} are there. Save it again."
            )
        content = file.read(n_bytes + 1)
    if len(content) != n_bytes:
        raise InputError(f"{what} declares {n_bytes:,} bytes but holds another number. Save it again.")
    flat = np.frombuffer(content, dtype=dtype) if content else np.zeros(0, dtype)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    # Big-endian arrays are legal in files and foreign to torch.
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
