"""Plain and packed weights in one directory: the same bits, one manifest, read by stock loaders and by ours."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateurs.checkpoint import packed_directory
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.packed_directory import PACKED, PLAIN, pack_beside
from secateurs.checkpoint.packing import load, pack
from secateurs.checkpoint.streamed import WORK, prune_checkpoint
from secateurs.checkpoint.verifying import verify
from secateurs.errors import InputError, OutputError, RecipeError
from secateurs.recipe import Recipe


@pytest.fixture
def source(tmp_path):
    """A directory with weights, a config, a further module, and the state of a training."""
    place = tmp_path / "model"
    (place / "1_Pooling").mkdir(parents=True)
    weights = {"a.weight": torch.randn(40, 48), "b.weight": torch.randn(24, 40), "b.bias": torch.randn(24)}
    save_file(weights, place / PLAIN, {"format": "pt"})
    (place / "config.json").write_text('{"model_type": "mine"}')
    (place / "1_Pooling" / "config.json").write_text("{}")
    (place / "optimizer.pt").write_bytes(b"state")
    return place


@pytest.fixture
def pruned(source):
    """The same, pruned to 2:4."""
    prune_checkpoint(source, Recipe(pool=4, budget="top(2)"), source.with_name("pruned"))
    return source.with_name("pruned")


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_exact_values_are_written_twice(source, tmp_path):
    receipt = pack_beside(source, tmp_path / "out")
    out = tmp_path / "out"
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {PLAIN, PACKED, "config.json", "1_Pooling/config.json", "secateurs.json"}
    assert_same(load_file(out / PLAIN), load_file(source / PLAIN))
    assert_same(load(out / PACKED), load_file(source / PLAIN))
    assert receipt.size_bytes == (out / PACKED).stat().st_size
    seen = verify(out)
    assert (seen.is_ok, seen.has_manifest, seen.n_beside, seen.n_files) == (True, True, 3, 4)


@pytest.mark.parametrize("values", ["int4", "codebook:2"])
def test_lossy_values_are_the_same_in_both(pruned, tmp_path, values):
    """What stock loaders read is what was packed; the recipe and its pattern are still there, and hold."""
    pack_beside(pruned, tmp_path / "out", values)
    plain, before = load_file(tmp_path / "out" / PLAIN), load_file(pruned / PLAIN)
    assert_same(plain, load(tmp_path / "out" / PACKED))
    assert not torch.equal(plain["a.weight"], before["a.weight"])
    assert not plain["a.weight"][before["a.weight"] == 0].any()
    seen = verify(tmp_path / "out")
    assert (seen.problems, seen.n_nm, seen.n_beside) == ((), 2, 3)
    manifests = [json.loads((place / "secateurs.json").read_text()) for place in (pruned, tmp_path / "out")]
    assert manifests[0]["recipe"] == manifests[1]["recipe"]
    assert manifests[1]["packed"] == {
        "file": PACKED,
        "values": {"a.weight": values, "b.weight": values, "b.bias": "exact"},
    }


def test_it_is_found_with_or_without_the_plain_weights(source, tmp_path):
    pack_beside(source, tmp_path / "out", "int8")
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.source == "safetensors"
    both = load(tmp_path / "out")
    (tmp_path / "out" / PLAIN).unlink()
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.source == "packed"
    assert_same(load(tmp_path / "out"), both)


def test_what_disagrees_is_found(source, tmp_path):
    out = tmp_path / "out"
    pack_beside(source, out)
    weights = load_file(out / PLAIN)
    weights["a.weight"][0, 0] += 1
    save_file({**weights, "new": torch.ones(1)}, tmp_path / "other.safetensors")
    pack(tmp_path / "other.safetensors", out / PACKED)
    found = {str(problem) for problem in verify(out).problems}
    assert any("its SHA-256 is" in each or "bytes; the manifest says" in each for each in found)
    assert f"{PACKED}, 'a.weight': holds other weights than the plain file" in found
    assert f"{PACKED}, 'new': is in the packed weights alone" in found
    (out / PACKED).unlink()
    assert f"{PACKED}: is missing" in {str(problem) for problem in verify(out).problems}


def test_a_packed_file_that_nobody_listed_is_found(pruned):
    pack(pruned, pruned / PACKED)
    assert [str(problem) for problem in verify(pruned).problems] == [
        f"{PACKED}: holds weights and is not in the manifest"
    ]


def test_shards_become_one_file(tmp_path):
    place = tmp_path / "sharded"
    place.mkdir()
    weights = {"a": torch.randn(20, 20), "b": torch.randn(20, 20)}
    for name, tensor in weights.items():
        save_file({name: tensor}, place / f"model-{name}.safetensors")
    index = {"metadata": {}, "weight_map": {name: f"model-{name}.safetensors" for name in weights}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    pack_beside(place, tmp_path / "out")
    assert_same(load_file(tmp_path / "out" / PLAIN), weights)
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()
    assert verify(tmp_path / "out").is_ok


def test_a_live_network_with_tied_weights(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(30, 30, bias=False), torch.nn.Linear(30, 30, bias=False))
    module[1].weight = module[0].weight
    pack_beside(module, tmp_path / "out")
    assert verify(tmp_path / "out").is_ok
    assert load(tmp_path / "out" / PACKED).keys() == module.state_dict().keys()


def test_a_run_that_was_ended_starts_anew_to_the_same_bytes(source, tmp_path, monkeypatch):
    pack_beside(source, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr(packed_directory, "unpack", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack_beside(source, tmp_path / "out")
    with pytest.raises(InputError, match="unfinished run of prune or pack"):
        verify(tmp_path / "out")
    pack_beside(source, tmp_path / "out")
    for path in (tmp_path / "undisturbed").rglob("*.*"):
        assert (tmp_path / "out" / path.relative_to(tmp_path / "undisturbed")).read_bytes() == path.read_bytes()
    assert not (tmp_path / "out" / WORK).exists()


def test_nothing_of_anybody_is_overwritten(source, pruned, tmp_path):
    with pytest.raises(OutputError, match="inputs are never modified"):
        pack_beside(source, source)
    with pytest.raises(OutputError, match="inputs are never modified"):
        pack_beside(source, source / "inside")
    with pytest.raises(OutputError, match="is not empty"):
        pack_beside(source, pruned)
    with pytest.raises(OutputError, match="is a file"):
        pack_beside(source, source / "config.json")
    (tmp_path / "unfinished" / WORK).mkdir(parents=True)
    (tmp_path / "unfinished" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="is not empty"):
        pack_beside(source, tmp_path / "unfinished")


def test_what_is_refused_leaves_nothing(source, pruned, tmp_path):
    with pytest.raises(RecipeError, match="got 'int9'"):
        pack_beside(source, tmp_path / "out", "int9")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="got 'int9'"):
        pack_beside(source, tmp_path / "empty", "int9")
    assert not list((tmp_path / "empty").iterdir())
    shutil.copytree(pruned, tmp_path / "forged")
    text = (tmp_path / "forged" / "secateurs.json").read_text()
    (tmp_path / "forged" / "secateurs.json").write_text(text.replace('"top(2)"', '"top(1)"'))
    with pytest.raises(InputError, match="is damaged or was changed"):
        pack_beside(tmp_path / "forged", tmp_path / "out")


def ended(source, out, monkeypatch, **more):
    """An unfinished run: the packed file is there, the plain one is not."""
    with monkeypatch.context() as patch:
        patch.setattr(packed_directory, "unpack", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack_beside(source, out, **more)


def test_an_unfinished_run_is_bound_to_its_request(source, pruned, tmp_path, monkeypatch):
    out = tmp_path / "out"
    ended(source, out, monkeypatch)
    before = (out / PACKED).read_bytes()
    for other in ({"values": "int8"}, {"smallest": True}):
        with pytest.raises(OutputError, match="unfinished run of another request"):
            pack_beside(source, out, **other)
    with pytest.raises(OutputError, match="unfinished run of another request"):
        pack_beside(pruned, out)
    assert (out / PACKED).read_bytes() == before
    pack_beside(source, out, {"": "exact"})
    assert verify(out).is_ok


def test_nothing_of_an_ended_run_is_left(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    ended(source, out, monkeypatch)
    (out / "secateurs.json").write_text("{}")
    (out / "0_Old").mkdir()
    (out / "0_Old" / "model.bin").write_bytes(b"old")
    pack_beside(source, out)
    assert {path.name for path in out.iterdir()} == {PLAIN, PACKED, "config.json", "1_Pooling", "secateurs.json"}
    assert verify(out).is_ok


@pytest.mark.parametrize("at", ["packing._Writing._write", "packed_directory._about"])
def test_a_killed_run_leaves_nothing_once_it_is_run_again(at, source, tmp_path):
    out = tmp_path / "out"
    code = (
        "import os; from secateurs.checkpoint import packed_directory, packing; "
        f"{at} = lambda *_: os.kill(os.getpid(), 9); packed_directory.pack_beside({str(source)!r}, {str(out)!r})"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert (out / WORK).is_dir()
    pack_beside(source, out)
    assert {path.name for path in out.iterdir()} == {PLAIN, PACKED, "config.json", "1_Pooling", "secateurs.json"}
    assert verify(out).is_ok


def test_links_in_a_circle_are_refused(source, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OutputError, match="cannot be written"):
        pack_beside(source, tmp_path / "loop")
