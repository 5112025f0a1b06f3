"""Directory: a run's own directory, locked while it is written."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateurs.durable import make_directory
from secateurs.errors import LockedError, OutputError

MARK = "exploration.yaml"


def check_directory(path: Path) -> None:
    """OutputError unless `path` can become, or already is, a run's directory; nothing is created."""
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; name a directory for the run.")
    if path.is_dir() and any(path.iterdir()) and not (path / MARK).exists() and not (path / ".lock").exists():
        raise OutputError(
            f"{path} is not empty and holds no run. Name a new directory, so that nothing of yours is lost."
        )
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission in {existing}.")


@contextmanager
def locked(path: Path) -> Iterator[Path]:
    """The directory, made if needed, held by this process alone; LockedError where another one holds it."""
    check_directory(path)
    make_directory(path)
    try:
        handle = os.open(path / ".lock", os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"Cannot write in {path}: {error.strerror or error}.") from error
    with os.fdopen(handle, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LockedError(f"Another run is writing {path}. Wait for it, or name another directory.") from error
        for left_over in path.rglob(".*.tmp"):  # of a run that was killed while writing
            left_over.unlink()
        yield path
