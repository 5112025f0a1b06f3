"""Packed files: how fast weights are packed and come back, in memory, beside what people use.

    python benchmarks/packed_speed.py

100M normal float32 weights of which 70 % are zero. Without entropy coding: `bitmask`, in memory. With it: files written
to and read from a file system in memory. Every repetition runs all competitors once, in turn: medians, the least and
the most; bytes per second are those of the dense weights. What is slow (zlib, zstd, CSR) gets some of these weights,
and one thread, as it does for those who use it. Run it on a machine that does nothing else: 4 minutes.
"""

import argparse
import json
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import in_turn, ratios, summary

import secateurs as sc
from secateurs.durable import write_json
from secateurs.exact.threads import n_threads
from secateurs.formats import bitmask

COPY = "memory copy"


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """How long it takes, without letting go of what it made."""

    def once() -> float:
        start = time.perf_counter()
        found = work()
        seconds = time.perf_counter() - start
        del found
        return seconds

    return once


def told(seconds: dict[str, list[float]], n_bytes: int) -> dict[str, dict[str, Any]]:
    """Medians and spread, and dense bytes per second by the median."""
    found = {name: summary(each) for name, each in seconds.items()}
    return {name: {**each, "gb_per_s": n_bytes / each["median_s"] / 1e9} for name, each in found.items()}


def fast(weight: torch.Tensor, scratch: Path, n: int) -> dict[str, Any]:
    """Ours, and a copy of the memory."""
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight = torch.nn.Parameter(weight, requires_grad=False)
    work: dict[str, Callable[[], object]] = {COPY: weight.clone}
    sizes: dict[str, int] = {}
    for values in ("exact", "int8"):
        path = scratch / f"{values}.packed.safetensors"
        packed = bitmask.pack(weight, None, values)
        sizes[f"bitmask {values}"] = packed.nbytes
        sizes[f"file {values}"] = sc.pack(model, path, values=values).size_bytes
        back, again = bitmask.unpack(packed), sc.load(path)["weight"]
        assert torch.equal(back, again)
        assert values != "exact" or torch.equal(back, weight)
        work[f"bitmask pack {values}"] = lambda values=values: bitmask.pack(weight, None, values)
        work[f"bitmask unpack {values}"] = lambda packed=packed: bitmask.unpack(packed)
        work[f"file pack {values}"] = lambda path=path, values=values: sc.pack(model, path, values=values)
        work[f"file load {values}"] = lambda path=path: sc.load(path)
        del back, again
    competitors = {name: timed(each) for name, each in work.items()}
    seconds = in_turn(competitors, n)
    rates = told(seconds, weight.nbytes)
    return {"n_weights": weight.numel(), "sizes": sizes, "runs": rates, "to_copy": ratios(seconds, COPY)}


def slow(weight: torch.Tensor, n: int) -> dict[str, Any]:
    """What people use, on one thread."""
    from backports import zstd
    from scipy.sparse import csr_array

    dense = weight.numpy()
    bytes_ = dense.tobytes()
    work: dict[str, Callable[[], object]] = {COPY: dense.copy}
    sizes: dict[str, int] = {}

    def squeezed(name: str, squeeze: Callable[[], bytes], expand: Callable[[bytes], bytes]) -> None:
        data = squeeze()
        assert expand(data) == bytes_
        sizes[name] = len(data)
        work[f"{name} pack"], work[f"{name} unpack"] = squeeze, lambda: expand(data)

    for level in (1, 9):
        squeezed(f"zlib -{level}", lambda level=level: zlib.compress(bytes_, level), zlib.decompress)
    for level in (1, 19):
        squeezed(f"zstd -{level}", lambda level=level: zstd.compress(bytes_, level), zstd.decompress)
    csr = csr_array(dense)
    sizes["CSR"] = csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes
    work["CSR pack"], work["CSR unpack"] = lambda: csr_array(dense), csr.toarray
    seconds = in_turn({name: timed(each) for name, each in work.items()}, n)
    return {"n_weights": weight.numel(), "sizes": sizes, "runs": told(seconds, weight.nbytes)}


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-files", type=Path, default=Path("/dev/shm"), help="a file system in memory")
    parser.add_argument("--side", type=int, default=10_000, help="rows and columns; fewer to try it out")
    parser.add_argument("--n", type=int, default=9, help="repetitions")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "packed_speed.json")
    arguments = parser.parse_args()
    side = arguments.side
    dense = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    weight = torch.from_numpy(dense)
    sc.zero_out(torch.nn.ParameterDict({"weight": weight}), sc.Recipe(budget=sc.sparsity(0.7), only=["weight"]))
    with tempfile.TemporaryDirectory(dir=arguments.memory_files) as scratch:
        found = {
            "n_zero": int((weight == 0).sum()),
            "ours": fast(weight, Path(scratch), arguments.n),
            "others": slow(weight[: max(1, side // 20)].clone(), max(2, arguments.n // 3)),
        }
    from secateurs.measure.environment import environment

    command = "python benchmarks/packed_speed.py"
    result = {"command": command, "threads": n_threads(), "environment": environment(), **found}
    write_json(arguments.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
