"""Charts: the numbers in a chart's data equal the weights', and every specification is valid."""

import json

import numpy as np
import pytest
from synthetic_run import STAGES, TRACKED, make_results

from secateurs.see import charts, pictures, stats, style


def named(spec, name):
    """The rows of the data that bears this name, wherever in the chart it is."""
    found = []
    for part in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, (list, tuple)) else ():
        found += named(part, name)
    if isinstance(spec, dict) and spec.get("name") == name:
        found += spec["values"]
    return found


@pytest.mark.parametrize("component", list(TRACKED))
@pytest.mark.parametrize("stage", list(STAGES))
def test_the_story_shows_exact_counts(run, stage, component):
    results, weights = run
    w = weights[stage][TRACKED[component]].astype(np.float64)
    spec = charts.story_chart(results, stage, component, w).to_dict()
    rows = named(spec, "bars")
    for row in rows:
        near, far = sorted((abs(row["x0"]), abs(row["x1"])))
        side = w if row["x1"] > 0 else -w
        assert row["y1"] == ((side > near) & (side <= far)).sum()
    limit = charts.x_range(results, component)
    told = json.dumps(spec, ensure_ascii=False)
    n_beyond = np.count_nonzero(w) - sum(row["y1"] for row in rows)
    assert n_beyond <= np.count_nonzero(np.abs(w) > limit * (1 - 0.08))
    assert (f"Not drawn: {n_beyond:,} weights" in told) == (n_beyond > 0)
    assert named(spec, "zero_share") == [{"y0": 0, "y1": (w == 0).mean()}]
    assert charts.percent(float((w == 0).mean())) in told
    assert len(named(spec, "dead_rows")) == (~w.any(axis=1)).sum()


def test_tau_is_marked_on_both_sides_and_bars_end_there(run):
    results, weights = run
    spec = charts.story_chart(results, "one-shot", "ffnn", weights["one-shot"][TRACKED["ffnn"]]).to_dict()
    tau = results["stages"][3]["layers"][TRACKED["ffnn"]]["tau"]
    assert named(spec, "taus") == [{"x": -tau}, {"x": tau}]
    assert min(abs(row[x]) for row in named(spec, "bars") for x in ("x0", "x1")) == pytest.approx(tau)


def test_stages_of_a_component_share_the_weight_axis(run):
    results, weights = run
    limit = charts.x_range(results, "ffnn")
    for stage in charts.STORY:
        text = json.dumps(charts.story_chart(results, stage, "ffnn", weights[stage][TRACKED["ffnn"]]).to_dict())
        assert json.dumps([-limit, limit]) in text


def test_every_specification_is_valid(run):
    results, weights = run
    w = weights["in-loop"][TRACKED["ffnn"]]
    drawn = [
        charts.overview_chart(results),
        charts.tradeoff_chart(results),
        charts.story_chart(results, "in-loop", "ffnn", w),
        charts.story_chart(results, "in-loop", "ffnn", w, log=True),
        *charts.page_charts(results).values(),
    ]
    for chart in drawn:
        chart.to_altair().to_dict()


def test_a_layer_that_lost_everything_says_so(run):
    results, weights = make_results()
    name = TRACKED["cls-head"]
    dead = np.zeros_like(weights["absolute"][name])
    results["stages"][-1]["layers"][name] = stats.describe(dead, absolute_step=0.01, tau=0.4)
    spec = charts.story_chart(results, "absolute", "cls-head", dead).to_dict()
    assert "nothing survived" in json.dumps(spec)
    pictures_made = charts.overview_chart(results).to_dict()
    assert pictures_made["vconcat"]


def test_the_tradeoff_holds_every_point_and_its_interval(run):
    results, _ = run
    rows = charts.tradeoff_rows(results)
    assert [(r["asked"], r["mean"], r["low"], r["high"]) for r in rows] == [
        (p["asked"], p["mean"], p["low"], p["high"]) for p in results["tradeoff"]
    ]
    text = json.dumps(charts.tradeoff_chart(results).to_dict(), ensure_ascii=False)
    assert "3 seeds (0, 1, 2)" in text
    assert "n = 360" in text
    assert "dense 96.9 %" in text


def test_a_point_without_weights_left_can_be_drawn(run):
    results, _ = make_results()
    results["tradeoff"][0]["sparsity"] = 1.0
    charts.tradeoff_chart(results).to_altair().to_dict()


def test_no_expression_holds_text_of_the_results(run, tmp_path):
    hostile = "</script><b>'+alert(1)+'\"{{x}}\n__proto__"
    results, weights = make_results({TRACKED["ffnn"]: hostile})
    results["headline"] = hostile
    w = weights["in-loop"][hostile]
    drawn = charts.story_chart(results, "in-loop", "ffnn", w)
    expressions = [part for part in json.dumps(drawn.to_dict()).split('"') if "datum" in part or part == "expr"]
    assert not any("alert" in part for part in expressions)
    svg = pictures.save_picture(drawn, tmp_path / "hostile")[1].read_text()
    assert "<b>" not in svg
    assert "</script>" not in svg


def test_a_layer_that_the_recipe_skips_says_so_and_no_picture_is_needed():
    results, weights = make_results()
    name = TRACKED["cls-head"]
    next(layer for layer in results["layers"] if layer["name"] == name)["prunable"] = False
    results["stages"][-1]["picture"] = None
    results["positions"] = {}
    spec = charts.story_chart(results, "absolute", "cls-head", weights["absolute"][name]).to_dict()
    assert "The recipe does not prune this layer" in json.dumps(spec)
    assert "not pruned by the recipe" in json.dumps(charts.overview_chart(results).to_dict())


def test_components_and_strategies_are_called_the_same_everywhere(run):
    results, weights = run
    drawn = charts.story_chart(results, "trained", "ffnn", weights["trained"][TRACKED["ffnn"]])
    told = json.dumps([drawn.to_dict(), charts.overview_chart(results).to_dict()])
    assert "FFN  " in json.loads(json.dumps(drawn.to_dict()["title"]["subtitle"][0]))
    assert "FFNN" not in told
    assert {row["strategy"] for row in charts.tradeoff_rows(results)} == set(style.STRATEGIES.values())


@pytest.mark.parametrize(
    ("share", "digits", "told"),
    [
        (0, 1, "0.0 %"),
        (1, 1, "100.0 %"),
        (0.9999, 1, "> 99.9 %"),
        (0.9995, 1, "> 99.9 %"),  # 99.95 as a double lies above, and rounded up to 100.0
        (0.9994, 1, "99.9 %"),
        (0.0001, 1, "< 0.1 %"),
        (0.0005, 1, "0.1 %"),
        (0.7126, 1, "71.3 %"),
        (0, 0, "0 %"),
        (1, 0, "100 %"),
        (0.995, 0, "> 99 %"),
        (0.996, 0, "> 99 %"),
        (0.994, 0, "99 %"),
        (0.004, 0, "< 1 %"),
        (0.125, 0, "13 %"),
        (1.0004, 1, "100.0 %"),
    ],
)
def test_percent_never_rounds_to_all_or_nothing(share, digits, told):
    assert style.percent(share, digits) == told


@pytest.mark.parametrize("digits", [0, 1, 2])
@pytest.mark.parametrize("n", [7, 360, 2048, 65_536])
def test_no_part_is_told_as_all_or_nothing(n, digits):
    for k in (1, 2, n // 2, n - 2, n - 1):
        told = style.percent(k / n, digits)
        assert told not in (style.percent(0, digits), style.percent(1, digits)), (k, n)
