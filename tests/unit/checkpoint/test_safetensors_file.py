"""The header of a safetensors file: what is read, what is refused, and never more than its own library reads."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import entry, header_file, ones, write_f32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from secateurs.checkpoint.dtypes import DTYPES, storage_of
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.safetensors_file import read_header
from secateurs.errors import InputError

A = {"a": entry("F32", [2, 3], 0)}
DATA = bytes(24)


def refused(tmp_path: Path, content: bytes, match: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match=match):
        open_checkpoint(file)
    with pytest.raises((SafetensorError, OSError)), safe_open(str(file), "np"):
        pass


def test_every_torch_dtype_reads_back_bit_for_bit(tmp_path: Path) -> None:
    names = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 bool complex64"
    made = {name: torch.randn(4, 3).to(getattr(torch, name)) for name in names.split()}
    save_file(made, tmp_path / "m.safetensors", {"format": "pt", "ä": "ö"})
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        assert checkpoint.metadata == {"m.safetensors": {"format": "pt", "ä": "ö"}}
        assert {found.name for found in checkpoint.entries} == set(made)
        starts = [found.start for found in checkpoint.entries]
        assert starts == sorted(starts)
        for found in checkpoint.entries:
            bits = checkpoint.stored(found)
            assert bits.dtype == storage_of(found.dtype)
            assert bits.shape == (12,)
            assert not bits.flags.writeable
            assert bits.tobytes() == made[found.name].view(torch.uint8).numpy().tobytes()


def test_the_table_of_dtypes_is_the_librarys(tmp_path: Path) -> None:
    for dtype, n_bits in DTYPES.items():
        header = {"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, n_bits]}}
        (tmp_path / "a").write_bytes(header_file(header, bytes(n_bits)))
        with safe_open(str(tmp_path / "a"), "np") as theirs:
            assert theirs.get_slice("a").get_shape() == [8]
        ours = read_header(tmp_path / "a").entries[0]
        assert (ours.dtype, ours.n_bytes) == (dtype, n_bits)


def test_empty_and_0d_tensors_and_a_file_without_any(tmp_path: Path) -> None:
    header = {"none": entry("F32", [0, 7], 0), "one": entry("F64", [], 0), "last": entry("I64", [0], 8)}
    (tmp_path / "a.safetensors").write_bytes(header_file(header, struct.pack("<d", 2.5)))
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        found = {each.name: checkpoint.stored(each) for each in checkpoint.entries}
    assert found["one"].view(np.float64).tolist() == [2.5]
    assert found["none"].shape == found["last"].shape == (0,)
    (tmp_path / "b.safetensors").write_bytes(header_file({}))
    assert open_checkpoint(tmp_path / "b.safetensors").entries == ()


def test_arrays_outlive_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_f32(tmp_path / "a.safetensors", {"w": ones(3, 3)}))
    bits = checkpoint.stored(checkpoint.entries[0])
    checkpoint.close()
    assert bits.view(np.float32).sum() == 9


def test_more_than_two_to_the_31_elements(tmp_path: Path) -> None:
    """The file is a hole, so it costs no disk; the map of it costs no memory."""
    n = (1 << 31) + 8
    file = tmp_path / "model.safetensors"
    content = header_file({"a": {"dtype": "F8_E4M3", "shape": [8, n // 8], "data_offsets": [0, n]}})
    with open(file, "wb") as handle:
        handle.write(content)
        handle.truncate(len(content) + n)
    with open_checkpoint(file) as checkpoint:
        (found,) = checkpoint.entries
        assert found.n == n
        bits = checkpoint.stored(found)
        assert bits.shape == (n,)
        assert int(bits[-1]) == 0


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    file = write_f32(tmp_path / "a.safetensors", {"w": ones(3, 3)})
    checkpoint = open_checkpoint(file)
    write_f32(file, {"w": ones(3, 2)})
    with pytest.raises(InputError, match="changed by somebody"):
        checkpoint.stored(checkpoint.entries[0])


def test_more_files_than_may_be_mapped_at_once(tmp_path: Path) -> None:
    weight_map = {}
    for i in range(40):
        write_f32(tmp_path / f"{i}.safetensors", {f"w{i}": ones(2, 2) * i})
        weight_map[f"w{i}"] = f"{i}.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with open_checkpoint(tmp_path) as checkpoint:
        kept = [checkpoint.stored(each) for each in checkpoint.entries]
        assert [int(bits.view(np.float32)[0]) for bits in kept] == list(range(40))


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "seven bytes": (bytes(7), "7 bytes"),
    "header longer than the file": (struct.pack("<Q", 100) + b"{}", "says that its header has 100 bytes"),
    "header longer than allowed": (struct.pack("<Q", 1 << 63) + b"{}", "says that its header"),
    "not json": (header_file(b"{,}"), "no name in quotes"),
    "not utf-8": (header_file(b'{"\xff":1}'), "not UTF-8"),
    "half a surrogate pair": (header_file(b'{"\\ud800":{}}'), "not UTF-8"),
    "nested without end": (header_file(b'{"a":' + b"[" * 100_000), "not an object"),
    "a list": (header_file([]), "should be one of {"),
    "text behind": (header_file(b"{} x"), "follows"),
    "unknown dtype": (
        header_file({"a": {"dtype": "F33", "shape": [], "data_offsets": [0, 0]}}),
        "unknown dtype 'F33'. Did you mean 'F32'",
    ),
    "negative dim": (header_file(json.dumps(A).replace("[2, 3]", "[-2, -3]").encode(), DATA), "'a' is not a dtype"),
    "float dim": (header_file(json.dumps(A).replace("[2, 3]", "[2.0, 3]").encode(), DATA), "'a' is not a dtype"),
    "bool dim": (header_file(json.dumps(A).replace("[2, 3]", "[6, true]").encode(), DATA), "'a' is not a dtype"),
    "minus zero": (header_file(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), "'a' is not a dtype"),
    "dims that overflow": (
        header_file({"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62, 0], "data_offsets": [0, 0]}}),
        "too large",
    ),
    "data too short": (header_file(A, DATA[:-1]), "end at byte"),
    "data too long": (header_file(A, DATA + b"x"), "end at byte"),
    "sizes that differ": (
        header_file({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 24]}}, DATA),
        "needs 20 bytes and has 24",
    ),
    "half a byte": (header_file({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, b"x"), "needs 1.5 bytes"),
    "overlap": (header_file({"a": entry("F32", [2], 0), "b": entry("F32", [2], 4)}, bytes(12)), "used twice"),
    "hole": (header_file({"a": entry("F32", [2], 0), "b": entry("F32", [2], 12)}, bytes(20)), "lie unused"),
    "hole at the start": (header_file({"a": entry("F32", [2], 4)}, bytes(12)), "lie unused"),
    "backwards": (header_file({"a": {"dtype": "F32", "shape": [0], "data_offsets": [4, 0]}}, b""), "start and an end"),
    "metadata of numbers": (header_file({"__metadata__": {"a": 1}}), "'a' is not text"),
    "a field missing": (header_file({"a": {"dtype": "F32", "shape": []}}), "lacks its dtype"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_here_and_by_the_library(case: str, tmp_path: Path) -> None:
    content, match = REFUSED[case]
    refused(tmp_path, content, match)


STRICTER: dict[str, tuple[bytes, str]] = {
    "a name twice": (header_file(b'{"a":%s,"a":%s}' % ((json.dumps(A["a"]).encode(),) * 2), DATA), "'a' stands twice"),
    "metadata twice in itself": (header_file(b'{"__metadata__":{"a":"b","a":"c"}}'), "'a' stands twice"),
    "a field more": (header_file({"a": {**A["a"], "x": 1}}, DATA), "'a' is not a dtype"),
    "a tensor as a list": (header_file(b'{"a":["F32",[2,3],[0,24]]}', DATA), "not an object"),
    "an escaped field": (header_file(json.dumps(A).replace("shape", "sh\\u0061pe").encode(), DATA), "not a dtype"),
    "more than 64 dims": (header_file({"a": entry("F32", [1] * 65, 0)}, bytes(4)), "at most 64"),
    "2**63 bits": (header_file({"a": {"dtype": "F32", "shape": [1 << 62, 0], "data_offsets": [0, 0]}}), "too large"),
}


@pytest.mark.parametrize("case", STRICTER)
def test_what_the_library_reads_and_is_refused_here(case: str, tmp_path: Path) -> None:
    content, match = STRICTER[case]
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with safe_open(str(file), "np"):
        pass
    with pytest.raises(InputError, match=match):
        open_checkpoint(file)


def test_null_metadata_and_any_spacing_are_read(tmp_path: Path) -> None:
    text = b' \n{ "__metadata__" : null ,\t"\\u0061\\n" : { "data_offsets":[ 0 , 24 ], "shape":[2,3 ],"dtype":"F32"}} '
    (tmp_path / "a").write_bytes(header_file(text, DATA))
    header = read_header(tmp_path / "a")
    assert [each.name for each in header.entries] == ["a\n"]
    with safe_open(str(tmp_path / "a"), "np") as theirs:
        assert list(theirs.keys()) == ["a\n"]


def mutated(rng: random.Random) -> bytes:
    """A small file with a few things changed in its header."""
    header: dict[str, Any] = {"b": entry("BF16", [3, 2], 0), "a": entry("F32", [2, 2], 12), "e": entry("F32", [0], 12)}
    if rng.random() < 0.5:
        header["__metadata__"] = {"format": "pt"}
    text = bytearray(json.dumps(header).encode())
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        at = rng.randrange(len(text))
        match rng.randrange(5):
            case 0:
                text[at] = rng.choice(b'0123456789"{}[],: \\-.eE+nulltrue\x00\xff\n')
            case 1:
                del text[at : at + rng.choice((1, 1, 2, 10))]
            case 2:
                text[at:at] = rng.choice(
                    (b"0", b"1", b" ", b'"', b",", b"{}", b"[]", b"null", b"-", b"1e3", b"\\u0041")
                )
            case 3:
                text[at] ^= 1 << rng.randrange(8)
            case 4:
                other = rng.randrange(len(text))
                text[at : at + 4], text[other : other + 4] = text[other : other + 4], text[at : at + 4]
        if not text:
            break
    return header_file(bytes(text), bytes(rng.choice((28, 28, 28, 28, 27, 29, 0))))


def test_never_accepts_what_the_library_refuses(tmp_path: Path) -> None:
    rng = random.Random(7)
    n_both = n_stricter = 0
    for i in range(6000):
        content = mutated(rng)
        file = tmp_path / f"{i}.safetensors"
        file.write_bytes(content)
        ours = ours_of(file)
        theirs = theirs_of(file)
        file.unlink()
        if theirs is None:
            assert ours is None, f"the library refuses {content!r}"
        elif ours is None:
            n_stricter += 1
        else:
            n_both += 1
            assert ours == theirs, content
    assert n_both > 500
    assert n_stricter < n_both / 20, "what is refused beyond the library's rules is rare"


def ours_of(file: Path) -> tuple[Any, Any] | None:
    """The shapes and the metadata as read here; None where refused."""
    try:
        header = read_header(file)
    except InputError:
        return None
    return {each.name: each.shape for each in header.entries}, header.metadata


def theirs_of(file: Path) -> tuple[Any, Any] | None:
    """The shapes and the metadata as the library reads them; None where refused."""
    try:
        with safe_open(str(file), "np") as theirs:
            names = theirs.keys()
            return {name: tuple(theirs.get_slice(name).get_shape()) for name in names}, theirs.metadata() or {}
    except (SafetensorError, OSError):
        return None
