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


@pytest.fixture
def trained(tmp_path):
    """A directory with a small network of ours, and its data."""
    import numpy as np

    from secateurs.data import DataSpec, load_data
    from secateurs.models import ModelSpec, build, save_model

    y = np.arange(60) % 3
    x = np.clip(80 * y[:, None, None] + np.random.default_rng(0).normal(20, 5, (60, 4, 4)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "three.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    data, spec = load_data(DataSpec(source=str(tmp_path / "three.npz"))), ModelSpec.parse("lenet-300-100")
    module = build(spec, data.shape, seed=0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(data.x_train), data.y_train).backward()
        optimizer.step()
    save_model(module, spec, data.shape, tmp_path / "model")
    return tmp_path / "model"


def test_accuracy_before_and_after(secateurs, trained, packed):
    asked = ("pack", str(trained), "-o", str(packed), "--data", str(trained.with_name("three.npz")))
    said = secateurs(*asked, "--max-drop", "0.5pp")
    assert said.code == 0
    assert "Accuracy 100.00 % " in said.out
    assert "n = 30 test examples: no change" in said.out
    found = json.loads(secateurs(*asked, "--json").out)["accuracy"]
    assert found["before"] == found["after"]
    assert (found["before"]["value"], found["before"]["n"], found["drop"]["value"]) == (1, 30, 0)


def test_a_drop_beyond_the_gate_gives_1_and_keeps_the_file(secateurs, trained, packed, monkeypatch):
    """As if packing had turned every weight round."""
    from secateurs.measure import drop

    def load(path):
        return {name: -tensor if str(path) == str(packed) else tensor for name, tensor in sc.load(path).items()}

    monkeypatch.setattr(drop, "load", load)
    asked = ("pack", str(trained), "-o", str(packed), "--data", str(trained.with_name("three.npz")))
    said = secateurs(*asked, "--max-drop", "20pp")
    assert said.code == 1
    assert "more than the 20 allowed. The file is written all the same" in said.err
    assert packed.exists()
    assert secateurs(*asked, "--max-drop", "100pp").code == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--max-drop", "0.5pp"), "say on which data, with --data"),
        (("--std", "1"), "--std is for measuring the accuracy"),
        (("--data", "digits", "--max-drop", "0.5"), "percentage points from 0 to 100"),
        (("--data", "digits", "--max-drop", "xpp"), "got 'xpp'"),
        (("--data", "digits", "--mean", "a,b", "--std", "1"), "--mean takes numbers"),
    ],
)
def test_options_of_the_accuracy_that_mean_nothing(secateurs, trained, packed, asked, words):
    said = secateurs("pack", str(trained), "-o", str(packed), *asked)
    assert said.code == 2
    assert words in said.err
    assert not packed.exists()


def test_beside(secateurs, source, tmp_path):
    out = tmp_path / "both"
    said = secateurs("pack", str(source), "-o", str(out), "--beside", "--values", "int8")
    assert said.code == 0
    assert f"{(out / 'weights.packed.safetensors').stat().st_size:,} bytes" in said.out
    assert "the packed weights are the plain ones, bit for bit" in secateurs("verify", str(out)).out
    assert json.loads(secateurs("verify", str(out), "--json").out)["n_beside"] == 2
    assert secateurs("pack", str(source), "-o", str(out), "--beside").code == 4
