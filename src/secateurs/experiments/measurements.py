"""Measurements: the lines of metrics.jsonl, durable one by one, whole and in order though the run was killed.

with measurements(path) as record:
    record({"step": 0, ...})
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from secateurs.durable import write_text


@contextmanager
def measurements(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that adds a line.

    A run that goes on measures again what it had measured after its last state, to the same numbers: the lines of an
    earlier run are kept up to the step of the first line that is added.
    """
    with ExitStack() as stack:
        file: BinaryIO | None = None

        def record(line: Mapping[str, Any]) -> None:
            nonlocal file
            if file is None:
                kept = [each for each in _complete(path) if each.get("step", line["step"]) < line["step"]]
                write_text(path, "".join(json.dumps(each) + "\n" for each in kept))
                file = stack.enter_context(open(path, "ab"))
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

        yield record


def _complete(path: Path) -> list[dict[str, Any]]:
    """The lines that are complete; a killed run's last one may not be."""
    found: list[dict[str, Any]] = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
