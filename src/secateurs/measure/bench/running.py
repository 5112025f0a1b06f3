"""Running: contenders take turns, each in its own process, so that a drift of the machine's speed favours none.

    found = bench("model/", "pruned/", batches=(1, 32))
    found.rows[3].latencies[0].speedup

A turn is one call that is not counted and as many as fit into 50 ms. In each round everyone has one turn, in an order
that moves on and turns round. The ratio of two contenders is that of their medians in the same round, its interval over
the rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from secateurs.checks import nearest
from secateurs.data import DataSpec
from secateurs.errors import InputError, RecipeError, SecateursError
from secateurs.measure.accuracy import Accuracy
from secateurs.measure.bench.contenders import CONTENDERS, Contender
from secateurs.measure.bench.plan import plan
from secateurs.measure.bench.processes import Process, WorkerError
from secateurs.measure.bench.progress import Progress
from secateurs.measure.bench.results import Bench, Latency, Model, Outcome, Row, size_text
from secateurs.measure.environment import machine
from secateurs.measure.intervals import LEAST, paired_ratio
from secateurs.words import a_count

REFERENCE = "torch-fp32"
TURN_SECONDS, MOST_CALLS = 0.05, 50
PAUSE_SECONDS = 0.01  # in which the threads of the last one stop waiting for more work


@dataclass(eq=False)
class _Entry:
    """A contender while it runs."""

    model: int
    name: str
    process: Process | None = None
    outcome: Outcome = "timed"
    why: str = ""
    fitted: dict[str, Any] | None = None  # for the first size
    found: dict[str, Any] = field(default_factory=dict)
    turns: list[list[list[float]]] = field(default_factory=list)  # of each size, of each round
    choices: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def contender(self) -> Contender:
        return CONTENDERS[self.name]

    def ask(self, do: str, is_watched: bool = False, **more: Any) -> dict[str, Any] | None:
        """The worker's answer; None, and the process is gone, where it has none."""
        if self.process is None:
            return None
        try:
            return self.process.ask(do, is_watched, **more)
        except WorkerError as error:
            self.end("skipped" if error.kind == "CannotError" else "failed", f"{error.kind}: {error}")
        except SecateursError as error:
            self.end("failed", str(error))
        return None

    def end(self, outcome: Outcome, why: str) -> None:
        """It is out."""
        self.outcome, self.why = outcome, why.removeprefix("CannotError: ")[:400]
        if self.process is not None:
            self.process.close()
        self.process = None


def bench(
    model: str | Path,
    vs: str | Path | None = None,
    *,
    batches: Sequence[int] = (),
    tokens: Sequence[int] = (),
    data: DataSpec | None = None,
    contenders: Sequence[str] = (),
    rounds: int = 20,
    threads: int | None = None,
    break_even: bool = False,
    progress: Progress | None = None,
) -> Bench:
    """Time and weigh a network, or two, under every runtime that is installed, against torch fp32 of the first.

    model, vs   directories of networks of this package or of transformers, or packed files beside their config.json
    batches     by default 1, 8, 64 images, or 1 text
    tokens      of each text; by default 1, 16, 128
    data        test examples for the accuracy: for networks of this package
    contenders  names of CONTENDERS; by default all
    rounds      at least LEAST: of fewer no interval is sure
    threads     by default as many as torch uses
    break_even  also from which share of zeros on a packed layer of each shape in `model` is faster than the dense one

    InputError where a network cannot be opened or run; what only one contender cannot do is told in its row.
    """
    for name in contenders:
        if name not in CONTENDERS:
            raise RecipeError(f"There is no contender {name!r}. {nearest(name, CONTENDERS)}")
    a_count("rounds", rounds, LEAST)
    for what, values in (("A batch", batches), ("A number of tokens", tokens)):
        for value in values:
            a_count(what, value, 1)
    n_threads = torch.get_num_threads() if threads is None else a_count("threads", threads, 1)
    progress = progress or Progress()
    names = [name for name in CONTENDERS if name == REFERENCE or name in (contenders or CONTENDERS)]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secateurs-bench-")))
        paths = [str(path) for path in (model, vs) if path is not None]
        entries = [_Entry(k, name) for k in range(len(paths)) for name in names]
        for entry in entries:
            if not entry.contender.is_installed:
                entry.end("not installed", f"pip install 'secateurs[{entry.contender.extra}]'")
            elif entry.contender.on_gpu and not torch.cuda.is_available():
                entry.end("skipped", "there is no GPU that torch can use")
        files = sorted({entry.contender.file for entry in entries if entry.outcome == "timed"} - {""})
        wanted = {"batches": list(batches), "tokens": list(tokens), "onnx": files, "threads": n_threads}
        facts = [_prepare(path, place / str(k), wanted, data, progress) for k, path in enumerate(paths)]
        if facts[1:] and facts[0]["shapes"] != facts[1]["shapes"]:
            shown = [f"'{path}' reads {fact['shapes'][0]}" for path, fact in zip(paths, facts, strict=True)]
            raise InputError(f"{', and '.join(shown)}: their times cannot be compared.")
        sizes: list[tuple[int, int | None]] = [(batch, n) for batch, n in facts[0]["sizes"]]
        for entry in entries:
            progress.text = f"opening {entry.name}"
            _open(entry, paths[entry.model], place, facts[entry.model], n_threads, stack)
        progress.n_turns = rounds * len(sizes) * max(1, sum(entry.process is not None for entry in entries))
        for k, size in enumerate(sizes):
            _time(entries, k, size, rounds, progress)
        if entries[0].process is None:
            raise InputError(f"'{paths[0]}' cannot be timed: {REFERENCE} {entries[0].outcome}: {entries[0].why}")
        rows = [_row(entry, entries[0], facts[entry.model], sizes, place) for entry in entries]
        if data is not None:
            progress.text = "measuring the accuracy"
            rows = [_with_accuracy(row, entry) for row, entry in zip(rows, entries, strict=True)]
    keys = ("size_bytes", "n_parameters", "n_prunable", "n_zero")
    models = [Model(path, *(fact[key] for key in keys)) for path, fact in zip(paths, facts, strict=True)]
    shapes = plan(model, batches=batches, tokens=tokens, threads=n_threads, progress=progress) if break_even else ()
    return Bench(tuple(models), tuple(rows), rounds, machine(n_threads), tuple(shapes))


def _prepare(path: str, folder: Path, wanted: dict[str, Any], data: DataSpec | None, progress: Progress) -> Any:
    """In a process of its own, since it exports and runs what may fail in any way."""
    progress.text = f"preparing {path}"
    folder.mkdir()
    values = None if data is None else data.values()
    with Process(folder / "prepare.log", wanted["threads"]) as process:
        try:
            return process.ask("prepare", path=path, folder=str(folder), data=values, **wanted)
        except WorkerError as error:
            raise InputError(f"'{path}' cannot be opened: {error.kind}: {error}") from error


def _open(entry: _Entry, path: str, place: Path, facts: dict[str, Any], threads: int, stack: ExitStack) -> None:
    """Start its process and load the network: what comes before the first size is timed."""
    if entry.outcome != "timed":
        return
    if why := facts["why_no_onnx"].get(entry.contender.file):
        entry.end("failed", why)
        return
    folder = place / str(entry.model)
    entry.process = stack.enter_context(Process(folder / f"{entry.name}.log", threads))
    chosen = entry.ask("choose", name=entry.name, model=path, folder=str(folder), threads=threads)
    entry.fitted = entry.ask("fit", is_watched=True, size=0)
    if chosen is not None and entry.fitted is not None:
        entry.found = {"load_s": entry.fitted["seconds"]}
        if (own := chosen["anonymous_bytes"]) is not None:
            mapped = entry.fitted["mapped_bytes"] - chosen["mapped_bytes"]
            entry.found["before_bytes"] = own - mapped  # so that what is mapped counts in the peak, too
            entry.found["resident_bytes"] = entry.fitted["anonymous_bytes"] - own + mapped


def _time(entries: list[_Entry], k: int, size: tuple[int, int | None], rounds: int, progress: Progress) -> None:
    """Everyone gets ready for the size, is checked, and takes its turns."""
    n_calls = {}
    for entry in entries:
        progress.text = f"{entry.name} gets ready for {size_text(*size)}"
        fitted = entry.ask("fit", is_watched=True, size=k) if k else entry.fitted  # opened for the first size already
        if fitted is None:
            continue
        found, bound = fitted["difference"], entry.contender.bound
        entry.found["difference"] = max(found, entry.found.get("difference", 0.0)) if found is not None else None
        entry.choices[size_text(*size)] = fitted["choices"]
        if found is None or not found <= bound:
            how = "no numbers of the right shape" if found is None else f"off by {found:.2g} of the largest answer"
            entry.end("wrong", f"{how} at {size_text(*size)}; {bound:g} is allowed")
            continue
        if (tried := entry.ask("run", n=2)) is not None:
            n_calls[entry] = max(1, min(MOST_CALLS, round(TURN_SECONDS / min(tried["seconds"]))))
            entry.turns.append([])
    live = [entry for entry in entries if entry in n_calls]
    for r in range(rounds):
        first = r // 2 % max(1, len(live))
        order = live[first:] + live[:first]
        for entry in order if r % 2 == 0 else reversed(order):
            progress.text = f"{entry.name} at {size_text(*size)}"
            time.sleep(PAUSE_SECONDS)
            if (told := entry.ask("run", n=n_calls[entry])) is not None:
                entry.turns[k].append(told["seconds"])
            progress.n_turns_done += 1


def _with_accuracy(row: Row, entry: _Entry) -> Row:
    """With the right ones among the test examples; what was timed stays, even where this fails."""
    if (found := entry.ask("classify")) is not None:
        return replace(row, accuracy=Accuracy(found["n_correct"], found["n"]))
    return replace(row, why=f"no accuracy: {entry.why}") if row.outcome == "timed" else row


def _row(
    entry: _Entry,
    reference: _Entry,
    facts: dict[str, Any],
    sizes: list[tuple[int, int | None]],
    place: Path,
) -> Row:
    """What it came to."""
    known: dict[str, Any] = {key: entry.found.get(key) for key in ("load_s", "difference", "resident_bytes")}
    if entry.process is not None and "before_bytes" in entry.found:
        known["peak_bytes"] = max(entry.process.peak_bytes - entry.found["before_bytes"], entry.found["resident_bytes"])
    latencies = []
    if entry.outcome == "timed":
        for (batch, tokens), turns, against in zip(sizes, entry.turns, reference.turns, strict=True):
            theirs, own = ([statistics.median(turn) for turn in each] for each in (against, turns))
            ratio = paired_ratio(theirs, own) if entry is not reference else None
            latencies.append(Latency(batch, tokens, tuple(map(tuple, turns)), ratio))
    file, folder = entry.contender.file, place / str(entry.model)
    files = [part for part in folder.glob(f"{file}*") if part.name in (file, f"{file}.data")] if file else []
    return Row(
        entry.model,
        entry.name,
        entry.outcome,
        entry.why,
        entry.contender.bound,
        size_bytes=sum(part.stat().st_size for part in files) or None if file else facts["size_bytes"],
        latencies=tuple(latencies),
        choices=entry.choices if any(entry.choices.values()) else None,
        **known,
    )
