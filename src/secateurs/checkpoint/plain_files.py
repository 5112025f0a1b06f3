"""Plain files: regular files only, read through maps, so that neither a pipe nor a declared size costs anything.

Inside a directory that somebody else made, a link that leaves it is refused (it may point at anything of the
reader's), except into the `blobs` of the Hugging Face hub's cache, which is where its snapshots keep their files.
A path that the user gives is followed wherever it leads.
"""

import json
import mmap
import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateurs.errors import InputError

MAX_JSON_BYTES = 100_000_000
N_MAPS = 32  # Python keeps a file open behind every map, and processes may have few open


@dataclass(frozen=True)
class Seen:
    """A regular file as it was when it was opened: `stamp` differs once somebody writes to it."""

    path: Path
    size: int
    stamp: tuple[int, ...]


def open_plain(path: Path) -> tuple[int, Seen]:
    """A descriptor to read a regular file with, and what was seen; InputError for anything else."""
    handle = -1
    try:
        # Looked at before it is opened, because opening a device can act; without waiting, because a pipe would.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"'{path}' is not a regular file. Give a file that holds weights.")
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(path, flags)
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"'{path}' is not a regular file. Give a file that holds weights.")
    except FileNotFoundError as error:
        raise InputError(f"There is no file '{path}'. Check the path.") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    except InputError:
        if handle >= 0:
            os.close(handle)
        raise
    return handle, Seen(path, found.st_size, _stamp(found))


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that the system does not let us read."""
    return InputError(f"Cannot read '{path}': {getattr(error, 'strerror', None) or error}. Check the file.")


def map_plain(path: Path) -> tuple[mmap.mmap | None, Seen]:
    """A read-only map of a regular file (None for an empty one, which has none), and what was seen."""
    handle, seen = open_plain(path)
    try:
        return (mmap.mmap(handle, 0, access=mmap.ACCESS_READ) if seen.size else None), seen
    except (OSError, ValueError, OverflowError) as error:
        raise unreadable(path, error) from error
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """What a JSON file says; InputError if it is none."""
    handle, seen = open_plain(path)
    with os.fdopen(handle, "rb") as file:
        if seen.size > MAX_JSON_BYTES:
            raise InputError(f"'{path}' has {seen.size:,} bytes, too many for a JSON file. Check the file.")
        try:
            return json.loads(file.read(seen.size + 1), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise InputError(f"'{path}' is not valid JSON: {error}. Download it again.") from error
        except OSError as error:
            raise unreadable(path, error) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def stays_inside(path: Path, directory: Path) -> bool:
    """Whether a file of a directory is really there, or where the hub's cache keeps the files of that snapshot."""
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(directory))
    if home in real.parents:
        return True
    return home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"


@dataclass(eq=False)
class Maps:
    """Read-only maps of files, made when first needed; the longest unused one is let go of when there are many."""

    seen: dict[str, Seen]
    _open: "OrderedDict[str, mmap.mmap]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, name: str) -> mmap.mmap:
        """The map of the file `name`; InputError if it is no longer the file that was opened."""
        with self._lock:
            if name in self._open:
                self._open.move_to_end(name)
                return self._open[name]
            found, now = map_plain(self.seen[name].path)
            if found is None or now.stamp != self.seen[name].stamp:
                raise InputError(f"'{now.path}' was changed by somebody while it was being read. Start again.")
            self._open[name] = found
            if len(self._open) > N_MAPS:
                self._open.popitem(last=False)  # closed by Python when the last array of it is gone
            return found

    def assert_unchanged(self) -> None:
        """InputError where a file is no longer what it was when it was opened: what was read of it may be of both."""
        for seen in self.seen.values():
            try:
                stamp = _stamp(os.stat(seen.path))
            except OSError as error:
                raise unreadable(seen.path, error) from error
            if stamp != seen.stamp:
                raise InputError(
                    f"'{seen.path}' was written to while it was read. Start again when nobody writes to it."
                )

    def close(self) -> None:
        """Let go of every map."""
        with self._lock:
            self._open.clear()
