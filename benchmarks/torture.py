"""Torture: `secateurs prune` killed at random instants; whatever is resumed must end in the same bytes.

    python benchmarks/torture.py [--kills 200] [--seed 0] [--out benchmarks/results/torture.json]

Each run prunes a checkpoint of five shards and is killed with SIGKILL: at a random instant of the whole run, or of the
part of it that writes. After each kill the source must be untouched, every finished file complete, and the directory
either whole or refused by the stock loader; some are killed again while they resume; in the end every byte of the
output must be that of a run that nobody disturbed.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

INDEX = "model.safetensors.index.json"
MANIFEST = "secateurs.json"
OPTIONS = ("--sparsity", "0.7")
CODE = "from secateurs.cli import main; main()"


def make_source(place: Path, n_shards: int = 5, shard_bytes: int = 8 << 20) -> Path:
    """A sharded checkpoint with an index, a config and a text; weights of one shape in each shard, and a bias."""
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
    return place


def _ties(rng: np.random.Generator, side: int) -> np.ndarray:
    """Numbers with ties at every size, so that the order of ties matters too."""
    return (rng.standard_normal((side, side), dtype=np.float32) * 500).round() / 500


def start(source: Path, out: Path, *options: str) -> "subprocess.Popen[str]":
    """The command line, begun."""
    command = [sys.executable, "-c", CODE, "prune", str(source), "-o", str(out), *(options or OPTIONS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(source: Path, out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """The command line, to its end."""
    process = start(source, out, *options)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def hashes(place: Path) -> dict[str, str]:
    """{file: SHA-256} of everything in a directory, what is hidden too, a lock file aside."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wait_for(path: Path, process: "subprocess.Popen[str]", timeout_s: float = 60.0) -> None:
    """Wait until a path exists or the process has ended."""
    end = time.monotonic() + timeout_s
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.0005)


@dataclass(frozen=True)
class Timing:
    """An undisturbed run: seconds in all, and since its output directory is there."""

    whole_s: float
    writing_s: float


def timing(source: Path, out: Path) -> Timing:
    """Measure one run, after one that fills the caches; `out` is left complete."""
    assert run(source, out).returncode == 0
    shutil.rmtree(out)
    begin = time.monotonic()
    process = start(source, out)
    wait_for(out, process)
    appeared = time.monotonic()
    assert process.wait(timeout=300) == 0, process.stderr.read() if process.stderr else ""
    end = time.monotonic()
    return Timing(end - begin, end - appeared)


def kill(source: Path, out: Path, delay_s: float, is_after_output: bool, number: int = signal.SIGKILL) -> int:
    """Start a run and send it a signal after a delay; its exit code (negative: the signal that ended it)."""
    process = start(source, out)
    if is_after_output:
        wait_for(out, process)
    try:
        process.wait(timeout=delay_s)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    process.communicate(timeout=300)
    return process.returncode


def phase(out: Path, whole: dict[str, str]) -> str:
    """How far a run has come, read from what it left."""
    if not out.exists():
        return "no output yet"
    names = set(os.listdir(out))
    n_shards = sum(name.endswith(".safetensors") for name in names)
    n_all = sum(name.endswith(".safetensors") for name in whole)
    if MANIFEST in names:
        return "manifest written"
    is_writing = any(name.endswith(".tmp") for name in names)
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


def torture(source: Path, work: Path, n_kills: int, seed: int) -> dict[str, object]:
    """Kill n_kills runs and resume them all; AssertionError where anything differs."""
    rng = random.Random(seed)
    untouched = hashes(source)
    reference = work / "reference"
    took = timing(source, reference)
    whole = hashes(reference)
    phases: Counter[str] = Counter()
    n_killed = n_resumed = n_loadable = 0
    out = work / "out"
    while n_killed < n_kills:
        is_after_output = rng.random() < 0.8
        delay_s = rng.uniform(0, took.writing_s if is_after_output else took.whole_s)
        code = kill(source, out, delay_s, is_after_output)
        if code == -signal.SIGKILL:
            n_killed += 1
            phases[phase(out, whole)] += 1
        else:
            assert code == 0, f"exit {code}"
        n_loadable += assert_safe(out, whole, reference)
        assert hashes(source) == untouched, "the source was touched"
        if code == 0 or rng.random() < 0.7 or n_killed == n_kills:
            ended = run(source, out)
            assert ended.returncode == 0, ended.stderr
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
        "writing_s": round(took.writing_s, 3),
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
        size_bytes = sum(path.stat().st_size for path in source.iterdir())
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
