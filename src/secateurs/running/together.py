"""Together: parts of one product on as many threads as torch may use, the caller's own among them.

The threads are torch's own where its OpenMP is GNU's: between two of its operations they spin, waiting for the next,
and no other thread could have their cores. Elsewhere they are Python's.
"""

import ctypes
import os
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch

Part = Callable[[], object]
Ended = SimpleQueue[BaseException | None]


def n_threads() -> int:
    """What torch computes with: one number for both, so that they never ask for more together."""
    return torch.get_num_threads()


def together(parts: list[Part], n: int) -> None:
    """Run them all on n threads, each taking the next part when it is done; an error is raised in the end."""
    left, ended = deque(parts), Ended()
    work = partial(_work, left, ended)
    if (library := gnu_openmp()) is not None and not is_forked():
        library.GOMP_parallel(_Callback(lambda _: work()), None, n, 0)
    else:
        # Nobody waits for a thread that the system has not let run yet: only for the parts.
        for i in range(n - 1):
            _worker(i, os.getpid()).put(work)
        work()
    for error in [ended.get() for _ in parts]:
        if error is not None:
            raise error


def is_forked() -> bool:
    """Whether this process is a child without the threads of OpenMP that its parent had."""
    return bool(_FORKED)


def _work(left: deque[Part], ended: Ended) -> None:
    """Take parts until none is left, and tell of each that it has ended; none is begun after an error."""
    error = None
    while True:
        try:
            part = left.popleft()
        except IndexError:
            return
        try:
            if error is None:
                part()
        except BaseException as found:
            error = found
        ended.put(error)


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_FORKED: list[bool] = []  # a child has none of OpenMP's threads, which that does not know
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _FORKED.append(True))


@cache
def gnu_openmp() -> Any:
    """The libgomp that torch runs on; None where it runs on another, or it cannot be said which."""
    try:
        words = [line.split() for line in Path("/proc/self/maps").read_text("utf-8").splitlines()]
    except OSError:
        return None
    loaded = {Path(each[5]) for each in words if len(each) == 6}
    paths = {path for path in loaded if path.name.startswith("libgomp")}
    own = {path for path in paths if path.is_relative_to(Path(torch.__file__).parent)}
    # Another library may have brought a libgomp while torch runs on Intel's or LLVM's.
    is_other_there = any(path.name.startswith(("libiomp", "libomp")) for path in loaded)
    if len(own or paths) != 1 or (is_other_there and not own):
        return None
    library = ctypes.CDLL(str(*(own or paths)))
    library.GOMP_parallel.argtypes = [_Callback, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    library.GOMP_parallel.restype = None
    return library


@cache
def _worker(i: int, process: int) -> "SimpleQueue[Part]":
    """A thread that waits for work: it starts in 10 to 20 microseconds, half of what a pool of Python's takes.

    A forked child has none of its parent's threads, so it makes its own.
    """
    waiting: SimpleQueue[Part] = SimpleQueue()

    def run() -> None:
        while True:
            waiting.get()()

    Thread(target=run, name=f"secateurs-together-{i}", daemon=True).start()
    return waiting
