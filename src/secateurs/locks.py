"""Locks: a file that one process holds at a time, and lets go of when it ends, however it ends."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateurs.errors import LockedError, OutputError

try:
    import fcntl
except ImportError:  # not on Windows, where nothing holds a directory
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(path: Path, is_waiting: bool = False, of: Path | None = None) -> Iterator[None]:
    """Hold a lock file; where another process holds it, wait, or raise LockedError.

    OutputError where the file cannot be written or locked at all.

    of  what the file stands for, by default its directory
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
    with os.fdopen(handle, "w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):  # a file system without locks, say
                    raise OutputError(f"Cannot lock {path}: {error.strerror or error}.") from error
                message = f"Another run is writing {of or path.parent}. Wait for it, or name another directory."
                raise LockedError(message) from error
        yield
