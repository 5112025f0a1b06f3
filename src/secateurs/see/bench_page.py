"""Bench page: a receipt as one HTML page without a script, that needs no network and no other file.

Names come from files and are untrusted: every text is escaped, and the page's policy allows no script at all.
"""

import html

from secateurs.measure.bench.results import Bench
from secateurs.see.bench_tables import (
    Table,
    choice_rows,
    how_text,
    latency_rows,
    machine_text,
    model_text,
    plan_rows,
    weight_rows,
)
from secateurs.see.latencies import latency_chart
from secateurs.see.pictures import svg_of
from secateurs.see.static_page import escaped, static_page, table
from secateurs.see.style import PAGE, short


def bench_page(found: Bench, command: str) -> str:
    """The page: chart, times at each size, weights, decisions, machine."""
    choices = choice_rows(found)
    return static_page(
        "bench",
        "bench",
        {"times": "Times", "weights": "Weights", "layers": "Layers", "break-even": "Break-even"},
        {
            "title": escaped("secateurs bench"),
            "headline": "<br>".join(escaped(model_text(model)) for model in found.models),
            "command": escaped(command),
            "chart": svg_of(latency_chart(found, PAGE)),
            "latencies": "".join(
                f"<h3>At {escaped(size)}</h3>{_table(rows, f'Times at {escaped(size)}')}"
                for size, rows in latency_rows(found).items()
            ),
            "weights": _table(weight_rows(found), "Contenders"),
            "choices": _table(choices, "Layers") if choices[1] else "<p class=lead>Nothing was packed.</p>",
            "shapes": _shapes(found),
            "how": html.escape(short(how_text(found), 2000)),
            "machine": escaped(machine_text(found.environment)),
            "features": html.escape(" ".join(found.environment["cpu_features"])),
        },
    )


def _shapes(found: Bench) -> str:
    if not found.shapes:
        return "<p class=lead>Not measured: <code>--break-even</code> does.</p>"
    said = "Dense seconds by packed seconds of random layers of each shape, at each share of zeros."
    return f"<p class=lead>{said}</p>{_table(plan_rows(found.shapes), 'Shapes of layers')}"


def _table(rows: Table, label: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table(*rows)}</div>'
