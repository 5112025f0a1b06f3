"""Directory: a run's own directory, bound to what is run there and locked while it is written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateurs.durable import make_directory, write_text
from secateurs.errors import LockedError, OutputError

try:
    import fcntl
except ImportError:  # not on Windows, where nothing holds a directory
    fcntl = None  # type: ignore[assignment]

MARK = "exploration.yaml"


def check_directory(path: Path, text: str) -> None:
    """OutputError unless `path` can become, or already is, the directory of the run that `text` describes."""
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; name a directory for the run.")
    if (path / MARK).exists():
        if (path / MARK).read_text("utf-8") != text:
            raise OutputError(f"{path} holds another exploration. Name a new directory with --out, or delete this one.")
    elif path.is_dir() and any(entry.name != ".lock" for entry in path.iterdir()):
        raise OutputError(
            f"{path} is not empty and holds no run. Name a new directory, so that nothing of yours is lost."
        )
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission in {existing}.")


@contextmanager
def locked(path: Path, text: str) -> Iterator[Path]:
    """The directory, made if needed, bound to `text`, held by this process alone; LockedError if another holds it."""
    check_directory(path, text)
    make_directory(path)
    with held(path / ".lock"):
        check_directory(path, text)
        write_text(path / MARK, text)
        for left_over in (*path.glob(".*.tmp"), *path.glob("models/*/.*.tmp")):  # of a run that was killed
            left_over.unlink()
        yield path


@contextmanager
def held(path: Path, is_waiting: bool = False) -> Iterator[None]:
    """Hold a lock file; where another process holds it, wait, or raise LockedError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
    with os.fdopen(handle, "w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
            except OSError as error:
                message = f"Another run is writing {path.parent}. Wait for it, or name another directory."
                raise LockedError(message) from error
        yield
