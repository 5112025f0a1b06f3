"""Probes: what a finished cell's network is worth in each way of storing it: bytes, and accuracy beside another cell's.

    probe_all(probes, run, n_jobs)  ->  for each probe {values: {size_bytes, n, n_correct, n_lost, n_gained, drop, ...}}
    seconds_of(cell, dense, values, how, data, run)  ->  seconds of one example of both, by the fast kernels

Nothing is trained: the network is rounded to the values, answers, and is packed. Everything is kept beside the cell.
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import torch
from torch import Tensor, nn

from secateurs.checkpoint.packing import pack
from secateurs.data import Dataset
from secateurs.data.lengths import lengths_of, typical
from secateurs.durable import write_json
from secateurs.evaluating import threads
from secateurs.experiments.cells import Cell, data_of, read, same_environment
from secateurs.experiments.facts import measured_once
from secateurs.loading import accelerate_losslessly
from secateurs.locks import held
from secateurs.measure.accuracy import correct
from secateurs.measure.drop import Drop
from secateurs.measure.environment import environment
from secateurs.measure.seconds import side_by_side
from secateurs.quantizing import quantize

N_PAIRS = 40
Stored = tuple[tuple[str, Mapping[str, str]], ...]


@dataclass(frozen=True)
class Probe:
    """What is measured of one cell.

    dense   the cell whose answers its own are held against
    stored  (name of the values, the values as `pack` takes them), one after the other
    part    the examples: "val" or "test"
    most    a drop of the first, beyond which the others are not measured; None measures all
    """

    cell: Cell
    dense: Cell
    stored: Stored
    part: str = "val"
    most: float | None = None


def probe_all(probes: Sequence[Probe], run: Path, n_jobs: int) -> list[dict[str, dict[str, Any]]]:
    """What `probe` finds for each; where there are fewer than processes, several share what has not to wait."""
    parts = [_parts(each, max(1, n_jobs // len(probes))) for each in probes]
    asked = [part for each in parts for part in each]
    jobs = (joblib.delayed(probe)(part, run) for part in asked)
    found = iter(joblib.Parallel(n_jobs=max(1, min(n_jobs, len(asked))))(jobs))
    measured = [{name: value for _ in each for name, value in next(found).items()} for each in parts]
    return [
        {name: of[name] for name, _ in each.stored if name in of} for each, of in zip(probes, measured, strict=True)
    ]


def _parts(asked: Probe, n: int) -> list[Probe]:
    if asked.most is not None:
        return [asked]
    return [replace(asked, stored=asked.stored[k::n]) for k in range(min(n, len(asked.stored)))]


def probe(asked: Probe, run: Path) -> dict[str, dict[str, Any]]:
    """{values: size_bytes, n, n_correct, n_lost, n_gained, drop and its 95 % interval and standard error, n_zero}."""
    torch.set_num_threads(1)
    kept = asked.cell.directory(run) / f"probes-{asked.part}.json"
    known = _known(kept)
    if missing := [(name, how) for name, how in asked.stored if name not in known and not _is_lost(asked, known)]:
        x, y = _examples(data_of(asked.cell), asked.part)
        before = _right(asked.dense, run, asked.part)
        module = asked.cell.load(run)
        for name, how in missing:
            if _is_lost(asked, known):
                break
            stored = copy.deepcopy(module)
            quantize(stored, how)
            drop = Drop.of(before, correct(stored, x, y))
            known[name] = {"size_bytes": packed_bytes(stored, how), **values_of(drop), "n_zero": n_zero(stored)}
        with held(kept.with_suffix(".lock"), is_waiting=True):
            known = _known(kept) | known
            write_json(kept, {"environment": environment(), "measured": known})
    return {name: known[name] for name, _ in asked.stored if name in known}


def _known(kept: Path) -> dict[str, dict[str, Any]]:
    """What was measured here; what another CPU or version found is of other bits: their cell was made anew."""
    if not kept.exists() or not same_environment((found := read(kept))["environment"], environment()):
        return {}
    measured: dict[str, dict[str, Any]] = found["measured"]
    return measured


def _is_lost(asked: Probe, known: Mapping[str, Mapping[str, Any]]) -> bool:
    first = asked.stored[0][0]
    return asked.most is not None and first in known and known[first]["drop"] > asked.most


def values_of(drop: Drop) -> dict[str, Any]:
    """JSON-able: the counts, the drop, its interval and standard error."""
    low, high = drop.interval
    return {
        "n": drop.after.n,
        "n_correct": drop.after.n_correct,
        "n_lost": drop.n_lost,
        "n_gained": drop.n_gained,
        "drop": drop.value,
        "low": low,
        "high": high,
        "error": drop.error,
    }


def packed_bytes(module: nn.Module, how: Mapping[str, str]) -> int:
    """Bytes of the packed file."""
    with tempfile.TemporaryDirectory() as folder:
        return pack(module, Path(folder) / "x.packed.safetensors", how, smallest=True).size_bytes


def n_zero(module: nn.Module) -> int:
    """Zeros among weights of two or more dimensions."""
    return sum(int((each == 0).sum()) for each in module.parameters() if each.dim() > 1)


def seconds_of(
    cell: Cell, dense: Cell, values: str, how: Mapping[str, str], data: Dataset, run: Path
) -> dict[str, Any]:
    """Median seconds of one example: the dense network by torch, and this one with what `accelerate` found faster.

    speed_up, low, high: dense seconds / its own, of interleaved pairs with a bootstrap interval; threads, layers: how
    many were swapped; tokens: of the example where it is a text, one of about the mean length. Measured once on a
    machine, in a quiet moment between trainings.
    """
    x = typical(data.x_val, 1)
    lengths = lengths_of(x)

    def measure() -> dict[str, Any]:
        cores = int(environment()["cores"])
        with threads(cores):
            first, second = dense.load(run).eval(), cell.load(run).eval()
            quantize(second, how)
            with torch.inference_mode():
                found = accelerate_losslessly(second, x)
                slow, fast, ratio = side_by_side(lambda: first(x), lambda: second(x), N_PAIRS)
        slow.sort(), fast.sort()
        return {
            "dense_s": slow[len(slow) // 2],
            "seconds": fast[len(fast) // 2],
            "speed_up": ratio.mean,
            "low": ratio.low,
            "high": ratio.high,
            "n": ratio.n,
            "threads": cores,
            "n_swapped": sum(each.is_swapped for each in found.choices),
            "n_layers": len(found.choices),
            "tokens": None if lengths is None else int(lengths),
        }

    return measured_once(cell.directory(run) / f"seconds-{values.replace('/', '-')}.json", measure)


def _examples(data: Dataset, part: str) -> tuple[Tensor, Tensor]:
    return (data.x_val, data.y_val) if part == "val" else (data.x_test, data.y_test)


@lru_cache(maxsize=4)
def _right(cell: Cell, run: Path, part: str) -> Tensor:
    return correct(cell.load(run), *_examples(data_of(cell), part))
