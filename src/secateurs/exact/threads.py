"""Threads: a task over many pieces on all cores; the kernels let go of Python's lock, results come in order."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from secateurs.errors import RecipeError

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    found = list(items)
    n = n_threads()
    if n == 1 or len(found) < 2:
        return [task(item) for item in found]
    return list(_pool(n, os.getpid()).map(task, found))


@cache
def _pool(n: int, process: int) -> ThreadPoolExecutor:
    """One pool for every number of threads; a forked child has none of its parent's threads, so it makes its own."""
    return ThreadPoolExecutor(n, thread_name_prefix="secateurs")
