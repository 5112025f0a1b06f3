"""One-shot global magnitude pruning of two published networks: exact counts, and what it does to accuracy.

    python benchmarks/one_shot_published.py DATA [--out benchmarks/results/one_shot_published.json]

DATA holds mnist/mnist.npz, cifar10/cifar10.npz, weights_lenet5_mnist/ and weights_resnet20_cifar10/ (model.safetensors
with the parameter names of `lenet-5` and `resnet-20`). No setting is chosen: every sparsity is reported, on the whole
test set, once. The zeros are counted again by numpy from the file that was written.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

import secateurs as sc
from secateurs.data import DataSpec, load_data
from secateurs.durable import write_json
from secateurs.layers import layers
from secateurs.measure.accuracy import accuracy
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, build, load_weights

SPARSITIES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
NETWORKS = {
    "lenet-5": ("mnist", "weights_lenet5_mnist", DataSpec(source="mnist", mean=(0.1307,), std=(0.3081,))),
    "resnet-20": (
        "cifar10",
        "weights_resnet20_cifar10",
        DataSpec(source="cifar10.npz", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    ),
}


def measure(name: str, root: Path) -> list[dict[str, object]]:
    """One row for each sparsity."""
    folder, weights, spec = NETWORKS[name]
    place = {"directory": str(root / folder)} if name == "lenet-5" else {"source": str(root / folder / "cifar10.npz")}
    data = load_data(spec.model_copy(update=place))
    rows: list[dict[str, object]] = []
    for s in SPARSITIES:
        module = build(ModelSpec(name=name), data.shape, seed=0)
        load_weights(module, root / weights)
        masks = sc.prune(module, sc.Recipe(budget=sc.sparsity(s)))
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.safetensors"
            save_file(module.state_dict(), path)
            size_bytes = path.stat().st_size
            written = load_file(path)
        pruned = [layer.name for layer in layers(module) if layer.is_prunable]
        n = sum(written[key].size for key in pruned)
        n_zero = sum(int(np.count_nonzero(written[key] == 0)) for key in pruned)
        assert n_zero == round(s * n) == masks.n_weights - masks.n_kept, (name, s, n_zero, round(s * n))
        test = accuracy(module, data.x_test, data.y_test)
        counted = {"n_weights": n, "n_zero": n_zero, "n_asked": round(s * n)}
        row = {"sparsity": s, **counted, "size_bytes": size_bytes, "test": test.values()}
        print(f"{name} {s:.2f}: {n_zero:,} of {n:,} zero, {test.value:.2%} of {test.n:,}", file=sys.stderr)
        rows.append(row)
    return rows


def main() -> None:
    """Measure both and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/one_shot_published.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    results = {
        "command": "python benchmarks/one_shot_published.py DATA",
        "recipe": str(sc.Recipe(budget=sc.sparsity(0.0))).replace("sparsity(0.0)", "sparsity(s)"),
        "environment": environment(),
        "networks": {name: measure(name, arguments.data) for name in NETWORKS},
    }
    write_json(arguments.out, results)
    print(json.dumps(results["networks"], indent=1))


if __name__ == "__main__":
    main()
