"""Turns, ratios and outcomes, with contenders that are made up and run in this process."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import secateurs as sc
from secateurs import errors
from secateurs.data import DataSpec, InputShape
from secateurs.errors import InputError, RecipeError
from secateurs.measure.bench import contenders, running
from secateurs.measure.bench.contenders import Contender, Job, Torch
from secateurs.measure.bench.processes import WorkerError
from secateurs.measure.bench.progress import Progress
from secateurs.measure.bench.results import Latency, size_text
from secateurs.measure.bench.running import bench
from secateurs.measure.bench.worker import Worker
from secateurs.measure.intervals import Interval
from secateurs.models import ModelSpec, build, save_model

SHAPE = InputShape(kind="image", size=(1, 4, 4), n_classes=3)
SPEC = ModelSpec.parse("lenet-300-100")


class Here:
    """A worker without a process: the same questions and answers, as JSON."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, log: Path, threads: int) -> None:
        self.worker, self.peak_bytes, self.name = Worker(), 0, log.stem

    def ask(self, do: str, is_watched: bool = False, **more: Any) -> Any:
        Here.asked.append((self.name, do))
        try:
            return json.loads(json.dumps(getattr(self.worker, do)(**json.loads(json.dumps(more))), default=float))
        except errors.SecateursError:
            raise
        except Exception as error:
            raise WorkerError(type(error).__name__, str(error)) from error

    def close(self) -> None:
        pass

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Scaled(Torch):
    """torch, whose answers are all too large, or worse."""

    def __init__(self, job: Job, by: float) -> None:
        super().__init__(job, "float32")
        self.by = by

    def bind(self, inputs: contenders.Inputs) -> contenders.Call:
        run = super().bind(inputs)
        return lambda: run() * self.by


class Failing(Torch):
    def bind(self, inputs: contenders.Inputs) -> contenders.Call:
        raise ValueError("it cannot\nbe done")


def cannot(job: Job) -> contenders.Session:
    raise contenders.CannotError("this CPU is too old")


MADE_UP = {
    "torch-fp32": contenders.CONTENDERS["torch-fp32"],
    "torch-bf16": contenders.CONTENDERS["torch-bf16"],
    "off": Contender("torch", "", "", 0.01, lambda job: Scaled(job, 1.02)),
    "nan": Contender("torch", "", "", 0.01, lambda job: Scaled(job, float("nan"))),
    "failing": Contender("torch", "", "", 0.01, lambda job: Failing(job, "float32")),
    "cannot": Contender("torch", "", "", 0.01, cannot),
    "absent": Contender("no_such_runtime", "openvino", "", 0.01, cannot),
    "gpu": Contender("torch", "", "", 0.01, cannot, on_gpu=True),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in dense/, pruned in pruned.packed.safetensors beside its config, and examples.npz."""
    place = tmp_path_factory.mktemp("bench")
    network = build(SPEC, SHAPE, 0)
    save_model(network, SPEC, SHAPE, place / "dense")
    sc.prune(network, sc.Recipe.parse("magnitude element model sparsity(0.8)"))
    save_model(network, SPEC, SHAPE, place / "pruned")
    sc.pack(place / "pruned" / "model.safetensors", place / "pruned" / "small.packed.safetensors")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 4, 4)).astype(np.float32), np.arange(90) % 3
    np.savez(place / "examples.npz", x_train=x, y_train=y, x_test=x[:70], y_test=y[:70])
    return place


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "Process", Here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(contenders, "CONTENDERS", MADE_UP)
    monkeypatch.setattr(running, "CONTENDERS", MADE_UP)
    monkeypatch.setattr(Here, "asked", [])


def test_every_outcome_is_told(models: Path):
    progress = Progress()
    found = bench(models / "dense", batches=(1, 3), rounds=6, threads=1, progress=progress)
    rows = {row.contender: row for row in found.rows}
    assert {name: row.outcome for name, row in rows.items()} == {
        "torch-fp32": "timed",
        "torch-bf16": "timed",
        "off": "wrong",
        "nan": "wrong",
        "failing": "failed",
        "cannot": "skipped",
        "absent": "not installed",
        "gpu": "skipped",
    }
    assert rows["off"].why == "off by 0.02 of the largest answer at 1; 0.01 is allowed"
    assert rows["nan"].why == "no numbers of the right shape at 1; 0.01 is allowed"
    assert rows["failing"].why == "ValueError: it cannot\nbe done"
    assert rows["cannot"].why == "this CPU is too old"
    assert rows["absent"].why == "pip install 'secateurs[openvino]'"
    assert rows["gpu"].why == "there is no GPU that torch can use"
    assert [row.latencies for row in found.rows[2:]] == [()] * 6
    assert rows["torch-fp32"].difference == 0
    assert 0 < (rows["torch-bf16"].difference or 0) < 0.1
    assert rows["torch-fp32"].size_bytes == (models / "dense" / "model.safetensors").stat().st_size
    for at, batch in zip(rows["torch-bf16"].latencies, (1, 3), strict=True):
        assert (at.batch, at.tokens, len(at.turns)) == (batch, None, 6)
        assert at.speedup is not None
        assert at.speedup.low <= at.speedup.mean <= at.speedup.high
        assert at.quantile(0.1) <= at.quantile(0.5) <= at.quantile(0.9)
    assert rows["torch-fp32"].latencies[0].speedup is None
    assert progress.n_turns_done == 2 * 6 * 2
    values = found.values()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["schema"] == "secateurs.bench/1"
    assert values["environment"]["threads"] == 1


def test_they_take_turns_in_an_order_that_moves(models: Path):
    bench(models / "dense", batches=(2,), contenders=("torch-bf16",), rounds=6, threads=1)
    turns = [name for name, do in Here.asked if do == "run"][2:]
    one, other = ["torch-fp32", "torch-bf16"], ["torch-bf16", "torch-fp32"]
    assert (
        turns == one + other + other + one + one + other
    )  # every second round turned round, every second pair moved by one


def test_two_models_and_their_accuracy(models: Path):
    packed = models / "pruned" / "small.packed.safetensors"
    data = DataSpec(source=str(models / "examples.npz"), mean=(0.5,), std=(0.5,))
    found = bench(models / "dense", packed, data=data, batches=(1,), contenders=("torch-bf16",), rounds=6, threads=1)
    assert [(row.model, row.contender) for row in found.rows] == [
        (0, "torch-fp32"),
        (0, "torch-bf16"),
        (1, "torch-fp32"),
        (1, "torch-bf16"),
    ]
    dense, pruned = found.models
    assert (dense.n_zero, round(pruned.sparsity, 3)) == (0, 0.8)
    assert pruned.size_bytes == packed.stat().st_size < dense.size_bytes
    network = build(SPEC, SHAPE, 0).eval()
    x = torch.from_numpy(np.load(models / "examples.npz")["x_test"]).reshape(70, 1, 4, 4)
    right = int((network((x - 0.5) / 0.5).argmax(1) == torch.arange(70) % 3).sum())
    accuracy = found.rows[0].accuracy
    assert accuracy is not None, found.rows[0].why
    assert (accuracy.n_correct, accuracy.n) == (right, 70)  # in batches of 64: the last one is filled up
    assert [at.speedup is None for row in found.rows for at in row.latencies] == [True, False, False, False]


def test_what_it_refuses(models: Path, tmp_path: Path):
    other = InputShape(kind="image", size=(1, 5, 5), n_classes=3)
    save_model(build(SPEC, other, 0), SPEC, other, tmp_path / "other")
    with pytest.raises(RecipeError, match=r"There is no contender 'torch-fp23'. Did you mean 'torch-fp32'"):
        bench(models / "dense", contenders=("torch-fp23",))
    with pytest.raises(RecipeError, match="A batch must be a whole number of at least 1; got 0"):
        bench(models / "dense", batches=(0,))
    with pytest.raises(RecipeError, match="reads images: leave --tokens out"):
        bench(models / "dense", tokens=(8,))
    with pytest.raises(InputError, match=r"has no readable config.json"):
        bench(tmp_path)
    with pytest.raises(InputError, match=r"\[1, 1, 5, 5, .*their times cannot be compared"):
        bench(models / "dense", tmp_path / "other", contenders=("torch-fp32",), batches=(1,))


def test_texts_are_run_with_the_tokens_that_were_asked_for(tmp_path: Path):
    texts, spec = InputShape(kind="tokens", size=(50, 12), n_classes=2), ModelSpec.parse("cls-transformer(dim=8)")
    save_model(build(spec, texts, 0), spec, texts, tmp_path)
    found = bench(tmp_path, contenders=("torch-fp32",), rounds=6, threads=1)
    assert [at.size for at in found.rows[0].latencies] == ["1 × 1 token", "1 × 12 tokens"]
    with pytest.raises(RecipeError, match="reads at most 12 tokens; got --tokens 13"):
        bench(tmp_path, tokens=(4, 13))


def test_a_ratio_whose_interval_contains_1_is_no_difference():
    def at(low: float, high: float) -> Latency:
        return Latency(2, 8, ((0.001, 0.002), (0.003,)), Interval(1.2, low, high, 2))

    assert at(0.9, 1.4).speedup_text == "no difference (0.90 to 1.40)"
    assert at(1.1, 1.4).speedup_text == "1.20 (1.10 to 1.40)"
    assert (at(0.9, 1.0).is_difference, at(0.8, 0.9).is_difference) == (False, True)
    assert at(1.1, 1.4).per_second == pytest.approx(2 * 8 / 0.002)
    assert size_text(4, None) == "4"
