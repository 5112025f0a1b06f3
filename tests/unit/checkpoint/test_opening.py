"""What a path means: a file, a directory with or without an index, a name on the hub; and what comes along."""

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import entry, header_file, ones, write_f32

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.sharded import read_index
from secateurs.checkpoint.tensors import Checkpoint
from secateurs.errors import InputError


def names(checkpoint: Checkpoint) -> list[str]:
    return [each.name for each in checkpoint.entries]


def carried(checkpoint: Checkpoint) -> list[str]:
    assert checkpoint.path is not None
    return [path.relative_to(checkpoint.path).as_posix() for path in checkpoint.others]


def sharded(directory: Path, **shards: dict[str, np.ndarray]) -> dict[str, Any]:
    """A directory of shards with its index; gives the index."""
    directory.mkdir(exist_ok=True)
    weight_map = {}
    for shard, tensors in shards.items():
        write_f32(directory / f"{shard}.safetensors", tensors)
        weight_map |= dict.fromkeys(tensors, f"{shard}.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    write_index(directory, index)
    return index


def write_index(directory: Path, index: Any) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def test_one_file_brings_nothing_else_along(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(str(write_f32(tmp_path / "any.safetensors", {"b": ones(2), "a": ones(2, 2)})))
    assert names(checkpoint) == ["b", "a"]
    assert checkpoint.files == ("any.safetensors",)
    assert checkpoint.others == checkpoint.left == ()
    assert checkpoint.source == "safetensors"


def test_a_directory_of_shards(tmp_path: Path) -> None:
    sharded(tmp_path / "m", b={"x": ones(2, 2), "y": ones(3)}, a={"z": 2 * ones(2)})
    checkpoint = open_checkpoint(tmp_path / "m")
    assert [(each.name, each.file) for each in checkpoint.entries] == [
        ("x", "b.safetensors"),
        ("y", "b.safetensors"),
        ("z", "a.safetensors"),
    ]
    assert checkpoint.files == ("b.safetensors", "a.safetensors")
    assert carried(checkpoint) == ["model.safetensors.index.json"]
    assert checkpoint.stored(checkpoint.entries[2]).view(np.float32).tolist() == [2, 2]


def test_what_comes_first_in_a_directory(tmp_path: Path) -> None:
    sharded(tmp_path, a={"z": ones(2)})
    (tmp_path / "pytorch_model.bin").write_bytes(b"no")
    assert open_checkpoint(tmp_path).files == ("a.safetensors",)
    write_f32(tmp_path / "model.safetensors", {"one": ones(2)})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.files == ("model.safetensors",)
    assert [name for name, _ in checkpoint.left] == [
        "a.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
    ]


def test_the_only_safetensors_file_of_any_name(tmp_path: Path) -> None:
    write_f32(tmp_path / "odd.safetensors", {"one": ones(2)})
    assert open_checkpoint(tmp_path).files == ("odd.safetensors",)
    write_f32(tmp_path / "more.safetensors", {"one": ones(2)})
    with pytest.raises(InputError, match=r"2 files of weights and no index: more\.safetensors, odd\.safetensors"):
        open_checkpoint(tmp_path)


def test_what_is_carried_over_and_what_is_left(tmp_path: Path) -> None:
    write_f32(tmp_path / "model.safetensors", {"one": ones(2)})
    keep = ["1_Pooling/config.json", "2_Dense/model.safetensors", "README.md", "config.json", "sub/vocab.txt"]
    keep += ["tokenizer.model"]
    leave = {
        ".git/config": "hidden",
        "adapter.safetensors": "weights or the state",
        "checkpoint-500/optimizer.pt": "other copies",
        "flax_model.msgpack": "weights or the state",
        "model.gguf": "weights or the state",
        "model.onnx": "weights or the state",
        "openvino/model.xml": "other copies",
        "pytorch_model.bin": "weights or the state",
        "pytorch_model.bin.index.json": "weights or the state",
        "secateurs.json": "gets its own",
        "sub/tf_model.h5": "weights or the state",
        "training_args.bin": "weights or the state",
    }
    for name in [*keep, *leave]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    assert carried(checkpoint) == keep
    left = dict(checkpoint.left)
    for name, why in leave.items():
        top = name if name in left else name.split("/")[0]
        assert why in left.pop(top)
    assert not left


def hub_cache(tmp_path: Path) -> Path:
    """A snapshot as the hub's cache keeps it: links into blobs/."""
    blobs, snapshot = tmp_path / "models--o--n" / "blobs", tmp_path / "models--o--n" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    (snapshot / "1_Pooling").mkdir(parents=True)
    write_f32(blobs / "f00", {"w": ones(2, 2)})
    (blobs / "ba5").write_text("{}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/f00")
    (snapshot / "config.json").symlink_to("../../blobs/ba5")
    (snapshot / "1_Pooling" / "config.json").symlink_to("../../../blobs/ba5")
    return snapshot


def test_a_module_nested_without_end_is_left_where_it_is_too_deep(tmp_path: Path) -> None:
    write_f32(tmp_path / "model.safetensors", {"a": ones(2, 2)})
    (tmp_path / "1_Pooling" / "/".join("d" * 9)).mkdir(parents=True)
    (tmp_path / "1_Pooling" / "/".join("d" * 9) / "config.json").write_text("{}")
    found = open_checkpoint(tmp_path)
    assert found.others == ()
    assert found.left == (("1_Pooling/d/d/d/d/d/d/d/d", "too deep"),)


def test_the_hubs_cache_keeps_its_files_behind_links(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(hub_cache(tmp_path))
    assert names(checkpoint) == ["w"]
    assert carried(checkpoint) == ["1_Pooling/config.json", "config.json"]
    assert checkpoint.stored(checkpoint.entries[0]).size == 4


def test_a_link_that_leaves_the_directory_is_not_followed(tmp_path: Path) -> None:
    """A directory made by somebody else may link to anything that its reader can read."""
    outside = write_f32(tmp_path / "outside.safetensors", {"w": ones(2)})
    (tmp_path / "secret").write_text("key")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(InputError, match="a link that leaves the directory"):
        open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    write_f32(folder / "model.safetensors", {"w": ones(2)})
    (folder / "config.json").symlink_to("../secret")
    (folder / "sub").symlink_to("..")
    (folder / "gone").symlink_to("nowhere")
    (folder / "readme").symlink_to("model.txt")
    (folder / "model.txt").write_text("")
    checkpoint = open_checkpoint(folder)
    assert carried(checkpoint) == ["model.txt", "readme"]
    assert dict(checkpoint.left) == {
        "config.json": "a link to another place",
        "sub": "a link to another place",
        "gone": "a broken link",
    }
    (tmp_path / "link.safetensors").symlink_to(outside)
    assert names(open_checkpoint(tmp_path / "link.safetensors")) == ["w"], "a path that the user gives is followed"


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "sub/a.safetensors", "a\\b", "", ".", "..", "a\0b", "C:a", " a"],
)
def test_a_shard_is_a_plain_name_in_the_same_directory(name: str, tmp_path: Path) -> None:
    write_f32(tmp_path / "outside.safetensors", {"w": ones(2)})
    folder = tmp_path / "m"
    folder.mkdir()
    write_index(folder, {"weight_map": {"w": name}})
    with pytest.raises(InputError, match="Only plain names in the same directory are read"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("index", "names"),
    [
        ("model.safetensors.index.json", ["a.safetensors", "b.bin"]),
        ("model.safetensors.index.json", ["a.bin"]),
        ("model.safetensors.index.json", ["a.safetensors", "secateurs.json"]),
        ("model.safetensors.index.json", [".a.safetensors"]),
        ("model.safetensors.index.json", [".safetensors"]),
        ("pytorch_model.bin.index.json", ["a.bin", "b.pt"]),
        ("pytorch_model.bin.index.json", ["a.safetensors"]),
        ("pytorch_model.bin.index.json", ["a.bin", "config.json"]),
    ],
    ids=str,
)
def test_all_shards_are_of_the_kind_of_their_index(index: str, names: list[str], tmp_path: Path) -> None:
    for name in names:
        write_f32(tmp_path / name, {name: ones(2)})
    (tmp_path / index).write_text(json.dumps({"weight_map": {name: name for name in names}}))
    with pytest.raises(InputError, match=r"for weights\. Only files that all end in"):
        read_index(tmp_path / index)


def test_a_shard_that_links_to_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("/etc/passwd")
    write_index(tmp_path, {"weight_map": {"w": "a.safetensors"}})
    with pytest.raises(InputError, match="leaves the directory"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    write_index(tmp_path, {"weight_map": {"w": "a.safetensors"}})
    if kind != "device":
        with pytest.raises(InputError, match="not a regular file"):
            open_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"not a regular file|has no weights|no known kind"):
        open_checkpoint("/dev/zero" if kind == "device" else path)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    index = sharded(tmp_path, a={"x": ones(2), "y": ones(2)}, b={"z": ones(2)})
    weight_map = index["weight_map"]
    for changed, match in (
        ({**weight_map, "more": "a.safetensors"}, "'more' is in 'a.safetensors', and it is in none of its files"),
        ({**weight_map, "x": "b.safetensors"}, r"'x' is in 'b.safetensors', and it is in 'a\.safetensors'"),
        ({**weight_map, "x": "c.safetensors"}, r"names the file 'c\.safetensors', which is not there"),
        ({"x": "a.safetensors", "z": "b.safetensors"}, r"'y' in 'a\.safetensors' is not in its index"),
        ({}, "no weight_map"),
        ({"x": 3}, "no weight_map"),
        ([], "no weight_map"),
    ):
        write_index(tmp_path, {"weight_map": changed})
        with pytest.raises(InputError, match=match):
            open_checkpoint(tmp_path)
    write_f32(tmp_path / "b.safetensors", {"z": ones(2), "x": ones(2)})
    write_index(tmp_path, index)
    with pytest.raises(InputError, match="holds 'x' twice"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, '{"weight_map":1,"weight_map":{}}', "\xff", "3"])
def test_an_index_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"not valid JSON|no weight_map"):
        open_checkpoint(tmp_path)


def test_paths_that_name_nothing(tmp_path: Path) -> None:
    for source, match in (
        (tmp_path / "none", "There is no file or directory"),
        (tmp_path, "has no weights"),
        ("a\0b", "cannot be a path|no file or directory"),
        ("x" * 5000, "cannot be a path|no file or directory"),
    ):
        with pytest.raises(InputError, match=match):
            open_checkpoint(source)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"no known kind. Give a \.safetensors"):
        open_checkpoint(tmp_path / "a.txt")


def test_a_name_on_the_hub_is_fetched_once_there_is_no_such_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot_download(repository: str, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.append((repository, revision, "*.bin" in ignore_patterns))
        return str(hub_cache(tmp_path))

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.chdir(tmp_path)
    assert names(open_checkpoint("org/name@v1")) == ["w"]
    assert asked == [("org/name", "v1", True)]
    write_f32(tmp_path / "model.safetensors", {"mine": ones(2)})
    (tmp_path / "org").mkdir()
    (tmp_path / "model.safetensors").rename(tmp_path / "org" / "name")
    with pytest.raises(InputError, match="no known kind"):
        open_checkpoint("org/name")
    with pytest.raises(InputError, match="no file or directory"):
        open_checkpoint("org/name.safetensors")
    assert len(asked) == 1


def test_a_name_on_the_hub_without_its_library_says_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no file or directory 'org/name'.*pip install 'secateurs\[hf\]'"):
        open_checkpoint("org/name")


def test_the_hub_that_fails_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise RuntimeError("no network\nat all")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"cannot be had: no network$"):
        open_checkpoint("org/name")


GPT2 = {
    "wte.weight": ones(7, 4),
    "h.0.attn.c_attn.weight": ones(4, 12),
    "h.0.attn.c_attn.bias": ones(12),
    "h.0.attn.c_proj.weight": ones(4, 4),
    "h.0.mlp.c_fc.weight": ones(4, 16),
    "h.0.mlp.c_fc.bias": ones(16),
    "h.0.other.c_fc.weight": ones(4, 16),
}
TURNED = ["h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight", "h.0.mlp.c_fc.weight"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gpt2"}, TURNED),
        ({"model_type": "gpt_bigcode"}, []),
        ({"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}}, TURNED),
        (None, TURNED),
    ],
)
def test_conv1d_weights_are_known_by_the_config_or_by_their_biases(
    config: dict[str, Any] | None, expected: list[str], tmp_path: Path
) -> None:
    write_f32(tmp_path / "model.safetensors", GPT2)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    for source in (tmp_path, tmp_path / "model.safetensors"):
        assert [each.name for each in open_checkpoint(source).entries if each.is_turned] == expected


def test_linear_weights_of_the_same_names_are_not_turned(tmp_path: Path) -> None:
    write_f32(tmp_path / "a.safetensors", {"h.attn.c_attn.weight": ones(12, 4), "h.attn.c_attn.bias": ones(12)})
    assert not open_checkpoint(tmp_path / "a.safetensors").entries[0].is_turned


@pytest.mark.parametrize("text", ["[1]", "{", '{"model_type": 3, "decoder": 4}'])
def test_a_config_that_says_nothing_is_no_error(text: str, tmp_path: Path) -> None:
    write_f32(tmp_path / "model.safetensors", {"a": ones(2, 2)})
    (tmp_path / "config.json").write_text(text)
    assert not open_checkpoint(tmp_path).entries[0].is_turned


def test_the_shared_table_of_an_encoder_and_decoder(tmp_path: Path) -> None:
    write_f32(tmp_path / "model.safetensors", {"shared.weight": ones(5, 2), "x.shared.weight": ones(2, 2)})
    assert [each.is_table for each in open_checkpoint(tmp_path).entries] == [False, False]
    (tmp_path / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    assert [each.is_table for each in open_checkpoint(tmp_path).entries] == [True, False]


def test_opening_safetensors_does_not_load_torch(tmp_path: Path) -> None:
    import subprocess

    write_f32(tmp_path / "model.safetensors", {"a": ones(2, 2)})
    code = "import sys; from secateurs.checkpoint.opening import open_checkpoint; c = open_checkpoint(sys.argv[1]); "
    code += "c.stored(c.entries[0]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_the_real_ones(data_dir: Path) -> None:
    for name, n in (
        ("weights_lenet5_mnist", 431_080),
        ("weights_resnet20_cifar10", None),
        ("weights_stories260k", None),
    ):
        with open_checkpoint(data_dir / name) as checkpoint:
            total = sum(each.n for each in checkpoint.entries)
            assert n in (None, total)
            assert sum(checkpoint.stored(each).nbytes for each in checkpoint.entries) == 4 * total
            assert "config.json" in carried(checkpoint)


def test_a_header_of_a_thousand_tensors_keeps_the_order_of_their_bytes(tmp_path: Path) -> None:
    header = {f"t{i}": entry("F32", [1], 4 * (999 - i)) for i in range(1000)}
    (tmp_path / "a.safetensors").write_bytes(header_file(header, np.arange(1000, dtype="<f4").tobytes()))
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert names(checkpoint) == [f"t{i}" for i in reversed(range(1000))]
        assert [int(checkpoint.stored(each).view(np.float32)[0]) for each in checkpoint.entries] == list(range(1000))
