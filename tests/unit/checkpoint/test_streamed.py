"""A streamed run: what it carries over, leaves alone, refuses, and goes on with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import PEAK, hashes, ones, write_f32
from safetensors.torch import load_file, save_file
from test_onnx_file import model, node, part, tensor
from torch import nn

import secateurs as sc
from secateurs.checkpoint import streamed
from secateurs.checkpoint.streamed import WORK, Streaming, prune_checkpoint
from secateurs.checkpoint.verifying import verify
from secateurs.errors import InputError, LockedError, OutputError, PatternError, RecipeError, SecateursError
from secateurs.locks import held

HALF = sc.Recipe(budget="sparsity(0.5)")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three shards, an index, and all that lies beside a model of the hub."""
    place = tmp_path / "in"
    (place / "1_Pooling").mkdir(parents=True)
    (place / "onnx").mkdir()
    generator = np.random.default_rng(0)
    weight_map = {}
    for i in (1, 2, 3):
        name = f"model-0000{i}-of-00003.safetensors"
        shard = {f"{i}.weight": generator.standard_normal((8, 8), np.float32), f"{i}.bias": ones(8)}
        write_f32(place / name, shard, {"format": "pt", "part": str(i)})
        weight_map |= dict.fromkeys(shard, name)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}, indent=4))
    (place / "config.json").write_text('{"model_type": "bert"}')
    (place / "tokenizer.json").write_bytes('{"é": 1}\r\n'.encode())
    (place / "1_Pooling" / "config.json").write_text("{}")
    (place / "1_Pooling" / "pytorch_model.bin").write_bytes(b"a module of its own")
    (place / "onnx" / "model.onnx").write_bytes(b"dense")
    (place / "pytorch_model.bin").write_bytes(b"dense")
    (place / "secateurs.json").write_text("{}")
    (place / ".gitattributes").write_text("")
    (place / "link.txt").symlink_to("/etc/hostname")
    (place / "same.txt").symlink_to("config.json")
    return place


# ------------------------------------------------------------------------------------------------ what is written


def test_all_that_belongs_to_the_model_is_carried_over_and_nothing_else(home: Path, tmp_path: Path) -> None:
    before, out = hashes(home), tmp_path / "new" / "out"
    found = prune_checkpoint(home, HALF, out)
    assert hashes(home) == before
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    same = ["1_Pooling/config.json", "1_Pooling/pytorch_model.bin", "config.json", "model.safetensors.index.json"]
    same += ["same.txt", "tokenizer.json"]
    after = hashes(out)
    assert sorted(after) == sorted([*shards, *same, "secateurs.json"])
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert not (out / "same.txt").is_symlink()
    assert {name: about["sha256"] for name, about in found["files"].items()} == {
        name: digest for name, digest in after.items() if name != "secateurs.json"
    }
    assert all((out / name).stat().st_size == about["size"] for name, about in found["files"].items())
    assert dict(found["left"]) == {
        ".gitattributes": "hidden",
        "link.txt": "a link to another place",
        "onnx": "other copies of the weights",
        "pytorch_model.bin": "weights or the state of a training in another file",
        "secateurs.json": "describes this directory; the new one gets its own",
    }
    assert verify(out).is_ok


def test_what_is_not_pruned_keeps_every_bit(tmp_path: Path) -> None:
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])
    state = {"w": torch.randn(8, 8), "bias": odd, "embed.weight": odd.repeat(3, 1), "ids": torch.arange(5)}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt", "by": "somebody"})
    prune_checkpoint(tmp_path / "model.safetensors", HALF, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(
        found[name].numpy().tobytes() == state[name].numpy().tobytes() for name in ("bias", "embed.weight", "ids")
    )
    kept = found["w"] != 0
    assert torch.equal(found["w"][kept], state["w"][kept])
    assert not found["w"][~kept].signbit().any()


def test_the_result_is_a_source(home: Path, tmp_path: Path) -> None:
    """Pruning what is pruned less changes nothing, and more takes more."""
    prune_checkpoint(home, HALF, tmp_path / "half")
    again = prune_checkpoint(tmp_path / "half", HALF, tmp_path / "again")
    shards = [name for name in again["files"] if name.endswith(".safetensors")]
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / "half" / name).read_bytes() for name in shards)
    assert again["totals"]["n_zero_before"] == again["totals"]["n_zero"] == again["totals"]["n_pruned"] == 96
    more = prune_checkpoint(tmp_path / "half", sc.Recipe(budget="sparsity(0.75)"), tmp_path / "more")
    assert more["totals"] == {"n": 216, "n_prunable": 192, "n_pruned": 144, "n_zero_before": 96, "n_zero": 144}


def test_an_onnx_file_is_a_source(tmp_path: Path) -> None:
    w, b = np.random.default_rng(0).standard_normal((4, 6), np.float32), np.ones(4, np.float32)
    about = [tensor("w", 1, (4, 6), part(9, w.tobytes())), tensor("b", 1, (4,), part(9, b.tobytes()))]
    source = model(tmp_path / "model.onnx", about, [node("Gemm", "x", "w", "b", trans_b=1)])
    prune_checkpoint(source, HALF, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    smallest = np.abs(w).ravel().argsort(kind="stable")[:12]
    expected = w.copy()
    expected.ravel()[smallest] = 0
    assert found["w"].numpy().tobytes() == expected.tobytes()
    assert found["b"].tolist() == b.tolist()


def test_a_live_network_is_a_source_and_stays_as_it_was(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prune_checkpoint(network, HALF, tmp_path / "out")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    loaded = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    loaded.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    sc.prune(network, HALF)
    assert torch.equal(loaded[0].weight, network[0].weight)


def test_a_live_network_with_other_weights_is_another_request(tmp_path: Path) -> None:
    network = nn.Linear(6, 6)
    first = prune_checkpoint(network, HALF, tmp_path / "out")
    assert prune_checkpoint(network, HALF, tmp_path / "out") == first
    nn.init.normal_(network.weight)
    with pytest.raises(OutputError, match="holds the result of another request"):
        prune_checkpoint(network, HALF, tmp_path / "out")


def test_transformers_loads_what_is_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, n_positions=16)
    network = transformers.GPT2LMHeadModel(config)
    network.save_pretrained(tmp_path / "in")
    prune_checkpoint(tmp_path / "in", HALF, tmp_path / "out")
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    sc.prune(network, HALF)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())


# ------------------------------------------------------------------------------------------ again, and going on


def test_a_finished_run_is_not_run_again(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    first = prune_checkpoint(home, HALF, out)
    before = {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
    monkeypatch.setattr(streamed, "Cutter", None)
    assert prune_checkpoint(home, HALF, out) == first
    assert {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]} == before


class StoppedError(Exception):
    """The run was ended."""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Makes runs stop before they write their n-th tensor; tells the names of those that are written."""
    plain = Streaming._write_tensor

    def watched(n: int) -> list[str]:
        names: list[str] = []

        def write_tensor(self: Streaming, each: Any, *rest: Any) -> dict[str, Any]:
            if len(names) == n:
                raise StoppedError
            names.append(each.name)
            return plain(self, each, *rest)

        monkeypatch.setattr(Streaming, "_write_tensor", write_tensor)
        return names

    return watched


@pytest.mark.parametrize("n", range(6))
def test_a_run_goes_on_without_the_shards_that_are_done(
    n: int, home: Path, tmp_path: Path, written: Callable[[int], list[str]]
) -> None:
    out = tmp_path / "out"
    prune_checkpoint(home, HALF, tmp_path / "whole")
    first = written(n)
    with pytest.raises(StoppedError):
        prune_checkpoint(home, HALF, out)
    assert len(first) == n
    assert not (out / "secateurs.json").exists()
    assert not list(out.rglob("*.part"))
    (out / WORK / "a.safetensors.part").write_bytes(b"what a kill leaves")
    (out / ".config.json.abc.tmp").write_bytes(b"what a kill leaves")
    (out / "1_Pooling").mkdir()
    (out / "1_Pooling" / ".config.json.abc.tmp").write_bytes(b"what a kill leaves")
    then = written(-1)
    prune_checkpoint(home, HALF, out)
    every = ["1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"]
    n_safe = len(every) - len(then)
    assert then == every[n_safe:]
    # The shard before the one that was stopped may still have been on its way to the disk.
    assert n_safe in (n // 2 * 2, max(0, n // 2 * 2 - 2))
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_run_that_was_ended_before_its_manifest_writes_no_shard_again(
    home: Path, tmp_path: Path, written: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prune_checkpoint(home, HALF, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Streaming, "_finish", None)
        with pytest.raises(TypeError):
            prune_checkpoint(home, HALF, tmp_path / "out")
    then = written(-1)
    prune_checkpoint(home, HALF, tmp_path / "out")
    assert then == []
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_what_a_run_leaves_that_ended_right_after_its_manifest_is_cleared(home: Path, tmp_path: Path) -> None:
    prune_checkpoint(home, HALF, tmp_path / "out")
    (tmp_path / "out" / WORK).mkdir()
    (tmp_path / "out" / WORK / "request.json").write_text("{}")
    prune_checkpoint(home, HALF, tmp_path / "out")
    assert not (tmp_path / "out" / WORK).exists()


# ---------------------------------------------------------------------------------------------------- refused


def unfinished(home: Path, out: Path, written: Callable[[int], list[str]]) -> None:
    written(3)
    with pytest.raises(StoppedError):
        prune_checkpoint(home, HALF, out)
    written(-1)


def test_an_unfinished_run_of_another_request_is_not_touched(
    home: Path, tmp_path: Path, written: Callable[[int], list[str]]
) -> None:
    out = tmp_path / "out"
    unfinished(home, out, written)
    before = hashes(out)
    with pytest.raises(OutputError, match="holds an unfinished run of another request"):
        prune_checkpoint(home, sc.Recipe(budget="sparsity(0.6)"), out)
    os.utime(home / "model-00003-of-00003.safetensors", ns=(1, 1))
    with pytest.raises(OutputError, match="or its source has changed since"):
        prune_checkpoint(home, HALF, out)
    assert hashes(out) == before


def test_a_finished_result_of_another_request_is_not_touched(home: Path, tmp_path: Path) -> None:
    prune_checkpoint(home, HALF, tmp_path / "out")
    before = hashes(tmp_path / "out")
    with pytest.raises(OutputError, match="holds the result of another request"):
        prune_checkpoint(home, sc.Recipe(budget="sparsity(0.6)"), tmp_path / "out")
    assert hashes(tmp_path / "out") == before


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_finished_result_that_lost_something_is_said(damage: str, home: Path, tmp_path: Path) -> None:
    prune_checkpoint(home, HALF, tmp_path / "out")
    shard = tmp_path / "out" / "model-00002-of-00003.safetensors"
    shard.unlink() if damage == "missing" else shard.write_bytes(b"")
    with pytest.raises(OutputError, match=r"lacks 'model-00002-of-00003.safetensors' or a part of it"):
        prune_checkpoint(home, HALF, tmp_path / "out")


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{" * 100000, '{"files": 3}'], ids=range(5))
def test_a_manifest_that_is_none_is_said(text: str, home: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "secateurs.json").write_text(text)
    with pytest.raises(OutputError, match=r"secateurs.json cannot be read .*Name a new directory, or delete this one"):
        prune_checkpoint(home, HALF, tmp_path / "out")


def test_a_directory_with_something_in_it_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("three years")
    with pytest.raises(OutputError, match="is not empty and holds no unfinished run"):
        prune_checkpoint(home, HALF, tmp_path / "out")
    assert hashes(tmp_path / "out").keys() == {"thesis.txt"}


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("in", "is where the source lies, and inputs are never modified"),
        ("in/../in/.", "is where the source lies"),
        ("link", "is where the source lies"),
        ("in/1_Pooling/out", "lies inside the source"),
        ("in/config.json", "lies inside the source"),
        ("file", "is a file; name a directory"),
        ("file/out", "cannot be written"),
    ],
)
def test_an_output_that_would_touch_something_is_refused(out: str, said: str, home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("in")
    before = hashes(tmp_path)
    with pytest.raises(OutputError, match=said):
        prune_checkpoint(home, HALF, tmp_path / out)
    assert hashes(tmp_path) == before


def test_the_directory_of_a_single_file_is_refused_and_one_beside_it_is_not(tmp_path: Path) -> None:
    source = write_f32(tmp_path / "model.safetensors", {"w": np.arange(16, dtype=np.float32).reshape(4, 4)})
    with pytest.raises(OutputError, match="is where the source lies"):
        prune_checkpoint(source, HALF, tmp_path)
    assert prune_checkpoint(source, HALF, tmp_path / "out")["totals"]["n_pruned"] == 8


def test_a_directory_that_another_run_writes_is_locked(home: Path, tmp_path: Path) -> None:
    work = tmp_path / "out" / WORK
    work.mkdir(parents=True)
    with held(work / "lock"), pytest.raises(LockedError, match="Another run is writing"):
        prune_checkpoint(home, HALF, tmp_path / "out")
    prune_checkpoint(home, HALF, tmp_path / "out")


def test_a_disk_without_room_is_said_before_anything_is_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(streamed.shutil, "disk_usage", lambda _: streamed.shutil._ntuple_diskusage(10, 5, 1000))
        with pytest.raises(OutputError, match=r"needs 1,0\d\d,\d\d\d bytes and the disk has 1,000. Make room"):
            prune_checkpoint(home, HALF, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prune_checkpoint(home, HALF, tmp_path / "out")


def test_a_failure_before_the_request_leaves_nothing_that_looks_like_a_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Streaming, "_begin", None)
        with pytest.raises(TypeError):
            prune_checkpoint(home, HALF, out)
    assert not list(out.iterdir())
    monkeypatch.setenv("SECATEURS_THREADS", "none")
    with pytest.raises(RecipeError, match="SECATEURS_THREADS"):
        prune_checkpoint(home, HALF, out)
    monkeypatch.delenv("SECATEURS_THREADS")
    (out / WORK).mkdir()
    (out / "config.json").write_text("mine")
    with pytest.raises(OutputError, match="is not empty and holds no unfinished run"):
        prune_checkpoint(home, HALF, out)
    assert (out / "config.json").read_text() == "mine"


@pytest.mark.parametrize("out", ["x" * 300, "a\0b", "loop", "loop/out"], ids=["long", "NUL", "loop", "in a loop"])
def test_a_name_that_cannot_be_is_an_output_error(out: str, home: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for source in (home, nn.Linear(4, 4)):
        with pytest.raises(OutputError):
            prune_checkpoint(source, HALF, tmp_path / out)


def test_what_lies_in_the_way_of_a_clean_up_is_an_output_error(
    home: Path, tmp_path: Path, written: Callable[[int], list[str]]
) -> None:
    unfinished(home, tmp_path / "out", written)
    (tmp_path / "out" / WORK / "a.part").mkdir()
    with pytest.raises(OutputError, match=r"'.*out' cannot be written"):
        prune_checkpoint(home, HALF, tmp_path / "out")


@pytest.mark.parametrize("key", ["status", "n_zero", "groups"])
def test_a_report_that_lacks_something_is_made_again(
    key: str, home: Path, tmp_path: Path, written: Callable[[int], list[str]]
) -> None:
    unfinished(home, tmp_path / "out", written)
    path = tmp_path / "out" / WORK / "model-00001-of-00003.safetensors.done.json"
    report = json.loads(path.read_text())
    del report["layers"][0][key]
    path.write_text(json.dumps(report))
    then = written(-1)
    prune_checkpoint(home, HALF, tmp_path / "out")
    assert len(then) == 6
    assert verify(tmp_path / "out").is_ok


@pytest.mark.parametrize(("name", "n_left"), [("model-00002-of-00003.safetensors", 1), ("config.json", 3)])
def test_a_source_that_is_written_to_during_the_run_is_an_input_error(
    name: str, n_left: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, out = Streaming._write_tensor, tmp_path / "out"

    def write_tensor(self: Streaming, each: Any, *rest: Any) -> dict[str, Any]:
        if each.name == "2.bias":  # in place, after a part of it was read
            with (home / name).open("r+b") as file:
                file.write((home / name).read_bytes())
            os.utime(home / name, ns=(1, 1))
        return plain(self, each, *rest)

    monkeypatch.setattr(Streaming, "_write_tensor", write_tensor)
    with pytest.raises(InputError, match=r"was written to while it was read\..* before another request\.$"):
        prune_checkpoint(home, HALF, out)
    assert len(list(out.glob("*.safetensors"))) == n_left
    assert not list(out.rglob("*.part"))
    assert not (out / "secateurs.json").exists()


def test_every_process_writes_to_a_name_of_its_own(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank of an earlier run that is still there does not write into the file of a new one."""
    parts, replaced = [], os.replace

    def watched(old: Any, new: Any) -> None:
        parts.append(Path(old).name)
        replaced(old, new)

    monkeypatch.setattr(streamed.os, "replace", watched)
    for out in ("a", "b"):
        prune_checkpoint(home, HALF, tmp_path / out)
    found = [name for name in parts if name.endswith(".part")]
    assert len(set(found)) == len(found) == 6


def test_a_result_is_whole_where_somebody_else_makes_a_lock_while_it_is_finished(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_empty(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(39, "Directory not empty")

    with monkeypatch.context() as patch:
        patch.setattr(streamed.shutil, "rmtree", not_empty)
        prune_checkpoint(home, HALF, tmp_path / "out")
    assert prune_checkpoint(home, HALF, tmp_path / "out")["files"]
    assert not (tmp_path / "out" / WORK).exists()


@pytest.mark.parametrize(
    ("weights", "recipe", "error"),
    [
        ({"w": torch.full((4, 4), float("nan"))}, {}, InputError),
        ({"w": torch.full((4, 4), float("nan"))}, {"pool": "layer"}, InputError),
        ({"w": torch.ones(4, 4), "meta": torch.empty(2, 2, device="meta")}, {}, InputError),
        ({"w": torch.ones(4, 4), "sparse": torch.eye(3).to_sparse()}, {}, InputError),
        ({"w": torch.ones(4, 4), "expanded": torch.ones(1).expand(8, 8)}, {}, InputError),
        ({"w": torch.ones(4, 4)}, {"only": ["v"]}, RecipeError),
        ({"w": torch.ones(4, 4)}, {"min_keep": 9}, PatternError),
        ({"w": torch.ones(4, 4)}, {"pool": 3}, RecipeError),
        ({"w": torch.ones(4)}, {}, RecipeError),
    ],
    ids=range(9),
)
def test_what_is_refused_leaves_nothing_behind(
    weights: dict[str, torch.Tensor], recipe: dict[str, Any], error: type[SecateursError], tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(error):
        prune_checkpoint(tmp_path / "model.pt", sc.Recipe(**{"budget": "sparsity(0.5)", **recipe}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(error):
        prune_checkpoint(tmp_path / "model.pt", sc.Recipe(**{"budget": "sparsity(0.5)", **recipe}), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_error_after_a_shard_was_done_loses_nothing(home: Path, tmp_path: Path) -> None:
    path = home / "model-00003-of-00003.safetensors"
    state = load_file(path)
    state["3.weight"][0, 0] = float("nan")
    save_file(state, path)
    said = r"'3.weight' holds 1 weights of 64.* Shards before it are finished in .*; delete .* before another"
    with pytest.raises(InputError, match=said):
        prune_checkpoint(home, sc.Recipe(budget="sparsity(0.5)", pool="layer"), tmp_path / "out")
    left = hashes(tmp_path / "out")
    assert "model-00002-of-00003.safetensors" in left
    assert not [name for name in left if "00003-of-00003" in name or name == "secateurs.json"]


# ----------------------------------------------------------------------------------------------------- memory


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 MB: eight tensors of 50 MB in two shards, the same numbers in another order."""
    home = tmp_path_factory.mktemp("large") / "in"
    home.mkdir()
    numbers = np.random.default_rng(0).standard_normal(50_000_000 // 4, np.float32)
    weight_map = {}
    for shard in range(2):
        name = f"model-0000{shard + 1}-of-00002.safetensors"
        names = [f"h.{shard}.attn.c_attn.weight", *(f"{shard}.{i}.weight" for i in range(3))]
        weights = {name: np.roll(numbers, 1000 * i).reshape(2500, 5000) for i, name in enumerate(names)}
        write_f32(home / name, weights)
        weight_map |= dict.fromkeys(names, name)
    (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return home


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    "words",
    [
        ["--sparsity", "0.7"],
        pytest.param(["--sparsity", "0.7", "--pool", "row"], marks=pytest.mark.slow),
        pytest.param(["--sparsity", "0.5", "--pool", "4"], marks=pytest.mark.slow),
        pytest.param(["--tau", "0.4sigma"], marks=pytest.mark.slow),
        pytest.param(["--sparsity", "0.7", "--unit", "block(2, 2)"], marks=pytest.mark.slow),
        pytest.param(["--sparsity", "0.7", "--score", "lamp"], marks=pytest.mark.slow),
        pytest.param(["--sparsity", "0.7", "--min-keep", "0.01"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("config", ["bert", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_memory_is_that_of_two_tensors_whatever_the_size(
    config: str, words: list[str], large: Path, tmp_path: Path
) -> None:
    (large / "config.json").write_text(json.dumps({"model_type": config}))
    command = [sys.executable, "-c", PEAK, "prune", str(large), "-o", str(tmp_path / "out"), *words, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(ended.stderr.split()[-1])
    print(f"{peak / 1e6:.0f} MB")
    assert peak <= 2 * 50_000_000 + 300_000_000
    assert len(json.loads(ended.stdout)["layers"]) == 8
