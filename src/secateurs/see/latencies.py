"""Latencies: the time of every contender at each size, its spread, and its speed-up in words."""

from typing import Any

from secateurs.measure.bench.results import Bench
from secateurs.see.bench_tables import labels, milliseconds
from secateurs.see.style import PRINT, Drawing, Palette, altair, data_rows, dressed, part, stacked

WIDTH, STEP = 460, 19


def latency_chart(found: Bench, palette: Palette = PRINT) -> Drawing:
    """A panel for each size, a line for each contender, on one logarithmic axis of milliseconds."""
    names = labels(found)
    several = len(names) > 1
    panels: list[dict[str, Any]] = []
    everything = [1e3 * at.quantile(share) for row in found.timed for at in row.latencies for share in (0.1, 0.9)]
    domain = [min(everything) / 1.2, max(everything) * 1.2]
    for k, first in enumerate(found.rows[0].latencies):
        rows = []
        for row in found.timed:
            at = row.latencies[k]
            low, middle, high = (1e3 * at.quantile(share) for share in (0.1, 0.5, 0.9))
            who = f"{row.contender} · {names[row.model]}" if several else row.contender
            said = f"{milliseconds(middle / 1e3)} ms, {'× ' if at.is_difference else ''}{at.speedup_text}"
            rows.append({"who": who, "model": names[row.model], "low": low, "p50": middle, "high": high, "said": said})
        panels.append(part(_panel(rows, first.size, names, domain, palette)))
    title = {
        "text": "Milliseconds per call",
        "subtitle": "Marks: median; bars: from the 10 % to the 90 % quantile of all calls. In words: speed-up (95 %).",
        "offset": 14,
    }
    return dressed(stacked("vconcat", panels, 16, title), palette, padding=16)


def _panel(rows: list[dict[str, Any]], size: str, models: list[str], domain: list[float], palette: Palette) -> Any:
    alt = altair()
    order = [row["who"] for row in rows]
    data = data_rows(rows)
    y = alt.Y("who:N", sort=order, axis=alt.Axis(title=None, labelLimit=300, ticks=False, domain=False, minExtent=120))
    scale = alt.Scale(type="log", domain=domain, nice=False)
    axis = alt.Axis(title=None, grid=True, format="~g", tickCount=5, labelOverlap=True)
    color = alt.Color(
        "model:N",
        scale=alt.Scale(domain=models, range=[palette.kept, palette.second][: len(models)]),
        legend=None,
    )
    base = alt.Chart(data)
    bars = base.mark_rule(strokeWidth=5, opacity=0.45).encode(
        x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", y=y, color=color
    )
    marks = base.mark_point(filled=True, size=55, opacity=1).encode(x=alt.X("p50:Q", scale=scale), y=y, color=color)
    words = base.mark_text(align="left", baseline="middle", dx=8, color=palette.muted, fontSize=11).encode(
        x=alt.value("width"), y=y, text="said:N"
    )
    title = alt.TitleParams(f"At {size}", anchor="start", fontSize=12.5)
    return alt.layer(bars, marks, words).properties(width=WIDTH, height=STEP * len(rows), title=title)
