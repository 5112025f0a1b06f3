"""Curves: test error of several strategies against what is kept or costs, with intervals; of `lottery` and `compare`.

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

# What the strategies of a comparison are called, in the families that are drawn together.
FAMILIES = {
    "Cut once, not trained on": {
        "one-shot": "one-shot",
        "batch-norm": "one-shot + batch norm",
        "repaired": "one-shot + repair",
    },
    "Cut, then trained on": {
        "fine-tuned": "one-shot + fine-tuning",
        "repaired-tuned": "one-shot + repair + fine-tuning",
        "iterative": "iterative",
    },
    "Cut, then rewound": {
        "rate-rewound": "rate rewound",
        "weight-rewound": "weights rewound",
    },
    "Pruned inside the training loop": {
        "in-loop": "threshold in the loop",
        "gradual": "gradual in the loop",
        "regrown": "gradual, weights may return",
    },
    "Controls": {
        "random": "random masks",
        "scratch-e": "scratch-E",
        "scratch-b": "scratch-B",
    },
}
COMPARISON = {name: word for family in FAMILIES.values() for name, word in family.items()}
SHAPES, DASHES = ("circle", "square", "diamond", "triangle-up"), ((1, 0), (6, 2), (2, 2), (8, 3))


@dataclass(frozen=True)
class View:
    """What error is drawn against: its axis, and how its numbers are written there."""

    title: str
    label: str
    values: Sequence[float] | None = None


VIEWS = {
    "kept": View("weights kept", PERCENT_LABEL, TICKS),
    "packed_bytes": View("bytes, packed without loss", "format(datum.value / 1000, ',~g') + ' kB'"),
    "multiply_adds": View("multiply-adds of one example, in theory", "format(datum.value, '~s')"),
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
    view: View = VIEWS["kept"],
    width: int = 680,
    height: int = 360,
) -> Any:
    """The chart: one line for each strategy, the dense network's interval as a band; x falls to the right.

    rows   line, x, y, y0, y1; those of no line stand behind, in grey, and fix the axes with the others
    dense  y, y0, y1
    """
    alt = altair()
    known = [name for name in lines if any(row["line"] == name for row in rows)]
    xs, ys = [row["x"] for row in rows], [row["y"] for row in rows]
    # The means fix the range, so that one wide interval does not squeeze them together.
    least, most = min([dense["y"], *ys]) / 1.6, min(1.0, max([dense["y"], *ys]) * 1.4)
    given = {} if view.values is None else {"values": view.values}
    first, last = max(xs) * 1.1, min(xs) / 1.1
    x_scale = alt.Scale(type="log", domain=[first, last], nice=False)
    x_title = f"{view.title}, on a logarithmic scale"
    x_axis = alt.Axis(title=x_title, labelExpr=view.label, grid=False, labelOverlap=True, tickCount=6, **given)
    y_scale = alt.Scale(type="log", domain=[least, most], nice=False)
    y_axis = alt.Axis(title="test error", values=TICKS, labelExpr=PERCENT_LABEL, domain=False)
    y = alt.Y("y:Q", scale=y_scale, axis=y_axis)
    words = [lines[name].word for name in known]
    columns = max(2, width // 170)
    legend = alt.Legend(
        orient="top", columns=columns, labelLimit=260, columnPadding=16, rowPadding=4, offset=10, symbolStrokeWidth=0
    )
    used = [lines[name] for name in known]
    color = alt.Color("word:N", scale=alt.Scale(domain=words, range=[line.color for line in used]), legend=legend)
    shape = alt.Shape("word:N", scale=alt.Scale(domain=words, range=[line.shape for line in used]), legend=legend)
    dash = alt.StrokeDash(
        "word:N", scale=alt.Scale(domain=words, range=[list(line.dash) for line in used]), legend=None
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
    if behind := [row for row in rows if row["line"] not in lines]:
        grey = alt.Chart(data_rows(behind)).mark_line(strokeWidth=1, color=palette.muted, opacity=0.35)
        layers.append(grey.encode(x=alt.X("x:Q", scale=x_scale, axis=x_axis), y=y, detail="line:N"))
    # A few screen pixels apart, so that intervals at the same place do not hide each other.
    apart = {name: (last / first) ** (4 / width * (k - (len(known) - 1) / 2)) for k, name in enumerate(known)}
    mine = [
        {**row, "word": lines[row["line"]].word, "at": row["x"] * apart[row["line"]]}
        for row in rows
        if row["line"] in apart
    ]
    own = alt.Chart(data_rows(mine))
    x = alt.X("at:Q", scale=x_scale, axis=x_axis)
    layers += [
        own.mark_line(strokeWidth=1.75).encode(x=x, y=y, color=color, strokeDash=dash),
        own.mark_rule(strokeWidth=1.25, clip=True).encode(x=x, y=alt.Y("y0:Q", scale=y_scale), y2="y1:Q", color=color),
        own.mark_point(filled=True, size=55, opacity=1).encode(x=x, y=y, color=color, shape=shape),
    ]
    return alt.layer(*layers).resolve_scale(x="shared", y="shared").properties(width=width, height=height)


def sheet(title: str, results: Results, charts: Sequence[Any], caption: str, width: int = 680) -> Drawing:
    """Parts under each other with the network's and the data's name above and a caption below."""
    heading = {
        "text": title,
        "subtitle": f"{short(str(results['model']['name']), 50)} on {short(str(results['data']['name']), 40)}",
        "fontSize": 19,
        "subtitleFontSize": 12.5,
        "offset": 14,
    }
    note = part(text(altair(), textwrap.wrap(caption, width * 125 // 680, break_on_hyphens=False), PRINT.muted, width))
    return dressed(stacked("vconcat", [*charts, note], 18, heading), PRINT, padding=22)


def _over(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"one seed ({seeds[0]}), so there are no intervals"
    return f"mean over {len(seeds)} seeds ({', '.join(map(str, seeds))})"


def lottery_chart(results: Results) -> Drawing:
    """Test error of the tickets and of their controls, level by level."""
    n_test = results["data"]["n_test"]
    least = 0.5 / n_test
    points = {
        kind: [(level["kept"], level["kinds"][kind]) for level in results["levels"] if kind in level["kinds"]]
        for kind in LOTTERY
        if kind in results["levels"][-1]["kinds"]
    }
    told = {
        "reinit": "Re-initialised: the same masks on other first weights.",
        "random": "Random masks: as many survivors of every layer at random places, on the ticket's own first weights.",
    }
    rows = [
        error_row(kind, kept, found["mean"], found["low"], found["high"], least)
        for kind, each in points.items()
        for kept, found in each
    ]
    first = results["levels"][0]["kinds"]["ticket"]
    dense = error_row("", 1.0, first["mean"], first["low"], first["high"], least)
    rewind = results["lottery"]["rewind"]
    where = "their first values" if rewind == 0 else f"their values at step {rewind:,}"
    caption = (
        f"Marks: {_over(results['seeds'])}, n = {n_test:,} test examples, after "
        f"{results['n_steps']:,} steps. Bars and the grey band: {results['interval']}. A ticket is the weights that "
        f"survived the level before, wound back to {where}. {' '.join(told[kind] for kind in points if kind in told)}"
    )
    chart = curves(rows, {kind: LOTTERY[kind] for kind in points}, dense, PRINT)
    return sheet("Lottery tickets and their controls", results, [part(chart)], caption)


def family_lines(family: Mapping[str, str], palette: Palette) -> dict[str, Line]:
    """How the strategies of a family are drawn."""
    styles = zip((*palette.strategies, palette.other), SHAPES, DASHES, strict=True)
    return {name: Line(word, *style) for (name, word), style in zip(family.items(), styles, strict=False)}


def comparison_rows(results: Results, view: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The points of every strategy, and the dense network, in one view. What keeps nothing has no place there."""
    n_test, base = results["data"]["n_test"], results["dense"]

    def row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
        x = 1 - found.get("sparsity", 0.0) if view == "kept" else found[view]
        return error_row(name, x, found["mean"], found["low"], found["high"], 0.5 / n_test)

    rows = [row(each["strategy"], each) for each in results["points"]]
    return [each for each in rows if each["x"] > 0], row("", base)


def family_chart(results: Results, family: str, view: str, palette: Palette, width: int, height: int) -> Any:
    """One family of strategies in colour before all others; None where none of it has a place in this view."""
    rows, dense = comparison_rows(results, view)
    lines = family_lines(FAMILIES[family], palette)
    if not any(row["line"] in lines for row in rows):
        return None
    return curves(rows, lines, dense, palette, view=VIEWS[view], width=width, height=height)


def training_chart(results: Results, palette: Palette, width: int) -> Any:
    """The epochs that the networks of each strategy were trained for, and those that found their masks elsewhere."""
    alt = altair()
    parts = {"its own training": "epochs", "another network's, which found the masks": "mask_epochs"}
    costs = {COMPARISON[point["strategy"]]: point for point in results["points"]} | {"dense": results["dense"]}
    rows = [
        {"strategy": word, "part": part, "order": k, "epochs": cost[key]}
        for word, cost in costs.items()
        for k, (part, key) in enumerate(parts.items())
    ]
    color = alt.Color(
        "part:N",
        scale=alt.Scale(domain=list(parts), range=[palette.kept, palette.second]),
        legend=alt.Legend(orient="top", direction="horizontal", labelLimit=300, offset=8, symbolType="square"),
    )
    return (
        alt.Chart(data_rows(rows))
        .mark_bar(height=11)
        .encode(
            y=alt.Y("strategy:N", sort=list(costs), axis=alt.Axis(title=None, ticks=False, domain=False)),
            x=alt.X("epochs:Q", axis=alt.Axis(title="epochs of training", tickCount=6, domain=False)),
            color=color,
            order="order:Q",
        )
        .properties(width=width, height=19 * len(costs))
    )


def comparison_caption(results: Results) -> str:
    """Who was counted, what the bars mean, and what each network's training was."""
    epochs = f"{results['dense']['epochs']:g} epochs"
    given = results["given"]
    if given is None:
        trained = f"Every network was trained for {epochs} in all; scratch-B for twice as many."
    else:
        wrong = percent(1 - given["value"], 2)
        trained = f"All, the dense one too, were trained on for {epochs} from the network that was given ({wrong})."
    names = {point["strategy"] for point in results["points"]}
    in_loop = " A threshold in the loop is drawn where its sparsity came to lie." if "in-loop" in names else ""
    return (
        f"Marks: {_over(results['seeds'])}, n = {results['data']['n_test']:,} test examples. "
        f"Bars and the grey band (dense): {results['interval']}. {trained}{in_loop}"
    )


def comparison_chart(results: Results, view: str = "kept") -> Drawing:
    """Test error of every strategy, by family: each in colour before all others."""
    cells = []
    for family in FAMILIES:
        chart = family_chart(results, family, view, PRINT, 400, 250)
        if chart is not None:
            cells.append({**part(chart), "title": {"text": family, "fontSize": 14, "offset": 10}})
    apart = {"color": "independent", "shape": "independent", "strokeDash": "independent"}
    grid = {"concat": cells, "columns": 2, "spacing": 34, "resolve": {"scale": apart}}
    caption = comparison_caption(results)
    return sheet("What each way to sparsity costs", results, [grid], caption, width=900 if len(cells) > 1 else 450)
