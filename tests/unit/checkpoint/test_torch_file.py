"""PyTorch's files, read without running them: every tensor as torch.load gives it, or refused by name."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateurs.checkpoint.difference import diff
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.prunable import entry_reasons
from secateurs.checkpoint.survey import inspect
from secateurs.checkpoint.tensors import Checkpoint
from secateurs.errors import InputError

DTYPES = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 uint16 bool complex64"
each_form = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before 1.6"])


def save(value: Any, path: Path, is_zip: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=is_zip)
    return path


def bits_of(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {each.name: checkpoint.stored(each).tobytes() for each in checkpoint.entries}


@each_form
def test_every_dtype_and_layout_as_torch_loads_it(is_zip: bool, tmp_path: Path) -> None:
    made: dict[str, Tensor] = {name: torch.randn(4, 3).to(getattr(torch, name)) for name in DTYPES.split()}
    made |= {
        "turned": torch.randn(4, 6).t(),
        "every second": torch.randn(10, 3)[2::2],
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(3.0),
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "odd place": torch.arange(7, dtype=torch.float64)[3:5],
    }
    path = save(made, tmp_path / "a.pt", is_zip)
    # Of what it wrote itself in the old form, torch no longer reads the dtypes that came later.
    loaded = torch.load(path, weights_only=True) if is_zip else made
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.source == "torch"
        assert checkpoint.files == ("a.pt",)
        found = {each.name: each for each in checkpoint.entries}
        assert list(found) == list(made)
        assert {name: each.shape for name, each in found.items()} == {n: tuple(t.shape) for n, t in loaded.items()}
        assert contents(checkpoint) == {name: bits_of(tensor) for name, tensor in loaded.items()}
        assert all(not checkpoint.stored(each).flags.writeable for each in checkpoint.entries if each.n)


def test_nothing_of_torch_is_loaded_to_read_it(tmp_path: Path) -> None:
    path = save({"w": torch.ones(2, 2)}, tmp_path / "a.pt")
    code = "import sys; from secateurs.checkpoint.opening import open_checkpoint; c = open_checkpoint(sys.argv[1]); "
    code += "c.stored(c.entries[0]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@each_form
def test_a_tied_tensor_is_one_entry_and_parts_of_one_are_left_alone(is_zip: bool, tmp_path: Path) -> None:
    module, whole = nn.ModuleDict({"wte": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)}), torch.randn(6, 4)
    module["head"].weight = module["wte"].weight  # type: ignore[assignment]
    value = {**module.state_dict(), "a": whole[:4], "b": whole[2:], "c": whole.new_ones(2, 2)}
    checkpoint = open_checkpoint(save(value, tmp_path / "a.pt", is_zip))
    found = dict(zip([each.name for each in checkpoint.entries], entry_reasons(checkpoint.entries), strict=True))
    assert checkpoint.entries[0].aliases == ("head.weight",)
    assert found == {
        "wte.weight": "embedding, class token or position table (tied)",
        "a": "shares part of its memory with 'b'",
        "b": "shares part of its memory with 'a'",
        "c": "",
    }


@each_form
def test_what_cannot_be_read_says_why_by_name(is_zip: bool, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop quantized tensors
        value = {
            "meta": torch.zeros(2, 3, device="meta"),
            "expanded": torch.zeros(2).expand(3, 2),
            "sparse": torch.eye(3).to_sparse(),
            "conjugated": torch.ones(2, 2, dtype=torch.complex64).conj(),
            "quantized": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
            "w": torch.ones(2, 2),
        }
        checkpoint = open_checkpoint(save(value, tmp_path / "a.pt", is_zip))
    for found in checkpoint.entries[:-1]:
        assert found.unfit
        with pytest.raises(InputError, match=f"'{found.name}' cannot be read: {found.unfit.split('(')[0]}"):
            checkpoint.stored(found)
    assert [each.shape for each in checkpoint.entries] == [(2, 3), (3, 2), (3, 3), (2, 2), (2, 2), (2, 2)]
    assert checkpoint.stored(checkpoint.entries[-1]).size == 4


def test_wrappers_are_taken_off_and_it_is_said(tmp_path: Path) -> None:
    weights = OrderedDict(w=torch.ones(2, 2), n=3)
    value = {"epoch": 4, "state_dict": weights, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    checkpoint = open_checkpoint(save(value, tmp_path / "a.ckpt"))
    assert [each.name for each in checkpoint.entries] == ["w"]
    assert checkpoint.notes == ("'a.ckpt': the weights are those under 'state_dict'.",)
    assert dict(checkpoint.ignored) == {
        "epoch": "beside 'state_dict'",
        "optimizer": "beside 'state_dict'",
        "n": "3",
    }


def test_nested_dicts_and_lists_become_dotted_names(tmp_path: Path) -> None:
    value = {"a": {"b": [torch.ones(1), {"c": torch.ones(2)}]}, 3: torch.ones(3), "n": None, "s": "text"}
    checkpoint = open_checkpoint(save(value, tmp_path / "a.pth"))
    assert [each.name for each in checkpoint.entries] == ["a.b.0", "a.b.1.c", "3"]
    assert dict(checkpoint.ignored) == {"n": "None", "s": "'text'"}
    with pytest.raises(InputError, match=r"the name 'a\.b' stands twice"):
        open_checkpoint(save({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, tmp_path / "b.pth"))


def test_shards_of_torch_files(tmp_path: Path) -> None:
    save({"a": torch.ones(2, 2)}, tmp_path / "pytorch_model-1.bin")
    save({"b": 2 * torch.ones(2, 2)}, tmp_path / "pytorch_model-2.bin")
    index = {"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.files == ("pytorch_model-1.bin", "pytorch_model-2.bin")
    assert checkpoint.stored(checkpoint.entries[1]).view(np.float32).tolist() == [2, 2, 2, 2]


def test_a_training_directory_of_torch_files(tmp_path: Path) -> None:
    save({"a": torch.ones(2, 2)}, tmp_path / "pytorch_model.bin")
    save({"x": torch.ones(2)}, tmp_path / "optimizer.pt")
    assert open_checkpoint(tmp_path).files == ("pytorch_model.bin",)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "last.pt")
    assert open_checkpoint(tmp_path).files == ("last.pt",)


class Harm:
    """What a pickle can do to whoever runs it."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm-was-done",)


def test_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save({"w": torch.ones(2, 2), "harm": Harm()}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert [each.name for each in checkpoint.entries] == ["w"]
    assert dict(checkpoint.ignored) == {"harm": "an object of posix.mkdir"}
    assert not (tmp_path / "harm-was-done").exists()


def test_a_whole_pickled_network_is_refused_by_its_class(tmp_path: Path) -> None:
    save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"no tensors by name but an object of torch.nn.modules.linear.Linear"):
        open_checkpoint(tmp_path / "a.pt")


def archive(path: Path, value: bytes, storages: dict[str, bytes], **how: Any) -> Path:
    """A zip archive as torch writes them, around any pickle."""
    with zipfile.ZipFile(path, "w", **how) as file:
        file.writestr("archive/data.pkl", value)
        file.writestr("archive/byteorder", b"little")
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
    return path


def pickle_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))


def test_archives_that_would_have_to_be_inflated(tmp_path: Path) -> None:
    text = pickle_of(save({"w": torch.zeros(1000, 1000)}, tmp_path / "a.pt"))
    bomb = archive(tmp_path / "b.pt", text, {"0": bytes(4_000_000)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed or encrypted"):
        open_checkpoint(bomb)


def test_sizes_are_held_against_the_bytes_that_are_there(tmp_path: Path) -> None:
    text = pickle_of(save({"w": torch.zeros(1000, 1000)}, tmp_path / "a.pt"))
    with pytest.raises(InputError, match="beyond its storage of 40 bytes"):
        open_checkpoint(archive(tmp_path / "b.pt", text, {"0": bytes(40)}))
    with pytest.raises(InputError, match="storage '0', which is not there"):
        open_checkpoint(archive(tmp_path / "c.pt", text, {}))
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "d.pt").write_bytes(whole[:-1000])
    with pytest.raises(InputError, match="archive is damaged"):
        open_checkpoint(tmp_path / "d.pt")


def test_numbers_of_another_endianness(tmp_path: Path) -> None:
    text = pickle_of(save({"w": torch.zeros(2)}, tmp_path / "a.pt"))
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file:
        for name, data in (("data.pkl", text), ("byteorder", b"big"), ("data/0", bytes(8))):
            file.writestr(f"archive/{name}", data)
    with pytest.raises(InputError, match="not little endian"):
        open_checkpoint(tmp_path / "b.pt")


PICKLES = {
    "memory of four billion places": b"\x80\x02}r\xff\xff\xff\xff.",
    "text of four gigabytes": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of an exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dict in itself, as its own wrapper": b"\x80\x02}q\x00(X\x05\x00\x00\x00modelh\x00u.",
    "a tuple a hundred thousand deep as a key": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "lists that double forty times": b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(40)) + b".",
    "nothing": b"",
    "no end": b"\x80\x02}",
    "a stack that is empty": b"\x80\x02.",
    "marks": b"\x80\x02((((.",
    "an extension": b"\x80\x02\x82\x01.",
    "an array of a terabyte": b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
    "a storage of nothing": b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(NNNNtRs.",
    "a storage in a storage": b"\x80\x02NQQ.",
    "pairs copied again and again": b"\x80\x02ccollections\nOrderedDict\nq\x00]("
    + b"".join(b"J%bN\x86" % struct.pack("<i", i) for i in range(9999))
    + b"e\x85q\x010"
    b"](" + b"h\x00h\x01R" * 3000 + b"e.",
    "names of classes said again and again": b"\x80\x04\x8c\xff"
    + b"n" * 255
    + b"\x940]("
    + b"h\x00h\x00\x93" * 9999
    + b"e.",
    "a name of a hundred kilobytes": b"\x80\x02}X"
    + struct.pack("<I", 100_000)
    + b"n" * 100_000
    + b"]("
    + b"N" * 9
    + b"es.",
    "a million long names": b"\x80\x02}X" + struct.pack("<I", 60_000) + b"n" * 60_000 + b"](" + b"N" * 99_999 + b"es.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_that_means_harm_is_one_error(case: str, tmp_path: Path) -> None:
    for path in (archive(tmp_path / "a.pt", PICKLES[case], {}), tmp_path / "b.pt"):
        if path.name == "b.pt":
            path.write_bytes(PICKLES[case])
        tracemalloc.start()
        with pytest.raises(InputError):
            open_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 256e6


def test_keys_that_are_whole_numbers_of_any_size_are_named(tmp_path: Path) -> None:
    save({"model": {"w": torch.ones(2, 2)}, 10**5000: 1}, tmp_path / "a.pt")
    assert [name for name, _ in open_checkpoint(tmp_path / "a.pt").ignored] == ["a int too long to show"]


def test_files_that_are_something_else(tmp_path: Path) -> None:
    for name, data in (("a.pt", b""), ("b.pt", b"hello"), ("c.pt", pickle.dumps({"a": 1})), ("d.pt", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError):
            open_checkpoint(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    (tmp_path / "e.pt").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="TorchScript"):
        open_checkpoint(tmp_path / "e.pt")


def test_what_cannot_be_read_is_reported_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    for name, number in (("a.pt", 1.0), ("b.pt", 2.0)):
        save({"s": torch.eye(3).to_sparse(), "w": torch.full((2, 2), number)}, tmp_path / name)
    sparse, weight = inspect(tmp_path / "a.pt").tensors
    assert (sparse.reason[:12], sparse.n_zero, weight.n_zero) == ("not a stride", None, 0)
    assert inspect(tmp_path / "a.pt").totals["all"].n_floating == 4
    found = diff(tmp_path / "a.pt", tmp_path / "b.pt")
    assert [tensor.status for tensor in found.tensors] == ["unreadable", "changed"]
    assert "1 tensor unreadable, not compared" in found.verdict


def test_complex_numbers_are_counted_whole(tmp_path: Path) -> None:
    value = torch.tensor([0, -0.0, 1, 1j, complex(-0.0, -0.0)], dtype=torch.complex128)
    save({"z": value}, tmp_path / "a.pt")
    value[2:4] = torch.tensor([1 + 1j, -1j])
    save({"z": value}, tmp_path / "b.pt")
    assert inspect(tmp_path / "a.pt").tensors[0].n_zero == 3
    (found,) = diff(tmp_path / "a.pt", tmp_path / "b.pt").tensors
    assert (found.n, found.n_kept_changed) == (5, 2)
