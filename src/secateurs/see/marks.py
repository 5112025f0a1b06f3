"""Marks: the pieces that charts are put together from; numbers in, Altair layers out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from secateurs.see import pictures, stats
from secateurs.see.style import Palette, altair, data_rows, percent

WIDTH, STRIP = 580, 46  # of the story picture: the histogram, and the strip of exact zeros beside it


def bar_step(n: int, limit: float, tau: float | None) -> float:
    """The width of a bar: finer for more weights, and a whole number of bars up to tau."""
    step = limit / float(np.clip(round(1.9 * n ** (1 / 3)), 14, 60))
    if tau is not None and 0 < tau <= limit:
        return tau / max(1, round(tau / step))
    return step


def histogram_layers(
    data: Mapping[str, Any],
    palette: Palette,
    x_max: float | None,
    y_max: float | None,
    *,
    log: bool,
    ticks: tuple[int, int] = (7, 4),
    titles: tuple[str | None, str | None] = (None, None),
    room: int = 0,
) -> list[Any]:
    """The marks of a histogram. `data` holds the Altair data of bars, ghost, zero and taus.

    bars    x0, x1, y0, y1, part ("kept" or "removed")      ghost   x, y: an outline to compare with
    zero    x = 0, where exact zeros exist                  taus    x        band    x0, x1
    Without x_max and y_max the chart's parameters of those names are used. `room` fixes the width of the
    left axis, so that charts stand under each other.
    """
    alt = altair()
    negative = alt.ExprRef("-x_max") if x_max is None else -x_max
    positive = alt.ExprRef("x_max") if x_max is None else x_max
    top = alt.ExprRef("y_max") if y_max is None else y_max
    x_scale = alt.Scale(domain=[negative, positive], nice=False, zero=False)
    y_scale = alt.Scale(type="log", domain=[0.7, top], nice=False) if log else alt.Scale(domain=[0, top], nice=False)
    x_axis = alt.Axis(title=titles[0], tickCount=ticks[0], grid=False, format="~g", labelOverlap=True, labelFlush=False)
    y_axis = alt.Axis(
        title=titles[1],
        tickCount=ticks[1],
        tickMinStep=1,  # weights are whole
        domain=False,
        ticks=False,
        labelExpr="format(datum.value, '~s')",  # a plain format would write 0k beside 10k
        labelOverlap=True,
        minExtent=room,
        **({"maxExtent": room} if room else {}),
        **({"values": [10**power for power in range(10)]} if log else {}),
    )
    color = alt.Color(
        "part:N",
        scale=alt.Scale(domain=["kept", "removed"], range=[palette.kept, palette.removed]),
        legend=None,
    )
    bars = (
        alt.Chart(data["bars"])
        .mark_rect(clip=True, stroke=palette.paper, strokeWidth=0.5)
        .encode(
            x=alt.X("x0:Q", scale=x_scale, axis=x_axis),
            x2="x1:Q",
            y=alt.Y("y0:Q", scale=y_scale, axis=y_axis),
            y2="y1:Q",
            color=color,
        )
    )
    band = (
        alt.Chart(data["band"])
        .mark_rect(clip=True, color=palette.band)
        .encode(x=alt.X("x0:Q", scale=x_scale), x2="x1:Q", y=alt.value(0), y2=alt.value("height"))
    )
    taus = (
        alt.Chart(data["taus"])
        .mark_rule(color=palette.ink, strokeDash=[5, 3], strokeWidth=1.25, clip=True)
        .encode(x=alt.X("x:Q", scale=x_scale))
    )
    spike = (
        alt.Chart(data["zero"])
        .mark_rule(color=palette.zero, strokeWidth=2.5)
        .encode(x=alt.X("x:Q", scale=x_scale), y=alt.value(4), y2=alt.value("height"))
    )
    arrow = (
        alt.Chart(data["zero"])
        .mark_point(shape="triangle-up", filled=True, size=70, color=palette.zero, opacity=1)
        .encode(x=alt.X("x:Q", scale=x_scale), y=alt.value(4))
    )
    layers = [band, bars, spike, arrow, taus]
    if "ghost" in data:
        layers.insert(
            2,
            alt.Chart(data["ghost"])
            .mark_line(interpolate="step-after", color=palette.ink, strokeWidth=1, opacity=0.55, clip=True)
            .encode(x=alt.X("x:Q", scale=x_scale), y=alt.Y("y:Q", scale=y_scale)),
        )
    return layers


def drawn_bars(
    counted: stats.Grid, limit: float, *, merge: int = 1, anchor: int = 0, floor: float = 0.0
) -> list[dict[str, Any]]:
    """The bars that end within ±limit, as rows of the chart's data; `floor` is the foot of a log axis."""
    return [
        {"x0": bar["x0"], "x1": bar["x1"], "y0": floor, "y1": bar["count"], "part": "kept"}
        for bar in stats.bars(counted, merge, anchor)
        if bar["count"] and max(-bar["x0"], bar["x1"]) <= limit * (1 + 1e-9)
    ]


def tau_rows(tau: float | None, limit: float) -> list[dict[str, float]]:
    return [{"x": -tau}, {"x": tau}] if tau is not None and tau <= limit else []


def zero_strip(alt: Any, share: float, palette: Palette, width: int, height: int) -> Any:
    """The bar of exact zeros, apart, on its own scale: the share of all weights of the layer."""
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(orient="right", values=[0, 0.25, 0.5, 0.75, 1], format=".0%", grid=False, domain=False, title=None)
    frame = (
        alt.Chart(data_rows([{"y0": 0, "y1": 1}]))
        .mark_rect(fill=palette.band, stroke=palette.line)
        .encode(y=alt.Y("y0:Q", scale=scale, axis=axis), y2="y1:Q", x=alt.value(0), x2=alt.value(width))
    )
    bar = (
        alt.Chart(data_rows([{"y0": 0, "y1": share}], name="zero_share"))
        .mark_rect(color=palette.zero)
        .encode(y=alt.Y("y0:Q", scale=scale), y2="y1:Q", x=alt.value(0), x2=alt.value(width))
    )
    label = (
        alt.Chart(data_rows([{}]))
        .mark_text(text=percent(share), baseline="bottom", dy=-5, color=palette.zero, fontWeight="bold", fontSize=13)
        .encode(x=alt.value(width / 2), y=alt.value(0))
    )
    foot = (
        alt.Chart(data_rows([{}]))
        .mark_text(text=["exactly", "zero"], baseline="top", dy=7, color=palette.muted, fontSize=11)
        .encode(x=alt.value(width / 2), y=alt.value(height))
    )
    return alt.layer(frame, bar, label, foot).properties(width=width, height=height)


def _whole_ticks(n: int, most: int) -> list[int]:
    """0 and the multiples of a round step below n, at most about `most` of them."""
    step = next(d * 10**p for p in range(12) for d in (1, 2, 5) if n <= d * 10**p * most)
    return list(range(0, n + 1, step))


def position_map(alt: Any, weight: ArrayLike, png: str, palette: Palette, width: int, height: int) -> Any:
    """The weights by position: the image, its axes, and a tick at the edge for every dead row and column."""
    rows = pictures.as_rows(weight)
    n_rows, n_columns = rows.shape
    x_scale = alt.Scale(domain=[0, n_columns], nice=False)
    y_scale = alt.Scale(domain=[0, n_rows], nice=False, reverse=True)
    across = alt.Axis(title="input (column)", values=_whole_ticks(n_columns, 8), grid=False, format="d")
    down = alt.Axis(
        title="output (row)", values=_whole_ticks(n_rows, 4), grid=False, format="d", minExtent=34, maxExtent=34
    )
    middle = {"x": n_columns / 2, "y": n_rows / 2, "url": pictures.enlarged(png, width, height)}
    image = (
        alt.Chart(data_rows([middle]))
        .mark_image(width=width, height=height, aspect=False, aria=False)
        .encode(x=alt.X("x:Q", scale=x_scale, axis=across), y=alt.Y("y:Q", scale=y_scale, axis=down), url="url:N")
    )
    frame = (
        alt.Chart(data_rows([{"x0": 0, "x1": n_columns, "y0": 0, "y1": n_rows}]))
        .mark_rect(filled=False, stroke=palette.line, strokeWidth=1)
        .encode(x=alt.X("x0:Q", scale=x_scale), x2="x1:Q", y=alt.Y("y0:Q", scale=y_scale), y2="y1:Q")
    )
    dead_rows = [{"y0": int(k), "y1": int(k) + 1} for k in np.flatnonzero(~(rows != 0).any(axis=1))]
    dead_columns = [{"x0": int(k), "x1": int(k) + 1} for k in np.flatnonzero(~(rows != 0).any(axis=0))]
    layers = [image, frame]
    if dead_rows:
        layers.append(
            alt.Chart(data_rows(dead_rows, name="dead_rows"))
            .mark_rect(color=palette.zero)
            .encode(y=alt.Y("y0:Q", scale=y_scale), y2="y1:Q", x=alt.value(width + 2), x2=alt.value(width + 8))
        )
    if dead_columns:
        layers.append(
            alt.Chart(data_rows(dead_columns, name="dead_columns"))
            .mark_rect(color=palette.zero)
            .encode(x=alt.X("x0:Q", scale=x_scale), x2="x1:Q", y=alt.value(-8), y2=alt.value(-2))
        )
    return alt.layer(*layers).properties(width=width, height=height)


def color_key(alt: Any, limit: float, palette: Palette, height: int) -> Any:
    """The colour scale of the map, most positive on top, exact zero white below."""
    colors = pictures.ramp(40)
    edges = np.linspace(-limit, limit, len(colors) + 1)
    rows = [
        {"y0": float(edges[k]), "y1": float(edges[k + 1]), "color": "#" + bytes(color).hex()}
        for k, color in enumerate(colors)
    ]
    axis = alt.Axis(orient="right", values=[-limit, 0, limit], format=".2~g", grid=False, domain=False, title=None)
    key = max(40, height - 34)
    ramp = (
        alt.Chart(data_rows(rows))
        .mark_rect()
        .encode(
            y=alt.Y("y0:Q", scale=alt.Scale(domain=[-limit, limit], nice=False), axis=axis),
            y2="y1:Q",
            x=alt.value(0),
            x2=alt.value(14),
            color=alt.Color("color:N", scale=None),
        )
    )
    swatch = (
        alt.Chart(data_rows([{}]))
        .mark_rect(fill="#ffffff", stroke=palette.muted, strokeWidth=0.75)
        .encode(x=alt.value(0), x2=alt.value(14), y=alt.value(key + 14), y2=alt.value(key + 28))
    )
    label = (
        alt.Chart(data_rows([{}]))
        .mark_text(text="exactly 0", align="left", baseline="middle", color=palette.muted, fontSize=11)
        .encode(x=alt.value(20), y=alt.value(key + 21))
    )
    return alt.layer(ramp, swatch, label).properties(width=STRIP, height=key)
