"""Compression on real data: `secateurs compress` with no knobs, several seeds; and the same done by hand beside it.

    python benchmarks/compress.py run mnist --data DATA --seeds 0 1 2 [--work runs/compress]
    python benchmarks/compress.py run banking77 --data DATA --model NETWORK-{seed} [--name KEY] [--more --max-time 2h]
    python benchmarks/compress.py torch mnist --data DATA --seeds 0 1 2
    python benchmarks/compress.py nncf mnist --data DATA --seeds 0 1 2       # pip install nncf openvino
    python benchmarks/compress.py secateurs mnist --data DATA --seeds 0 1 2

DATA holds mnist/mnist.npz and banking77/. `run` is the command itself, in a process of its own, as a user types it;
what it wrote is gathered; {seed} in --model is replaced by the seed. The others take the dense networks of those runs
and do what the known libraries offer, with fine-tuning of as many steps as the search took, 20 epochs at most: torch's
global magnitude pruning (80 %, at once) and dynamic int8, the file that torch.save writes of the state_dict; NNCF's
magnitude pruning (80 %, rising) and int8 after it, calibrated on 300 examples, the files that OpenVINO writes and its
answers; and of this library the same 80 % and int8, rising while the dense network teaches, as `compress` does it, the
packed file. Each size also in a zip.
Everything is kept in --work; killed, it goes on.
"""

import argparse
import copy
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import secateurs as sc
from secateurs.data import Dataset, DataSpec, load_data
from secateurs.durable import make_directory, write_json
from secateurs.experiments.candidates import SCHEDULE
from secateurs.experiments.presets import preset
from secateurs.measure.accuracy import correct
from secateurs.measure.drop import Drop
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, build, load_weights
from secateurs.models.files import WEIGHTS_FILE
from secateurs.recipe import Recipe, with_words
from secateurs.train.distillation import Distillation, answers_of
from secateurs.train.loop import train
from secateurs.train.training import Training

CASES = {
    "mnist": ("cls-transformer", "mnist"),
    "digits": ("cls-transformer", "digits"),
    "banking77": ("", "banking77"),  # --model: a network of `secateurs train`, or pretrained(directory=...)
}
OUT = Path("benchmarks/results/compress.json")
SPARSITY = 0.8
INT8 = {"*": "int8", "": "int8"}
MOST_EPOCHS = 20
N_UPDATES = 50  # of NNCF's masks


def data_spec(case: str, root: Path) -> DataSpec:
    """The data as `compress` reads them."""
    model, source = CASES[case]
    directory = str(root / source) if source == "mnist" else None
    return DataSpec(source=source, directory=directory, **preset(model).data)


def where(case: str, root: Path) -> list[str]:
    """The options that name the data."""
    source = CASES[case][1]
    if source == "mnist":
        return ["--data", source, "--data-dir", str(root / source)]
    return ["--data", source if source == "digits" else str(root / source)]


def run(case: str, root: Path, seed: int, out: Path, model: str, more: list[str]) -> dict[str, Any]:
    """One `secateurs compress`, and what it found."""
    words = ["compress", model, *where(case, root), "--seed", str(seed), "--out", str(out), *more]
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


def by_hand(way: str, case: str, root: Path, seed: int, here: Path) -> dict[str, Any]:
    """The dense network of the finished `run` in `here`, made small in one of HAND's ways; kept in a file."""
    kept = here / f"by_{way}.json"
    if kept.exists():
        known: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return known
    torch.set_num_threads(1)
    n_steps = int(json.loads((here / "results.json").read_text("utf-8"))["n_steps"])
    data = load_data(data_spec(case, root))
    training = preset(CASES[case][0]).training
    n_steps = min(n_steps, round(MOST_EPOCHS * training.steps_per_epoch(len(data.y_train))))
    module = build(ModelSpec.parse(CASES[case][0]), data.shape, seed)
    load_weights(module, here / "cells" / _dense(here) / WEIGHTS_FILE)
    before = correct(module, data.x_test, data.y_test)
    begun = time.perf_counter()
    rows = HAND[way](module, data, before, training, n_steps, seed)
    result = {"sparsity": SPARSITY, "n_steps": n_steps, "rows": rows, "duration_s": time.perf_counter() - begun}
    write_json(kept, result)
    return result


def _torch(
    module: nn.Module, data: Dataset, before: Tensor, training: Training, n_steps: int, seed: int
) -> dict[str, Any]:
    """torch's global magnitude pruning at once, fine-tuning, torch's dynamic int8."""
    linears = [(each, "weight") for each in module.modules() if isinstance(each, nn.Linear)]
    torch_prune.global_unstructured(linears, torch_prune.L1Unstructured, amount=SPARSITY)
    _fine_tune(module, data, training, n_steps, seed)
    for each, name in linears:
        torch_prune.remove(each, name)
    module.eval()
    rows = {"pruned": _row(_saved(module), before, correct(module, data.x_test, data.y_test), data)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this will move to another package
        quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, torch.qint8)
    rows["int8"] = _row(_saved(quantized), before, correct(quantized, data.x_test, data.y_test), data)
    return rows


def _nncf(
    module: nn.Module, data: Dataset, before: Tensor, training: Training, n_steps: int, seed: int
) -> dict[str, Any]:
    """NNCF's global magnitude pruning, rising over the first half of the fine-tuning, then its int8 for OpenVINO."""
    import nncf
    import openvino
    from nncf.torch.function_hook.pruning.magnitude.schedulers import ExponentialMagnitudePruningScheduler

    mode, half = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL, max(1, n_steps // 2)
    plain = copy.deepcopy(module).eval()
    module = nncf.prune(module.eval(), mode, ratio=0.0, examples_inputs=data.x_train[:1])
    every = max(1, half // N_UPDATES)
    scheduler = ExponentialMagnitudePruningScheduler(
        module, mode=mode, initial_ratio=0.0, target_ratio=SPARSITY, target_epoch=N_UPDATES
    )

    def update(step: int) -> None:
        if step % every == 0 and step // every <= N_UPDATES:
            scheduler.step(step // every)

    _fine_tune(module, data, training, n_steps, seed, update)
    found = nncf.strip(
        module.eval(), strip_format=nncf.StripFormat.IN_PLACE, example_input=data.x_train[:1]
    ).state_dict()
    plain.load_state_dict({name: found[name] for name in plain.state_dict()})  # NNCF's own module has one batch size
    weights = torch.cat([each.weight.detach().flatten() for each in plain.modules() if isinstance(each, nn.Linear)])
    with tempfile.TemporaryDirectory() as folder:
        sc.export_onnx(plain, data.x_train[:8], Path(folder) / "model.onnx")
        converted = openvino.convert_model(Path(folder) / "model.onnx")
    rows = {"pruned": {**_openvino_row(converted, before, data), "zeros": float((weights == 0).float().mean())}}
    calibration = nncf.Dataset([data.x_train[k : k + 1].numpy() for k in range(300)])
    rows["int8"] = _openvino_row(nncf.quantize(converted, calibration), before, data)
    return rows


def _secateurs(
    module: nn.Module, data: Dataset, before: Tensor, training: Training, n_steps: int, seed: int
) -> dict[str, Any]:
    """LAMP, rising while the dense network teaches; int8 after it; packed."""
    epochs = n_steps / training.steps_per_epoch(len(data.y_train))
    taught = Training(**{**training.values(), "epochs": epochs, "distill": Distillation()})
    recipe = with_words(Recipe.parse(f"lamp element model sparsity({SPARSITY})"), schedule=SCHEDULE)
    answers = answers_of(module, data.x_train)
    for _ in train(module, data, taught, seed=seed, recipe=recipe, teacher=answers, n_looks=1):
        pass
    module.eval()
    rows = {"pruned": _row(_packed(module, "exact"), before, correct(module, data.x_test, data.y_test), data)}
    sc.quantize(module, INT8)
    rows["int8"] = _row(_packed(module, INT8), before, correct(module, data.x_test, data.y_test), data)
    return rows


HAND = {"torch": _torch, "nncf": _nncf, "secateurs": _secateurs}


def _packed(module: nn.Module, values: str | dict[str, str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.packed.safetensors"
        sc.pack(module, path, values)
        return path.read_bytes()


def _fine_tune(
    module: nn.Module,
    data: Dataset,
    training: Training,
    n_steps: int,
    seed: int,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Plain training on labels, the learning rate as in every training here; after: called before each step."""
    torch.manual_seed(seed)
    optimizer, order = training.make_optimizer(module), torch.Generator().manual_seed(seed)
    module.train()
    left = torch.zeros(0, dtype=torch.long)
    for step in range(n_steps):
        after(step)
        if not len(left):
            left = torch.randperm(len(data.y_train), generator=order)
        batch, left = left[: training.batch_size], left[training.batch_size :]
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * training.rate_at((step + 0.5) / n_steps)
        optimizer.zero_grad()
        F.cross_entropy(module(data.x_train[batch]), data.y_train[batch]).backward()
        optimizer.step()


def _dense(here: Path) -> str:
    """The cell that no other one began: it has neither start nor recipe."""
    for path in here.glob("cells/*/result.json"):
        cell = json.loads(path.read_text("utf-8"))["cell"]
        if cell["start"] is None and cell["recipe"] is None:
            return path.parent.name
    raise SystemExit(f"{here} holds no dense network: run `compress` first.")


def _saved(module: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return file.getvalue()


def _openvino_row(model: Any, before: Tensor, data: Dataset) -> dict[str, Any]:
    """Of the files that OpenVINO writes, with weights in half precision, and its own answers."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / "model.xml", compress_to_fp16=True)
        content = b"".join(path.read_bytes() for path in sorted(Path(folder).iterdir()))
        compiled = openvino.Core().compile_model(Path(folder) / "model.xml", "CPU")
        answers = [
            torch.from_numpy(compiled(data.x_test[k : k + 500].numpy())[0].argmax(1))
            for k in range(0, len(before), 500)
        ]
    return _row(content, before, torch.cat(answers) == data.y_test, data)


def _row(content: bytes, before: Tensor, after: Tensor, data: Dataset) -> dict[str, Any]:
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("weights", content)
    drop = Drop.of(before, after)
    return {
        "size_bytes": len(content),
        "zipped_bytes": len(squeezed.getvalue()),
        "n": drop.after.n,
        "n_correct": drop.after.n_correct,
        "drop": drop.value,
    }


def main() -> None:
    """Run what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", *HAND])
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="in place of the case's")
    parser.add_argument("--name", help="what the results are kept as, where it is not the case")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/compress-benchmark"))
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="options for `secateurs compress`")
    arguments = parser.parse_args()
    model = arguments.model or CASES[arguments.case][0]
    if not model or (arguments.what != "run" and not CASES[arguments.case][0]):
        parser.error("this case needs --model, and is for `run`")
    make_directory(arguments.work)
    results = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    name = arguments.name or arguments.case
    case = results.setdefault(name, {})
    part = case.setdefault(arguments.what, {})
    for seed in arguments.seeds:
        begun, here = time.perf_counter(), arguments.work / f"{name}-{seed}"
        if arguments.what == "run":
            mine = model.replace("{seed}", str(seed))
            part[str(seed)] = run(arguments.case, arguments.data, seed, here, mine, arguments.more)
            case |= {"environment": environment(), "command": command(arguments, sorted(map(int, part)))}
        else:
            part[str(seed)] = by_hand(arguments.what, arguments.case, arguments.data, seed, here)
        write_json(OUT, results)
        print(f"{name} {arguments.what} seed {seed}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)


def command(arguments: argparse.Namespace, seeds: list[int]) -> str:
    """What makes these runs, to print beside them."""
    words = ["python benchmarks/compress.py run", arguments.case, "--data DATA"]
    if arguments.model:
        words.append("--model NETWORK" + ("-{seed}" if "{seed}" in arguments.model else ""))
    if arguments.name:
        words.append(f"--name {arguments.name}")
    if seeds != [0, 1, 2]:
        words.append(f"--seeds {' '.join(map(str, seeds))}")
    return " ".join([*words, *(["--more", *arguments.more] if arguments.more else [])])


if __name__ == "__main__":
    main()
