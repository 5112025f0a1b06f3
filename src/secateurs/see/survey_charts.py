"""Survey charts: the distributions of a checkpoint's prunable weights, drawn as `explore` draws its layers."""

import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from secateurs.checkpoint.survey import Survey, Tensor, how_to_count
from secateurs.checkpoint.survey_counts import count_grid
from secateurs.checkpoint.tensors import Checkpoint
from secateurs.exact.kinds import KINDS
from secateurs.see import stats
from secateurs.see.marks import drawn_bars, histogram_layers, tau_rows
from secateurs.see.style import (
    PAGE,
    PRINT,
    Drawing,
    Palette,
    altair,
    dressed,
    number,
    part,
    percent,
    short,
    sigma_text,
    stacked,
    text_block,
)

MOST = 120  # distributions of a page: the largest tensors'
MOST_PRINTED = 40  # of a picture
COLUMNS = 4
WIDTH, HEIGHT = 220, 120
SHARE = 0.995  # of a tensor's weights that its bars hold at least
_RULE, _LABEL = 10, 28  # pixels between the rules of two taus, and between their labels


def drawable(survey: Survey) -> list[Tensor]:
    """The tensors that have a distribution to draw: prunable, finite and with some spread."""
    return [tensor for tensor in survey.tensors if tensor.is_prunable and tensor.is_finite and tensor.sigma]


def largest(tensors: Sequence[Tensor], most: int) -> list[Tensor]:
    """At most so many, the largest, in their order."""
    chosen = {tensor.name for tensor in sorted(tensors, key=lambda tensor: -tensor.n)[:most]}
    return [tensor for tensor in tensors if tensor.name in chosen]


def distributions(checkpoint: Checkpoint, survey: Survey) -> dict[str, stats.Grid]:
    """{name: exact counts} of the tensors that a page draws, in bins of a twentieth of their sigma."""
    entries = {entry.name: entry for entry in checkpoint.entries}
    how = how_to_count(list(entries.values()))
    found: dict[str, stats.Grid] = {}
    for tensor in largest(drawable(survey), MOST):
        step = (tensor.sigma or 1.0) * stats.SIGMA_STEP
        edges, is_open = stats.grid_edges(tensor.largest or 0.0, step)
        stored = checkpoint.stored(entries[tensor.name])
        negative, positive = count_grid(stored, KINDS[tensor.dtype], step, len(edges) - 1, how)
        found[tensor.name] = {
            "step": step,
            "negative": negative.tolist(),
            "positive": positive.tolist(),
            "n_zero": tensor.n_zero or 0,
        }
        if is_open:
            found[tensor.name]["open"] = True
    return found


def facts(tensor: Tensor) -> str:
    """A tensor in a line: shape, dtype, sigma, zeros."""
    zeros = f"{percent((tensor.n_zero or 0) / tensor.n)} exactly zero" if tensor.n_zero else "no zeros"
    return f"{'×'.join(map(str, tensor.shape))} {tensor.dtype}  ·  σ = {number(tensor.sigma or 0.0)}  ·  {zeros}"


@cache
def _template(palette: Palette) -> dict[str, Any]:
    """The histogram of one tensor with names where its numbers go: Altair takes longer than all the rest."""
    alt = altair()
    data = {name: alt.NamedData(name=name) for name in ("bars", "zero", "band", "taus")}
    layers = histogram_layers(data, palette, None, None, log=False, ticks=(4, 3), room=26)
    words = (
        alt.Chart(alt.NamedData(name="words"))
        .mark_text(baseline="bottom", dy=-3, fontSize=10, color=palette.muted)
        .encode(x=alt.X("x:Q", scale=None), y=alt.value(0), text="word:N")
    )
    return part(alt.layer(*layers, words).properties(width=WIDTH, height=HEIGHT))


def _filled(spec: Any, numbers: Mapping[str, float], data: Mapping[str, Sequence[Any]]) -> Any:
    """The template with its expressions replaced by numbers and its named data by rows."""
    if isinstance(spec, list):
        return [_filled(value, numbers, data) for value in spec]
    if not isinstance(spec, dict):
        return spec
    if spec.keys() == {"expr"} and spec["expr"] in numbers:
        return numbers[spec["expr"]]
    if spec.keys() == {"name"} and spec["name"] in data:
        return {"values": list(data[spec["name"]])}
    return {key: _filled(value, numbers, data) for key, value in spec.items()}


def _histogram(tensor: Tensor, counted: stats.Grid, palette: Palette) -> tuple[dict[str, Any], int]:
    """The bars of one tensor with rules at the taus that can be told apart, and how many weights lie beyond them."""
    limit = 1.04 * stats.reach(counted, SHARE) or counted["step"]
    wanted = limit / float(np.clip(round(1.5 * tensor.n ** (1 / 3)), 12, 36))
    bars = drawn_bars(counted, limit, merge=max(1, round(wanted / counted["step"])))
    n_beyond = tensor.n - counted["n_zero"] - sum(row["y1"] for row in bars)
    top = max((row["y1"] for row in bars), default=1) * 1.08
    rules: list[dict[str, float]] = []
    words: list[dict[str, Any]] = []
    before = WIDTH / 2
    for removal in sorted(tensor.removals, key=lambda removal: removal.value):
        x = WIDTH * (1 + removal.value / limit) / 2
        if x - before < _RULE or x > WIDTH:
            continue
        before = x
        rules += tau_rows(removal.value, limit)
        if not words or x - words[-1]["x"] >= _LABEL:
            words.append({"x": x, "word": sigma_text(removal.tau)})
    data = {"bars": bars, "zero": [{"x": 0}] if counted["n_zero"] else [], "band": [], "taus": rules, "words": words}
    return _filled(_template(palette), {"x_max": limit, "-x_max": -limit, "y_max": top}, data), n_beyond


def page_chart(tensor: Tensor, counted: stats.Grid) -> tuple[Drawing, int]:
    """The histogram of one tensor in the page's colours, and how many weights lie beyond its bars."""
    chart, n_beyond = _histogram(tensor, counted, PAGE)
    drawing = dressed(chart, PAGE, {"left": 2, "right": 8, "top": 4, "bottom": 2})
    # The page says of each picture what it shows; a word for every bar would be noise, and bytes.
    return Drawing({**drawing.spec, "config": {**drawing.spec["config"], "aria": False}}), n_beyond


def survey_chart(survey: Survey, counted: Mapping[str, stats.Grid]) -> Drawing:
    """The distributions on one sheet, those of the largest tensors where there are many."""
    alt, palette = altair(), PRINT
    shown = largest([tensor for tensor in drawable(survey) if tensor.name in counted], MOST_PRINTED)
    cells = []
    for tensor in shown:
        chart, _ = _histogram(tensor, counted[tensor.name], palette)
        title = {
            "text": short(tensor.name, 36),
            "subtitle": short(facts(tensor), 60),
            "fontSize": 11.5,
            "subtitleFontSize": 10,
            "offset": 18,
        }
        cells.append({**chart, "title": title})
    n_all, total = len(drawable(survey)), survey.totals["prunable"]
    which = f"the {len(shown)} largest of {n_all:,} prunable tensors" if len(shown) < n_all else "every prunable tensor"
    words = (
        f"Counts of weights by value, {which}. Exact zeros are left out of the bars and marked by the arrow; dashed: "
        f"±τ where it lies within and apart from the others. At least {percent(SHARE)} of each tensor's weights "
        "are drawn."
    )
    width = max(2, min(len(shown), COLUMNS)) * (WIDTH + 50)
    sparsity = "none" if total.sparsity is None else percent(total.sparsity, 2)
    title = {
        "text": short(survey.path, 34 * max(2, min(len(shown), COLUMNS))) or "A live network",
        "subtitle": f"{total.n:,} prunable weights in {total.n_tensors:,} tensors, sparsity {sparsity}",
        "fontSize": 18,
        "subtitleFontSize": 12.5,
        "offset": 20,
    }
    nothing = ["No prunable tensor has a distribution to draw."]
    sheet = {"concat": cells, "columns": COLUMNS, "spacing": 26, "align": "all"} if cells else None
    caption = text_block(alt, textwrap.wrap(words, width // 6), palette.muted, width)
    parts = [sheet or part(text_block(alt, nothing, palette.ink, width, size=13)), part(caption)]
    return dressed(stacked("vconcat", parts, 26, title), palette, 24)
