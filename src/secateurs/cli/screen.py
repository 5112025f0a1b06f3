"""Screen: the progress of long work on stderr; a bar on a terminal, one line per ten seconds elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from secateurs.experiments import explore

PLAIN_SECONDS = 10.0


@contextmanager
def watch(ask: Callable[[], "explore.Progress"]) -> Iterator[None]:
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


def _text(progress: "explore.Progress") -> str:
    text = f"{progress.n_cells_done}/{progress.n_cells} networks"
    if progress.latest is None:
        return text
    line = progress.latest
    return f"{text} · loss {line['loss']:.3f} · accuracy {line['accuracy']:.1%} · sparsity {line['sparsity']:.0%}"


def _bar(ask: Callable[[], "explore.Progress"], stop: threading.Event) -> None:
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        while not stop.wait(0.3):
            now = ask()
            bar.update(task, completed=now.n_steps_done, total=now.n_steps, description=_text(now))


def _lines(ask: Callable[[], "explore.Progress"], stop: threading.Event) -> None:
    start = time.monotonic()
    while not stop.wait(PLAIN_SECONDS):
        now, seconds = ask(), time.monotonic() - start
        share = now.n_steps_done / max(now.n_steps, 1)
        left = f", about {seconds * (1 - share) / share:.0f} s left" if 0 < share < 1 else ""
        print(f"{seconds:.0f} s: {share:.0%}{left} · {_text(now)}", file=sys.stderr, flush=True)
