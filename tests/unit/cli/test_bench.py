"""`secateurs bench`: what it prints and writes, and what it refuses."""

import json
from pathlib import Path

import pytest

from secateurs.accelerating import Choice
from secateurs.data import InputShape
from secateurs.measure.bench import plan
from secateurs.measure.intervals import Interval
from secateurs.models import ModelSpec, build, save_model

SHAPE = InputShape(kind="image", size=(1, 4, 4), n_classes=3)
SPEC = ModelSpec.parse("lenet-300-100")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A reference network in its directory."""
    save_model(build(SPEC, SHAPE, 0), SPEC, SHAPE, tmp_path / "model")
    return tmp_path / "model"


def faster_from_80(rows: int, columns: int, n_tokens: int, sparsity: float, values: str, n_bytes: int) -> Choice:
    mean = 1.0 + 2.0 * (sparsity >= 0.8)
    return Choice("", (rows, columns), sparsity, n_tokens, speed_up=Interval(mean, 0.9 * mean, 1.1 * mean, 15))


def test_a_receipt_in_processes_of_their_own(secateurs, source, tmp_path, monkeypatch):
    pytest.importorskip("altair")
    monkeypatch.setattr(plan, "time_layer", faster_from_80)
    out = tmp_path / "receipt"
    words = ["bench", str(source), "--batch", "1", "--batch", "4", "--contender", "torch-bf16"]
    said = secateurs(*words, "--rounds", "6", "--threads", "1", "--break-even", "-o", str(out))
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith(f"{source}: 35,503 parameters, no zeros, 0.14 MB")
    assert sum(line.split()[0] in ("torch-fp32", "torch-bf16") for line in lines if line) == 2 * 3
    assert [line for line in lines if line.startswith("At ")] == ["At 1", "At 4"]
    assert lines[-1] == f"Every number, the chart, the page: {out}/"
    results = json.loads((out / "results.json").read_text())
    assert results["command"].startswith(f"secateurs bench {source} --batch 1")
    assert results["reference"] == f"torch-fp32 of {source}"
    assert [row["outcome"] for row in results["rows"]] == ["timed", "timed"]
    assert [at["batch"] for at in results["rows"][1]["latencies"]] == [1, 4]
    if results["rows"][0]["resident_bytes"] is not None:
        assert results["rows"][0]["peak_bytes"] >= results["rows"][0]["resident_bytes"]
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text("utf-8")
    assert "torch-bf16" in page
    assert page.count("300 × 16</t") == 2 * 2, "at two sizes, with two kinds of values"
    assert {line["break_even"] for line in results["shapes"]} == {0.8}
    assert sum(line.startswith("300 × 16 ") and line.endswith("80 %") for line in said.out.splitlines()) == 4


def test_what_it_refuses(secateurs, source, tmp_path):
    for words, code, message in [
        ([str(source), "--batch", "0"], 2, "0 is not in the range"),
        ([str(source), "--contender", "tensorrt"], 2, "There is no contender 'tensorrt'"),
        ([str(source), "--data-dir", "x"], 2, "say on which data"),
        ([str(source), "--plan", "--vs", "x"], 2, "leave --vs out"),
        ([str(source), "--plan", "--break-even"], 2, "leave --break-even out"),
        ([str(source), "-o", str(source)], 4, "is not an empty directory"),
        ([str(tmp_path / "none")], 3, "There is no file or directory"),  # said by the process that looked
    ]:
        said = secateurs("bench", *words)
        assert said.code == code, (words, said)
        assert message in said.err
