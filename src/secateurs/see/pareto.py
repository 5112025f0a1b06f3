"""Pareto: everything that a compression tried, bytes against validation error, and what no other beats in both."""

from collections.abc import Mapping
from typing import Any

from secateurs.see.curves import PERCENT_LABEL, TICKS, sheet
from secateurs.see.style import PRINT, Drawing, Palette, altair, data_rows, part, percent

Results = Mapping[str, Any]
BYTE_TICKS = [first * 10.0**power for power in range(2, 12) for first in (1, 2, 5)]
BYTES_LABEL = "datum.value < 1e6 ? format(datum.value / 1e3, ',~g') + ' kB' : format(datum.value / 1e6, ',~g') + ' MB'"


def kind_of(candidate: Mapping[str, Any]) -> str:
    """What is removed, in the legend's words."""
    if candidate["pattern"]:
        return f"{candidate['pattern']} zeros"
    if candidate["student"]:
        return "units removed, and zeros"
    return "zeros anywhere" if candidate["sparsity"] else "nothing removed"


def pareto_chart(results: Results, palette: Palette, width: int = 640, height: int = 380) -> Any:
    """The cloud of candidates; smaller files to the right, smaller errors below."""
    alt = altair()
    dense, chosen = results["dense"], results["chosen"]
    error = 1.0 - dense["validation"]["value"]
    least = 0.5 / dense["validation"]["n"]
    rows = [
        {
            "x": each["size_bytes"],
            **{key: max(least, error + each[name]) for key, name in (("y", "drop"), ("low", "low"), ("high", "high"))},
            "kind": kind_of(each["candidate"]),
            "how": "trained with its values" if each["is_tuned"] else "rounded after training, or exact",
        }
        for each in results["tried"]
    ]
    front = [row for row, each in zip(rows, results["tried"], strict=True) if each["is_front"]]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    goal, size = results["goal"]["max_drop"], results["goal"]["size_bytes"]
    heights = [max(least, at) for at in (error, error + goal)]
    ends = [row[end] for row in front for end in ("low", "high")]
    ys = [*heights, *ends, *(row["y"] for row in rows)]
    xs = [dense["size_bytes"], *(row["x"] for row in rows), *([size] if size is not None else [])]
    x_scale = alt.Scale(type="log", domain=[max(xs) * 1.25, min(xs) / 1.25], nice=False)
    y_scale = alt.Scale(
        type="log", domain=[max(least, min(v for v in ys if v > 0)) / 1.5, min(1.0, max(ys) * 1.2)], nice=False
    )
    x_axis = alt.Axis(
        title="bytes of the packed file, on a logarithmic scale", labelExpr=BYTES_LABEL, grid=False, values=BYTE_TICKS
    )
    y_axis = alt.Axis(title="validation error", values=TICKS, labelExpr=PERCENT_LABEL, domain=False)
    x, y = alt.X("x:Q", scale=x_scale, axis=x_axis), alt.Y("y:Q", scale=y_scale, axis=y_axis)
    colors = [palette.kept, palette.second, palette.other, palette.muted][: len(kinds)]
    place = {"orient": "top", "direction": "horizontal", "columns": 2, "labelLimit": 240, "offset": 8}
    legend, shapes = alt.Legend(**place), alt.Legend(**place, symbolFillColor=palette.muted)
    color = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=colors), legend=legend)
    ways = ["trained with its values", "rounded after training, or exact"]
    shape = alt.Shape("how:N", scale=alt.Scale(domain=ways, range=["circle", "cross"]), legend=shapes)

    def line(at: float, words: list[str], dash: list[int], ink: str, dy: int) -> list[Any]:
        chart = alt.Chart(data_rows([{"y": at}]))
        rule = chart.mark_rule(color=ink, strokeDash=dash, strokeWidth=1.25).encode(y=alt.Y("y:Q", scale=y_scale))
        text = chart.mark_text(text=words, align="left", baseline="middle", dx=6, dy=dy, color=ink, fontSize=11.5)
        return [rule, text.encode(x=alt.value("width"), y=alt.Y("y:Q", scale=y_scale))]

    asked = [f"at most {100 * goal:.3g} points", "more than dense"]
    layers = [
        *line(heights[0], ["dense", percent(error, 2)], [1, 0], palette.ink, 10),
        *line(heights[1], asked, [5, 3], palette.zero, -12),
        alt.Chart(data_rows(front))
        .mark_line(color=palette.muted, strokeWidth=1, interpolate="step-before")
        .encode(x=x, y=y),
        alt.Chart(data_rows(front))
        .mark_rule(color=palette.muted, strokeWidth=3, opacity=0.35)
        .encode(x=x, y=alt.Y("low:Q", scale=y_scale, axis=y_axis), y2="high:Q"),
        alt.Chart(data_rows(rows))
        .mark_point(filled=True, size=46, opacity=0.8)
        .encode(x=x, y=y, color=color, shape=shape),
        alt.Chart(data_rows([{"x": chosen["size_bytes"], "y": max(least, error + chosen["drop"])}]))
        .mark_point(size=210, strokeWidth=2, color=palette.ink, filled=False)
        .encode(x=x, y=y),
    ]
    if size is not None:
        wanted = alt.Chart(data_rows([{"x": size}]))
        layers.append(wanted.mark_rule(color=palette.zero, strokeDash=[5, 3]).encode(x=alt.X("x:Q", scale=x_scale)))
    return alt.layer(*layers).resolve_scale(x="shared", y="shared").properties(width=width, height=height)


def pareto_caption(results: Results) -> str:
    """What is drawn."""
    n, dense = len(results["tried"]), results["dense"]
    return (
        f"{n} candidates on {dense['validation']['n']:,} validation examples, seed {results['seed']}; a ring around "
        "the one that was chosen, a line through those that no other beats in both, with 95 % intervals. Dense: "
        f"{dense['size_bytes']:,} bytes packed without loss."
    )


def pareto_picture(results: Results) -> Drawing:
    """The chart as a picture of its own."""
    return sheet("What was tried", results, [part(pareto_chart(results, PRINT))], pareto_caption(results))
