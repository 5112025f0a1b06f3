"""Threads: a task over many pieces on all cores; the kernels let go of Python's lock, results come in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import chain, islice
from threading import current_thread
from typing import TypeVar

from secateurs.errors import RecipeError

Item = TypeVar("Item")
Result = TypeVar("Result")
_NAME = "secateurs-spread"


def n_threads() -> int:
    """SECATEURS_THREADS, else the cores this process may use."""
    text = os.environ.get("SECATEURS_THREADS", "")
    if text:
        if not text.isdigit() or not 1 <= int(text) <= 1024:
            raise RecipeError(f"SECATEURS_THREADS is a number of threads from 1 to 1024; got {text!r}.")
        return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `task` gives for every item, in their order; the first error is raised."""
    return list(flow(task, items))


def flow(task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The same one by one: while a result is used, the next are made. However this ends, no task goes on."""
    n = n_threads()
    # A task that spreads in turn would wait for threads that wait for it.
    pieces = iter(items)
    two = list(islice(pieces, 2))
    if n == 1 or len(two) < 2 or current_thread().name.startswith(_NAME):
        yield from map(task, chain(two, pieces))
        return
    waiting: deque[Future[Result]] = deque()
    try:
        for item in chain(two, pieces):  # which may be made only now: few of them are held at a time
            waiting.append(_pool(n, os.getpid()).submit(task, item))
            if len(waiting) > 2 * n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for each in waiting:
            each.cancel()
        wait(waiting)


@cache
def _pool(n: int, process: int) -> ThreadPoolExecutor:
    """One pool for every number of threads; a forked child has none of its parent's threads, so it makes its own."""
    return ThreadPoolExecutor(n, thread_name_prefix=_NAME)
