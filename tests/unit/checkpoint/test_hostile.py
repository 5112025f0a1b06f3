"""Thousands of files with something wrong: each is read or is one InputError, at once and without much memory."""

import io
import json
import random
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import entry, header_file, ones, write_f32
from safetensors.torch import save
from test_onnx_file import model as onnx_model
from test_onnx_file import node, outside, part, tensor

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.prunable import entry_reasons
from secateurs.errors import InputError

SLOWEST_S = 2.0  # of one file of a few kilobytes, on a busy machine


def read_whole(path: Path) -> bool:
    """Whether everything in the checkpoint could be read; an InputError is an answer, anything else is not."""
    told = ""
    try:
        with open_checkpoint(path) as checkpoint:
            entry_reasons(checkpoint.entries)
            for each in checkpoint.entries:
                try:
                    assert checkpoint.stored(each).nbytes == each.n_bytes
                except InputError:
                    return False
    except InputError as error:
        told = str(error)
    assert not told or 20 < len(told) < 1500
    return not told


def safetensors_bytes(_: Path) -> bytes:
    return save(
        {"wte.weight": torch.randn(4, 3), "b": torch.randn(3).bfloat16(), "n": torch.ones(2, dtype=torch.int64)}
    )


def torch_bytes(is_zip: bool) -> Callable[[Path], bytes]:
    def made(_: Path) -> bytes:
        buffer = io.BytesIO()
        whole = torch.randn(4, 4)
        value = {"state_dict": {"a": whole, "b": whole[1:], "c": whole.t(), "d": torch.ones(3).bfloat16()}, "n": 3}
        torch.save(value, buffer, _use_new_zipfile_serialization=is_zip)
        return buffer.getvalue()

    return made


def onnx_bytes(folder: Path) -> bytes:
    (folder / "w.bin").write_bytes(bytes(16))
    tensors = [
        tensor("raw", 1, (2, 2), part(9, bytes(16))),
        tensor("ints", 7, (3,), part(7, b"\x01\x82\x01\x03")),
        tensor("out", 1, (2, 2), outside(location="w.bin", offset=0, length=16)),
    ]
    return onnx_model(folder / "made", tensors, [node("MatMul", "x", "raw")]).read_bytes()


FORMS = {
    "a.safetensors": (safetensors_bytes, 1500),
    "zip.pt": (torch_bytes(True), 1200),
    "old.pt": (torch_bytes(False), 1200),
    "a.onnx": (onnx_bytes, 1200),
}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The file with a few bytes changed, gone, doubled or moved, a number made absurd, or its end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(data))
        match rng.randrange(7):
            case 0:
                del data[at:]
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at] = rng.randrange(256)
            case 3:
                del data[at : at + rng.choice((1, 4, 100))]
            case 4:
                data[at:at] = data[at : at + rng.choice((1, 4, 100))]
            case 5:
                width = rng.choice((1, 2, 4, 8))
                data[at : at + width] = rng.choice((b"\xff", b"\x7f", b"\x00", b"\x80")) * width
            case 6:
                other = rng.randrange(len(data))
                data[at : at + 8] = data[other : other + 8]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_file_is_read_or_refused(form: str, tmp_path: Path) -> None:
    make, n = FORMS[form]
    content = make(tmp_path)
    rng = random.Random(11)
    (tmp_path / form).write_bytes(content)
    assert read_whole(tmp_path / form)
    n_read, slowest_s = 0, 0.0
    for i in range(n):
        path = tmp_path / f"{i}-{form}"
        path.write_bytes(mutated(content, rng))
        begin = time.perf_counter()
        n_read += read_whole(path)
        slowest_s = max(slowest_s, time.perf_counter() - begin)
        path.unlink()
    assert n_read < n
    assert slowest_s < SLOWEST_S


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    for form in ("a.safetensors", "zip.pt", "old.pt"):
        content = FORMS[form][0](tmp_path)
        for n in range(0, len(content), max(1, len(content) // 300)):
            path = tmp_path / f"{n}-{form}"
            path.write_bytes(content[:n])
            assert not read_whole(path), (form, n)
            path.unlink()


def test_a_damaged_index_or_config_is_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(5)
    weight_map = {"a": "x.safetensors", "b": "y.safetensors"}
    write_f32(tmp_path / "x.safetensors", {"a": ones(2, 2)})
    write_f32(tmp_path / "y.safetensors", {"b": ones(2, 2)})
    index, config = tmp_path / "model.safetensors.index.json", tmp_path / "config.json"
    good = {
        index: json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map}).encode(),
        config: json.dumps({"model_type": "gpt2", "decoder": {"model_type": "gpt2"}, "n": [1, 2]}).encode(),
    }
    n_read = 0
    for i in range(1000):
        for path, content in good.items():
            path.unlink(missing_ok=True)
            path.write_bytes(mutated(content, rng) if path is (index, config)[i % 2] else content)
        n_read += read_whole(tmp_path)
    assert 400 < n_read < 1000, "what is wrong with a config costs nobody the weights"


ABSURD = {
    "a hundred megabytes of header, a hole": lambda: (struct.pack("<Q", 99_999_000), 100_000_000),
    "a header of braces": lambda: (header_file(b"{" * 3_000_000), 0),
    "a header of empty lists": lambda: (header_file(b'{"a":[' + b"[]," * 2_000_000 + b"[]]}"), 0),
    "a shape of a million sizes": lambda: (
        header_file(b'{"a":{"dtype":"F32","shape":[' + b"1," * 1_000_000 + b'1],"data_offsets":[0,4]}}', bytes(4)),
        0,
    ),
    "a tensor of a terabyte": lambda: (
        header_file({"a": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}, bytes(8)),
        0,
    ),
    "a name of a megabyte": lambda: (header_file({"x" * 1_000_000: entry("F32", [3], 0)}, bytes(8)), 0),
    "a dtype of a megabyte": lambda: (
        header_file({"a": {"dtype": "F" * 1_000_000, "shape": [], "data_offsets": [0, 0]}}),
        0,
    ),
    "a terabyte that is a hole": lambda: (
        header_file({"a": {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}),
        (1 << 40) + 100,
    ),
}


def test_absurd_sizes_cost_no_memory(tmp_path: Path) -> None:
    """In a process that may not have more than 300 MB beyond what it has after its imports, maps of files aside."""
    for i, (name, make) in enumerate(ABSURD.items()):
        content, size = make()
        for suffix in ("safetensors", "pt", "bin", "onnx"):
            with open(tmp_path / f"{i}.{suffix}", "wb") as file:
                file.write(content)
                if size:
                    file.truncate(size)
        assert name
    script = """
        import resource, sys, time
        from pathlib import Path
        from secateurs.checkpoint import onnx_file, torch_file
        from secateurs.checkpoint.opening import open_checkpoint
        from secateurs.errors import InputError
        # RLIMIT_DATA counts private memory that can be written: not the maps of files.
        now = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (now + 300_000_000, now + 300_000_000))
        for path in sorted(Path(sys.argv[1]).iterdir()):
            begin = time.perf_counter()
            try:
                open_checkpoint(path)
                print("read", path.name)
            except InputError as error:
                assert len(str(error)) < 2000, path
            assert time.perf_counter() - begin < 5, path
    """
    code = textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout, "none of these is whole"
