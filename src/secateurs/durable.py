"""Durable: a complete file stays readable until its replacement is safely on disk.

Write a temporary file beside the target, fsync, rename, fsync the directory. Symbolic links are followed, the umask
is respected, and what goes wrong is one OutputError.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from secateurs.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write; when the block ends without an error, it replaces `path`, all or nothing."""
    target = Path(os.path.realpath(path))
    if os.path.isdir(target):
        raise OutputError(f"Cannot write {path}: it is a directory. Name a file.")
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def sweep(path: Path) -> None:
    """Remove what killed runs left of `path`: the temporary files that `replacing` makes beside it."""
    target = Path(os.path.realpath(path))
    temporary = re.compile(re.escape(f".{target.name}.") + r"[a-z0-9_]{8}\.tmp")
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if temporary.fullmatch(name):
                (target.parent / name).unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, all or nothing."""
    with replacing(path) as file:
        file.write(data)


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Replace `path` by the pieces one after the other, all or nothing."""
    with replacing(path) as file:
        for data in pieces:
            file.write(data)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, all or nothing; what is no text, as in an odd file name, is written out."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON, all or nothing; NaN and Infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def make_directory(path: Path) -> None:
    """The directory and its parents, durable where they are new, or an OutputError that says why not."""
    try:
        new = list(takewhile(lambda each: not each.exists(), (path, *path.parents)))
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the directory {path}: {error.strerror or error}.") from error
    for each in reversed(new):
        sync_directory(each.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; Windows has no such call and writes them by itself."""
    if os.name == "nt":
        return
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise OutputError(f"Cannot make {path} durable: {error.strerror or error}.") from error


def _mode(target: Path) -> int:
    """The permissions of what stands there, else what the umask leaves of a new file."""
    if target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
