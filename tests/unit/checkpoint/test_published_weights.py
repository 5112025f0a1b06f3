"""Published networks, pruned globally and recounted by one sort of all their weights that shares no code with us."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import secateurs as sc
from secateurs.checkpoint.streamed import prune_checkpoint

NETWORKS = {"weights_lenet5_mnist": 430_500, "weights_resnet20_cifar10": 268_336, "weights_stories260k": 226_560}
EMBEDDINGS = {"tok_embeddings.weight"}


def recount(weights: dict[str, np.ndarray], s: float) -> dict[str, np.ndarray]:
    """The weights that live, by name, else by place, first among equals."""
    names = sorted(name for name, weight in weights.items() if weight.ndim > 1 and name not in EMBEDDINGS)
    every = np.concatenate([np.abs(weights[name]).ravel() for name in names])
    keep = np.zeros(every.size, bool)
    keep[(-every).argsort(kind="stable")[: every.size - round(s * every.size)]] = True
    ends = np.cumsum([weights[name].size for name in names])
    return {
        name: part.reshape(weights[name].shape) for name, part in zip(names, np.split(keep, ends[:-1]), strict=True)
    }


@pytest.mark.parametrize("s", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_published_network_pruned_globally_is_what_one_sort_says(
    network: str, s: float, data_dir: Path, tmp_path: Path
) -> None:
    found = prune_checkpoint(data_dir / network, sc.Recipe(budget=sc.sparsity(s)), tmp_path / "out")
    before = load_file(data_dir / network / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    keep = recount(before, s)
    for name, weight in before.items():
        expected = np.where(keep[name], weight, np.float32(0)) if name in keep else weight
        assert after[name].tobytes() == expected.tobytes(), name
    n = sum(part.size for part in keep.values())
    assert n == NETWORKS[network]
    assert (found["totals"]["n_prunable"], found["totals"]["n_pruned"]) == (n, round(s * n))
    lines = {line["name"]: line["n_pruned"] for line in found["layers"] if line["status"] == "pruned"}
    assert lines == {name: int((~part).sum()) for name, part in keep.items()}
    for name in ("config.json", "meta.json", "README.md"):
        assert (tmp_path / "out" / name).read_bytes() == (data_dir / network / name).read_bytes()
