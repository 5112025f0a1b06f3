"""Directory: a run's own directory, bound to what is run there and locked while it is written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateurs.durable import make_directory, write_text
from secateurs.errors import OutputError
from secateurs.locks import held

MARK = "exploration.yaml"


def check_directory(path: Path, text: str, mark: str = MARK) -> None:
    """OutputError unless `path` can become, or already is, the directory of the run that `text` describes.

    mark  the file in it that holds the text, by the kind of run
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; name a directory for the run.")
    if (path / mark).exists():
        if (path / mark).read_text("utf-8") != text:
            what = mark.partition(".")[0]
            raise OutputError(f"{path} holds another {what}. Name a new directory with --out, or delete this one.")
    elif path.is_dir() and any(entry.name != ".lock" for entry in path.iterdir()):
        raise OutputError(
            f"{path} is not empty and holds no run. Name a new directory, so that nothing of yours is lost."
        )
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission in {existing}.")


@contextmanager
def locked(path: Path, text: str, mark: str = MARK) -> Iterator[Path]:
    """The directory, made if needed, bound to `text`, held by this process alone; LockedError if another holds it."""
    check_directory(path, text, mark)
    make_directory(path)
    with held(path / ".lock"):
        check_directory(path, text, mark)
        write_text(path / mark, text)
        for left_over in (*path.glob(".*.tmp"), *path.glob("models/*/.*.tmp")):  # of a run that was killed
            left_over.unlink()
        yield path
