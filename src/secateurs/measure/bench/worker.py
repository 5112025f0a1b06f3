"""Worker: the process of one contender: a question per line on its input, an answer per line on its output, as JSON.

    python -m secateurs.measure.bench.worker

It ends when its input does, so that none outlives the process that asks.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from secateurs.measure.memory import anonymous_bytes, mapped_bytes

N_AT_ONCE = 64  # test examples
LARGE = 31 << 20  # bytes: about the largest block that glibc learns from
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them


class Worker:
    """Every public method is a question; what it returns is JSON-able."""

    def prepare(self, **job: Any) -> dict[str, Any]:
        """The files that all contenders of a network read."""
        from secateurs.measure.bench.prepared import prepare

        return prepare(**job)

    def choose(self, name: str, **job: Any) -> dict[str, Any]:
        """Which contender this is; its libraries are imported, nothing is opened."""
        from secateurs.measure.bench.contenders import CONTENDERS, Job

        settle()
        self.job, self.contender = Job(**job), CONTENDERS[name]
        self.contender.import_it(self.job)
        self.session: Any = None
        return {"anonymous_bytes": anonymous_bytes(), "mapped_bytes": mapped_bytes()}

    def fit(self, size: int) -> dict[str, Any]:
        """Get ready for a size, the first time from the files; the seconds until its first answer, and the error."""
        import numpy as np

        from secateurs.measure.bench.contenders import answer, difference

        folder = Path(self.job.folder)
        with np.load(folder / f"inputs-{size}.npz") as file:
            self.inputs = {name: file[name] for name in file.files}
        start = time.perf_counter()
        if self.session is None:
            self.session = self.contender.opening(self.job)
        choices = self.session.fit(self.inputs)
        self.call = self.session.bind(self.inputs)
        found = self.call()
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "anonymous_bytes": anonymous_bytes(),
            "mapped_bytes": mapped_bytes(),
            "difference": difference(answer(found), np.load(folder / f"answer-{size}.npy")),
            "choices": choices,
        }

    def run(self, n: int) -> dict[str, Any]:
        """Seconds of n calls, after one that is not counted: another contender has had the caches."""
        self.call()
        seconds = []
        for _ in range(n):
            start = time.perf_counter()
            self.call()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def classify(self) -> dict[str, Any]:
        """How many of the test examples are right, of the network that was timed last."""
        import numpy as np

        from secateurs.measure.bench.contenders import answer

        folder, (first,) = Path(self.job.folder), self.inputs
        x, y = (np.load(folder / f"{part}_test.npy", mmap_mode="r") for part in "xy")
        n_at_once, n_correct = min(N_AT_ONCE, len(y)), 0
        for start in range(0, len(y), n_at_once):
            # The last batch is filled up with examples that were counted: some runtimes compile each shape.
            low = min(start, len(y) - n_at_once)
            batch = {first: np.array(x[low : low + n_at_once])}
            if start == 0:
                self.session.reshape(batch)
            found = answer(self.session.bind(batch)()).argmax(axis=1) == y[low : low + n_at_once]
            n_correct += int(found[start - low :].sum())
        return {"n_correct": n_correct, "n": len(y)}


def settle() -> None:
    """Let the C library keep what is freed, in every process alike.

    glibc hands larger blocks back to the system, and asks for them again in every call, until it has seen one of their
    size freed. A contender that freed more while it was opened would run without these page faults, others with them.
    What it would learn from a block of LARGE bytes is said to it at once; other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGE)
    mallopt(M_TRIM_THRESHOLD, 2 * LARGE)


def serve() -> None:
    """Answer until there are no more questions."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            found = getattr(worker, asked.pop("do"))(**asked)
        except Exception as error:
            found = {"error": type(error).__name__, "message": str(error)}
        answers.write(json.dumps(found, default=float) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
