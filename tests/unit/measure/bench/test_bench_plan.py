"""The plan: each shape once, with the rows of input that a run gives it, and where packed begins to pay."""

import json

import pytest

from secateurs.accelerating import Choice
from secateurs.data import InputShape
from secateurs.errors import InputError
from secateurs.measure.bench import plan as planning
from secateurs.measure.bench.plan import plan
from secateurs.measure.bench.progress import Progress
from secateurs.measure.bench.results import SPARSITIES, Line
from secateurs.measure.intervals import Interval
from secateurs.models import ModelSpec, build, save_model
from secateurs.see.bench_tables import plan_rows


def made_up(rows: int, columns: int, n_tokens: int, sparsity: float, values: str, n_bytes: int) -> Choice:
    """Twice as fast at twice the sparsity, four times with int8."""
    mean = sparsity / 0.7 * (4 if values == "int8" else 1)
    ratio = Interval(mean, 0.9 * mean, 1.1 * mean, 15)
    return Choice("", (rows, columns), sparsity, n_tokens, speed_up=ratio)


def test_every_shape_is_timed_once_and_its_break_even_found(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(planning, "time_layer", lambda *job: asked.append(job) or made_up(*job))
    shape, spec = InputShape(kind="image", size=(1, 8, 8), n_classes=5), ModelSpec.parse("cls-transformer(dim=16)")
    save_model(build(spec, shape, 0), spec, shape, tmp_path)
    progress = Progress()
    lines = plan(tmp_path, batches=(1, 2), threads=1, progress=progress)
    assert len(set(asked)) == len(asked) == progress.n_turns_done == progress.n_turns
    parameters = build(spec, shape, 0).parameters()
    assert {job[-1] for job in asked} == {sum(4 * each.numel() for each in parameters if each.ndim > 1)}
    up = [line for line in lines if line.shape == (64, 16)]
    # The last block computes its class token alone; four patches of 4 x 4 and the class token are five rows.
    assert {(line.size, line.n_tokens, line.names, line.values) for line in up} == {
        (size, n * rows, (f"blocks.{block}.ffn.up",), values)
        for size, n in (("1", 1), ("2", 2))
        for block, rows in ((0, 5), (1, 1))
        for values in ("fp32", "int8")
    }
    even = {line.values: line.break_even for line in up}
    assert even == {"fp32": 0.8, "int8": 0.5}
    head, rows = plan_rows(up)
    assert head[5:] == ("50 %", "70 %", "80 %", "90 %", "95 %", "pays from")
    assert rows[0] == ["64 × 16", "1", "fp32", "5", "1", "0.71", "no difference", "1.14", "1.29", "1.36", "80 %"]
    assert json.loads(json.dumps(up[0].as_values()))["speedups"]["0.9"]["median"] == pytest.approx(0.9 / 0.7)


def test_what_never_pays_has_no_break_even():
    slower = {sparsity: Interval(0.5, 0.4, 0.6, 15) for sparsity in SPARSITIES}
    assert Line("1", (4, 4), ("a",), 1, "fp32", slower).break_even is None
    # Faster at 50 %, but not from there on.
    odd = {**slower, 0.5: Interval(2.0, 1.9, 2.1, 15), 0.95: Interval(2.0, 1.9, 2.1, 15)}
    assert Line("1", (4, 4), ("a",), 1, "fp32", odd).break_even == 0.95


def test_a_network_without_linear_layers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_linear_layers", lambda opened, inputs: [])
    shape, spec = InputShape(kind="image", size=(1, 4, 4), n_classes=3), ModelSpec.parse("lenet-300-100")
    save_model(build(spec, shape, 0), spec, shape, tmp_path)
    with pytest.raises(InputError, match="has no linear layer or convolution: there is nothing to plan"):
        plan(tmp_path)
