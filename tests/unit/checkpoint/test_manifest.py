"""The manifest: what tells one source and one request from another, its sums and its checksum."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import ones, write_f32
from torch import nn

import secateurs as sc
from secateurs.checkpoint.manifest import checksum, fingerprint, make_manifest
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.streamed import prune_checkpoint


def seen(source: Path) -> object:
    with open_checkpoint(source) as checkpoint:
        return fingerprint(checkpoint)


def test_a_source_that_changed_is_another(tmp_path: Path) -> None:
    source = write_f32(tmp_path / "model.safetensors", {"w": ones(4, 4)})
    prints = [seen(source)]
    assert seen(source) == prints[0]
    os.utime(source, ns=(1, 1))
    prints.append(seen(source))
    write_f32(source, {"v": ones(4, 4)})
    os.utime(source, ns=(1, 1))
    prints.append(seen(source))
    write_f32(source, {"v": ones(2, 8)})
    os.utime(source, ns=(1, 1))
    prints.append(seen(source))
    prints.append(seen(write_f32(tmp_path / "other.safetensors", {"v": ones(2, 8)})))
    assert len({json.dumps(each) for each in prints}) == 5


def test_a_live_network_has_shapes_and_no_files() -> None:
    with open_checkpoint(nn.Linear(3, 2)) as checkpoint:
        found = fingerprint(checkpoint)
    assert found["files"] == {}
    assert len(found["tensors"]) == 64


def test_totals_are_those_of_the_layers(tmp_path: Path) -> None:
    w = np.array([[0.0, 1.0, -0.0, 2.0], [3.0, 4.0, 5.0, 6.0]], np.float32)
    source = write_f32(tmp_path / "model.safetensors", {"w": w, "bias": np.zeros(3, np.float32)})
    found = prune_checkpoint(source, sc.Recipe(budget="sparsity(0.5)"), tmp_path / "out")
    assert found["totals"] == {"n": 11, "n_prunable": 8, "n_pruned": 4, "n_zero_before": 2, "n_zero": 4}
    assert found["layers"][0] == {
        "name": "w",
        "shape": [2, 4],
        "dtype": "F32",
        "n": 8,
        "n_pruned": 4,
        "n_zero_before": 2,
        "n_zero": 4,
        "status": "pruned",
        "reason": "",
        "aliases": [],
        "tau": None,
        "sigma": None,
        "is_turned": False,
    }
    assert found["layers"][1]["n_zero"] == 3
    assert json.loads((tmp_path / "out" / "secateurs.json").read_text()) == found
    assert found["checksum"] == checksum(found)
    assert sc.Recipe(**found["recipe"]) == sc.Recipe(budget="sparsity(0.5)")


@pytest.mark.parametrize("key", ["format", "version", "recipe", "files", "layers", "totals", "notes"])
def test_the_checksum_is_of_everything_else(key: str) -> None:
    found = make_manifest({"version": "1", "recipe": {}, "source": {}}, None, {}, [], {"notes": []})
    assert found["checksum"] == checksum(found) == checksum({**found, "checksum": "another"})
    assert checksum({**found, key: "another"}) != found["checksum"]
    assert checksum(json.loads(json.dumps(found, indent=3, sort_keys=True))) == found["checksum"]
