"""The manifest: what tells one source and one request from another, its sums and its checksum."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import ones, write_f32
from torch import nn

import secateurs as sc
from secateurs.checkpoint.manifest import checksum, fingerprint, make_manifest
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.streamed import prune_checkpoint
from secateurs.checkpoint.tensors import Entry


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


def test_what_is_carried_over_and_what_was_opened_tell_sources_apart(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = write_f32(tmp_path / "in" / "model.safetensors", {"w": ones(4, 4)})
    (tmp_path / "in" / "merges.txt").write_text("a b")
    prints = [seen(source), seen(source.parent)]
    (tmp_path / "in" / "merges.txt").write_text("a c")
    os.utime(tmp_path / "in" / "merges.txt", ns=(1, 1))
    prints.append(seen(source.parent))
    (tmp_path / "in" / "merges.txt").rename(tmp_path / "in" / "vocab.txt")
    prints.append(seen(source.parent))
    assert len({json.dumps(each) for each in prints}) == 4
    assert seen(source) == prints[0]


@pytest.mark.parametrize("field", [each.name for each in fields(Entry)])
def test_all_that_is_known_of_a_tensor_tells_sources_apart(field: str, tmp_path: Path) -> None:
    others = {"name": "v", "dtype": "I32", "shape": (2, 8), "file": "x", "aliases": ("v",), "unfit": "odd"}
    with open_checkpoint(write_f32(tmp_path / "model.safetensors", {"w": ones(4, 4)})) as checkpoint:
        before = fingerprint(checkpoint)
        (entry,) = checkpoint.entries
        other = others.get(field, not getattr(entry, field) if "is_" in field else 7)
        checkpoint.entries = (replace(entry, **{field: other}),)
        assert fingerprint(checkpoint)["tensors"] != before["tensors"]


def test_live_networks_are_told_apart_by_their_values() -> None:
    network, prints = nn.Linear(3, 2), []
    for value in (1.0, 1.0, 2.0):
        nn.init.constant_(network.weight, value)
        with open_checkpoint(network) as checkpoint:
            prints.append(fingerprint(checkpoint))
    assert prints[0]["files"] == {}
    assert prints[0] == prints[1]
    assert prints[0]["tensors"] != prints[2]["tensors"]


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
        "groups": 1,
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
