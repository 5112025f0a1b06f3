"""Directory: a run's own directory, bound to what is run there and locked while it is written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from secateurs.checks import shown
from secateurs.durable import make_directory, write_text
from secateurs.errors import OutputError
from secateurs.locks import held

MARK = "exploration.yaml"
_NONE = "nothing"
_TOLD = 3  # differences, before the rest is counted


def check_directory(path: Path, text: str, mark: str = MARK) -> None:
    """OutputError unless `path` can become, or already is, the directory of the run that `text` describes.

    mark  the file in it that holds the text, by the kind of run
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; name a directory for the run.")
    if (path / mark).exists():
        if (there := (path / mark).read_text("utf-8")) != text:
            what = mark.partition(".")[0]
            raise OutputError(
                f"{path} holds another {what}{_difference(there, text)}. Name a new directory with --out, or delete "
                "this one."
            )
    elif path.is_dir() and any(entry.name != ".lock" for entry in path.iterdir()):
        kinds = sorted(entry.stem for entry in path.glob("*.yaml"))
        holds = f"holds a run of another kind ({kinds[0]})" if kinds else "holds no run"
        raise OutputError(f"{path} is not empty and {holds}. Name a new directory, so that nothing of yours is lost.")
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission in {existing}.")


def _difference(there: str, here: str) -> str:
    """The first fields in which two runs differ, in words; nothing where one of them has no fields."""
    try:
        old, new = (dict(_fields("", yaml.safe_load(text))) for text in (there, here))
    except (yaml.YAMLError, AttributeError):
        return ""
    if "" in {**old, **new}:
        return ""
    names = [name for name in {**old, **new} if old.get(name, _NONE) != new.get(name, _NONE)]
    told = [f"{name} is {shown(old.get(name, _NONE))} there, {shown(new.get(name, _NONE))} here" for name in names]
    more = f", and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return f": {'; '.join(told[:_TOLD])}{more}" if told else ""


def _fields(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, part in value.items():
        yield from _fields(f"{name}.{key}" if name else str(key), part)


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
