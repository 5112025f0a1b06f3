"""The tables, the chart and the page of a receipt: numbers as they are, names as text, no difference called one."""

import re
from dataclasses import replace

import pytest

from secateurs.measure.accuracy import Accuracy
from secateurs.measure.bench.results import Bench, Latency, Model, Row
from secateurs.measure.environment import machine
from secateurs.measure.intervals import Interval, paired_ratio
from secateurs.racing import DENSE, LAYERS
from secateurs.see.bench_page import bench_page
from secateurs.see.bench_tables import choice_rows, labels, latency_rows, machine_text, milliseconds, weight_rows
from secateurs.see.latencies import latency_chart

HOSTILE = 'runs/<script>alert(1)</script>"'
CHOICE = {"stays": DENSE, "shape": (64, 32), "n_tokens": 8, "sparsity": 0.7, "chosen": "bitmask fp32"}


def row(model: int, name: str, seconds: float, speedup: Interval | None) -> Row:
    turns = ((seconds, 1.1 * seconds), (1.2 * seconds,))
    layers = [
        {**CHOICE, "name": "a", "speed_up": {"mean": 1.9}},
        {**CHOICE, "name": "b", "sparsity": 0.8, "speed_up": {"mean": 1.5}},
        {**CHOICE, "name": "c", "chosen": "", "reason": "nothing in it is zero", "speed_up": None},
        {**CHOICE, "name": "d", "stays": LAYERS, "chosen": "fused bitmask fp32", "speed_up": {"mean": 3.0}},
        {**CHOICE, "name": "e", "stays": LAYERS, "chosen": "", "reason": "it has hooks", "speed_up": None},
    ]
    return Row(
        *(model, name, "timed", "", 0.1),
        size_bytes=2_000_000,
        load_s=0.5,
        difference=0.02,
        accuracy=Accuracy(90, 100),
        latencies=tuple(Latency(batch, None, turns, speedup) for batch in (1, 8)),
        choices={"1": layers} if name == "secateurs-fp32" else None,
    )


@pytest.fixture(scope="module")
def found() -> Bench:
    models = tuple(Model(path, 10, 1000, 800, n_zero) for path, n_zero in (("runs/dense", 0), (HOSTILE, 560)))
    rows = (
        row(0, "torch-fp32", 0.004, None),
        row(0, "torch-bf16", 0.003, paired_ratio([4, 5, 6] * 2, [3, 5, 7] * 2)),
        row(1, "secateurs-fp32", 0.002, paired_ratio([4, 5, 6] * 2, [2, 2.5, 3] * 2)),
        Row(1, "openvino-fp32", "wrong", "off by 0.2 of the largest answer at 1; 0.001 is allowed", 0.001),
    )
    return Bench(models, rows, 2, machine(2))


def test_the_tables(found: Bench) -> None:
    head, rows = weight_rows(found)
    assert all(len(line) == len(head) for line in rows)
    assert rows[0] == [
        *("torch-fp32", "dense", "0.50", "2.00 MB", "–", "–", "2.0e-02", "90.00 % (82.56 to 94.48)", "timed")
    ]
    assert rows[3][-1] == "wrong: off by 0.2 of the largest answer at 1; 0.001 is allowed"
    tables = latency_rows(found)
    assert list(tables) == ["1", "8"]
    head, rows = tables["8"]
    assert head[2:] == ("p50 ms", "p90 ms", "examples per s", "speed-up (95 %)")
    assert rows[0][2:] == ["4.4", "4.72", "1,818", "reference"]
    assert rows[1][-1].startswith("no difference (0.8")
    assert rows[2][-1] == "2.00 (2.00 to 2.00)"
    assert len(rows) == 3  # what was wrong has no time
    _, choices = choice_rows(found)
    assert [line[2:] for line in choices] == [
        ["1", "64 × 32", "bitmask fp32", "2", "70 % to 80 %", "1.50 to 1.90"],
        ["1", "64 × 32", "dense: nothing in it is zero", "1", "70 % to 70 %", "–"],
        ["1", "whole, 64 × 32", "fused bitmask fp32", "1", "70 % to 70 %", "3.00 to 3.00"],
        ["1", "whole, 64 × 32", "layer by layer: it has hooks", "1", "70 % to 70 %", "–"],
    ]
    assert "2 threads" in machine_text(found.environment)
    same = Bench((found.models[0], Model("other/dense", 1, 1, 1, 0)), found.rows[:1], 2, found.environment)
    assert labels(same) == ["runs/dense", "other/dense"]
    assert labels(replace(same, models=same.models[:1] * 2)) == ["runs/dense (first)", "runs/dense (again)"]


def test_the_page_holds_names_as_text_and_no_script(found: Bench) -> None:
    pytest.importorskip("vl_convert")
    page = bench_page(found, f"secateurs bench {HOSTILE}")
    assert "<script" not in page
    assert "{{" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "no difference (0.8" in page
    assert page.count("<svg") == 1
    assert 'tabindex="0" role="region" aria-label="Chart of the times"' in page, "it scrolls where the window is narrow"


def test_the_chart_has_a_panel_for_each_size_and_a_mark_for_each_time(found: Bench) -> None:
    pytest.importorskip("altair")
    panels = latency_chart(found).to_dict()["vconcat"]
    assert [panel["title"]["text"] for panel in panels] == ["At 1", "At 8"]
    rows = panels[0]["data"]["values"] if "data" in panels[0] else panels[0]["layer"][0]["data"]["values"]
    assert [round(each["p50"], 6) for each in rows] == [4.4, 3.3, 2.2]
    assert [each["said"].split(" (")[0] for each in rows] == [
        "4.4 ms, reference",
        "3.3 ms, no difference",
        "2.2 ms, × 2.00",
    ]


def test_milliseconds_are_never_an_exponent() -> None:
    assert [milliseconds(s) for s in (0.00123456, 0.9994, 0.9996, 1.0, 12.3456)] == [
        *("1.23", "999", "1,000", "1,000", "12,346")
    ]
