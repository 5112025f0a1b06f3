"""all-MiniLM-L6-v2 with a CLS head on banking77: dense, and with 70 % and 90 % of its encoder pruned while it learns.

    python benchmarks/minilm_banking77.py MODEL DATA [--seeds 3] [--epochs 8] [--work runs/minilm] [--out RESULTS]

MODEL is the Hugging Face directory of the network (config.json, model.safetensors, tokenizer.json); DATA holds
train.parquet, validation.parquet and test.parquet with `text` and `label`. Embeddings and head are not pruned. Pruned
networks begin with the published weights and learn from the dense one; "taught" is the dense network's share of that:
trained once more from the published weights, with the same teacher. Killed, it goes on from its last look. No setting
is chosen on test data; each network answers the test queries once.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

import secateurs as sc
from secateurs.data import Dataset, DataSpec, load_data
from secateurs.durable import make_directory, write_bytes, write_json
from secateurs.measure.environment import environment
from secateurs.measure.intervals import over_seeds, wilson
from secateurs.models import ModelSpec, Network, build
from secateurs.train.loop import train
from secateurs.train.training import Training

MAX_LENGTH = 64
TRAINING = Training(learning_rate=2e-4, weight_decay=0.01, warmup=0.1, batch_size=32, clip=1.0)
DISTILL = {"hardness": 0.9, "temperature": 2.0}
ONLY = ("encoder.encoder.*",)
ARMS: dict[str, sc.Recipe | None] = {
    "dense": None,
    "taught": None,
    **{
        f"pruned-{s:.0%}": sc.Recipe(budget=sc.sparsity(s), schedule="cubic(0.1, 0.7, every=20)", only=ONLY)
        for s in (0.7, 0.9)
    },
}


def load(model: Path, data: Dataset, seed: int) -> Network:
    """The published encoder with a fresh head."""
    return build(ModelSpec(name="pretrained", args={"directory": str(model)}), data.shape, seed)


def run(arm: str, seed: int, epochs: float, model: Path, data: Dataset, work: Path) -> dict[str, Any]:
    """One network: trained unless its result is there; accuracy on validation data, and each test query's answer."""
    here = work / f"{arm}-{seed}"
    done = here / "result.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text("utf-8"))
        return found
    make_directory(here)
    module = load(model, data, seed)
    teacher, distill = None, None
    if arm != "dense":
        teacher, distill = load(model, data, seed), DISTILL
        teacher.load_state_dict(load_file(work / f"dense-{seed}" / "weights.safetensors"))
    values = {**TRAINING.values(), "epochs": epochs, "distill": distill, "precision": precision()}
    looks = train(
        module,
        data,
        Training(**values),
        seed=seed,
        recipe=ARMS[arm],
        teacher=teacher,
        n_looks=max(1, round(epochs)),
        state_file=here / "state",
    )
    last = None
    for last in looks:
        print(f"{arm} {seed}: step {last.step}/{last.n_steps}, loss {last.loss}, {last.validation.value:.4f}, "
              f"sparsity {last.sparsity:.3f}", flush=True)  # fmt: skip
    assert last is not None
    module.eval()
    with torch.no_grad():
        answers = torch.cat([module(part).argmax(1) for part in torch.split(data.x_test, 256)])
    write_bytes(here / "weights.safetensors", save(module.state_dict()))
    masks = last.masks
    result = {
        "arm": arm,
        "seed": seed,
        "training": Training(**values).values(),
        "validation": last.validation.values(),
        "is_right": (answers == data.y_test).int().tolist(),
        "n_prunable": 0 if masks is None else masks.n_weights,
        "n_zero": 0 if masks is None else masks.n_weights - masks.n_kept,
    }
    write_json(done, result)
    (here / "state").unlink(missing_ok=True)
    return result


def precision() -> str:
    """bfloat16 where the CPU multiplies it, float32 elsewhere."""
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if has else "float32"


def gather(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Every arm's accuracy, and its difference to dense: over seeds, and over the test queries of the mean network."""
    rows = {}
    for arm, found in results.items():
        right = np.array([each["is_right"] for each in found], dtype=float)  # (seeds, queries)
        dense = np.array([each["is_right"] for each in results["dense"]], dtype=float)
        gap = (right - dense).mean(0)
        half = 1.96 * float(gap.std(ddof=1)) / math.sqrt(gap.size)
        low, high = wilson(float(right.mean()), gap.size)
        rows[arm] = {
            "test": {"value": float(right.mean()), "n": gap.size, "low": low, "high": high},
            "over_seeds": over_seeds(right.mean(1).tolist()).values(),
            "validation": [each["validation"]["value"] for each in found],
            "minus_dense": {
                "mean": float(gap.mean()),
                "low": float(gap.mean()) - half,
                "high": float(gap.mean()) + half,
            },
            "n_prunable": found[0]["n_prunable"],
            "n_zero": found[0]["n_zero"],
            "training": found[0]["training"],
        }
    return rows


def main() -> None:
    """Run what is missing, gather, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--work", type=Path, default=Path("runs/minilm"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "minilm_banking77.json")
    asked = parser.parse_args()
    data = load_data(DataSpec(source=str(asked.data), tokenizer=str(asked.model), max_length=MAX_LENGTH))
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in range(asked.seeds):
        for arm in ARMS:
            results[arm].append(run(arm, seed, asked.epochs, asked.model, data, asked.work))
    command = f"python benchmarks/minilm_banking77.py MODEL DATA --seeds {asked.seeds} --epochs {asked.epochs:g}"
    about = {"command": command, "environment": environment(), "seeds": list(range(asked.seeds))}
    recipes = {arm: recipe and str(recipe) for arm, recipe in ARMS.items()}
    write_json(asked.out, {**about, "recipes": recipes, "arms": gather(results)})


if __name__ == "__main__":
    main()
