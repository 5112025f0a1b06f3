"""Verify: an untouched output is good; every flipped byte, missing, extra or foreign file is found and named."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from secateurs.checkpoint import verifying
from secateurs.checkpoint.manifest import FORMAT, checksum
from secateurs.checkpoint.manifest import NAME as MANIFEST
from secateurs.checkpoint.streamed import WORK, prune_checkpoint
from secateurs.checkpoint.verifying import verify
from secateurs.errors import InputError
from secateurs.recipe import Recipe

RECIPE = {"score": "magnitude", "unit": "element", "pool": "4", "budget": "top(2)", "schedule": "one_shot"}


def pruned(n_rows: int, seed: int) -> np.ndarray:
    """A 2:4 weight (n_rows, 8)."""
    w = np.random.default_rng(seed).normal(size=(n_rows, 2, 4)).astype(np.float32)
    np.put_along_axis(w, np.abs(w).argsort(2)[:, :, :2], 0.0, 2)
    return w.reshape(n_rows, 8)


def layer(name: str, w: np.ndarray, status: str = "pruned", **more: Any) -> dict[str, Any]:
    """A line of the manifest."""
    n_zero = int((w == 0).sum())
    n_pruned = n_zero if status == "pruned" else 0
    counts = {"n": w.size, "n_pruned": n_pruned, "n_zero_before": 0 if n_pruned else n_zero, "n_zero": n_zero}
    kind = {"status": status, "reason": "", "aliases": [], "tau": None, "sigma": None}
    return {"name": name, "shape": list(w.shape), "dtype": "F32", **counts, **kind, **more}


def seal(directory: Path, layers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Write the manifest of what lies in the directory."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = {
        str(path.relative_to(directory)): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in paths
    }
    manifest = {"format": FORMAT, "version": "0.1.0", "recipe": RECIPE, "files": files, "layers": layers, **more}
    manifest["checksum"] = checksum(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest))
    return manifest


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What prune would write: two shards, an index, a config, a module in a folder, the manifest."""
    place = tmp_path / "out"
    (place / "1_Pooling").mkdir(parents=True)
    a, b, bias = pruned(4, 0), pruned(2, 1), np.ones(4, np.float32)
    save_file({"a": a, "bias": bias}, place / "model-1.safetensors")
    save_file({"b": b}, place / "model-2.safetensors")
    weight_map = {"a": "model-1.safetensors", "bias": "model-1.safetensors", "b": "model-2.safetensors"}
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (place / "config.json").write_text("{}")
    (place / "1_Pooling" / "config.json").write_text('{"dim": 8}')
    seal(place, [layer("a", a), layer("bias", bias, "skipped"), layer("b", b)])
    return place


def change(output: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest and seal it again."""
    manifest = json.loads((output / MANIFEST).read_text())
    edit(manifest)
    manifest["checksum"] = checksum(manifest)
    (output / MANIFEST).write_text(json.dumps(manifest))


def said(output: Path) -> list[str]:
    return [str(problem) for problem in verify(output).problems]


def test_what_is_untouched_is_good(output):
    found = verify(output)
    assert found.problems == ()
    assert found.is_ok
    assert (found.n_files, found.n_layers, found.n_nm, found.n, found.n_zero) == (5, 3, 2, 52, 24)
    assert found.size_bytes == sum(
        path.stat().st_size for path in output.rglob("*") if path.is_file() and path.name != MANIFEST
    )
    json.dumps(found.values(), allow_nan=False)


@pytest.mark.parametrize(
    "name", ["model-1.safetensors", "model.safetensors.index.json", "1_Pooling/config.json", MANIFEST]
)
def test_every_flipped_byte_is_found(name, output):
    path = output / name
    whole = path.read_bytes()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << (at % 8)
        path.write_bytes(flipped)
        try:
            found = {problem.file for problem in verify(output).problems}
        except InputError:
            found = {MANIFEST}  # it is no JSON any more, or says another format
        assert name in found, at
    path.write_bytes(whole)
    assert verify(output).is_ok


@pytest.mark.parametrize("n_bytes", [0, 1, 100, -1])
def test_every_truncation_is_found(n_bytes, output):
    path = output / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert said(output)[0].startswith("model-1.safetensors: has ")


def test_a_missing_file_is_named(output):
    (output / "model-2.safetensors").unlink()
    assert said(output)[0] == "model-2.safetensors: is missing"


@pytest.mark.parametrize("name", ["model.safetensors", "extra.safetensors", "pytorch_model.bin", "x.index.json"])
def test_weights_that_a_loader_could_take_instead_are_named(name, output):
    (output / name).write_bytes(b"")
    assert f"{name}: holds weights and is not in the manifest" in said(output)


def test_other_files_may_be_added(output):
    (output / "NOTES.md").write_text("mine")
    assert verify(output).is_ok


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a//b", "./config.json", "", "a\\b", "a\0b", "c:x"])
def test_a_name_that_leaves_the_directory_is_not_read(name, output, monkeypatch):
    (output.parent / "secret").write_text("")
    change(output, lambda manifest: manifest["files"].update({name: {"size": 0, "sha256": ""}}))
    read: list[Path] = []
    monkeypatch.setattr(
        verifying, "open_plain", lambda path, whole=verifying.open_plain: read.append(path) or whole(path)
    )
    assert "is no name of a file inside the directory" in said(output)[0]
    assert len(read) == 5


def test_a_link_that_leaves_the_directory_is_not_read(output):
    whole = (output / "config.json").read_bytes()
    (output.parent / "elsewhere").write_bytes(whole)
    (output / "config.json").unlink()
    (output / "config.json").symlink_to(output.parent / "elsewhere")
    assert said(output) == ["config.json: is a link to another place; it was not read"]


def test_a_pipe_in_place_of_a_file_does_not_hang(output):
    (output / "config.json").unlink()
    os.mkfifo(output / "config.json")
    assert "is not a regular file" in said(output)[0]


def rewritten(output: Path, name: str, w: np.ndarray, **more: Any) -> list[str]:
    """The problems after a layer's bytes changed and all hashes were made to fit: only the recount is left to tell."""
    save_file({name: w}, output / "model-2.safetensors")
    manifest = json.loads((output / MANIFEST).read_text())
    layers = [{**each, **more} if each["name"] == name else each for each in manifest["layers"]]
    seal(output, layers)
    return said(output)


def test_zeros_are_counted_again(output):
    w = pruned(2, 1)
    w[0, np.flatnonzero(w[0])[0]] = 0.0
    assert rewritten(output, "b", w) == ["model-2.safetensors, 'b': has 9 zeros; the manifest says 8"]


def test_groups_are_counted_again(output):
    w = np.ones((2, 8), np.float32)
    w[0, :4] = w[1, :4] = 0.0
    assert rewritten(output, "b", w) == ["model-2.safetensors, 'b': 2 groups of 4 keep more than 2"]


def test_another_shape_is_named(output):
    said = rewritten(output, "b", pruned(4, 1))
    assert said == ["model-2.safetensors, 'b': is F32 [4, 8]; the manifest says F32 [2, 8]"]


def test_a_layer_only_in_the_manifest_or_only_in_the_file(output):
    change(output, lambda manifest: manifest["layers"][2].update(name="c"))
    assert said(output) == [
        f"{MANIFEST}, 'c': is in the manifest and in no file",
        "model-2.safetensors, 'b': is not in the manifest",
    ]


def test_bounds_do_where_the_manifest_gives_no_count(output):
    def without(manifest: dict[str, Any]) -> None:
        for each in manifest["layers"]:
            del each["n_zero"]

    change(output, without)
    assert verify(output).is_ok
    change(output, lambda manifest: manifest["layers"][0].update(n_pruned=17))
    assert said(output) == ["model-1.safetensors, 'a': has 16 zeros; the manifest says 17"]


@pytest.mark.parametrize("is_turned", [False, True])
def test_groups_run_along_the_inputs(is_turned, output):
    """A convolution (out, in, h, w), and GPT-2's (in, out)."""
    w = pruned(6, 3)  # (out, in)
    stored = np.ascontiguousarray(w.T) if is_turned else np.ascontiguousarray(w.reshape(3, 2, 8).transpose(0, 2, 1))
    entry = verifying.Entry("w", "F32", stored.shape, is_turned=is_turned)
    bits = stored.reshape(-1).view(np.uint32)
    assert list(verifying._groups(entry, bits, 2, 4)) == []
    assert "12 groups of 4 keep more than 1" in str(*verifying._groups(entry, bits, 1, 4))
    assert "8 inputs, which groups of 3 do not divide" in str(*verifying._groups(entry, bits, 2, 3))


def test_many_pieces_count_the_same(output, monkeypatch):
    monkeypatch.setattr(verifying, "CHUNK", 3)
    assert verify(output).is_ok


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "secateurs.pruned/2", "version": "9.9.9"}, "written by version '9.9.9'; this is .* newer one"),
        ({"format": "secateurs.exploration/1"}, "which reads 'secateurs.pruned/1'"),
        ({"format": "other"}, "is not a manifest of secateurs"),
        ({"format": 1}, "is not a manifest of secateurs"),
        ([], "is not a manifest of secateurs"),
        ({"format": FORMAT}, "is damaged: 'files' is None, not a dict"),
        ({"format": FORMAT, "files": {"a": {"size": True}}}, "'size' is True, not a int"),
        ({"format": FORMAT, "files": {}, "layers": [1]}, "'shape' is None"),
        ({"format": FORMAT, "files": {}, "layers": [{"shape": ["1"], "aliases": []}]}, "a layer has the shape"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(values, message, output):
    (output / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        verify(output)


@pytest.mark.parametrize("pool", ["0", "²", "9" * 400, "-4", "4.0", 0])
def test_a_pool_that_is_no_number_of_neighbours_is_no_pattern(pool, output):
    change(output, lambda manifest: manifest["recipe"].update(pool=pool, budget="sparsity(0.5)"))
    found = verify(output)
    assert (found.problems, found.n_nm) == ((), 0)


@pytest.mark.parametrize("budget", ["erk(0.5)", "sparsity(0.5)", "top(2)", None, {}, {"a": 1}, [1], {"b": "top(2)"}])
@pytest.mark.parametrize("shape", [[-1, 8], [0, 0], [10**400, 8], [True, 8], []])
def test_shapes_that_cannot_be_are_problems_and_no_crash(budget, shape, output):
    def edit(manifest):
        manifest["recipe"]["budget"] = budget
        manifest["layers"][0]["shape"] = shape

    change(output, edit)
    assert any("the manifest says F32" in problem for problem in said(output))


def test_a_file_that_does_not_open_is_one_of_the_problems(output):
    (output / "model.safetensors.index.json").write_text("{")
    problems = said(output)
    assert any(problem.startswith("model.safetensors.index.json: has 1 bytes") for problem in problems)
    assert any("is not valid JSON" in problem for problem in problems)


def test_without_a_manifest_the_structure_is_checked(output):
    (output / MANIFEST).unlink()
    w = np.array([[np.nan, np.inf, 0.0, -0.0]], np.float32)
    save_file({"b": w}, output / "model-2.safetensors")
    for path in (output, output / "model-2.safetensors"):
        found = verify(path)
        assert found.is_ok
        assert not found.has_manifest
        assert f"There is no {MANIFEST}" in found.notes[0]
        assert "'b' holds 2 NaN or infinite numbers." in found.notes
    assert (found.n, found.n_zero) == (4, 2)
    (output / "model-2.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match=r"model-2.safetensors"):
        verify(output)


def test_what_is_no_checkpoint_is_said(tmp_path):
    with pytest.raises(InputError, match="There is no file or directory"):
        verify(tmp_path / "nothing")
    with pytest.raises(InputError, match="has no weights"):
        verify(tmp_path)
    (tmp_path / "exploration.yaml").write_text("")
    with pytest.raises(InputError, match="is the run of an exploration"):
        verify(tmp_path)


def test_an_unfinished_run_is_said(output):
    (output / MANIFEST).unlink()
    (output / WORK).mkdir()
    with pytest.raises(InputError, match="is an unfinished run of prune or pack"):
        verify(output)


@pytest.mark.parametrize(
    ("recipe", "n_nm"),
    [
        (Recipe(pool=4, budget="top(2)"), 2),
        (Recipe(pool=4, budget="sparsity(0.75)"), 2),
        (Recipe(pool=4, budget={"a": "top(1)", "b": "sparsity(0)"}), 2),
        (Recipe(pool="row", budget="sparsity(0.5)"), 0),
        (Recipe(budget="sparsity(0.5)"), 0),
    ],
    ids=str,
)
def test_what_prune_writes_is_good(recipe, n_nm, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=(4, 8)).astype(np.float32) for name in "ab"}
    save_file({**tensors, "bias": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    prune_checkpoint(tmp_path / "model.safetensors", recipe, tmp_path / "out")
    found = verify(tmp_path / "out")
    assert found.problems == ()
    assert (found.n_layers, found.n_nm) == (3, n_nm)


class Conv1D(nn.Module):
    """Stores (in, out), as that of GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.nf = 6
        self.weight = nn.Parameter(torch.randn(8, 6))


def test_groups_follow_what_was_cut_and_the_file_cannot_say(tmp_path):
    network = nn.ModuleDict({"one": Conv1D(), "grouped": nn.ConvTranspose2d(24, 6, 3, groups=3, bias=False)})
    out = tmp_path / "out"
    prune_checkpoint(network, Recipe(pool=4, budget="top(2)"), out)
    found = verify(out)
    assert found.problems == ()
    assert (found.n_layers, found.n_nm) == (2, 2)
    change(out, lambda manifest: [each.update(is_turned=False) for each in manifest["layers"]])
    assert all("keep more than 2" in said or "do not divide" in said for said in map(str, verify(out).problems))
    assert len(verify(out).problems) == 2
    change(out, lambda manifest: manifest["layers"][0].update(is_turned=True, groups=7))
    with pytest.raises(InputError, match="is turned in 7 groups"):
        verify(out)
