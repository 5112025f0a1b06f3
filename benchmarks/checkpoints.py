"""Checkpoints: how fast, and in how much memory, weights are chosen, zeroed, streamed and inspected.

    python benchmarks/checkpoints.py memory      100M weights in memory, beside what people use
    python benchmarks/checkpoints.py disk        from disk to disk, against reading twice and writing once
    python benchmarks/checkpoints.py large       10 GB in 64 shards, and 2.6 GB by lamp: memory
    python benchmarks/checkpoints.py ranks       7.7 GB in memory files by one rank and by two
    python benchmarks/checkpoints.py inspect     a real file (--path) and 2 GB
    python benchmarks/checkpoints.py recount     real files (--path) pruned, and sorted in numpy to compare every weight

Every repetition runs all competitors once, in turn; medians, and the least and the most. Memory is the process's own
(RssAnon: not the mapped files): in this process sampled every millisecond, beyond what stood before; of a command every
5 milliseconds, all of it. A peak between two samples is missed. Each part replaces its own key of the result. Run it on
a machine that does nothing else.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from secateurs.checkpoint.direct import DirectFile
from secateurs.durable import write_json
from secateurs.exact.threads import n_threads

MIB = 1 << 20
KTHVALUE, PARTITION = "torch.kthvalue, threshold only", "numpy.partition, threshold only"


def rss_anon(process: int | str = "self") -> int:
    """Bytes of a process's own memory; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


class Peak:
    """The most memory of this process while the block runs, beyond what it had."""

    def __enter__(self) -> "Peak":
        self.before = self.most = rss_anon()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self.most = max(self.most, rss_anon())

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def extra_bytes(self) -> int:
        """Beyond what stood before."""
        return self.most - self.before


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, least, most, and how often."""
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds), "n": len(seconds)}


def in_turn(competitors: dict[str, Callable[[], float]], n: int) -> dict[str, list[float]]:
    """The seconds that each says, n rounds of all in turn, the order reversed in every other round."""
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for i in range(n):
        for name in list(competitors)[:: 1 if i % 2 == 0 else -1]:
            seconds[name].append(competitors[name]())
    return seconds


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Of every competitor to `base`, round by round: the median and the spread."""
    found = {}
    for name in seconds:
        pairs = [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]
        found[name] = {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)}
    return found


# ------------------------------------------------------------------------------------------------------- in memory


RECIPES = {
    "pool model": "sparsity(0.7)",
    "pool layer": "magnitude element layer sparsity(0.7)",
    "pool row": "magnitude element row sparsity(0.7)",
    "2:4": "magnitude element 4 top(2)",
}


def extra_bytes(recipe: str, n_layers: int, side: int) -> int:
    """What zero_out takes beyond the network, in a new process that has the code loaded and nothing else."""
    code = f"""if True:
        import sys, torch, secateurs as sc
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from checkpoints import Peak
        recipe = sc.Recipe.parse({recipe!r})
        sc.zero_out(torch.nn.ModuleList(torch.nn.Linear(1200, 1200, bias=False) for _ in range(2)), recipe)
        module = torch.nn.ModuleList(torch.nn.Linear({side}, {side}, bias=False) for _ in range({n_layers}))
        with Peak() as peak:
            sc.zero_out(module, recipe)
        print(peak.extra_bytes)"""
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def memory(n_layers: int = 20, side: int = 2236, n: int = 9, n_slow: int = 2) -> dict[str, Any]:
    """100M float32 weights of a live network, 70 % zeroed: ours, and what people use."""
    import torch
    from torch.nn.utils import prune as torch_prune

    import secateurs as sc

    torch.manual_seed(0)
    module = torch.nn.ModuleList(torch.nn.Linear(side, side, bias=False) for _ in range(n_layers))
    parameters = list(module.parameters())
    spare = [parameter.detach().clone() for parameter in parameters]
    n_weights = sum(parameter.numel() for parameter in parameters)

    def restore() -> None:
        with torch.no_grad():
            for parameter, value in zip(parameters, spare, strict=True):
                parameter.copy_(value)

    def copy() -> float:
        start = time.perf_counter()
        restore()
        return time.perf_counter() - start

    extra: dict[str, int] = {}

    def timed(name: str, work: Callable[[], object], n_zero: int | None = None) -> Callable[[], float]:
        def once() -> float:
            restore()
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
            if n_zero is not None:
                found = sum(int((parameter == 0).sum()) for parameter in module.parameters())
                assert found == n_zero, (name, found, n_zero)
            return seconds

        return once

    def recipe(text: str) -> Callable[[], object]:
        return lambda: sc.zero_out(module, sc.Recipe.parse(text))

    asked, per_layer = round(0.7 * n_weights), n_layers * round(0.7 * side * side)
    per_row = n_weights // side * round(0.7 * side)
    ours = {
        "memory copy": copy,
        "pool model": timed("pool model", recipe(RECIPES["pool model"]), asked),
        "pool layer": timed("pool layer", recipe(RECIPES["pool layer"]), per_layer),
        "pool row": timed("pool row", recipe(RECIPES["pool row"]), per_row),
        "2:4": timed("2:4", recipe(RECIPES["2:4"]), n_weights // 2),
    }
    for competitor in ours.values():  # compile, and touch the memory
        competitor()
    fast = in_turn(ours, n)
    for name, words in RECIPES.items():
        extra[name] = extra_bytes(words, n_layers, side)

    def global_unstructured() -> None:
        # On copies: it replaces the parameter by a product with a mask.
        layers = [(torch.nn.utils.skip_init(torch.nn.Linear, side, side, bias=False), "weight") for _ in spare]
        for (layer, _), value in zip(layers, spare, strict=True):
            layer.weight = torch.nn.Parameter(value)
        torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=0.7)

    def l1_unstructured() -> None:
        for value in spare:
            layer = torch.nn.utils.skip_init(torch.nn.Linear, side, side, bias=False)
            layer.weight = torch.nn.Parameter(value)
            torch_prune.l1_unstructured(layer, "weight", amount=0.7)

    flat = torch.cat([value.flatten() for value in spare])
    others = {
        "pool model": ours["pool model"],
        "torch global_unstructured": timed("torch global_unstructured", global_unstructured),
        "torch l1_unstructured, each layer": timed("torch l1_unstructured, each layer", l1_unstructured),
        KTHVALUE: timed(KTHVALUE, lambda: flat.abs().kthvalue(asked)),
        PARTITION: timed(PARTITION, lambda: np.partition(np.abs(flat.numpy()), asked)),
        "secateurs.prune, with masks": timed(
            "secateurs.prune, with masks", lambda: sc.prune(module, sc.Recipe.parse("sparsity(0.7)")), asked
        ),
    }
    for name, competitor in others.items():
        if name != "pool model":
            with Peak() as peak:  # which takes time itself, so this round is not timed
                competitor()
            extra[name] = peak.extra_bytes
    slow = in_turn(others, n_slow)
    return {
        "n_weights": n_weights,
        "dtype": "float32",
        "sparsity": 0.7,
        "seconds": {name: summary(times) for name, times in fast.items()},
        "to_memory_copy": ratios(fast, "memory copy"),
        "others_seconds": {name: summary(times) for name, times in slow.items()},
        "others_to_pool_model": ratios(slow, "pool model"),
        "extra_bytes": extra,
    }


# ------------------------------------------------------------------------------------------------------ from disk


def make_checkpoint(place: Path, n_shards: int, n_tensors: int, side: int, seed: int = 0) -> int:
    """A sharded checkpoint of normal float32 weights; its bytes."""
    place.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(side * side + 4096, dtype=np.float32)
    weight_map, total = {}, 0
    for i in range(n_shards):
        name = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        about, at = {}, 0
        for j in range(n_tensors):
            tensor = f"layers.{i}.{j}.weight"
            about[tensor] = {"dtype": "F32", "shape": [side, side], "data_offsets": [at, at + 4 * side * side]}
            weight_map[tensor] = name
            at += 4 * side * side
        text = json.dumps(about).encode()
        text += b" " * (-len(text) % 8)
        with (place / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _ in range(n_tensors):
                # The same numbers from another place on, in another size: cheap, and no two tensors are equal.
                start = int(rng.integers(4096))
                file.write((noise[start : start + side * side] * np.float32(rng.uniform(0.5, 2))).tobytes())
        total += (place / name).stat().st_size
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return total


def forget(place: Path) -> None:
    """Have the system drop a directory's files from its cache, so that the next reader reads the disk."""
    os.sync()
    for path in place.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def command(*words: object, threads: int = 0) -> list[str]:
    """Our command line."""
    more = ["--threads", str(threads)] if threads else []
    return [sys.executable, "-m", "secateurs", *map(str, words), *more]


def run(words: list[str], n_cores: int = 0) -> tuple[float, int]:
    """Seconds, and the most memory of the process's own that was seen, every 5 milliseconds; on so many cores."""
    start, most = time.perf_counter(), 0
    pinned = ["taskset", "-c", f"0-{n_cores - 1}"] if n_cores else []
    with subprocess.Popen([*pinned, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, rss_anon(process.pid))
            time.sleep(0.005)
    assert process.returncode == 0, (process.returncode, words)
    return time.perf_counter() - start, most


def read_and_write(source: Path, out: Path, n_reads: int = 2) -> float:
    """Read every shard n_reads times and write it once, durable and past the cache: what a run cannot do without."""
    start = time.perf_counter()
    out.mkdir()
    for path in sorted(source.glob("*.safetensors")):
        for _ in range(n_reads - 1):
            with path.open("rb", buffering=0) as file:
                while file.read(16 * MIB):
                    pass
        target = DirectFile(out / path.name)
        with path.open("rb", buffering=0) as file:
            while data := file.read(16 * MIB):
                target.write(data)
        target.finish()
    return time.perf_counter() - start


def disk(scratch: Path, n: int = 5) -> dict[str, Any]:
    """1 GB in 8 shards, pruned to 70 % from disk to disk, against reading it twice and writing it once."""
    source, found = scratch / "source", {}
    size = make_checkpoint(source, 8, 8, 2048)
    for is_cold in (False, True):

        def fresh(work: Callable[[Path], float], is_cold: bool = is_cold) -> float:
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            os.sync()
            if is_cold:
                forget(source)
            return work(out)

        competitors = {
            "read twice, write once": lambda: fresh(lambda out: read_and_write(source, out)),
            "secateurs prune": lambda: fresh(
                lambda out: run(command("prune", source, "-o", out, "--sparsity", 0.7, "--only", "*"))[0]
            ),
        }
        seconds = in_turn(competitors, n)
        found["not in the cache" if is_cold else "in the cache"] = {
            "seconds": {name: summary(times) for name, times in seconds.items()},
            "to_limit": ratios(seconds, "read twice, write once")["secateurs prune"],
        }
    return {"size_bytes": size, "n_shards": 8, **found}


def large(scratch: Path, shm: Path) -> dict[str, Any]:
    """10 GB in 64 shards: the memory of one process, and by lamp in a part."""
    source, out = scratch / "source", scratch / "out"
    size = make_checkpoint(source, 64, 9, 2116)
    seconds, most = run(command("prune", source, "-o", out, "--sparsity", 0.7, "--only", "*"))
    shutil.rmtree(out)
    shutil.rmtree(source)
    small_size = make_checkpoint(shm / "source", 16, 9, 2116)
    lamp_seconds, lamp_most = run(
        command("prune", shm / "source", "-o", shm / "out", "--sparsity", 0.7, "--score", "lamp", "--only", "*")
    )
    largest = 4 * 2116 * 2116
    return {
        "size_bytes": size,
        "n_shards": 64,
        "largest_tensor_bytes": largest,
        "seconds": seconds,
        "peak_anonymous_bytes": most,
        "bound_bytes": 2 * largest + 300_000_000,
        "lamp": {
            "size_bytes": small_size,
            "n_shards": 16,
            "seconds": lamp_seconds,
            "peak_anonymous_bytes": lamp_most,
        },
    }


def ranks(shm: Path, n: int = 3) -> dict[str, Any]:
    """One rank against two, of one thread and one core each, without a disk.

    What a rank writes has a thread of its own, which would use the other core: so each gets one, as on two machines.
    """
    source, out = shm / "source", shm / "out"
    size = make_checkpoint(source, 48, 9, 2116)

    def timed(n_ranks: int) -> float:
        shutil.rmtree(out, ignore_errors=True)
        words = ["prune", source, "-o", out, "--sparsity", 0.7, "--only", "*", "--threads", "1"]
        return run([*_launcher(n_ranks), "-m", "secateurs", *map(str, words)], n_ranks)[0]

    competitors = {
        "1 rank": lambda: timed(1),
        "2 ranks": lambda: timed(2),
        "start 1": lambda: _start(1),
        "start 2": lambda: _start(2),
    }
    seconds = in_turn(competitors, n)
    pairs = {"1": ("1 rank", "start 1"), "2": ("2 ranks", "start 2")}
    work = {
        k: [whole - start for whole, start in zip(seconds[a], seconds[b], strict=True)] for k, (a, b) in pairs.items()
    }
    return {
        "size_bytes": size,
        "n_shards": 48,
        "seconds": {name: summary(times) for name, times in seconds.items()},
        "speed_up": {name: 1 / value for name, value in ratios(seconds, "1 rank")["2 ranks"].items()},
        "speed_up_without_start": {name: 1 / value for name, value in ratios(work, "1")["2"].items()},
    }


def _launcher(n_ranks: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n_ranks)]


def _start(n_ranks: int) -> float:
    """Seconds until n ranks have started and met, which is in every time of theirs."""
    code = "import torch.distributed as d; d.init_process_group('gloo'); d.barrier(); d.destroy_process_group()"
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(code)
        script.flush()
        return run([*_launcher(n_ranks), script.name], n_ranks)[0]


def inspect(scratch: Path, path: Path | None, n: int = 7) -> dict[str, Any]:
    """A real file and a large one, the whole command from its start."""
    big = scratch / "big"
    sizes = {"2 GB": make_checkpoint(big, 8, 16, 2048)}
    competitors = {"2 GB": lambda: run(command("inspect", big, "--json"))[0]}
    if path is not None:
        sizes["file"] = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        competitors["file"] = lambda: run(command("inspect", path, "--json"))[0]
    competitors["start"] = lambda: run(command("--version"))[0]
    for competitor in competitors.values():
        competitor()
    seconds = in_turn(competitors, n)
    return {
        name: {
            "size_bytes": sizes.get(name),
            **summary(times),
            "bytes_per_s": sizes.get(name, 0) / statistics.median(times),
        }
        for name, times in seconds.items()
    }


def recount(scratch: Path, paths: list[Path]) -> dict[str, Any]:
    """Real checkpoints pruned at 50, 70 and 90 %, and every zero of the result counted again by sorting in numpy."""
    from safetensors.numpy import load_file

    found: dict[str, Any] = {}
    for path in paths:
        before = load_file(path / "model.safetensors")
        rows = []
        for s in (0.5, 0.7, 0.9):
            out = scratch / f"{path.name}-{s}"
            seconds, _ = run(command("prune", path, "-o", out, "--sparsity", s))
            after = load_file(out / "model.safetensors")
            manifest = json.loads((out / "secateurs.json").read_text())
            names = sorted(layer["name"] for layer in manifest["layers"] if layer["status"] == "pruned")
            sizes = np.concatenate([np.abs(before[name]).ravel() for name in names])
            keep = np.zeros(sizes.size, bool)
            # Largest first, among equals the earlier name and place.
            keep[np.argsort(-sizes, kind="stable")[: sizes.size - round(s * sizes.size)]] = True
            start = 0
            for name in names:
                here = keep[start : start + before[name].size].reshape(before[name].shape)
                assert np.array_equal(after[name], np.where(here, before[name], 0)), (path, s, name)
                start += before[name].size
            others = [name for name in before if name not in names]
            assert all(np.array_equal(before[name], after[name]) for name in others)
            n_zero = sum(int((after[name] == 0).sum()) for name in names)
            rows.append({"sparsity": s, "n_prunable": sizes.size, "n_zero": n_zero, "seconds": seconds})
            run(command("verify", out))
        found[path.parent.name if path.name == "model" else path.name] = rows
    return {"networks": found, "every_weight_equals_the_recount": True}


def main() -> None:
    """Run one part and write it into the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("memory", "disk", "large", "ranks", "inspect", "recount"))
    parser.add_argument("--scratch", type=Path, help="a directory with room, by default a temporary one")
    parser.add_argument("--memory-files", type=Path, default=Path("/dev/shm"), help="a file system in memory")
    parser.add_argument("--path", type=Path, nargs="*", default=[], help="inspect, recount: real checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "checkpoints.json")
    arguments = parser.parse_args()
    if arguments.part == "inspect" and len(arguments.path) > 1:
        parser.error(f"inspect takes one --path, and was given {len(arguments.path)}")
    with (
        tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch,
        tempfile.TemporaryDirectory(dir=arguments.memory_files) as shm,
    ):
        if arguments.part == "memory":
            found = memory()
        elif arguments.part == "disk":
            found = disk(Path(scratch))
        elif arguments.part == "large":
            found = large(Path(scratch), Path(shm))
        elif arguments.part == "ranks":
            found = ranks(Path(shm))
        elif arguments.part == "recount":
            found = recount(Path(scratch), arguments.path)
        else:
            found = inspect(Path(scratch), arguments.path[0] if arguments.path else None)
    from secateurs.measure.environment import environment

    command_line = f"python benchmarks/checkpoints.py {arguments.part}"
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results[arguments.part] = {"command": command_line, "threads": n_threads(), "environment": environment(), **found}
    write_json(arguments.out, results)
    print(json.dumps(results[arguments.part], indent=1))


if __name__ == "__main__":
    main()
