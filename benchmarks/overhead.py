"""Overhead: what the pruner adds to a training step of a real transformer; every step is timed in two parts.

    python benchmarks/overhead.py MODEL DATA [--steps 150] [--out RESULTS]

MODEL is the Hugging Face directory of all-MiniLM-L6-v2, DATA holds banking77's train.parquet, validation.parquet and
test.parquet. The network is fine-tuned with batches of 32 while 70 % of its encoder is pruned, with revive="never" and
masks that are chosen anew every 50 steps. A step is forward, backward and the optimizer; the pruner's part follows.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import secateurs as sc
from secateurs.data import load_data
from secateurs.durable import write_json
from secateurs.experiments.presets import data_for, preset
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, build

EVERY = 50
RECIPE = sc.Recipe(budget=sc.sparsity(0.7), schedule=f"cubic(0.0, 1.0, every={EVERY})", only=("encoder.encoder.*",))


def main() -> None:
    """Train for a while, and write what the two parts of a step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=3 * EVERY)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead.json"))
    arguments = parser.parse_args()
    spec = ModelSpec.parse(f"pretrained(directory={arguments.model})")
    data, training = load_data(data_for(spec, source=str(arguments.data))), preset(spec.name).training
    module = build(spec, data.shape, 0)
    optimizer = training.make_optimizer(module)
    pruner = sc.Pruner(module, RECIPE, optimizer, arguments.steps)
    order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(0))
    seconds = np.zeros((arguments.steps, 2))
    module.train()
    for step in range(arguments.steps):
        batch = order[(step * training.batch_size) % (len(order) - training.batch_size) :][: training.batch_size]
        begun = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(module(data.x_train[batch]), data.y_train[batch]).backward()
        optimizer.step()
        middle = time.perf_counter()
        pruner.step()
        seconds[step] = middle - begun, time.perf_counter() - middle
    results = found(seconds, pruner.sparsity)
    write_json(arguments.out, results)
    print(results)


def found(seconds: "np.ndarray[Any, Any]", sparsity: float) -> dict[str, Any]:
    """Totals of both parts, and their share with a bootstrap interval over blocks of one choice of masks each."""
    blocks = np.array([each.sum(axis=0) for each in np.split(seconds, range(EVERY, len(seconds), EVERY))])
    shares = blocks[:, 1] / blocks[:, 0]
    return {
        "command": f"python benchmarks/overhead.py MODEL DATA --steps {len(seconds)}",
        "environment": environment(),
        "threads": torch.get_num_threads(),
        "recipe": str(RECIPE),
        "n_steps": len(seconds),
        "every": EVERY,
        "sparsity": sparsity,
        "step_s": float(np.median(seconds[:, 0])),
        "pruner_s": float(np.median(seconds[:, 1])),
        "choice_s": float(seconds[EVERY - 1 :: EVERY, 1].max()),
        "share": float(seconds[:, 1].sum() / seconds[:, 0].sum()),
        "low": float(shares.min()),
        "high": float(shares.max()),
    }


if __name__ == "__main__":
    main()
