"""Stage cards: the weights of the tracked layers in several stages, side by side on one axis each; of the static pages.

A stage is what the results say of it: id, title, caption, accuracy, layers (each as `stats.describe` gives it).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from secateurs.see import stats
from secateurs.see.charts import small_histogram
from secateurs.see.pictures import svg_of
from secateurs.see.static_page import apart, escaped
from secateurs.see.style import COMPONENTS, PAGE, Drawing, dressed, number, part, percent

SHARE = 0.995  # of the weights that are left in each stage lie within its picture at least


def stage_cards(results: Mapping[str, Any]) -> Iterator[str]:
    """The stages of both tracked layers, on one axis each."""
    for component, name in results["model"]["tracked"].items():
        layers = [stage["layers"][name] for stage in results["stages"]]
        limit = 1.04 * max(_reach(layer) for layer in layers)
        head = f"{COMPONENTS[component]} · {name} · {layers[0]['n']:,} weights"
        yield f'<h3>{escaped(head)}</h3><div class="tensors stages">'
        for stage, layer in zip(results["stages"], layers, strict=True):
            test = stage["accuracy"]["test"]
            facts = f"test accuracy {percent(test['value'])} · σ = {number(layer['sigma'])}"
            told = f"Histogram of {name}, {stage['title']}: {percent(layer['n_zero'] / layer['n'])} exactly zero"
            svg = apart(svg_of(quiet(small_histogram(layer, limit, PAGE, 220))), f"{component}-{stage['id']}")
            yield (
                f'<article class="card"><h3>{escaped(stage["title"])}</h3><p class="facts">{escaped(facts)}</p>'
                f'<div class="chart" role="img" aria-label="{escaped(told)}">{svg}</div>'
                f'<p class="note">{escaped(stage["caption"])}</p></article>'
            )
        yield "</div>"


def quiet(chart: Any) -> Drawing:
    """A chart in the page's colours; the page says in words what it shows."""
    drawing = dressed(part(chart), PAGE, {"left": 2, "right": 8, "top": 4, "bottom": 2})
    return Drawing({**drawing.spec, "config": {**drawing.spec["config"], "aria": False}})


def _reach(layer: Mapping[str, Any]) -> float:
    """The |w| within which most weights lie that are not zero."""
    counted: stats.Grid = layer["sigma_grid"]
    alive = (layer["n"] - layer["n_zero"]) / layer["n"]
    return stats.reach(counted, 1.0 - (1.0 - SHARE) * alive) or counted["step"]
