"""Other runtimes: what torch exports gives the same answers there, whole and quantized."""

from pathlib import Path

import numpy as np
import pytest
import torch

from secateurs import racing
from secateurs.data import InputShape
from secateurs.measure.bench import prepared
from secateurs.measure.bench.contenders import CONTENDERS, answer, difference
from secateurs.measure.bench.worker import Worker
from secateurs.measure.intervals import Interval
from secateurs.models import ModelSpec, build, save_model
from secateurs.pruning import zero_out
from secateurs.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of texts in model/, and its prepared files in files/."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    place = tmp_path_factory.mktemp("exported")
    shape, spec = (
        InputShape(kind="tokens", size=(30, 9), n_classes=3),
        ModelSpec.parse("cls-transformer(dim=8, depth=1)"),
    )
    save_model(build(spec, shape, 0), spec, shape, place / "model")
    (place / "files").mkdir()
    facts = prepared.prepare(
        str(place / "model"), str(place / "files"), (1, 3), (4, 9), None, ("model.int8.onnx", "model.onnx"), threads=1
    )
    assert facts["why_no_onnx"] == {}
    assert facts["sizes"] == [(1, 4), (1, 9), (3, 4), (3, 9)]
    assert facts["shapes"][0] == {"input": [1, 4, "torch.int64"]}
    return place


@pytest.mark.parametrize("name", ["onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "torch-bf16"])
def test_answers_are_those_of_torch_at_every_size(name: str, folder: Path):
    if not CONTENDERS[name].is_installed:
        pytest.skip("not installed")
    worker = Worker()
    worker.choose(name, model=str(folder / "model"), folder=str(folder / "files"), threads=1)
    for size in range(4):
        found = worker.fit(size)
        assert 0 <= found["difference"] <= CONTENDERS[name].bound
        assert len(worker.run(3)["seconds"]) == 3
    if name.endswith("int8"):
        assert found["difference"] > 1e-4
        whole, small = ((folder / "files" / file).read_bytes() for file in ("model.onnx", "model.int8.onnx"))
        assert b"MatMulInteger" in small
        assert b"MatMulInteger" not in whole


def test_the_difference_is_a_share_of_the_largest_answer():
    right = np.array([[1.0, -4.0]], np.float32)
    assert difference(right + 0.5, right) == 0.125
    assert difference(right[0], right) is None
    assert difference(right * np.float32("nan"), right) is None
    assert difference(right * 0, right * 0) == 0
    assert answer(right.astype(np.float16)).dtype == np.float32


def test_why_there_is_no_export_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("an operator is unknown\nand more")

    asked = (str(folder / "model"), str(tmp_path), (1,), (4,), None, ("model.int8.onnx", "model.onnx"), 1)
    monkeypatch.setattr(prepared.torch.onnx, "export", refuse)
    assert set(prepared.prepare(*asked)["why_no_onnx"].values()) == {
        "torch.onnx.export: RuntimeError: an operator is unknown"
    }
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda name: None)
    assert prepared.prepare(*asked)["why_no_onnx"]["model.onnx"] == (
        "torch exports with onnx, which is not installed: pip install 'secateurs[onnx]'"
    )


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_packed_layers_are_chosen_for_each_size_and_say_so(values: str, tmp_path: Path):
    shape, spec = InputShape(kind="image", size=(1, 4, 4), n_classes=3), ModelSpec.parse("lenet-300-100")
    network = build(spec, shape, 0)
    zero_out(network, Recipe.parse("magnitude element layer sparsity(0.95)"))
    save_model(network, spec, shape, tmp_path)
    prepared.prepare(str(tmp_path), str(tmp_path), (1, 3), (), None, (), threads=1)
    worker, name = Worker(), f"secateurs-{values}"
    worker.choose(name, model=str(tmp_path), folder=str(tmp_path), threads=1)
    for size, batch in enumerate((1, 3)):
        found = worker.fit(size)
        assert found["difference"] <= CONTENDERS[name].bound
        assert [choice["name"] for choice in found["choices"]] == ["fc1", "fc2", "fc3"]
        assert {choice["n_tokens"] for choice in found["choices"]} == {batch}
        assert all(
            choice["chosen"] == "dense" or choice["chosen"].endswith(f" {values}") for choice in found["choices"]
        )


def test_the_examples_are_answered_by_the_network_that_was_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shape, spec = InputShape(kind="image", size=(1, 4, 4), n_classes=3), ModelSpec.parse("lenet-300-100")
    network = build(spec, shape, 0)
    zero_out(network, Recipe.parse("magnitude element layer sparsity(0.95)"))
    save_model(network, spec, shape, tmp_path)
    prepared.prepare(str(tmp_path), str(tmp_path), (1,), (), None, (), threads=1)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x_test.npy", rng.normal(size=(70, 1, 4, 4)).astype(np.float32))
    np.save(tmp_path / "y_test.npy", np.zeros(70, np.int64))
    ratio = [Interval(2.0, 2.0, 2.0, 15)]
    monkeypatch.setattr(racing, "paired_ratio", lambda *_: ratio[0])
    worker = Worker()
    worker.choose("secateurs-int8", model=str(tmp_path), folder=str(tmp_path), threads=1)
    chosen = {choice["chosen"] for choice in worker.fit(0)["choices"]}
    assert chosen <= {"bitmask int8", "index int8"}  # which of the two, the clock says
    timed = worker.session.network
    ratio[0] = Interval(0.5, 0.5, 0.5, 15)  # were it decided anew, all would be dense
    found = worker.classify()
    assert worker.session.network is timed
    with torch.inference_mode():
        right = timed(torch.from_numpy(np.load(tmp_path / "x_test.npy"))).argmax(1) == 0
    assert found == {"n_correct": int(right.sum()), "n": 70}
