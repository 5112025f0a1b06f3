"""The curves of comparisons and lotteries show the numbers of the results, as errors on logarithmic axes."""

import re
from typing import Any

import pytest

from secateurs.see.curves import COMPARISON, FAMILIES, LOTTERY, comparison_chart, error_row, lottery_chart
from secateurs.see.pictures import svg_of

NAMES = {"model": {"name": "lenet-300-100"}, "data": {"name": "digits", "n_test": 200}, "seeds": [0, 1]}


def point(mean: float, half: float | None = 0.01) -> dict[str, Any]:
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}


def comparison(**fields: Any) -> dict[str, Any]:
    points = [
        {"strategy": name, "asked": s, "sparsity": s, **point(0.95 - 0.02 * i)}
        for i, name in enumerate(COMPARISON)
        for s in (0.5, 0.9)
    ]
    dense = {**point(0.96), "epochs": 30.0}
    return {**NAMES, "interval": "interval", "given": None, "dense": dense, "points": points, **fields}


def lottery(n_levels: int = 3) -> dict[str, Any]:
    levels = [
        {"kept": 0.8**k, "kinds": {kind: point(0.9 - 0.01 * i) for i, kind in enumerate(LOTTERY) if k or not i}}
        for k in range(n_levels)
    ]
    return {**NAMES, "interval": "interval", "n_steps": 100, "lottery": {"rewind": 7}, "levels": levels}


def values(spec: Any, key: str) -> list[Any]:
    """Every value of this key in the data of a chart, in order."""
    if isinstance(spec, dict):
        return ([spec[key]] if key in spec else []) + [v for part in spec.values() for v in values(part, key)]
    return [v for part in spec for v in values(part, key)] if isinstance(spec, list | tuple) else []


def test_a_row_is_an_error_that_a_logarithmic_axis_can_hold() -> None:
    row = error_row("a", 0.1, 0.99, 0.98, 1.0, 0.001)
    assert (row["x"], row["line"]) == (0.1, "a")
    assert [row["y"], row["y0"], row["y1"]] == pytest.approx([0.01, 0.001, 0.02])
    alone = error_row("a", 0.1, 1.0, None, None, 0.001)
    assert alone["y"] == alone["y0"] == alone["y1"] == 0.001


def test_every_strategy_stands_in_the_picture_by_its_name_and_with_its_numbers() -> None:
    results = comparison()
    spec = comparison_chart(results).to_dict()
    found = [
        (row["line"], row["x"], row["y"])
        for rows in values(spec, "values")
        for row in rows
        if isinstance(row, dict) and "line" in row
    ]
    for each in results["points"]:
        # Each line, its marks and its intervals have the same rows.
        # In its own family; grey behind the others.
        assert found.count((each["strategy"], 1 - each["sparsity"], 1 - each["mean"])) == 3 + len(FAMILIES) - 1
    text = svg_of(comparison_chart(results))
    assert all(f">{word}<" in text for word in COMPARISON.values())
    said = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    assert "dense 4.00 %" in said
    assert "30 epochs in all" in said


def test_a_network_that_lost_everything_or_has_one_seed_is_drawn() -> None:
    gone = [{"strategy": "in-loop", "asked": 0.98, "sparsity": 1.0, **point(0.1)}]
    alone = [{"strategy": "gradual", "asked": 0.98, "sparsity": 0.98, **point(0.9, None)}]
    text = svg_of(comparison_chart(comparison(points=[*gone, *alone], dense={**point(1.0, None), "epochs": 1.0})))
    assert ">gradual in the loop<" in text
    assert ">threshold in the loop<" not in text, "nothing kept has no place on the axis"


def test_a_lottery_shows_the_ticket_and_both_controls_level_by_level() -> None:
    results = lottery()
    text = svg_of(lottery_chart(results))
    assert all(f">{line.word}<" in text for line in LOTTERY.values())
    assert "their values at step 7" in " ".join(re.sub(r"<[^>]+>", " ", text).split())
    rows = [
        row
        for each in values(lottery_chart(results).to_dict(), "values")
        for row in each
        if isinstance(row, dict) and "line" in row
    ]
    assert {row["x"] for row in rows if row["line"] == "ticket"} == {0.8**k for k in range(3)}
    assert {row["x"] for row in rows if row["line"] == "random"} == {0.8, 0.8**2}
