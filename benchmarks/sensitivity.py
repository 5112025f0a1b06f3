"""Per-layer sensitivity of two published networks, and allocations at equal size and at equal multiply-adds.

    python benchmarks/sensitivity.py DATA [--out benchmarks/results/sensitivity.json]

DATA as for one_shot_published.py. Published weights saw all training data, so the scan, from which an allocation is
made, looks at every other test example, and what is reported is measured on the others; of ResNet-20 on some of each.
Nothing is trained.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from one_shot_published import NETWORKS
from torch import Tensor

import secateurs as sc
from secateurs.data import load_data
from secateurs.data.splits import in_proportion
from secateurs.durable import write_json
from secateurs.experiments.sensitivity import scan, side_by_side
from secateurs.measure.accuracy import accuracy
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, build, load_weights

SPARSITIES = (0.5, 0.7, 0.8, 0.9)
N_SCAN = {"lenet-5": 5000, "resnet-20": 500}
N_TEST = {"lenet-5": 5000, "resnet-20": 2000}


def picked(x: Tensor, y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n of the examples, classes in proportion: CIFAR-10's test file has them one class after the other."""
    chosen = in_proportion(y, n)
    return x[chosen], y[chosen]


def measure(name: str, root: Path) -> dict[str, Any]:
    """The scan and the allocations of one network."""
    folder, weights, spec = NETWORKS[name]
    place = {"directory": str(root / folder)} if name == "lenet-5" else {"source": str(root / folder / "cifar10.npz")}
    data = load_data(spec.model_copy(update=place))
    x, y = data.x_test, data.y_test
    chosen, reported = picked(x[0::2], y[0::2], N_SCAN[name]), picked(x[1::2], y[1::2], N_TEST[name])
    data = replace(data, x_test=reported[0], y_test=reported[1])
    module = build(ModelSpec(name=name), data.shape, seed=0)
    load_weights(module, root / weights)
    recipe = sc.Recipe(budget=sc.sparsity(0.5))
    print(f"{name}: scanning", file=sys.stderr)
    scanned = scan(module, recipe, *chosen)
    print(f"{name}: comparing", file=sys.stderr)
    lines = side_by_side(module, recipe, data, scanned, SPARSITIES)
    dense = accuracy(module, data.x_test, data.y_test)
    return {"scan": scanned, "n_scan": len(chosen[1]), "dense": dense.values(), "allocations": lines}


def main() -> None:
    """Measure both and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sensitivity.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": "python benchmarks/sensitivity.py DATA",
        "environment": environment(),
        "threads": 1,
        "networks": {},
    }
    for name in NETWORKS:
        results["networks"][name] = measure(name, arguments.data)
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
