"""A checkpoint in two shards: look inside, prune it from file to file, check the result, and see what changed."""

import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import secateurs as sc

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    """Made-up weights, in place of a download."""
    return 0.1 * rng.standard_normal(shape, dtype=np.float32)


with tempfile.TemporaryDirectory() as place:
    source, out = Path(place, "model"), Path(place, "pruned")
    source.mkdir()
    first = {"embed_tokens.weight": normal(100, 32), "up.weight": normal(64, 32), "up.bias": normal(64)}
    second = {"down.weight": normal(32, 64), "norm.weight": normal(32), "head.weight": 2 * normal(100, 32)}
    weight_map = {}
    for i, tensors in enumerate((first, second), start=1):
        save_file(tensors, source / f"model-{i:05}-of-00002.safetensors")
        weight_map |= dict.fromkeys(tensors, f"model-{i:05}-of-00002.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    for tensor in sc.inspect(source, taus=["1sigma"]).tensors:
        print(f"{tensor.name:21}{tensor.n:6,} weights, sigma {tensor.sigma:.3f}  {tensor.reason or 'prunable'}")
    manifest = sc.prune_checkpoint(source, sc.Recipe(budget="sparsity(0.7)"), out)
    totals = manifest["totals"]
    print(f"{totals['n_pruned']:,} of {totals['n_prunable']:,} prunable weights went: exactly 70 %, rounded")
    print(", ".join(sorted(path.name for path in out.iterdir())))
    found = sc.verify(out)
    print(f"every byte as written: {found.is_ok}, {found.n_zero:,} zeros counted again")
    print(sc.diff(source, out).verdict)
