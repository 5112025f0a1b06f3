"""ONNX files: initializers wherever their numbers are, read as the onnx package writes them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.tensors import Checkpoint
from secateurs.errors import InputError


def varint(number: int) -> bytes:
    out = bytearray()
    number &= (1 << 64) - 1
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name: str, kind: int, shape: tuple[int, ...], *fields: bytes) -> bytes:
    """A TensorProto."""
    return b"".join(number(1, size) for size in shape) + number(2, kind) + b"".join(fields) + part(8, name)


def node(kind: str, *inputs: str, trans_b: int | None = None) -> bytes:
    """A NodeProto."""
    attribute = part(5, part(1, "transB") + number(3, trans_b)) if trans_b is not None else b""
    return b"".join(part(1, name) for name in inputs) + part(2, "out") + part(4, kind) + attribute


def model(path: Path, tensors: list[bytes], nodes: list[bytes] = []) -> Path:  # noqa: B006
    """A ModelProto with that graph."""
    graph = b"".join(part(1, each) for each in nodes) + b"".join(part(5, each) for each in tensors) + part(2, "g")
    path.write_bytes(number(1, 8) + part(2, "by hand") + part(7, graph))
    return path


def outside(**about: Any) -> bytes:
    """The fields of a tensor whose bytes are in another file."""
    return b"".join(part(13, part(1, key) + part(2, str(value))) for key, value in about.items()) + number(14, 1)


def values(checkpoint: Checkpoint, dtype: Any) -> dict[str, list[Any]]:
    return {each.name: checkpoint.stored(each).view(dtype).tolist() for each in checkpoint.entries}


def test_numbers_as_raw_bytes_and_in_fields(tmp_path: Path) -> None:
    six = np.arange(6, dtype="<f4")
    path = model(
        tmp_path / "a.onnx",
        [
            tensor("raw", 1, (2, 3), part(9, six.tobytes())),
            tensor("floats", 1, (2, 3), part(4, six.tobytes())),
        ],
    )
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.source, checkpoint.files) == ("onnx", ("a.onnx",))
        assert values(checkpoint, np.float32) == {"raw": six.tolist(), "floats": six.tolist()}
        assert all(path.read_bytes()[each.start :].startswith(six.tobytes()) for each in checkpoint.entries)
        assert all(not checkpoint.stored(each).flags.writeable for each in checkpoint.entries)
    doubles = tensor("d", 11, (), part(10, struct.pack("<d", 2.5)))
    assert values(open_checkpoint(model(path, [doubles])), np.float64) == {"d": [2.5]}
    longs = tensor("i", 7, (4,), part(7, b"".join(map(varint, (0, -1, 300, -(1 << 63))))))
    assert values(open_checkpoint(model(path, [longs])), np.int64) == {"i": [0, -1, 300, -(1 << 63)]}
    bits = np.array([1.5, -2], np.float16).view(np.uint16)
    halves = tensor("h", 10, (2,), part(5, b"".join(map(varint, map(int, bits)))))
    assert values(open_checkpoint(model(path, [halves])), np.float16) == {"h": [1.5, -2]}
    small = tensor("s", 3, (3,), part(5, b"".join(map(varint, (-1, 0, 127)))))
    assert values(open_checkpoint(model(path, [small])), np.int8) == {"s": [-1, 0, 127]}
    assert values(open_checkpoint(model(path, [tensor("e", 1, (0, 2))])), np.float32) == {"e": []}


def test_a_weight_is_turned_by_how_it_is_multiplied(tmp_path: Path) -> None:
    names = ("matmul", "gemm", "linear", "left")
    tensors = [tensor(name, 1, (2, 2), part(9, bytes(16))) for name in names]
    nodes = [
        node("MatMul", "x", "matmul"),
        node("Gemm", "x", "gemm", "bias"),
        node("Gemm", "x", "linear", trans_b=1),
        node("MatMul", "left", "x"),
    ]
    found = open_checkpoint(model(tmp_path / "a.onnx", tensors, nodes))
    assert [each.name for each in found.entries if each.is_turned] == ["matmul", "gemm"]


def test_numbers_in_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(bytes(8) + np.arange(4, dtype="<f4").tobytes())
    path = model(tmp_path / "model.onnx", [tensor("w", 1, (2, 2), outside(location="data/w.bin", offset=8, length=16))])
    checkpoint = open_checkpoint(path)
    assert values(checkpoint, np.float32) == {"w": [0, 1, 2, 3]}
    assert checkpoint.files == ("model.onnx", "data/w.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.others == checkpoint.left == ()


@pytest.mark.parametrize(
    "about",
    [
        {"location": "../w.bin"},
        {"location": "/etc/passwd"},
        {"location": ""},
        {"location": "a\0b"},
        {"location": "link"},
        {"location": "none"},
        {"location": "w.bin", "offset": 1},
        {"location": "w.bin", "length": 15},
        {"location": "w.bin", "offset": -1},
        {"location": "w.bin", "offset": "9" * 30},
        {"location": "."},
    ],
)
def test_only_files_of_the_same_directory_and_only_bytes_that_are_there(about: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(16))
    (folder / "link").symlink_to("../w.bin")
    path = model(folder / "model.onnx", [tensor("w", 1, (2, 2), outside(**about))])
    with pytest.raises(InputError):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "fields",
    [
        [part(9, bytes(15))],
        [part(9, bytes(16)), part(9, bytes(16))],
        [part(4, bytes(12))],
        [],
        [part(5, bytes(4))],
        [number(9, 3)],
    ],
)
def test_numbers_that_are_not_there(fields: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a readable ONNX file"):
        open_checkpoint(model(tmp_path / "a.onnx", [tensor("w", 1, (2, 2), *fields)]))


def test_shapes_names_and_dtypes_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    raw = part(9, b"")
    for tensors in (
        [tensor("w", 1, (1 << 62, 1 << 62, 0), raw)],
        [tensor("w", 1, (-1,), raw)],
        [tensor("w", 1, (0,), raw)] * 2,
    ):
        with pytest.raises(InputError, match="not a readable ONNX file"):
            open_checkpoint(model(path, tensors))
    checkpoint = open_checkpoint(model(path, [tensor("text", 8, (1,)), tensor("w", 1, (0,), raw)]))
    assert [each.name for each in checkpoint.entries] == ["w"]
    assert checkpoint.ignored == (("text", "of ONNX's dtype 8, which is not read"),)
    many = tensor("many", 7, (3,), part(7, varint(300) + varint(2)))
    checkpoint = open_checkpoint(model(path, [many]))
    with pytest.raises(InputError, match="'many' has 2 numbers, not 3"):
        checkpoint.stored(checkpoint.entries[0])
    for content in (b"", b"hello", b"\xff" * 20, part(7, b"")[:-1]):
        path.write_bytes(content)
        with pytest.raises(InputError):
            open_checkpoint(path)


def test_what_the_onnx_package_writes(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    made = {
        "f": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
        "h": np.arange(6, dtype=np.float16).reshape(2, 3),
        "i": np.array([[1, -2]], np.int64),
        "b": np.array([True, False]),
    }
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in made.items()]
    tensors += [
        onnx.helper.make_tensor("float_data", onnx.TensorProto.FLOAT, (2,), [1.5, 2]),
        onnx.helper.make_tensor("bf16", onnx.TensorProto.BFLOAT16, (2,), [1.5, -2]),
        onnx.helper.make_tensor("int8", onnx.TensorProto.INT8, (3,), [-3, 0, 3]),
    ]
    linear = onnx.helper.make_node("Gemm", ["x", "f"], ["y"], transB=1)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([linear], "g", [], [output], tensors)
    whole = onnx.helper.make_model(graph)
    onnx.save(whole, str(tmp_path / "a.onnx"))
    onnx.save(whole, str(tmp_path / "b.onnx"), save_as_external_data=True, location="b.data", size_threshold=0)
    for name in ("a.onnx", "b.onnx"):
        checkpoint = open_checkpoint(tmp_path / name)
        assert [each.name for each in checkpoint.entries] == [each.name for each in tensors]
        for entry, theirs in zip(checkpoint.entries, tensors, strict=True):
            expected = onnx.numpy_helper.to_array(theirs)
            assert entry.shape == expected.shape
            assert checkpoint.stored(entry).tobytes() == expected.tobytes()
            assert not entry.is_turned
