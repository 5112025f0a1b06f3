"""Shards: which files a pruned checkpoint has, with which headers, and that stock loaders read them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import header_file, ones, write_f32
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

import secateurs as sc
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.safetensors_file import read_header
from secateurs.checkpoint.shards import INDEX, index_of, shards_of
from secateurs.checkpoint.streamed import prune_checkpoint
from secateurs.errors import InputError

HALF = sc.Recipe(budget="sparsity(0.5)")
ODD_HEADERS = {
    "spaces": b'{ "w" : {"shape":[2,2], "data_offsets":[0,16] , "dtype":"F32"} }     ',
    "metadata": (
        b'{"__metadata__":{"b":"2","a":"1","\xc3\xa9":"\\u00e9"},'
        b'"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    ),
    "another order": (
        b'{"v":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},'
        b'"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    ),
    "empty tensors": (
        b'{"z":{"dtype":"F32","shape":[0,2],"data_offsets":[16,16]},'
        b'"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
        b'"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}'
    ),
}


@pytest.mark.parametrize("header", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_the_header_of_a_safetensors_file_is_kept_byte_for_byte(header: bytes, tmp_path: Path) -> None:
    source = tmp_path / "weights.safetensors"
    source.write_bytes(header_file(header, torch.arange(1.0, 5.0).numpy().tobytes()))
    prune_checkpoint(source, HALF, tmp_path / "out")
    written = (tmp_path / "out" / "weights.safetensors").read_bytes()
    assert written[: 8 + len(header)] == source.read_bytes()[: 8 + len(header)]
    assert len(written) == len(source.read_bytes())
    assert load_file(tmp_path / "out" / "weights.safetensors")["w"][0].tolist()[0] == 0.0


def test_a_sharded_source_keeps_its_files_and_its_index(tmp_path: Path) -> None:
    home = tmp_path / "in"
    home.mkdir()
    write_f32(home / "b-part.safetensors", {"x": ones(4, 4), "y": ones(3)}, {"format": "pt"})
    write_f32(home / "a-part.safetensors", {"z": np.arange(8, dtype=np.float32).reshape(2, 4) + 2})
    index = json.dumps(
        {"weight_map": {"x": "b-part.safetensors", "y": "b-part.safetensors", "z": "a-part.safetensors"}}
    )
    (home / INDEX).write_text(index)
    with open_checkpoint(home) as checkpoint:
        shards = shards_of(checkpoint)
        assert [(shard.name, [entry.name for entry in shard.entries]) for shard in shards] == [
            ("b-part.safetensors", ["x", "y"]),
            ("a-part.safetensors", ["z"]),
        ]
        assert [shard.n_bytes for shard in shards] == [(home / shard.name).stat().st_size for shard in shards]
        assert index_of(checkpoint, shards) == b""
    prune_checkpoint(home, HALF, tmp_path / "out")
    assert (tmp_path / "out" / INDEX).read_text() == index
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a-part.safetensors",
        "b-part.safetensors",
        INDEX,
        "secateurs.json",
    ]


STATE = {
    "byte": torch.arange(3, dtype=torch.uint8),
    "w": torch.randn(4, 4),
    "half": torch.randn(3, 5, dtype=torch.bfloat16),
    "big": torch.arange(3),
    "scalar": torch.tensor(2.0, dtype=torch.float64),
    "turned": torch.randn(6, 4).T,
    "every second": torch.randn(8, 8)[::2, 1::2],
    'é "quoted" \n': torch.ones(2, dtype=torch.bool),
    "none": torch.zeros(0, 3),
}


def test_a_torch_file_becomes_one_aligned_safetensors_file(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "model.pt")
    prune_checkpoint(tmp_path / "model.pt", sc.Recipe(budget="sparsity(0.0)"), tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    found = load_file(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) and found[name].dtype == STATE[name].dtype for name in STATE)
    header = read_header(path)
    assert all(entry.start % 8 == 0 for entry in header.entries if entry.dtype in ("F64", "I64"))
    assert all(entry.start % (entry.n_bytes // entry.n) == 0 for entry in header.entries if entry.n_bytes)
    assert header.metadata == {"format": "pt"}


def test_shards_of_torch_get_standard_names_and_their_own_index(tmp_path: Path) -> None:
    home = tmp_path / "in"
    home.mkdir()
    torch.save({"a": torch.randn(4, 4)}, home / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.randn(4, 4), "c": torch.randn(2)}, home / "pytorch_model-00002-of-00002.bin")
    places = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    places["c"] = places["b"]
    (home / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (home / "config.json").write_text("{}")
    found = prune_checkpoint(home, HALF, tmp_path / "out")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        *names,
        INDEX,
        "secateurs.json",
    ]
    assert json.loads((tmp_path / "out" / INDEX).read_text()) == {
        "metadata": {"total_size": 4 * (16 + 16 + 2)},
        "weight_map": {"a": names[0], "b": names[1], "c": names[1]},
    }
    assert set(found["files"]) == {"config.json", *names, INDEX}
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert [entry.name for entry in checkpoint.entries] == ["a", "b", "c"]


class TiedTwice(nn.Module):
    """Three names of one weight, a weight of its own, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6, bias=False)
        self.c = nn.Linear(6, 6, bias=False)
        self.own = nn.Linear(6, 3)
        self.b.weight = self.c.weight = self.a.weight
        self.register_buffer("steps", torch.tensor([1, 2]))


@pytest.mark.parametrize("kind", ["torch", "module"])
def test_tied_weights_are_stored_once_and_load_model_ties_them_again(kind: str, tmp_path: Path) -> None:
    network = TiedTwice()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    prune_checkpoint(tmp_path / "model.pt" if kind == "torch" else network, HALF, tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"a.weight", "a.bias", "own.weight", "own.bias", "steps"}
        assert file.metadata() == {"format": "pt", "b.weight": "a.weight", "c.weight": "a.weight"}
    loaded = TiedTwice()
    assert load_model(loaded, path) == (set(), [])
    sc.prune(network, HALF)
    assert loaded.a.weight is loaded.b.weight is loaded.c.weight
    for (name, value), expected in zip(loaded.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name
    with open_checkpoint(path) as checkpoint:
        assert "a.weight" in [entry.name for entry in checkpoint.entries]


@pytest.mark.parametrize(
    ("name", "dtype", "match"),
    [
        ("fft", torch.complex128, r"model\.pt': 'fft' is C128, which safetensors does not have"),
        ("fft", torch.complex32, "'fft' is C32"),
        ("odd\ud800", torch.float32, r"is a name that is no text \(surrogates not allowed\)"),
    ],
    ids=["complex128", "complex32", "surrogate"],
)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_what_safetensors_cannot_hold_is_refused_before_anything_is_written(
    name: str, dtype: torch.dtype, match: str, tmp_path: Path
) -> None:
    torch.save({"w": torch.randn(4, 4), name: torch.zeros(2, 2, dtype=dtype)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=match):
        prune_checkpoint(tmp_path / "model.pt", HALF, tmp_path / "out")
    assert not (tmp_path / "out").exists()
