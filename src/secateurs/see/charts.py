"""Charts: the pictures of a run, from its results. Each is drawn once, for the files and for the page."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from secateurs.see import pictures, stats
from secateurs.see.marks import (
    STRIP,
    WIDTH,
    bar_step,
    color_key,
    drawn_bars,
    histogram_layers,
    position_map,
    tau_rows,
    zero_strip,
)
from secateurs.see.style import (
    COMPONENTS,
    PAGE,
    PRINT,
    STRATEGIES,
    Drawing,
    Palette,
    altair,
    data_rows,
    dressed,
    number,
    part,
    percent,
    short,
    sigma_text,
    stacked,
    text_block,
)

Results = Mapping[str, Any]
STORY = ("initialised", "trained", "in-loop", "one-shot")  # the four stages of the overview
PERCENT_LABEL = "format(100 * datum.value, '.2~f') + ' %'"  # of an axis: as exact as its ticks


def x_range(results: Results, component: str) -> float:
    """The |w| up to which every picture of a component is drawn, so that its stages can be compared.

    At least 99.5 % of the weights of each stage lie within, and tau where it is near; the caption says what
    lies beyond. The extra stage at an absolute tau does not stretch the others.
    """
    name = results["model"]["tracked"][component]
    layers = [stage["layers"][name] for stage in results["stages"]]
    shared = [stage["layers"][name] for stage in results["stages"] if stage["id"] != "absolute"] or layers
    limit = max(stats.reach(layer["sigma_grid"], 0.995) for layer in shared)
    taus = [layer["tau"] for layer in layers if layer["tau"] is not None]
    return 1.04 * float(max([limit or 1.0] + [tau for tau in taus if tau <= 1.4 * limit]))


def _accuracy_text(accuracy: Mapping[str, Any]) -> str:
    interval = f"{percent(accuracy['low'])} to {percent(accuracy['high'])}"
    return f"{percent(accuracy['value'])} (n = {accuracy['n']:,}, interval {interval})"


def _caption(results: Results, stage: Mapping[str, Any], component: str, limit: float, n_beyond: int) -> list[str]:
    layer = stage["layers"][results["model"]["tracked"][component]]
    sigma, tau, n_left = layer["sigma"], layer["tau"], layer["n"] - layer["n_zero"]
    zeros = f"sparsity {percent(layer['n_zero'] / max(1, layer['n']))} ({layer['n_zero']:,} exact zeros)"
    lines = [
        f"n = {layer['n']:,} weights, {layer['n_rows']:,} rows × {layer['n_columns']:,} columns  ·  {zeros}  ·  "
        f"σ = {number(sigma)}, zeros included"
    ]
    if tau is not None:
        word = sigma_text(stage["tau_text"])
        meant = f" ({word} when it was set)" if "σ" in word else ""
        lines.append(
            f"τ = {number(tau)}{meant}: a weight survives where |w| > τ  ·  "
            f"{layer['dead_rows']:,} dead rows, {layer['dead_columns']:,} dead columns"
        )
    if not stats.is_prunable(results, results["model"]["tracked"][component]):
        lines.append("The recipe does not prune this layer.")
    if n_left == 0:
        lines.append("Nothing survived in this layer.")
    elif n_beyond:
        farthest = layer["min"] if -layer["min"] > layer["max"] else layer["max"]
        lines.append(
            f"Not drawn: {n_beyond:,} weights ({percent(n_beyond / layer['n'])}) beyond ±{number(limit)}, "
            f"the farthest at {number(farthest)}"
        )
    data = short(str(results["data"]["name"]), 40)
    lines.append(
        f"{data}, seed {stage['seed']}  ·  test accuracy of the whole network at this stage "
        f"{_accuracy_text(stage['accuracy']['test'])}"
    )
    return lines


def story_chart(
    results: Results,
    stage_id: str,
    component: str,
    weight: ArrayLike,
    *,
    log: bool = False,
    x_limit: float | None = None,
) -> Drawing:
    """One picture of the story: the true histogram of a component at a stage, and its weights by position.

    weight    the component's weight at that stage, (out, in) or (out, in, h, w)
    log       counts on a logarithmic axis
    x_limit   the |w| up to which bars are drawn; by default the same for every stage (`x_range`)
    Raises KeyError for a stage that the results do not have, InputError for NaN.
    """
    alt, palette = altair(), PRINT
    stage = stats.stage(results, stage_id)
    name = results["model"]["tracked"][component]
    layer = stage["layers"][name]
    limit = x_limit if x_limit is not None else x_range(results, component)
    tau = layer["tau"]
    step = bar_step(layer["n"], limit, tau)
    counted = stats.grid(weight, step)
    rows = drawn_bars(counted, limit, floor=0.7 if log else 0.0)
    n_beyond = layer["n"] - layer["n_zero"] - sum(row["y1"] for row in rows)
    top = max((row["y1"] for row in rows), default=1) * (2.0 if log else 1.06)
    share = layer["n_zero"] / max(1, layer["n"])
    data = {
        "bars": data_rows(rows, name="bars"),
        "band": data_rows([{"x0": -tau, "x1": tau}] if tau is not None else []),
        "zero": data_rows([{"x": 0}] if layer["n_zero"] else []),
        "taus": data_rows(tau_rows(tau, limit), name="taus"),
    }
    wide = f"weights per bar, {number(step)} wide" + (", log scale" if log else "")
    layers = histogram_layers(data, palette, limit, top, log=log, ticks=(9, 4), titles=("weight", wide), room=34)
    layers += _annotations(alt, layer, stage, limit, palette)
    histogram = alt.layer(*layers).properties(width=WIDTH, height=240)
    color_limit = pictures.color_limit(weight)
    if any(s["id"] == "trained" for s in results["stages"]):
        color_limit = 3 * stats.stage(results, "trained")["layers"][name]["sigma"] or color_limit
    n_rows, n_columns = pictures.as_rows(weight).shape
    height = int(np.clip(WIDTH * n_rows / max(1, n_columns), 96, 240))
    place = pictures.position(weight, color_limit)
    note = (
        f"By position: {pictures.sampling_note(place['every'])}; colours saturate at ±{number(color_limit)}, "
        "three sigma of the trained layer; ticks at the edge mark dead rows and columns"
    )
    above = stacked("hconcat", [part(histogram), part(zero_strip(alt, share, palette, STRIP, 240))], 26)
    map_ = position_map(alt, weight, place["png"], palette, WIDTH, height)
    below = stacked("hconcat", [part(map_), part(color_key(alt, color_limit, palette, height))], 26)
    caption = [*_caption(results, stage, component, limit, n_beyond), *textwrap.wrap(note, 112)]
    told = textwrap.wrap(short(stage["caption"], 220), 104)[:2]
    title = {
        "text": short(stage["title"], 80),
        "subtitle": [f"{COMPONENTS[component]}  ·  {short(name, 80)}", *told],
        "fontSize": 19,
        "subtitleFontSize": 12.5,
        "subtitleLineHeight": 18,
        "offset": 34,
    }
    parts = [above, below, part(text_block(alt, caption, palette.muted, WIDTH))]
    return dressed(stacked("vconcat", parts, 18, title), palette, padding=22)


def _annotations(
    alt: Any, layer: Mapping[str, Any], stage: Mapping[str, Any], limit: float, palette: Palette
) -> list[Any]:
    """The words above the histogram: the share of exact zeros over the spike, tau beside its rules."""
    scale = alt.Scale(domain=[-limit, limit], nice=False, zero=False)
    found, tau = [], layer["tau"]

    def say(x: float, text: str, align: str, dx: int, dy: int, color: str, bold: bool = False) -> None:
        found.append(
            alt.Chart(data_rows([{"x": x}]))
            .mark_text(
                text=text,
                align=align,
                baseline="bottom",
                dx=dx,
                dy=dy,
                color=color,
                fontSize=12,
                fontWeight="bold" if bold else "normal",
            )
            .encode(x=alt.X("x:Q", scale=scale), y=alt.value(0))
        )

    if layer["n_zero"]:
        share = percent(layer["n_zero"] / layer["n"])
        say(0, f"{share} exactly zero: drawn apart, at the right", "center", 0, -21, palette.zero, bold=True)
    if tau is not None:
        word = sigma_text(stage["tau_text"])
        text = f"τ = {number(tau)}" + (f" = {word}" if "σ" in word else "")
        if tau <= limit:
            say(-tau, "−τ", "right", 0, -5, palette.ink)
            say(tau, text, "left", 0, -5, palette.ink)
        else:
            say(limit, f"{text}, beyond this range →", "right", 0, -5, palette.ink)
    if layer["n_zero"] == layer["n"]:
        found.append(
            alt.Chart(data_rows([{"x": 0}]))
            .mark_text(text="nothing survived", dx=12, align="left", color=palette.muted, fontSize=14)
            .encode(x=alt.X("x:Q", scale=scale), y=alt.value(120))
        )
    return found


def small_histogram(layer: Mapping[str, Any], limit: float, palette: Palette, width: int) -> Any:
    """A histogram of the overview, from the counted grid, with the share of exact zeros above it."""
    alt = altair()
    wanted = limit / float(np.clip(round(1.5 * layer["n"] ** (1 / 3)), 12, 36))
    is_fine = layer["absolute_grid"]["step"] <= wanted
    counted: stats.Grid = layer["absolute_grid" if is_fine else "sigma_grid"]
    tau = layer["tau"]
    merge = max(1, round(wanted / counted["step"]))
    # No bar crosses tau: it would seem to hold weights that tau removed.
    anchor = 0 if tau is None else int(tau / counted["step"] + 1e-9)
    rows = drawn_bars(counted, limit, merge=merge, anchor=anchor)
    data = {
        "bars": data_rows(rows),
        "band": data_rows([{"x0": -tau, "x1": tau}] if tau is not None else []),
        "zero": data_rows([{"x": 0}] if layer["n_zero"] else []),
        "taus": data_rows(tau_rows(tau, limit)),
    }
    top = max((row["y1"] for row in rows), default=1) * 1.08
    layers = histogram_layers(data, palette, limit, top, log=False, ticks=(4, 3), room=26)
    has_zeros = layer["n_zero"] > 0
    label = (
        alt.Chart(data_rows([{}]))
        .mark_text(
            text=f"{percent(layer['n_zero'] / layer['n'])} exactly zero" if has_zeros else "no exact zeros",
            baseline="bottom",
            dy=-9,
            fontSize=11.5,
            fontWeight="bold" if has_zeros else "normal",
            color=palette.zero if has_zeros else palette.muted,
        )
        .encode(x=alt.value(width / 2), y=alt.value(0))
    )
    return alt.layer(*layers, label).properties(width=width, height=130)


def _small_map(alt: Any, place: Mapping[str, Any], palette: Palette, width: int) -> Any:
    """A position picture of the overview."""
    height = int(np.clip(width * place["rows"] / max(1, place["columns"]), 56, 110))
    return (
        alt.Chart(data_rows([{"url": pictures.enlarged(place["png"], width, height)}]))
        .mark_image(width=width, height=height, aspect=False, aria=False)
        .encode(url="url:N", x=alt.value(width / 2), y=alt.value(height / 2))
        .properties(width=width, height=height, view=alt.ViewConfig(stroke=palette.line))
    )


def overview_chart(results: Results) -> Drawing:
    """The whole story on one sheet: both components (rows) at the four stages (columns), with their positions."""
    alt, palette, width = altair(), PRINT, 220
    known = {stage["id"] for stage in results["stages"]}
    shown = [stats.stage(results, stage_id) for stage_id in STORY if stage_id in known]
    blocks: list[dict[str, Any]] = []
    for component, label in COMPONENTS.items():
        name = results["model"]["tracked"][component]
        limit, cells = x_range(results, component), []
        for column, stage in enumerate(shown):
            layer = stage["layers"][name]
            place = results["positions"].get(stage["id"], {}).get(component)
            parts = [
                part(small_histogram(layer, limit, palette, width)),
                *([part(_small_map(alt, place, palette, width))] if place else []),
                part(
                    text_block(
                        alt, [f"σ = {number(layer['sigma'])}  ·  n = {layer['n']:,}"], palette.muted, width, 10.5
                    )
                ),
            ]
            title = {
                "text": f"{column + 1}  {short(stage['title'], 34)}",
                "subtitle": f"test accuracy {percent(stage['accuracy']['test']['value'])}",
                "fontSize": 14,
                "subtitleFontSize": 11.5,
                "offset": 24,
            }
            cells.append(stacked("vconcat", parts, 10, None if blocks else title))
        kind = "" if stats.is_prunable(results, name) else "  ·  not pruned by the recipe"
        head = text_block(alt, [f"{label}  ·  {short(name, 70)}{kind}"], palette.ink, 500, size=13, bold=True)
        blocks.append(stacked("vconcat", [part(head), stacked("hconcat", cells, 26)], 12))
    n_test, seed = shown[0]["accuracy"]["test"]["n"], shown[0]["seed"]
    caption = [
        "Counts of weights by value. Exact zeros are left out of the bars, marked by the arrow and written above "
        "them; dashed: ±τ, the shaded band is what τ removes.",
        "Under each histogram the weights by position, rows = outputs, columns = inputs; white = exactly zero. "
        "Same weight axis within a row; at least 99.5 % of each stage's weights are drawn.",
        f"{short(str(results['data']['name']), 40)}, {short(str(results['model']['name']), 40)}, "
        f"seed {seed}, n = {n_test:,} test examples.",
    ]
    headline = textwrap.wrap(short(results["headline"], 240), 105)
    title = {"text": headline, "fontSize": 18, "lineHeight": 24, "offset": 22}
    parts = [*blocks, part(text_block(alt, caption, palette.muted, 900))]
    return dressed(stacked("vconcat", parts, 30, title), palette, padding=26)


def tradeoff_rows(results: Results) -> list[dict[str, Any]]:
    """The trade-off as rows: strategy (in words), asked, sparsity, kept, mean, low, high, n_seeds."""
    return [
        {
            "strategy": STRATEGIES[point["strategy"]],
            "asked": point["asked"],
            "sparsity": point["sparsity"],
            "kept": max(1 - point["sparsity"], 1e-4),  # a logarithmic axis has no zero
            "mean": point["mean"],
            "low": point["mean"] if point["low"] is None else point["low"],  # one seed gives no interval
            "high": point["mean"] if point["high"] is None else point["high"],
            "n_seeds": point["n_seeds"],
        }
        for point in results["tradeoff"]
    ]


def _tradeoff(results: Results, palette: Palette, width: int, height: int, *, has_legend: bool = True) -> Any:
    alt = altair()
    rows, dense = tradeoff_rows(results), dict(results["dense"])
    dense |= {bound: dense["mean"] for bound in ("low", "high") if dense[bound] is None}
    kept = [row["kept"] for row in rows] or [0.02, 0.5]
    low = min([dense["low"], *(row["low"] for row in rows)])
    high = max([dense["high"], *(row["high"] for row in rows)])
    room = max(0.01, 0.05 * (high - low))
    x = alt.X(
        "kept:Q",
        scale=alt.Scale(type="log", domain=[max(kept) * 1.12, min(kept) / 1.18], nice=False),
        axis=alt.Axis(
            title="sparsity, on a logarithmic scale of what is kept",
            values=[0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01],
            labelExpr=PERCENT_LABEL.replace("datum.value", "(1 - datum.value)"),
            grid=False,
            labelOverlap=True,
        ),
    )
    y_scale = alt.Scale(domain=[max(0, low - room), min(1.0, high + room)], nice=False)
    # Not a whole percent: a narrow axis would have two ticks of 99 %, and 100 % for 99.6 %.
    y_axis = alt.Axis(title="test accuracy", labelExpr=PERCENT_LABEL, tickCount=6, domain=False)
    y = alt.Y("mean:Q", scale=y_scale, axis=y_axis)
    words = list(STRATEGIES.values())
    legend = alt.Legend(orient="top", direction="horizontal", columnPadding=18, offset=10) if has_legend else None
    color = alt.Color("strategy:N", scale=alt.Scale(domain=words, range=list(palette.strategies)), legend=legend)
    shape = alt.Shape(
        "strategy:N", scale=alt.Scale(domain=words, range=["circle", "square", "triangle-up"]), legend=legend
    )
    dashes = ([2, 3], [8, 3], [1, 0])
    layers = [
        alt.Chart(data_rows([{"low": dense["low"], "high": dense["high"]}]))
        .mark_rect(color=palette.line, opacity=0.55)
        .encode(y=alt.Y("low:Q", scale=y_scale), y2="high:Q", x=alt.value(0), x2=alt.value("width")),
        alt.Chart(data_rows([{"mean": dense["mean"]}], name="dense"))
        .mark_rule(color=palette.ink, strokeWidth=1.25)
        .encode(y=alt.Y("mean:Q", scale=y_scale)),
        alt.Chart(data_rows([{"mean": dense["mean"]}]))
        .mark_text(
            text=f"dense {percent(dense['mean'])}",
            align="right",
            baseline="bottom",
            dx=-4,
            dy=-3,
            color=palette.ink,
            fontSize=11.5,
        )
        .encode(x=alt.value("width"), y=alt.Y("mean:Q", scale=y_scale)),
    ]
    # A few screen pixels apart, so that intervals at the same sparsity do not hide each other.
    for offset, word, dash in zip((-5, 0, 5), words, dashes, strict=True):
        only = alt.Chart(data_rows([row for row in rows if row["strategy"] == word]))
        low_y = alt.Y("low:Q", scale=y_scale)
        layers += [
            only.mark_line(strokeWidth=1.75, xOffset=offset, strokeDash=dash).encode(x=x, y=y, color=color),
            only.mark_rule(strokeWidth=1.5, xOffset=offset, clip=True).encode(x=x, y=low_y, y2="high:Q", color=color),
            only.mark_point(filled=True, size=70, opacity=1, xOffset=offset).encode(x=x, y=y, color=color, shape=shape),
        ]
    return alt.layer(*layers).resolve_scale(x="shared", y="shared").properties(width=width, height=height)


def tradeoff_caption(results: Results) -> str:
    """Who was counted, what the bars mean, and what each network's training was."""
    dense = results["dense"]
    seeds = ", ".join(str(seed) for seed in results["seeds"])
    n_seeds = {point["n_seeds"] for point in results["tradeoff"]} | {dense["n_seeds"]}
    count = str(min(n_seeds)) if len(n_seeds) == 1 else f"{min(n_seeds)} to {max(n_seeds)}"
    return (
        f"Marks: mean over {count} seeds ({seeds}). Bars and the grey band: "
        f"{results.get('interval', 'interval over the seeds')}, which all share the same n = {dense['n_test']:,} test "
        "examples. Every strategy had the same number of training epochs; the dense network is trained as the in-loop "
        "one is, without pruning. In the loop: masks follow the schedule and never shrink."
    )


def tradeoff_chart(results: Results) -> Drawing:
    """Accuracy against sparsity for the three strategies, intervals drawn, the dense network as the rule."""
    alt, palette = altair(), PRINT
    caption = textwrap.wrap(tradeoff_caption(results), 118)
    title = {
        "text": "What sparsity costs",
        "subtitle": f"{short(str(results['model']['name']), 40)} on {short(str(results['data']['name']), 40)}",
        "fontSize": 19,
        "subtitleFontSize": 12.5,
        "offset": 14,
    }
    parts = [part(_tradeoff(results, palette, 640, 320)), part(text_block(alt, caption, palette.muted, 640))]
    return dressed(stacked("vconcat", parts, 16, title), palette, padding=22)


def page_charts(results: Results) -> dict[str, Drawing]:
    """The charts of the page by name; their named data (bars, ghost, zero, band, taus, points) is fed by the page."""
    alt, palette = altair(), PAGE
    names = ("bars", "ghost", "zero", "band", "taus")
    limits = [alt.param(name="x_max", value=1), alt.param(name="y_max", value=1)]

    def histogram(log: bool, width: int, height: int, ticks: tuple[int, int]) -> Any:
        data = {name: alt.NamedData(name=name) for name in names}
        layers = histogram_layers(data, palette, None, None, log=log, ticks=ticks, room=26)
        return alt.layer(*layers).add_params(*limits).properties(width=width, height=height)

    sweep = (
        alt.Chart(alt.NamedData(name="points"))
        .mark_point(filled=True, size=46, opacity=1, color=palette.kept)
        .encode(
            x=alt.X(
                "tau:Q",
                scale=alt.Scale(domain=[0, alt.ExprRef("x_max")], nice=False),
                axis=alt.Axis(title=None, grid=False, tickCount=7, format="~g"),
            ),
            y=alt.Y(
                "accuracy:Q",
                scale=alt.Scale(domain=[0, 1], nice=False),
                axis=alt.Axis(title=None, labelExpr=PERCENT_LABEL, tickCount=4, domain=False, ticks=False),
            ),
        )
    )
    intervals = (
        alt.Chart(alt.NamedData(name="points"))
        .mark_rule(color=palette.kept, opacity=0.7, clip=True)
        .encode(x="tau:Q", y="low:Q", y2="high:Q")
    )
    at = (
        alt.Chart(alt.NamedData(name="taus"))
        .mark_rule(color=palette.ink, strokeDash=[5, 3], strokeWidth=1.25, clip=True)
        .encode(x="x:Q")
    )
    accuracy = alt.layer(sweep, intervals, at).add_params(limits[0]).properties(width=400, height=120)
    drawn = {
        "histogram": histogram(False, 600, 240, (7, 4)),
        "histogram_log": histogram(True, 600, 240, (7, 4)),
        "mini": histogram(False, 220, 92, (3, 2)),
        "accuracy": accuracy,
    }
    if results["tradeoff"]:
        drawn["tradeoff"] = _tradeoff(results, palette, 640, 320, has_legend=False)  # the page has its own, which wraps
    fit, padding = {"type": "fit-x", "contains": "padding"}, {"left": 2, "right": 8, "top": 8, "bottom": 2}
    return {name: dressed({**part(chart), "autosize": fit}, palette, padding) for name, chart in drawn.items()}
