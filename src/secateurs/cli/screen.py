"""Screen: the progress of long work on stderr; a bar on a terminal, one line per ten seconds elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0


class Shown(NamedTuple):
    """How far the work is, in any unit, and a few words about it."""

    done: float
    total: float
    text: str


@contextmanager
def watch(ask: Callable[[], Shown]) -> Iterator[None]:
    """Show what `ask` says, from a thread, while the block runs."""
    stop = threading.Event()
    show = _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(ask, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bar(ask: Callable[[], Shown], stop: threading.Event) -> None:
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        while not stop.wait(0.3):
            now = ask()
            bar.update(task, completed=now.done, total=now.total, description=now.text)


def _lines(ask: Callable[[], Shown], stop: threading.Event) -> None:
    start = time.monotonic()
    while not stop.wait(PLAIN_SECONDS):
        now, seconds = ask(), time.monotonic() - start
        share = now.done / max(now.total, 1)
        left = f", about {seconds * (1 - share) / share:.0f} s left" if 0 < share < 1 else ""
        print(f"{seconds:.0f} s: {share:.0%}{left} · {now.text}", file=sys.stderr, flush=True)
