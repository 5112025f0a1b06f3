"""Compression page: what `compress` tried and chose, as one HTML page without a script, that needs no other file."""

import html
from collections.abc import Mapping
from typing import Any

from secateurs.see.bench_tables import milliseconds
from secateurs.see.model_card import points, speed_text, times, verdict
from secateurs.see.pareto import pareto_caption, pareto_chart
from secateurs.see.pictures import svg_of
from secateurs.see.stage_cards import quiet, stage_cards
from secateurs.see.static_page import Cell, apart, escaped, figures, static_page, table
from secateurs.see.style import PAGE, percent

Results = Mapping[str, Any]


def compression_page(results: Results) -> str:
    """The page: verdict, receipt, what was tried, what each step gave, the layers, the weights."""
    name = f"{results['model']['name']} on {results['data']['name']}"
    where = results["environment"]
    notes = (
        f"secateurs {where['secateurs']}, torch {where['torch']}, {where['cpu']}, {where['vectors']}; one thread a "
        f"training, {results['duration_s'] / 60:.1f} minutes in all. {results['data']['source']}"
    )
    told = "Validation error against bytes of every candidate; the numbers are in the last table"
    return static_page(
        "compression",
        "compress",
        {"tried": "Tried", "steps": "Steps", "weights": "Weights", "layers": "Layers", "all": "All numbers"},
        {
            "title": escaped(f"{name}: secateurs compress"),
            "headline": html.escape(verdict(results)),
            "figures": _figures(results),
            "chart": f'<div class="chart" role="img" aria-label="{told}">'
            f"{apart(svg_of(quiet(pareto_chart(results, PAGE, 620, 360))), 'pareto')}</div>",
            "caption": escaped(pareto_caption(results)),
            "steps": _steps(results),
            "n_test": f"{results['test']['n']:,}",
            "weights": "".join(stage_cards(results)),
            "layers": _layers(results),
            "tried": _tried(results),
            "said": "".join(f"<p class=note>{escaped(note)}</p>" for note in results["notes"]),
            "command": escaped(results["command"]),
            "notes": escaped(notes),
        },
    )


def _figures(results: Results) -> str:
    dense, chosen, test, seconds = results["dense"], results["chosen"], results["test"], results["seconds"]
    ratio = times(dense["file_bytes"] / chosen["size_bytes"])
    after = percent(test["n_correct"] / test["n"], 2)
    interval = f"{points(test['drop'])} lost ({points(test['low'])} to {points(test['high'])})"
    return figures(
        [
            ("Network", escaped(results["model"]["name"]), escaped(f"on {results['data']['name']}")),
            ("File", f"{chosen['size_bytes']:,} B", f"{ratio} smaller than {dense['file_bytes']:,} B"),
            ("Test accuracy", after, escaped(f"{interval}, n = {test['n']:,}")),
            (
                "One example",
                f"{milliseconds(seconds['seconds'])} ms",
                escaped(f"dense {milliseconds(seconds['dense_s'])} ms: {speed_text(seconds)}"),
            ),
            ("Chosen", escaped(chosen["name"]), f"of {len(results['tried'])} that were measured"),
        ]
    )


def _steps(results: Results) -> str:
    """What each step gave alone, and together."""
    rows: list[list[Cell]] = []
    for row in results["steps"]:
        rows.append(
            [
                f"{row['title']} (chosen)" if row["is_chosen"] else row["title"],
                f"{row['size_bytes']:,}",
                times(results["dense"]["file_bytes"] / row["size_bytes"]),
                percent(row["accuracy"], 2),
                f"{points(row['drop'])} ({points(row['low'])} to {points(row['high'])})"
                if row["id"] != "dense"
                else "",
                _milliseconds(row, results),
                speed_text(row["seconds"]) if row["seconds"] else "",
                f"{row['n_zero']:,}",
                f"{row['epochs']:.3g}",
            ]
        )
    head = ("Step", "Bytes", "Smaller", "Accuracy", "Lost (95 %)", "ms", "Faster", "Zeros", "Epochs")
    return table(head, rows)


def _milliseconds(row: Mapping[str, Any], results: Results) -> str:
    """Of one example, where that was measured: of the dense network, and of what may run in another time."""
    if row["id"] == "dense":
        return milliseconds(results["seconds"]["dense_s"])
    return milliseconds(row["seconds"]["seconds"]) if row["seconds"] else ""


def _layers(results: Results) -> str:
    rows: list[list[Cell]] = []
    for line in results["layers"]:
        rows.append(
            [
                line["name"],
                " × ".join(map(str, line["shape"])),
                percent(line["n_stored"] / line["n"] if line["n"] else 0.0),
                line["values"],
                ", ".join(line["positions"]),
                f"{line['size_bytes']:,}",
                times(line["dense_bytes"] / max(1, line["size_bytes"])),
            ]
        )
    return table(("Tensor", "Shape", "Stored", "Values", "Positions", "Bytes", "Smaller"), rows)


def _tried(results: Results) -> str:
    rows: list[list[Cell]] = []
    is_timed = any(each["latency_s"] is not None for each in results["tried"])
    for each in sorted(results["tried"], key=lambda each: each["size_bytes"]):
        rows.append(
            [
                each["name"],
                f"{each['size_bytes']:,}",
                (points(each["drop"]), "off" if each["is_front"] else ""),
                f"{points(each['low'])} to {points(each['high'])}",
                points(each["surely"]),
                "in training" if each["is_tuned"] else "after",
                f"{each['epochs']:.3g}",
                *(["" if each["latency_s"] is None else milliseconds(each["latency_s"])] if is_timed else []),
            ]
        )
    head = (
        "Candidate",
        "Bytes",
        "Lost",
        "95 % interval",
        "Surely under",
        "Quantized",
        "Epochs",
        *(("ms",) if is_timed else ()),
    )
    return table(head, rows)
