"""The benchmark of the LeNets: its fast forward is LeNet-5's own, and it goes from nothing to a file and resumes."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from secateurs.data.shape import InputShape
from secateurs.models import ModelSpec, build

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lenets.py"
SHORT = {"epochs": 1.0}
NAMES = ("dense", "small", "tiny", "small-shared", "tiny-shared")


@pytest.fixture(scope="module")
def lenets():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("lenets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["lenets"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["lenets"]


@pytest.fixture
def data(tmp_path):
    """A folder with an mnist.npz of 240 random images."""
    generator = np.random.default_rng(0)
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    arrays = {f"x_{split}": generator.integers(0, 256, (n, 28, 28), np.uint8) for split, n in SIZES.items()}
    labels = {f"y_{split}": np.arange(n, dtype=np.uint8) % 10 for split, n in SIZES.items()}
    np.savez(tmp_path / "data" / "mnist" / "mnist.npz", **arrays, **labels)
    return tmp_path / "data"


SIZES = {"train": 240, "test": 20}


def test_the_fast_forward_is_lenet_5s_own(lenets):
    module = build(ModelSpec(name="lenet-5"), InputShape(kind="image", size=(1, 28, 28), n_classes=10), seed=0)
    x, y = torch.rand(16, 1, 28, 28), torch.arange(16) % 10
    x[:, :, :8] = 0.0  # ties in every pool
    found = []
    for forward in (module, lambda x: lenets.forward_of_lenet_5(module, x)):
        module.zero_grad()
        logits = forward(x)
        torch.nn.functional.cross_entropy(logits, y).backward()
        found.append([logits.detach(), *(parameter.grad.clone() for parameter in module.parameters())])
    for stock, fast in zip(*found, strict=True):
        assert torch.allclose(stock, fast, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("net", ["lenet-300-100", "lenet-5"])
def test_units_that_nobody_reads_go_without_a_trace(lenets, net):
    torch.manual_seed(0)
    module = build(ModelSpec(name=net), InputShape(kind="image", size=(1, 28, 28), n_classes=10), seed=0)
    first, second, *_ = [part for part in module.children() if hasattr(part, "weight")]
    with torch.no_grad():
        second.weight.reshape(len(second.weight), len(first.weight), -1)[:, 3:] = 0.0
        x = torch.rand(4, 1, 28, 28)
        before = module(x)
        lenets.drop_unread(module)
        assert torch.equal(module(x), before)
    assert not first.weight[3:].any()
    assert not first.bias[3:].any()
    assert bool(first.weight[:3].all())
    assert bool(second.bias.all())


def test_from_nothing_to_a_file_and_again_without_training(lenets, data, tmp_path, monkeypatch, capsys):
    trial = {name: {"training": SHORT} for name in NAMES}
    out = tmp_path / "out.json"
    command = ["lenets", "lenet-300-100-shifted", str(data), "--seeds", "3", "--out", str(out)]
    command += ["--work", str(tmp_path / "work"), "--trial", json.dumps(trial)]
    monkeypatch.setattr(sys, "argv", command)
    lenets.main()
    first = json.loads(out.read_text())
    monkeypatch.setattr(lenets, "train", None)  # every stage is there
    lenets.main()
    assert json.loads(out.read_text()) == first
    (line,) = first["trials"]
    rows = line["seeds"]["3"]
    assert list(rows) == list(NAMES)
    assert rows["small"]["fewer"] >= 40
    shared = rows["small-shared"]
    assert shared["is_lossless"]
    assert shared["kept"] == rows["small"]["kept"]
    assert 1000 < shared["file_bytes"] < 9_000
    assert "test_error" not in json.dumps(first)  # a trial never looks at the test set
    assert lenets.plan_of("lenet-300-100-shifted")["small"] != lenets.plan_of("lenet-300-100-shifted", trial)["small"]
    capsys.readouterr()


def test_a_stage_that_is_not_there(lenets, data, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lenets", "lenet-5", str(data), "--trial", '{"tiny": {}}'])
    with pytest.raises(SystemExit):
        lenets.main()
    assert "found tiny" in capsys.readouterr().err
