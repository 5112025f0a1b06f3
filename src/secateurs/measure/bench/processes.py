"""Processes: a worker from the outside: ask it, watch its memory meanwhile, end it."""

import json
import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import secateurs
from secateurs import errors
from secateurs.errors import SecateursError
from secateurs.measure.memory import anonymous_bytes

LOOK_SECONDS = 0.005  # between two looks at its memory


class WorkerError(Exception):
    """What went wrong in a worker; `kind` is the class of the error there."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Process:
    """One worker; `peak_bytes` is the most anonymous memory that was seen while it was watched."""

    def __init__(self, log: Path, threads: int) -> None:
        home = str(Path(secateurs.__file__).parent.parent)
        paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        count = str(threads)
        own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": count, "SECATEURS_THREADS": count}
        self.log, self.peak_bytes = log, 0
        with open(log, "wb") as file:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "secateurs.measure.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **own},
            )

    def ask(self, do: str, is_watched: bool = False, **more: Any) -> dict[str, Any]:
        """Its answer; WorkerError where it failed or ended, an error of this package as it was raised there."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        while is_watched and not select.select([self._child.stdout], [], [], LOOK_SECONDS)[0]:
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes(self._child.pid) or 0)
        line = self._child.stdout.readline()
        if not line:
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        if "error" not in found:
            return found
        kind, message = found["error"], found["message"]
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, SecateursError):
            raise known(message)
        raise WorkerError(kind, message)

    def _ended(self) -> WorkerError:
        """What is known of a process that is gone: its code, and the end of what it said."""
        code = self._child.wait()
        said = self.log.read_text("utf-8", "replace").strip().splitlines()[-1:]
        return WorkerError("Ended", f"its process ended with code {code}: {' '.join(said) or 'it said nothing'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, whatever it does."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None and not pipe.closed:
                with suppress(BrokenPipeError):  # what was not sent
                    pipe.close()
