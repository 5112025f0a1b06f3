"""Compression on real data: `secateurs compress` with no knobs, several seeds; and the same done by hand beside it.

    python benchmarks/compress.py run mnist --data DATA --seeds 0 1 2 [--work runs/compress]
    python benchmarks/compress.py hand mnist --data DATA --seeds 0 1 2

DATA holds mnist/mnist.npz. `run` is the command itself, in a process of its own, as a user types it; what it wrote is
gathered. `hand` takes the dense networks of those runs and does what the known libraries offer: torch's global
magnitude pruning (80 %), fine-tuning with as many steps as the search took, 20 epochs at most, torch's dynamic int8;
its file is the state_dict that torch saves, and the same compressed by zip. Everything is kept in --work; killed, it
goes on.
"""

import argparse
import copy
import io
import json
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune as torch_prune

from secateurs.data import DataSpec, load_data
from secateurs.durable import make_directory, write_json
from secateurs.experiments.presets import preset
from secateurs.measure.accuracy import correct
from secateurs.measure.drop import Drop
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, build, load_weights
from secateurs.models.files import WEIGHTS_FILE

CASES = {"mnist": ("cls-transformer", "mnist"), "digits": ("cls-transformer", "digits")}
OUT = Path("benchmarks/results/compress.json")
SPARSITY = 0.8


def data_spec(case: str, root: Path) -> DataSpec:
    """The data as `compress` reads them."""
    model, source = CASES[case]
    directory = str(root / source) if source == "mnist" else None
    return DataSpec(source=source, directory=directory, **preset(model).data)


def run(case: str, root: Path, seed: int, work: Path, more: list[str]) -> dict[str, Any]:
    """One `secateurs compress`, and what it found."""
    model, source = CASES[case]
    out = work / f"{case}-{seed}"
    where = ["--data-dir", str(root / source)] if source == "mnist" else []
    words = ["compress", model, "--data", source, *where, "--seed", str(seed), "--out", str(out), *more]
    done = subprocess.run([sys.executable, "-m", "secateurs", *words], check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)
    return gathered(out)


def gathered(out: Path) -> dict[str, Any]:
    """What a finished run found, without what is the same for all seeds."""
    found: dict[str, Any] = json.loads((out / "results.json").read_text("utf-8"))
    kept = (
        "dense",
        "chosen",
        "test",
        "gates",
        "is_met",
        "seconds",
        "duration_s",
        "goal",
        "notes",
        "tried",
        "seed",
        "model",
        "data",
    )
    steps = [{key: value for key, value in row.items() if key != "seconds"} for row in found["steps"]]
    times = {row["id"]: row["seconds"] for row in found["steps"] if row["seconds"]}
    return {**{key: found[key] for key in kept}, "steps": steps, "times": times}


def by_hand(case: str, root: Path, seed: int, work: Path) -> dict[str, Any]:
    """Magnitude pruning, fine-tuning and dynamic int8 with torch alone, in as many steps as the search took."""
    here = work / f"{case}-{seed}"
    kept = here / "by_hand.json"
    if kept.exists():
        known: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return known
    torch.set_num_threads(1)
    pace = (here / "pace.yaml").read_text("utf-8")
    n_steps = int(next(line.split()[1] for line in pace.splitlines() if line.startswith("n_steps")))
    data = load_data(data_spec(case, root))
    training = preset(CASES[case][0]).training
    module = build(ModelSpec.parse(CASES[case][0]), data.shape, seed)
    load_weights(module, here / "cells" / _dense(here) / WEIGHTS_FILE)
    before = correct(module, data.x_test, data.y_test)
    torch.manual_seed(seed)
    n_steps = min(n_steps, round(20 * training.steps_per_epoch(len(data.y_train))))
    linears = [(each, "weight") for each in module.modules() if isinstance(each, nn.Linear)]
    torch_prune.global_unstructured(linears, torch_prune.L1Unstructured, amount=SPARSITY)
    optimizer, order = training.make_optimizer(module), torch.Generator().manual_seed(seed)
    left = torch.zeros(0, dtype=torch.long)
    for step in range(n_steps):
        if not len(left):
            left = torch.randperm(len(data.y_train), generator=order)
        batch, left = left[: training.batch_size], left[training.batch_size :]
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * training.rate_at((step + 0.5) / n_steps)
        optimizer.zero_grad()
        F.cross_entropy(module(data.x_train[batch]), data.y_train[batch]).backward()
        optimizer.step()
    for each, name in linears:
        torch_prune.remove(each, name)
    rows = {"pruned": _row(module, data, before)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this will move to another package
        quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module).eval(), {nn.Linear}, torch.qint8)
    rows["int8"] = _row(quantized, data, before)
    result = {"sparsity": SPARSITY, "n_steps": n_steps, "rows": rows}
    write_json(kept, result)
    return result


def _dense(here: Path) -> str:
    """The cell that no other one began: it has neither start nor recipe."""
    for path in here.glob("cells/*/result.json"):
        cell = json.loads(path.read_text("utf-8"))["cell"]
        if cell["start"] is None and cell["recipe"] is None:
            return path.parent.name
    raise SystemExit(f"{here} holds no dense network: run `compress` first.")


def _row(module: nn.Module, data: Any, before: torch.Tensor) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("weights.pt", file.getvalue())
    drop = Drop.of(before, correct(module, data.x_test, data.y_test))
    return {"size_bytes": len(file.getvalue()), "zipped_bytes": len(squeezed.getvalue()), **drop.values()}


def main() -> None:
    """Run what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "hand"])
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/compress-benchmark"))
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="options for `secateurs compress`")
    arguments = parser.parse_args()
    make_directory(arguments.work)
    results = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    case = results.setdefault(arguments.case, {})
    part = case.setdefault(arguments.what, {})
    for seed in arguments.seeds:
        begun = time.perf_counter()
        if arguments.what == "run":
            part[str(seed)] = run(arguments.case, arguments.data, seed, arguments.work, arguments.more)
        else:
            part[str(seed)] = by_hand(arguments.case, arguments.data, seed, arguments.work)
        case["environment"] = environment()
        more = "".join(f" {word}" for word in ["--more", *arguments.more]) if arguments.more else ""
        case["command"] = f"python benchmarks/compress.py run {arguments.case} --data DATA{more}"
        write_json(OUT, results)
        print(f"{arguments.case} {arguments.what} seed {seed}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
