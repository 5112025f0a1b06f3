"""Together: parts of one product on as many threads as torch may use, the first of them on the caller's own."""

import os
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue
from threading import Thread

import torch

Part = Callable[[], object]


def n_threads() -> int:
    """What torch computes with: one number for both, so that they never ask for more together."""
    return torch.get_num_threads()


def together(parts: list[Part]) -> None:
    """Run them all; the first error is raised when all have ended."""
    ended: SimpleQueue[BaseException | None] = SimpleQueue()
    for i, part in enumerate(parts[1:]):
        _worker(i, os.getpid()).put((part, ended))
    try:
        parts[0]()
    finally:
        errors = [ended.get() for _ in parts[1:]]
    for error in errors:
        if error is not None:
            raise error


@cache
def _worker(i: int, process: int) -> "SimpleQueue[tuple[Part, SimpleQueue[BaseException | None]]]":
    """A thread that waits for parts: it starts one in 10 to 20 microseconds, half of what a pool of Python's takes.

    A forked child has none of its parent's threads, so it makes its own.
    """
    waiting: SimpleQueue[tuple[Part, SimpleQueue[BaseException | None]]] = SimpleQueue()

    def work() -> None:
        while True:
            part, ended = waiting.get()
            try:
                part()
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)
            del part, ended

    Thread(target=work, name=f"secateurs-together-{i}", daemon=True).start()
    return waiting
