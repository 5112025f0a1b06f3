"""LeNet-300-100 and LeNet-5 on MNIST: trained, pruned, shared, packed; what the reloaded file gets wrong.

    python benchmarks/lenets.py NET DATA --seeds 0 1 2 [--jobs 2] [--work runs/lenets] [--out FILE]
    python benchmarks/lenets.py NET DATA --seeds 100 --trial '{"small": {"training": {"learning_rate": 0.001}}}'

DATA holds mnist/mnist.npz: 55,000 images to learn from, 5,000 (validation) to choose by, 10,000 (test) for the end.
The papers shift no images, and so do we; NET-shifted learns from images shifted by a pixel or two, which makes its
dense network better too. The only teacher is the network's own dense self. Every stage's weights are kept in --work
under the hash of all that led to them, and a killed run goes on at its last look, to the same bits. A trial changes
some settings, shows validation figures alone, and is noted in the results, so that they say what the settings were
chosen from. The test set is looked at once per NET, when all seeds are done.
"""

import argparse
import importlib
import json
import math
import sys
import tempfile
import time
import types
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import secateurs as sc
from secateurs.data import Dataset, DataSpec, load_data
from secateurs.durable import make_directory, write_json
from secateurs.layers import layers
from secateurs.locks import held
from secateurs.measure.accuracy import accuracy
from secateurs.measure.environment import environment
from secateurs.measure.intervals import over_seeds
from secateurs.models import ModelSpec, Network, build, load_weights, save_model
from secateurs.settings import Settings
from secateurs.train.distillation import Distillation
from secateurs.train.loop import train
from secateurs.train.sharing import Sharing
from secateurs.train.training import Training


class Stage(Settings):
    """One step of the way: a training that may prune, or one of shared weights.

    start    the stage whose weights this one begins with; None begins with fresh ones
    teacher  the stage whose network this one is distilled from
    dropout  {layer: share of its inputs that a training step leaves out}
    n_bits   where it is not 0, the kept weights of a layer become 2**n_bits numbers and learn as those
    """

    name: str
    start: "Stage | None" = None
    teacher: "Stage | None" = None
    training: Training
    recipe: sc.Recipe | None = None
    dropout: dict[str, float] = Field(default_factory=dict)
    n_bits: int = 0


def plan_of(net: str, trial: Mapping[str, Any] | None = None) -> dict[str, Stage]:
    """The stages of a network by name, each after the one it starts from, with the changes of a trial."""
    stages: dict[str, Stage] = {}

    def add(name: str, start: str | None = None, recipe: sc.Recipe | None = None, **values: Any) -> None:
        changed = dict((trial or {}).get(name, {}))
        training = Training(**{**values.pop("training"), **changed.pop("training", {})})
        if isinstance(changed.get("recipe"), str):
            recipe = sc.Recipe.parse(changed.pop("recipe"))
        begin_with = changed.pop("start", start)
        begun, teacher = (
            stages[each] if each else None for each in (begin_with, "dense" if training.distill else None)
        )
        values = {**values, **changed}
        stages[name] = Stage(name=name, start=begun, teacher=teacher, training=training, recipe=recipe, **values)

    def cut(budget: object, score: str = "magnitude", pool: str = "layer") -> sc.Recipe:
        return sc.Recipe(score=score, pool=pool, budget=budget, schedule="cubic(end=0.7, every=50)")

    common = {"batch_size": 128, "warmup": 0.03}
    taught = {**common, "distill": Distillation(hardness=0.9, temperature=2.0)}

    def layers_of(fc1: float, fc2: float, fc3: float) -> dict[str, object]:
        return {"fc1.weight": sc.sparsity(fc1), "fc2.weight": sc.sparsity(fc2), "fc3.weight": sc.sparsity(fc3)}

    if net == "lenet-300-100":
        dense = {**common, "epochs": 60.0, "learning_rate": 2e-3, "weight_decay": 0.01}
        add("dense", training=dense, dropout={"fc1": 0.2, "fc2": 0.5, "fc3": 0.5})
        pruned = {**taught, "epochs": 150.0, "learning_rate": 0.1, "optimizer": "sgd"}
        pruned |= {"weight_decay": 5e-4, "sharpness": 0.7}
        add("small", "dense", cut(layers_of(0.9563, 0.913, 0.6)), training=pruned)
        add("tiny", "dense", cut(layers_of(0.9875, 0.967, 0.64)), training=pruned)
        fine = {**taught, "epochs": 10.0, "learning_rate": 2e-4}
    elif net == "lenet-300-100-shifted":
        dense = {**common, "epochs": 60.0, "learning_rate": 2e-3, "weight_decay": 0.01, "shift": 2}
        add("dense", training=dense, dropout={"fc3": 0.2})
        pruned = {**taught, "epochs": 60.0, "learning_rate": 0.1, "optimizer": "sgd", "shift": 1}
        add("small", "dense", cut(layers_of(0.982, 0.955, 0.6)), training=pruned)
        add("tiny", "dense", cut(layers_of(0.9875, 0.967, 0.64)), training=pruned)
        fine = {**taught, "epochs": 10.0, "learning_rate": 2e-4, "shift": 1}
    else:
        dense = {**common, "epochs": 9.0, "learning_rate": 2e-3, "weight_decay": 0.05}
        add("dense", training=dense, dropout={"fc2": 0.5})
        pruned = {**taught, "epochs": 24.0, "learning_rate": 2e-3}
        add("small", "dense", cut(sc.sparsity(0.99), "lamp", "model"), training=pruned)
        fine = {**taught, "epochs": 2.0, "learning_rate": 2e-4}
    for name in [each for each in stages if each != "dense"]:
        add(f"{name}-shared", name, training=fine, n_bits=4)
    return stages


@cache
def data_of(root: Path) -> Dataset:
    """MNIST with pixels from 0 to 1."""
    return load_data(
        DataSpec(source="mnist", directory=str(root / "mnist"), validation=1 / 12, mean=(0.0,), std=(1.0,))
    )


def network(net: str, data: Dataset, seed: int) -> Network:
    """Freshly drawn weights, in the memory format that convolutions are fast in."""
    module = build(ModelSpec(name=net.removesuffix("-shifted")), data.shape, seed)
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def reached(net: str, stage: Stage, root: Path, seed: int, work: Path) -> Network:
    """The network after this stage: from its file, or trained now and kept there."""
    data = data_of(root)
    folder = work / net / f"seed-{seed}" / f"{stage.name}-{stage.hash}"
    module = network(net, data, seed)
    if (folder / "config.json").exists():  # written last
        load_weights(module, folder)
        return module
    if stage.start is not None:
        module = reached(net, stage.start, root, seed, work)
    teacher = None if stage.teacher is None else reached(net, stage.teacher, root, seed, work)
    sharing = Sharing(module, stage.n_bits) if stage.n_bits else None
    begun = time.thread_time()
    hooks = [
        module.get_submodule(name).register_forward_pre_hook(
            lambda part, inputs, p=p: (F.dropout(inputs[0], p, part.training),)
        )
        for name, p in stage.dropout.items()
    ]
    if net == "lenet-5":
        module.forward = types.MethodType(forward_of_lenet_5, module)
    print(f"{net} seed {seed} {stage.name} begins", file=sys.stderr, flush=True)
    make_directory(folder)
    kept = {"state_file": folder / "state", "n_looks": 10}
    for look in train(module, data, stage.training, seed=seed, recipe=stage.recipe, teacher=teacher, **kept):
        wrong = 100 * (1 - look.validation.value)
        n = f"{look.step}/{look.n_steps}"
        print(f"{net} seed {seed} {stage.name} {n} {look.sparsity:.4f} {wrong:.2f} %", file=sys.stderr, flush=True)
    for hook in hooks:
        hook.remove()
    if sharing is not None:
        sharing.end()
        round_biases(module)
    drop_unread(module)
    about = {"stage": stage.values(), "seed": seed, "cpu_s": time.thread_time() - begun}
    save_model(module, ModelSpec(name=net.removesuffix("-shifted")), data.shape, folder, about)
    (folder / "state").unlink(missing_ok=True)
    return module


@torch.no_grad()
def drop_unread(module: nn.Module) -> None:
    """Units whose output no weight reads any more lose their weights and bias; what the network computes stays."""
    chain = [part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    for part, reader in reversed(list(pairwise(chain))):
        n_units = len(part.weight)
        is_read = (reader.weight.reshape(len(reader.weight), n_units, -1) != 0).any(dim=2).any(dim=0)
        part.weight[~is_read] = 0.0
        part.bias[~is_read] = 0.0


@torch.no_grad()
def round_biases(module: nn.Module) -> None:
    """Biases with the precision of bfloat16, whose other half of zeros takes no room in a file."""
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.copy_(parameter.bfloat16().float())


class Pool(torch.autograd.Function):
    """The largest of 2 x 2 neighbours, channels last; of equal ones the first takes the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(batch, height, width, channels) -> half of height and width."""
        a, b, c, d = x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]
        above, below = torch.maximum(a, b), torch.maximum(c, d)
        ctx.save_for_backward(a >= b, c >= d, above >= below)
        return torch.maximum(above, below)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """Each gradient goes where the largest was."""
        is_left_above, is_left_below, is_above = ctx.saved_tensors
        n, height, width, channels = gradient.shape
        out = gradient.new_empty(n, 2 * height, 2 * width, channels)
        for row, (of_row, is_left) in enumerate(((is_above, is_left_above), (~is_above, is_left_below))):
            part = gradient * of_row
            out[:, row::2, ::2] = left = part * is_left
            out[:, row::2, 1::2] = part - left
        return out


def forward_of_lenet_5(self: Any, x: Tensor) -> Tensor:
    """What LeNet-5 computes, in 0.6 of the time of a training step on one thread: patches, and pooling before ReLU."""
    patches = x[:, 0].unfold(1, 5, 1).unfold(2, 5, 1).flatten(3)  # (batch, 24, 24, 25)
    x = F.linear(patches, self.conv1.weight.flatten(1), self.conv1.bias)
    x = F.relu(Pool.apply(x)).permute(0, 3, 1, 2)  # (batch, 20, 12, 12), channels last in memory
    x = self.conv2(x).permute(0, 2, 3, 1)
    x = F.relu(Pool.apply(x)).permute(0, 3, 1, 2)  # (batch, 50, 4, 4)
    out: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
    return out


def measured(net: str, stage: Stage, root: Path, seed: int, work: Path, *, with_test: bool) -> dict[str, Any]:
    """Errors in %, kept weights, and of shared weights the packed file, evaluated after it was read again."""
    data = data_of(root)
    module = reached(net, stage, root, seed, work)
    row: dict[str, Any] = {}
    if stage.n_bits:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{net}.packed.safetensors"
            receipt = sc.pack(module, path, values=f"codebook:{stage.n_bits}")
            loaded = sc.load(path)
            row["file_bytes"] = path.stat().st_size
        row["is_lossless"] = all(torch.equal(loaded[name], value) for name, value in module.state_dict().items())
        row["bound_bytes"] = math.ceil(sum(line.bound for line in receipt.lines if line.bound is not None))
        module = network(net, data, seed)
        module.load_state_dict(loaded)
    weights = {layer.name: layer.parameter for layer in layers(module) if layer.is_prunable}
    kept = {name: int(weight.count_nonzero()) for name, weight in weights.items()}
    row |= {"n_kept": sum(kept.values()), "kept": kept}
    row["fewer"] = sum(weight.numel() for weight in weights.values()) / row["n_kept"]
    row["validation_error"] = error_of(module, data.x_val, data.y_val)
    if with_test:
        row["test_error"] = error_of(module, data.x_test, data.y_test)
    return row


def error_of(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """Wrong answers in %, to the last digit that n examples give."""
    found = accuracy(module, x, y)
    return round(100 * (found.n - found.n_correct) / found.n, 6)


def train_all(net: str, trial: Mapping[str, Any] | None, root: Path, seed: int, work: Path, last: str | None) -> None:
    """Every stage of one seed, or all that leads to one, on one thread."""
    torch.set_num_threads(1)
    for name, stage in plan_of(net, trial).items():
        if last in (None, name):
            reached(net, stage, root, seed, work)


def main() -> None:
    """Train what is missing, measure, and write the results beside those of the other network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=["lenet-300-100", "lenet-300-100-shifted", "lenet-5"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="processes, one seed and one thread each")
    parser.add_argument("--work", type=Path, default=Path("runs/lenets"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/lenets.json"))
    parser.add_argument("--trial", type=json.loads, help="JSON {stage: its changes}; validation figures only")
    parser.add_argument("--last", help="of a trial: the only stage that is measured")
    arguments = parser.parse_args()
    net, root, trial = arguments.net, arguments.data, arguments.trial
    stages = plan_of(net, trial)
    unknown = [name for name in (*(trial or {}), *([arguments.last] if arguments.last else [])) if name not in stages]
    if unknown or (arguments.last and trial is None):
        parser.error(f"stages are {', '.join(stages)}, and --last is for trials; found {', '.join(unknown) or 'none'}")
    make_directory(arguments.work)
    # By the file's own name: of __main__ other processes would get copies, and what is cached cannot be copied.
    by_name = importlib.import_module(Path(__file__).stem).train_all
    jobs = (joblib.delayed(by_name)(net, trial, root, s, arguments.work, arguments.last) for s in arguments.seeds)
    joblib.Parallel(n_jobs=arguments.jobs)(jobs)
    torch.set_num_threads(1)
    names = [arguments.last] if arguments.last else list(stages)
    found = {
        str(seed): {
            name: measured(net, stages[name], root, seed, arguments.work, with_test=trial is None) for name in names
        }
        for seed in arguments.seeds
    }
    with held(arguments.work / ".results.lock", is_waiting=True):
        results = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
        if trial is None:
            results[net] = {
                "command": f"python benchmarks/lenets.py {net} DATA --seeds {' '.join(map(str, arguments.seeds))}",
                "environment": environment(),
                "data": data_of(root).fingerprint,
                "stages": {name: described(stages[name]) for name in names},
                "summary": {name: summary([rows[name] for rows in found.values()]) for name in names},
                "seeds": found,
            }
        else:
            settings = {name: described(stages[name]) for name in names}
            line = {"net": net, "changes": trial, "stages": settings, "seeds": found}
            others = [each for each in results.get("trials", []) if (each["net"], each.get("changes")) != (net, trial)]
            results["trials"] = [*others, line]
        write_json(arguments.out, results)
    print(json.dumps({name: summary([rows[name] for rows in found.values()]) for name in names}, indent=1))


def described(stage: Stage) -> dict[str, Any]:
    """Its settings, with the stages before it by their names."""
    before = {"start": stage.start and stage.start.name, "teacher": stage.teacher and stage.teacher.name}
    return {**stage.values(), **before}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, of the test error with its interval."""
    out: dict[str, Any] = {}
    for key in ("fewer", "file_bytes", "validation_error"):
        if key in rows[0]:
            out[key] = math.fsum(row[key] for row in rows) / len(rows)
    if "test_error" in rows[0]:
        out["test_error"] = over_seeds([row["test_error"] for row in rows], resolution=0.01).values()
    return out


if __name__ == "__main__":
    main()
