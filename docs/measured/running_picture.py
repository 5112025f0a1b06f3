"""The picture of docs/running.md: how many times faster each format is than torch's float32 layer, by its zeros."""

from collections.abc import Callable
from functools import partial
from typing import Any

from measured.running import square
from secateurs.see.pictures import svg_of
from secateurs.see.style import PRINT, altair, data_rows, dressed, stacked
from secateurs.see.style import part as spec_of

# What is drawn of ours: its colour, and whose fastest it has to beat for its ring: what computes as exactly, or all.
EXACT = ("torch float32", "ONNX Runtime float32", "OpenVINO float32")
OURS = {
    "bitmask fp32": (PRINT.kept, EXACT),
    "index fp32": (PRINT.strategies[1], EXACT),
    "bitmask int8": (PRINT.removed, ()),
    "bitmask w8a8": (PRINT.zero, ()),
    "blocks 32x32 w8a8": (PRINT.other, ()),
}
RIVALS = {
    "torch bfloat16": (6, 3),
    "torch CSR": (1, 3),
    "ONNX Runtime float32": (10, 4),
    "ONNX Runtime int8": (1, 0),
    "OpenVINO bfloat16": (3, 3),
}
WIDTH, HEIGHT = 330, 210


def picture(end: str = "") -> str:
    """A panel for each number of rows of input and threads, as SVG."""
    cases = square(end)
    assert cases
    everything = [
        run["faster"][key]
        for case in cases
        for name, run in case["runs"].items()
        for key in (("low", "high") if name in OURS else ("median",))
        if _is_drawn(name)
    ]
    domain = [min(everything) / 1.1, max(everything) * 1.1]
    there = sorted({(case["tokens"], case["threads"]) for case in cases})
    rows = [
        stacked("hconcat", [spec_of(_panel(cases, *each, domain)) for each in there if each[0] == n_tokens], 24)
        for n_tokens in sorted({n_tokens for n_tokens, _ in there})
    ]
    title = {
        "text": "Times faster than torch's float32 layer, 4096 × 4096",
        "subtitle": [
            "Coloured: packed; grey: rivals; below the line at 1: slower. Bars: the interval of the paired ratios.",
            "A ring: from there on faster than every dense rival; float32 formats than every float32 one.",
        ],
        "offset": 14,
    }
    return svg_of(dressed(stacked("vconcat", rows, 18, title), PRINT, padding=16))


def _is_drawn(name: str) -> bool:
    return name in OURS or name in RIVALS


def _panel(cases: list[dict[str, Any]], n_tokens: int, threads: int, domain: list[float]) -> Any:
    alt = altair()
    mine = sorted(
        (case for case in cases if (case["tokens"], case["threads"]) == (n_tokens, threads)),
        key=lambda case: float(case["sparsity"]),
    )
    rows = [
        {"who": name, "zeros": f"{case['sparsity']:.0%}", **run["faster"], "is_ring": _is_ring(mine, k, name)}
        for k, case in enumerate(mine)
        for name, run in case["runs"].items()
        if _is_drawn(name)
    ]
    names = [name for name in (*OURS, *RIVALS) if any(name in case["runs"] for case in cases)]
    colors = [OURS[name][0] if name in OURS else PRINT.muted for name in names]
    dashes = [RIVALS.get(name, (1, 0)) for name in names]
    x = alt.X(
        "zeros:N", sort=None, axis=alt.Axis(title="zeros", labelAngle=0, grid=False), scale=alt.Scale(padding=0.3)
    )
    y = alt.Y(
        "median:Q",
        scale=alt.Scale(type="log", domain=domain, nice=False),
        axis=alt.Axis(title=None, format="~g", values=[0.25, 0.5, 1, 2, 4, 8, 16, 32]),
    )
    legend = alt.Legend(orient="top", columns=5, symbolType="stroke", symbolOpacity=1, symbolSize=300, offset=10)
    color = alt.Color("who:N", scale=alt.Scale(domain=names, range=colors), legend=legend)
    dash = alt.StrokeDash("who:N", scale=alt.Scale(domain=names, range=dashes), legend=legend)
    base = alt.Chart(data_rows(rows))
    is_ours = "indexof(['" + "','".join(OURS) + "'], datum.who) >= 0"
    lines = base.mark_line(strokeWidth=1.6).encode(x=x, y=y, color=color, strokeDash=dash)
    bars = (
        base.transform_filter(is_ours)
        .mark_rule(strokeWidth=3, opacity=0.3)
        .encode(x=x, y="low:Q", y2="high:Q", color=color)
    )
    marks = base.transform_filter(is_ours).mark_point(filled=True, size=26, opacity=1).encode(x=x, y=y, color=color)
    rings = (
        base.transform_filter("datum.is_ring")
        .mark_point(filled=False, size=150, strokeWidth=1.6, opacity=1)
        .encode(x=x, y=y, color=color)
    )
    one = alt.Chart(data_rows([{"y": 1.0}])).mark_rule(color=PRINT.ink, strokeWidth=1).encode(y="y:Q")
    text = f"{n_tokens} row{'s' * (n_tokens > 1)} of input, {threads} thread{'s' * (threads > 1)}"
    title = alt.TitleParams(text, anchor="start", fontSize=12.5)
    return alt.layer(one, lines, bars, marks, rings).properties(width=WIDTH, height=HEIGHT, title=title)


def _is_ring(cases: list[dict[str, Any]], k: int, name: str) -> bool:
    """Whether it is faster than its rivals in this case and all with more zeros, and not in the one before."""
    if name not in OURS:
        return False

    def wins(case: dict[str, Any]) -> bool:
        runs = case["runs"]
        rivals = [each for each in (OURS[name][1] or (*EXACT, *RIVALS)) if each in runs and each != "torch CSR"]
        best = max(runs[each]["faster"]["median"] for each in rivals)
        return name in runs and bool(runs[name]["faster"]["median"] > best)

    return all(map(wins, cases[k:])) and (k == 0 or not wins(cases[k - 1]))


IMAGES: dict[str, Callable[[], str]] = {
    "running": picture,
    "running-avx2": partial(picture, "_avx2"),
    "running-amx": partial(picture, "_amx"),
}
