"""Comparison page: what `compare` found as one HTML page without a script, that needs no network and no other file."""

import html
from collections.abc import Mapping
from typing import Any

from secateurs.measure.intervals import half_width
from secateurs.see.curves import COMPARISON, FAMILIES, VIEWS, comparison_caption, family_chart, training_chart
from secateurs.see.pictures import svg_of
from secateurs.see.stage_cards import quiet, stage_cards
from secateurs.see.static_page import Cell, apart, escaped, figures, static_page, table
from secateurs.see.style import PAGE, percent

Results = Mapping[str, Any]


def comparison_page(results: Results) -> str:
    """The page: the curves in every view, the table, the training, the weights, every number."""
    most = max(point["asked"] for point in results["points"])
    name = f"{results['model']['name']} on {results['data']['name']}"
    where = results["environment"]
    notes = (
        f"secateurs {where['secateurs']}, torch {where['torch']}, {where['cpu']}, {where['vectors']}, one thread a "
        f"network. {results['data']['source']}"
    )
    return static_page(
        "comparison",
        "compare",
        {"curves": "Curves", "table": "Table", "cost": "Training", "weights": "Weights", "all": "All numbers"},
        {
            "title": escaped(f"{name}: secateurs compare"),
            "headline": html.escape(results["headline"]),
            "figures": _figures(results),
            "curves": _curves(results),
            "caption": escaped(comparison_caption(results)),
            "about": escaped(about_table(results)),
            "table": _table(results),
            "speed": escaped(_speed(results)),
            "training": apart(svg_of(quiet(training_chart(results, PAGE, 270))), "training"),
            "most": escaped(percent(most, 0)),
            "began": "the first weights" if results["given"] is None else "the weights that were given",
            "seed": str(results["seeds"][0]),
            "weights": "".join(stage_cards(results)),
            "all": _all(results),
            "command": escaped(results["command"]),
            "notes": escaped(notes),
        },
    )


def about_table(results: Results) -> str:
    """What the figures of the table are."""
    return (
        f"Mean of {len(results['seeds'])} seeds ± the 95 % t interval, n = {results['data']['n_test']:,} test "
        "examples. * and bold: the difference from dense, seed by seed, has an interval off zero; others are within "
        "seed noise. In brackets: the sparsity that a threshold came to, and layers left empty."
    )


def mean_text(point: Mapping[str, Any], digits: int = 1) -> str:
    """Mean and half an interval, in percent."""
    half = half_width(point)
    return f"{100 * point['mean']:.{digits}f}" + ("" if half is None else f" ± {100 * half:.{digits}f}")


def point_text(point: Mapping[str, Any], digits: int = 1) -> str:
    """The same, with a star where it is off the dense network, and the sparsity where it is not what was asked."""
    star = "*" if point["minus_dense"]["is_beyond_noise"] else ""
    reached = "" if abs(point["sparsity"] - point["asked"]) < 5e-3 else f" (at {percent(point['sparsity'])})"
    empty = f" ({point['n_collapsed']} layers empty)" if point["n_collapsed"] else ""
    return mean_text(point, digits) + star + reached + empty


def dense_text(results: Results, digits: int = 1) -> str:
    """The baseline: of a network that was given, before and after it was trained on as long as the others."""
    dense = mean_text(results["dense"], digits)
    given = results["given"]
    return f"dense {dense}" if given is None else f"dense {100 * given['value']:.{digits}f}, trained on {dense}"


def _figures(results: Results) -> str:
    dense, n = results["dense"], len(results["seeds"])
    given = results["given"]
    seeds = f"{n} seed{'s' if n > 1 else ''}"
    if given is None:
        baseline = [("Dense", f"{mean_text(dense)} %", seeds)]
    else:
        as_given = ("Dense, as given", f"{percent(given['value'])}", "before anything")
        baseline = [as_given, ("Dense, trained on", f"{mean_text(dense)} %", seeds)]
    return figures(
        [
            ("Network", escaped(results["model"]["name"]), f"{results['model']['n_prunable']:,} prunable weights"),
            ("Data", escaped(results["data"]["name"]), f"{results['data']['n_test']:,} test examples"),
            *baseline,
            ("Training, each", f"{dense['epochs']:g} epochs", "the dense network included"),
            ("Dense, packed", f"{dense['packed_bytes']:,.0f} B", f"{dense['multiply_adds']:,.0f} multiply-adds"),
        ]
    )


def _curves(results: Results) -> str:
    """The switch, and behind each of its sides the families."""
    said, drawn = [], []
    for k, (view, about) in enumerate(VIEWS.items()):
        checked = " checked" if k == 0 else ""
        said.append(
            f'<input type="radio" name="view" id="by-{view}"{checked}><label for="by-{view}">{about.title}</label>'
        )
        cards = []
        for place, family in enumerate(FAMILIES):
            chart = family_chart(results, family, view, PAGE, 350, 230)
            if chart is not None:
                told = escaped(f"{family}: test error against {about.title}; the numbers are in the table below")
                svg = apart(svg_of(quiet(chart)), f"{view}{place}")
                cards.append(
                    f'<article class="card"><h3>{escaped(family)}</h3>'
                    f'<div class="chart" role="img" aria-label="{told}">{svg}</div></article>'
                )
        drawn.append(f'<div class="view {view}">{"".join(cards)}</div>')
    return f'<legend class="sr">Test error against</legend>{"".join(said)}{"".join(drawn)}'


def _costs(point: Mapping[str, Any]) -> list[Cell]:
    return [f"{point['packed_bytes']:,.0f}", f"{point['multiply_adds']:,.0f}"]


def _table(results: Results) -> str:
    asked = list(dict.fromkeys(point["asked"] for point in results["points"]))
    by_point = {(point["strategy"], point["asked"]): point for point in results["points"]}
    rows: list[list[Cell]] = []
    for name in dict.fromkeys(point["strategy"] for point in results["points"]):
        points = [by_point[name, s] for s in asked]
        # A line may end before the bracket, and nowhere else.
        texts = [point_text(point).replace(" ", "\u00a0").replace("\u00a0(", " (") for point in points]
        cells = [
            (text, "off" if point["minus_dense"]["is_beyond_noise"] else "")
            for text, point in zip(texts, points, strict=True)
        ]
        rows.append([COMPARISON[name], *cells, f"{points[-1]['epochs']:g}", *_costs(points[-1])])
    at, dense = percent(asked[-1], 0), results["dense"]
    foot: list[Cell] = [dense_text(results), *[""] * len(asked), f"{dense['epochs']:g}", *_costs(dense)]
    head = ["Strategy", *(percent(s, 0) for s in asked), "Epochs", f"Bytes at {at}", f"Multiply-adds at {at}"]
    return table(head, rows, foot)


def _speed(results: Results) -> str:
    speed = results["latency"]
    what = "no difference" if speed["low"] <= 1 <= speed["high"] else f"× {speed['ratio']:.2f}"
    return (
        f"Bytes are packed without loss; multiply-adds are theoretical. Measured, a batch of {speed['batch']} took "
        f"{1e3 * speed['dense_s']:.2f} ms dense and {1e3 * speed['zeroed_s']:.2f} ms with "
        f"{percent(speed['sparsity'], 0)} zeros in it ({what})."
    )


def _all(results: Results) -> str:
    rows: list[list[Cell]] = []
    for point in results["points"]:
        gap = point["minus_dense"]
        interval = "" if gap["low"] is None else f" ({100 * gap['low']:+.2f} to {100 * gap['high']:+.2f})"
        rows.append(
            [
                COMPARISON[point["strategy"]],
                percent(point["asked"], 0),
                percent(point["sparsity"], 2),
                mean_text(point, 2),
                f"{100 * gap['mean']:+.2f}{interval}",
                *_costs(point),
                f"{point['epochs']:g}",
                f"{point['mask_epochs']:g}",
            ]
        )
    head = ("Strategy", "Asked", "Zeros", "Accuracy, %", "Less dense, points", "Bytes", "Multiply-adds", "Epochs")
    return table((*head, "Epochs of the masks"), rows)
