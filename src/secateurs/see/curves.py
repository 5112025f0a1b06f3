"""Curves: test error of several strategies against what is kept, with intervals; of `lottery` and of `compare`.

Both axes are logarithmic: strategies that differ by tenths of a point near the dense network, and those that have
broken down, are told apart in one picture.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateurs.see.style import PRINT, Drawing, Palette, altair, data_rows, dressed, part, percent, short, stacked
from secateurs.see.style import text_block as text

Results = Mapping[str, Any]
PERCENT_LABEL = "format(100 * datum.value, '.2~f') + ' %'"
TICKS = [share * 10.0**power for power in range(-4, 0) for share in (1, 2, 3, 5, 7)] + [1.0]


@dataclass(frozen=True)
class Line:
    """How one strategy is drawn: what it is called, its colour, mark and dashes."""

    word: str
    color: str
    shape: str
    dash: tuple[int, int] = (1, 0)


LOTTERY = {
    "ticket": Line("ticket", "#16324f", "circle"),
    "reinit": Line("ticket's masks, re-initialised", "#c9812f", "square"),
    "random": Line("random masks", "#7a8594", "triangle-up", (4, 3)),
}

COMPARISON = {
    "one-shot": Line("one-shot", "#c9812f", "circle"),
    "batch-norm": Line("one-shot + batch norm", "#c9812f", "square", (2, 2)),
    "repaired": Line("one-shot + repair", "#8c4a12", "diamond"),
    "fine-tuned": Line("one-shot + fine-tuning", "#4f86b8", "circle"),
    "iterative": Line("iterative", "#4f86b8", "triangle-up", (6, 2)),
    "rate-rewound": Line("rate rewound", "#2a5d8f", "square"),
    "weight-rewound": Line("weights rewound", "#2a5d8f", "diamond", (2, 2)),
    "in-loop": Line("threshold in the loop", "#3f8f6b", "square", (6, 2)),
    "gradual": Line("gradual in the loop", "#16324f", "circle"),
    "regrown": Line("gradual, weights may return", "#1f7a8c", "triangle-up"),
    "random": Line("random masks", "#9aa3af", "triangle-down", (4, 3)),
    "scratch-e": Line("scratch-E", "#6b7280", "cross", (4, 3)),
    "scratch-b": Line("scratch-B", "#374151", "cross", (1, 2)),
}


def error_row(name: str, x: float, mean: float, low: float | None, high: float | None, least: float) -> dict[str, Any]:
    """A point of a curve: an accuracy and its interval as errors of at least `least`, which a log axis can hold."""
    worst, best = mean if low is None else low, mean if high is None else high
    return {"line": name, "x": x, "y": max(least, 1 - mean), "y0": max(least, 1 - best), "y1": max(least, 1 - worst)}


def curves(
    rows: Sequence[Mapping[str, Any]],
    lines: Mapping[str, Line],
    dense: Mapping[str, Any],
    palette: Palette,
    *,
    x_title: str,
    width: int = 680,
    height: int = 360,
    is_rising: bool = False,
) -> Any:
    """The chart: one line for each strategy, the dense network's interval as a band.

    rows       line, x, y, y0, y1
    dense      y, y0, y1
    is_rising  x grows to the right; by default it falls, as what is kept does
    """
    alt = altair()
    known = [name for name in lines if any(row["line"] == name for row in rows)]
    xs, ys = [row["x"] for row in rows], [row["y"] for row in rows]
    # The means fix the range, so that one wide interval does not squeeze them together.
    least, most = min([dense["y"], *ys]) / 1.6, min(1.0, max([dense["y"], *ys]) * 1.4)
    ends = (min(xs) / 1.1, max(xs) * 1.1)
    x = alt.X(
        "x:Q",
        scale=alt.Scale(type="log", domain=list(ends if is_rising else ends[::-1]), nice=False),
        axis=alt.Axis(title=x_title, values=TICKS, labelExpr=PERCENT_LABEL, grid=False, labelOverlap=True),
    )
    y_scale = alt.Scale(type="log", domain=[least, most], nice=False)
    y_axis = alt.Axis(title="test error", values=TICKS, labelExpr=PERCENT_LABEL, domain=False)
    y = alt.Y("y:Q", scale=y_scale, axis=y_axis)
    words = [lines[name].word for name in known]
    legend = alt.Legend(orient="top", columns=4, labelLimit=260, columnPadding=16, rowPadding=4, offset=10)
    color = alt.Color(
        "word:N", scale=alt.Scale(domain=words, range=[lines[name].color for name in known]), legend=legend
    )
    shape = alt.Shape(
        "word:N", scale=alt.Scale(domain=words, range=[lines[name].shape for name in known]), legend=legend
    )
    layers = [
        alt.Chart(data_rows([{"y0": dense["y0"], "y1": dense["y1"]}]))
        .mark_rect(color=palette.line, opacity=0.55, clip=True)
        .encode(y=alt.Y("y0:Q", scale=y_scale), y2="y1:Q", x=alt.value(0), x2=alt.value("width")),
        alt.Chart(data_rows([{"y": dense["y"]}], name="dense"))
        .mark_rule(color=palette.ink, strokeWidth=1.25)
        .encode(y=alt.Y("y:Q", scale=y_scale)),
        alt.Chart(data_rows([{"y": dense["y"]}]))
        .mark_text(
            text=["dense", percent(dense["y"], 2)],
            align="left",
            baseline="middle",
            dx=6,
            color=palette.ink,
            fontSize=11.5,
        )
        .encode(x=alt.value("width"), y=alt.Y("y:Q", scale=y_scale)),
    ]
    for place, name in enumerate(known):
        # A few screen pixels apart, so that intervals at the same place do not hide each other.
        offset, dash = 4.0 * (place - (len(known) - 1) / 2), list(lines[name].dash)
        only = alt.Chart(data_rows([{**row, "word": lines[name].word} for row in rows if row["line"] == name]))
        bar_y = alt.Y("y0:Q", scale=y_scale)
        layers += [
            only.mark_line(strokeWidth=1.75, xOffset=offset, strokeDash=dash).encode(x=x, y=y, color=color),
            only.mark_rule(strokeWidth=1.25, xOffset=offset, clip=True).encode(x=x, y=bar_y, y2="y1:Q", color=color),
            only.mark_point(filled=True, size=55, opacity=1, xOffset=offset).encode(x=x, y=y, color=color, shape=shape),
        ]
    return alt.layer(*layers).resolve_scale(x="shared", y="shared").properties(width=width, height=height)


def sheet(title: str, results: Results, charts: Sequence[Any], caption: str) -> Drawing:
    """Charts under each other with the network's and the data's name above and a caption below."""
    heading = {
        "text": title,
        "subtitle": f"{short(str(results['model']['name']), 50)} on {short(str(results['data']['name']), 40)}",
        "fontSize": 19,
        "subtitleFontSize": 12.5,
        "offset": 14,
    }
    note = part(text(altair(), textwrap.wrap(caption, 125), PRINT.muted, 680))
    return dressed(stacked("vconcat", [*map(part, charts), note], 18, heading), PRINT, padding=22)


def lottery_chart(results: Results) -> Drawing:
    """Test error of the tickets and of both controls, level by level."""
    n_test = results["data"]["n_test"]
    least = 0.5 / n_test
    points = {
        kind: [(level["kept"], level["kinds"][kind]) for level in results["levels"] if kind in level["kinds"]]
        for kind in LOTTERY
    }
    rows = [
        error_row(kind, kept, found["mean"], found["low"], found["high"], least)
        for kind, each in points.items()
        for kept, found in each
    ]
    first = results["levels"][0]["kinds"]["ticket"]
    dense = error_row("", 1.0, first["mean"], first["low"], first["high"], least)
    seeds, rewind = results["seeds"], results["lottery"]["rewind"]
    where = "their first values" if rewind == 0 else f"their values at step {rewind:,}"
    caption = (
        f"Marks: mean over {len(seeds)} seeds ({', '.join(map(str, seeds))}), n = {n_test:,} test examples, after "
        f"{results['n_steps']:,} steps. Bars and the grey band: {results['interval']}. A ticket is the weights that "
        f"survived the level before, wound back to {where}. Re-initialised: the same masks on other first weights. "
        "Random masks: as many survivors of every layer at random places, on the ticket's own first weights."
    )
    chart = curves(rows, LOTTERY, dense, PRINT, x_title="weights kept, on a logarithmic scale")
    return sheet("Lottery tickets and their controls", results, [chart], caption)


def comparison_chart(results: Results) -> Drawing:
    """Test error of every strategy against what is kept."""
    n_test, base = results["data"]["n_test"], results["dense"]
    least = 0.5 / n_test
    rows = [
        error_row(each["strategy"], 1 - each["sparsity"], each["mean"], each["low"], each["high"], least)
        for each in results["points"]
        if each["sparsity"] < 1
    ]
    dense = error_row("", 1.0, base["mean"], base["low"], base["high"], least)
    seeds = results["seeds"]
    caption = (
        f"Marks: mean over {len(seeds)} seeds ({', '.join(map(str, seeds))}), n = {n_test:,} test examples. Bars and "
        f"the grey band: {results['interval']}. Every network was trained for {base['epochs']:g} epochs in all; "
        "scratch-B for twice as many. Random masks and scratch are controls. A threshold in the loop is drawn where "
        "its sparsity came to lie."
    )
    chart = curves(rows, COMPARISON, dense, PRINT, x_title="weights kept, on a logarithmic scale", height=420)
    return sheet("What each way to sparsity costs", results, [chart], caption)
