"""`secateurs pack`, `unpack` and `verify` of a packed file: the receipt, the errors, the exit codes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import secateurs as sc


@pytest.fixture
def source(tmp_path):
    """A plain checkpoint of which four fifths are zero."""
    weight = torch.randn(60, 50)
    weight[weight.abs() < weight.abs().quantile(0.8)] = 0
    save_file({"fc.weight": weight, "fc.bias": torch.randn(60)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def packed(source):
    """Where to write to."""
    return source.with_name("small.packed.safetensors")


def test_there_and_back(secateurs, source, packed):
    said = secateurs("pack", str(source), "-o", str(packed))
    assert said.code == 0
    assert f"{packed.stat().st_size:,} bytes" in said.out
    for word in ("fc.weight", "positions", "header and index", "CSR", "entropy bound", "Compression"):
        assert word in said.out
    assert "error" not in said.out
    again = source.with_name("again.safetensors")
    assert secateurs("unpack", str(packed), "-o", str(again)).code == 0
    before, after = load_file(source), load_file(again)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sc.load(packed).keys() == before.keys()


def test_lossy_values_and_their_errors(secateurs, source, packed):
    said = secateurs(
        "pack", str(source), "-o", str(packed), "--values", "codebook:3", "--values", "*.bias=int8", "--json"
    )
    found = json.loads(said.out)
    assert {line["name"]: line["values"] for line in found["tensors"]} == {"fc.weight": "codebook:3", "fc.bias": "int8"}
    assert all(line["worst"] > line["mean"] > 0 for line in found["tensors"])
    assert found["size_bytes"] == packed.stat().st_size
    assert "worst error" in secateurs("pack", str(source), "-o", str(packed), "--values", "int4").out


def test_the_last_values_that_match_count(secateurs, source, packed):
    asked = ("--values", "*=int8", "--values", "int4", "--values", "*=exact")
    found = json.loads(secateurs("pack", str(source), "-o", str(packed), *asked, "--json").out)
    assert {line["values"] for line in found["tensors"]} == {"exact"}


def test_verify(secateurs, source, packed):
    secateurs("pack", str(source), "-o", str(packed))
    said = secateurs("verify", str(packed))
    assert said.code == 0
    assert said.out.startswith("Good: 1 file of")
    assert "2,400 of 3,060 weights are zero in 2 tensors" in said.out
    data = bytearray(packed.read_bytes())
    data[400] ^= 1
    packed.write_bytes(data)
    said = secateurs("verify", str(packed))
    assert said.code == 3
    assert "were changed" in said.out
    assert "is damaged in 1 place. Pack again or restore it." in said.err
    assert not json.loads(secateurs("verify", str(packed), "--json").out)["is_ok"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("pack", "{source}", "-o", "{folder}/a.safetensors"), 4, "named *.packed.safetensors"),
        (("pack", "{folder}/none", "-o", "{packed}"), 3, "no file or directory"),
        (("pack", "{source}", "-o", "{folder}/no/a.packed.safetensors"), 4, "Cannot write"),
        (("pack", "{source}", "-o", "{packed}", "--values", "int3"), 2, "got 'int3'"),
        (("pack", "{source}", "-o", "{packed}", "--values", "fd*=int8"), 2, "'fd*'"),
        (("unpack", "{source}", "-o", "{folder}/b.safetensors"), 3, "not a packed file"),
        (("unpack", "{source}", "-o", "{folder}/b.bin"), 4, "named *.safetensors"),
    ],
)
def test_errors(secateurs, source, packed, arguments, code, words):
    said = secateurs(*(word.format(source=source, packed=packed, folder=source.parent) for word in arguments))
    assert said.code == code
    assert words in said.err
    assert "Traceback" not in said.err
    assert not packed.exists()
