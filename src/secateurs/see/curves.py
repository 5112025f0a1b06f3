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
    least, most = min([dense["y0"], *ys]) / 1.15, max([dense["y1"], *ys]) * 1.1
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
