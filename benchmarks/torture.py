"""Torture: `secateurs prune` killed at random instants; whatever is resumed must end in the same bytes.

    python benchmarks/torture.py [--kills 200] [--seed 0] [--out benchmarks/results/torture.json]

Each run prunes a checkpoint of five shards and is killed with SIGKILL, a random while after one of these, drawn by
chance: its start, its output directory, each of its shards, its manifest. After each kill the source must be
untouched, every finished file complete, and the directory either whole or refused by the stock loader; some are killed
again while they resume; in the end every byte of the output must be that of a run that nobody disturbed.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

INDEX = "model.safetensors.index.json"
MANIFEST = "secateurs.json"
OPTIONS = ("--sparsity", "0.7")


def make_source(place: Path, n_shards: int = 5, shard_bytes: int = 8 << 20) -> Path:
    """A sharded checkpoint with an index, a config, a text and a module of its own beside it.

    Each shard holds weights of one shape, and a bias.
    """
    rng = np.random.default_rng(7)
    place.mkdir(parents=True)
    side = int((shard_bytes / 2 / 4) ** 0.5)
    weight_map = {}
    for i in range(n_shards):
        name = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        tensors = {f"layers.{i}.{part}.weight": _ties(rng, side) for part in ("up", "down")}
        tensors[f"layers.{i}.up.bias"] = rng.standard_normal(side, dtype=np.float32)
        save_file(tensors, place / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))
    (place / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (place / "config.json").write_text('{"model_type": "none"}')
    (place / "tokenizer.json").write_text("{}" + " " * 100_000)
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text("{}" + " " * 100_000)
    return place


def _ties(rng: np.random.Generator, side: int) -> np.ndarray:
    """Numbers with ties at every size, so that the order of ties matters too."""
    return (rng.standard_normal((side, side), dtype=np.float32) * 500).round() / 500


class Run:
    """One command line in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "secateurs", *arguments]
        # Whoever started us in the background may have switched Ctrl-C off, for us and all our children.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        signal.signal(signal.SIGINT, before)

    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """(exit code, negative for a signal; what it said on stderr)."""
        _, said = self._process.communicate(timeout=300)
        return self._process.returncode, said


class Warm:
    """Forks runs from one process that has everything imported and compiled, as often as it is called."""

    def __init__(self, source: Path, work: Path) -> None:
        self._said = work / "stderr"
        warm_up = prune_arguments(source, work / "warm")
        code = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import torture; torture.serve(sys.argv)"
        )
        self._server = subprocess.Popen(
            [sys.executable, "-c", code, str(self._said), *warm_up],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what was answered is either in the pipe or read
        )
        self._pid = 0
        self._line()
        shutil.rmtree(work / "warm")

    def _line(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())

    def __call__(self, *arguments: str) -> "Warm":
        assert self._server.stdin is not None
        if self._pid:  # of somebody who did not wait for the end
            self.signal(signal.SIGKILL)
            self._line()
        self._server.stdin.write(json.dumps(arguments).encode() + b"\n")
        self._pid = self._line()
        return self

    def is_over(self) -> bool:
        """Whether the latest run has ended."""
        return bool(select.select([self._server.stdout], [], [], 0)[0])

    def signal(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def end(self) -> tuple[int, str]:
        """(exit code, negative for a signal; what it said on stderr)."""
        code, self._pid = self._line(), 0
        return code, self._said.read_text()

    def close(self) -> None:
        """End the process that forks."""
        self._server.communicate(timeout=60)


def serve(argv: list[str]) -> None:
    """What the process behind `Warm` does: run once, then fork for every line of arguments."""
    from secateurs.cli import main

    said, warm_up = argv[1], argv[2:]

    def call(arguments: list[str]) -> None:
        out = os.open(os.devnull, os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv = ["secateurs", *arguments]
        main()

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.environ["SECATEURS_THREADS"] = "1"  # no threads before a fork
    try:
        call(warm_up)
    except SystemExit as ended:
        del os.environ["SECATEURS_THREADS"]
        print(ended.code or 0, file=answers)
    for line in sys.stdin:
        if pid := os.fork():
            print(pid, file=answers)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers)
        else:
            try:
                call(json.loads(line))
            except SystemExit as ended:
                os._exit(int(ended.code or 0))  # without taking down what the parent still needs
            os._exit(1)


Starter = Callable[..., Run | Warm]


def prune_arguments(source: Path, out: Path) -> list[str]:
    """The command line that is tortured."""
    return ["prune", str(source), "-o", str(out), *OPTIONS]


def hashes(place: Path) -> dict[str, str]:
    """{file: SHA-256} of everything in a directory, what is hidden too, a lock file aside."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wait_for(path: Path | None, run: Run | Warm, timeout_s: float = 60.0) -> None:
    """Wait until a path exists or the run has ended; None is there at once."""
    end = time.monotonic() + timeout_s
    while path is not None and not path.exists() and not run.is_over() and time.monotonic() < end:
        time.sleep(0.0002)


def anchors(out: Path, names: Iterable[str]) -> list[Path | None]:
    """What appears in the course of a run, in this order: nothing, the directory, each shard, the manifest."""
    return [None, out, *(out / name for name in names if name.endswith(".safetensors")), out / MANIFEST]


@dataclass(frozen=True)
class Timing:
    """An undisturbed run: seconds in all, from the output directory on, and from each anchor to the next."""

    whole_s: float
    writing_s: float
    gaps_s: tuple[float, ...]


def timing(source: Path, out: Path, start: Starter = Run) -> Timing:
    """Measure one run, after one that fills the caches; `out` is left complete."""
    assert start(*prune_arguments(source, out)).end()[0] == 0
    names = sorted(os.listdir(out))
    shutil.rmtree(out)
    times = [time.monotonic()]
    run = start(*prune_arguments(source, out))
    for anchor in anchors(out, names)[1:]:
        wait_for(anchor, run)
        times.append(time.monotonic())
    code, said = run.end()
    assert code == 0, said
    times.append(time.monotonic())
    gaps = tuple(after - before for before, after in itertools.pairwise(times))
    return Timing(times[-1] - times[0], times[-1] - times[1], gaps)


def kill(run: Run | Warm, anchor: Path | None, delay_s: float, number: int = signal.SIGKILL) -> int:
    """Send a run a signal, a while after something appeared; its exit code (negative: the signal that ended it)."""
    wait_for(anchor, run)
    time.sleep(delay_s)
    run.signal(number)
    return run.end()[0]


def phase(out: Path, whole: dict[str, str]) -> str:
    """How far a run has come, read from what it left."""
    if not out.exists():
        return "no output yet"
    names = set(os.listdir(out))
    n_shards = sum(name.endswith(".safetensors") for name in names)
    n_all = sum(name.endswith(".safetensors") for name in whole)
    if MANIFEST in names:
        return "manifest written"
    is_writing = any(path.suffix in (".part", ".tmp") for path in out.rglob("*"))
    return f"{n_shards} of {n_all} shards{', one in writing' if is_writing else ''}"


def assert_safe(out: Path, whole: dict[str, str], reference: Path) -> bool:
    """What must hold at any instant: finished files are complete, and a stock load fails or gives everything.

    Returns whether it loads.
    """
    for name, sha256 in hashes(out).items() if out.exists() else ():
        if name.endswith((".safetensors", ".json")) and not Path(name).name.startswith(".") and name in whole:
            assert sha256 == whole[name], f"{name} is there and incomplete"
    try:
        found = stock_load(out)
    except FileNotFoundError:
        return False
    expected = stock_load(reference)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    return True


def stock_load(place: Path) -> dict[str, np.ndarray]:
    """As the stock tools load a directory: model.safetensors, else what the index names."""
    if (place / "model.safetensors").exists():
        return load_file(place / "model.safetensors")
    weight_map = json.loads((place / INDEX).read_text())["weight_map"]
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(weight_map.values()):
        found.update(load_file(place / name))
    assert found.keys() == weight_map.keys()
    return found


def torture(source: Path, work: Path, n_kills: int, seed: int, start: Starter = Run) -> dict[str, object]:
    """Kill n_kills runs and resume them all; AssertionError where anything differs."""
    rng = random.Random(seed)
    untouched = hashes(source)
    reference = work / "reference"
    took = timing(source, reference, start)
    whole = hashes(reference)
    phases: Counter[str] = Counter()
    n_killed = n_resumed = n_loadable = 0
    out = work / "out"
    while n_killed < n_kills:
        i, anchor = rng.choice(list(enumerate(anchors(out, whole))))
        code = kill(start(*prune_arguments(source, out)), anchor, rng.uniform(0, 1.2 * took.gaps_s[i]))
        if code == -signal.SIGKILL:
            n_killed += 1
            phases[phase(out, whole)] += 1
        else:
            assert code == 0, f"exit {code}"
        n_loadable += assert_safe(out, whole, reference)
        assert hashes(source) == untouched, "the source was touched"
        if code == 0 or rng.random() < 0.7 or n_killed == n_kills:
            code, said = start(*prune_arguments(source, out)).end()
            assert code == 0, said
            assert hashes(out) == whole, "the bytes differ"
            n_resumed += 1
            shutil.rmtree(out)
    shutil.rmtree(reference)
    return {
        "n_kills": n_killed,
        "n_resumed_to_the_same_bytes": n_resumed,
        "n_loadable_when_killed": n_loadable,
        "n_files": len(whole),
        "run_s": round(took.whole_s, 3),
        "gaps_s": [round(gap, 4) for gap in took.gaps_s],
        "phases": dict(sorted(phases.items())),
    }


def main() -> None:
    """Torture and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/torture.json"))
    arguments = parser.parse_args()
    from secateurs.durable import write_json
    from secateurs.measure.environment import environment

    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        source = make_source(work / "source")
        size_bytes = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        results = {
            "command": f"python benchmarks/torture.py --kills {arguments.kills} --seed {arguments.seed}",
            "options": " ".join(OPTIONS),
            "source_bytes": size_bytes,
            "environment": environment(),
            **torture(source, work, arguments.kills, arguments.seed),
        }
    write_json(arguments.out, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
