"""2:4: what the order of columns is worth, and what a short retrain gives back.

    python benchmarks/patterns.py retrain --data DATA [--seeds 0 1 2] [--models runs/patterns]
    python benchmarks/patterns.py kept --path MINILM [--models runs/patterns]

retrain  the CLS transformer on DATA/mnist.npz. Each seed trains one dense network, then goes on from it in every ARM
         for the same few epochs; the arm "dense" is the control that has the same training and keeps every weight.
         Rates are those of the preset, which were chosen on validation data; the test set is looked at once an arm.
kept     the share of |weight| that 2:4 keeps, before and after permuting: in the directory of a pretrained MiniLM, in
         the networks that retrain saved, in weights without any structure, and, where the network does not allow a
         layer an order of its own, what such an order would keep.

Every result is written to --out as soon as it is known, and what is written is not done again.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import secateurs as sc
from secateurs.data import Dataset, DataSpec, load_data
from secateurs.durable import write_json
from secateurs.experiments.presets import preset
from secateurs.layers import layers
from secateurs.measure.accuracy import accuracy
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, build, load_model, save_model
from secateurs.train.loop import train
from secateurs.train.training import Training

# Patches of 14 x 14: four tokens, so that a seed is trained in a minute, and inputs that 4 divides.
SPEC = ModelSpec.parse("cls-transformer(patch=14)")
RECIPE = sc.Recipe(pool=4, budget=sc.top(2))
DENSE_EPOCHS, MORE_EPOCHS, BATCH = 5.0, 2.0, 128
ARMS = ("dense", "2:4", "2:4 permuted")


def longer(epochs: float, is_first: bool) -> Training:
    """The preset's training for so many epochs."""
    found = preset(SPEC.name).training if is_first else preset(SPEC.name).fine_tune
    return Training(**{**found.values(), "epochs": epochs, "batch_size": BATCH})


def trained(data: Dataset, seed: int, directory: Path) -> dict[str, Any]:
    """Train the dense network and save it."""
    module = build(SPEC, data.shape, seed)
    last = list(train(module, data, longer(DENSE_EPOCHS, True), seed=seed, n_looks=1))[-1]
    save_model(module, SPEC, data.shape, directory)
    return {"validation": last.validation.values()}


def continued(data: Dataset, seed: int, arm: str, directory: Path) -> dict[str, Any]:
    """Prune the dense network as the arm says, train on, and measure."""
    module, _ = load_model(directory)
    if arm == "2:4 permuted":
        sc.permute(module, RECIPE, data.x_val[:2])
    is_pruned = arm != "dense"
    found: dict[str, Any] = {}
    if is_pruned:
        masks = sc.prune(module, RECIPE)
        found["n_pruned"], found["n_weights"] = masks.n_weights - masks.n_kept, masks.n_weights
        found["skipped"] = {line.name: line.reason for line in masks.report if line.status == "impossible"}
        found["before"] = {"validation": accuracy(module, data.x_val, data.y_val).values()}
    recipe = RECIPE if is_pruned else None
    last = list(train(module, data, longer(MORE_EPOCHS, False), seed=1000 + seed, recipe=recipe, n_looks=1))[-1]
    if is_pruned:
        weights = {layer.name: layer.parameter for layer in layers(module)}
        for name in masks:
            live = (weights[name].detach().reshape(-1, 4) != 0).sum(1)
            assert int(live.max()) <= 2, (arm, seed, name)
    return {
        **found,
        "validation": last.validation.values(),
        "test": accuracy(module, data.x_test, data.y_test).values(),
    }


def of_network(module: torch.nn.Module, inputs: Any) -> list[dict[str, Any]]:
    """What permuting does to every weight of a network that 2:4 fits; the outputs stay the same."""
    with torch.no_grad():
        before = first(module, inputs)
        report = sc.permute(module, RECIPE, inputs)
        after = first(module, inputs)
    difference = float((after - before).abs().max() / before.abs().max())
    assert difference < 1e-4, difference
    return [{**asdict(line), "closed": line.closed} for line in report if line.before is not None]


def first(module: torch.nn.Module, inputs: Any) -> torch.Tensor:
    """The first output."""
    found = module(**inputs) if isinstance(inputs, dict) else module(inputs)
    return found if isinstance(found, torch.Tensor) else found[0]


def alone(name: str, weight: torch.Tensor) -> dict[str, Any]:
    """The same of one weight, if its columns could be put in any order."""
    sizes = weight.detach().double().abs().numpy()
    order = sc.permutation(sizes, 2, 4)
    total, plain, most = sizes.sum(), two_of_four(sizes), np.sort(sizes, axis=1)[:, sizes.shape[1] // 2 :].sum()
    after = two_of_four(sizes[:, order])
    shares = {"before": plain / total, "after": after / total, "most": most / total}
    return {"name": name, "shape": list(weight.shape), **shares, "closed": (after - plain) / (most - plain)}


def two_of_four(sizes: Any) -> float:
    """The sum of the two largest of every four neighbours."""
    return float(np.sort(sizes.reshape(len(sizes), -1, 4), axis=2)[:, :, 2:].sum())


def kept(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """The parts of `kept`, each once."""
    found = results.setdefault("kept", {})
    found |= {"command": "python benchmarks/patterns.py kept --path MINILM", "environment": environment()}
    for seed in arguments.seeds:
        key = f"cls-transformer, seed {seed}"
        if key not in found and (arguments.models / f"seed-{seed}").is_dir():
            module, config = load_model(arguments.models / f"seed-{seed}")
            found[key] = of_network(module, torch.randn(2, *config.shape.size))
            write_json(arguments.out, results)
    if arguments.path is not None:
        of_minilm(found, results, arguments)
    for shape in ((64, 256), (384, 384), (384, 1536)):
        key = f"normal {shape[0]}x{shape[1]}"
        if key not in found:
            found[key] = [alone("drawn at random", torch.randn(shape, generator=torch.Generator().manual_seed(0)))]
            write_json(arguments.out, results)


def of_minilm(found: dict[str, Any], results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """MiniLM, permuted as it allows; then each of its other matrices, as if it could have any order."""
    from transformers import AutoModel

    module = AutoModel.from_pretrained(arguments.path, dtype=torch.float32).eval()
    weights = {name: weight.detach().clone() for name, weight in module.named_parameters() if "encoder" in name}
    if "minilm" not in found:
        ids = torch.randint(1000, 20_000, (2, 16), generator=torch.Generator().manual_seed(0))
        found["minilm"] = of_network(module, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        write_json(arguments.out, results)
    rest = found.setdefault("minilm, each matrix alone", [])
    for name, weight in weights.items():
        is_free = name.endswith("output.dense.weight") and "attention" not in name  # its own order already
        if weight.dim() == 2 and not is_free and name not in {line["name"] for line in rest}:
            rest.append(alone(name, weight))
            write_json(arguments.out, results)


def retrain(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Train what is missing, arm by arm."""
    data = load_data(DataSpec(source="mnist", directory=str(arguments.data)))
    about = {
        "command": "python benchmarks/patterns.py retrain --data DATA",
        "environment": environment(),
        "model": str(SPEC),
        "recipe": str(RECIPE),
        "n_test": len(data.y_test),
        "training": longer(DENSE_EPOCHS, True).values(),
        "retraining": longer(MORE_EPOCHS, False).values(),
    }
    part = results.setdefault("retrain", {"seeds": {}})
    part |= about
    found = part["seeds"]
    for arm in ("trained", *ARMS):
        for seed in arguments.seeds:
            mine = found.setdefault(str(seed), {})
            directory = arguments.models / f"seed-{seed}"
            if arm not in mine:
                made = trained(data, seed, directory) if arm == "trained" else continued(data, seed, arm, directory)
                mine[arm] = made
                write_json(arguments.out, results)
            test = mine[arm].get("test", {}).get("value")
            print(f"seed {seed} {arm}: validation {mine[arm]['validation']['value']:.4f}, test {test}", file=sys.stderr)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("retrain", "kept"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", type=Path, default=Path("runs/patterns"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/patterns.json"))
    arguments = parser.parse_args()
    if arguments.part == "retrain" and arguments.data is None:
        parser.error("retrain needs --data, the directory of mnist.npz")
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    (retrain if arguments.part == "retrain" else kept)(results, arguments)


if __name__ == "__main__":
    main()
