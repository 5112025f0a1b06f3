"""Bench tables: a receipt as rows of text, which the terminal and the page both show."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from secateurs.measure.bench.results import SPARSITIES, Bench, Line, Model, Row
from secateurs.racing import DENSE
from secateurs.see.style import number, percent, short

Table = tuple[tuple[str, ...], list[list[str]]]


def milliseconds(seconds: float) -> str:
    """Three digits, or all before the point."""
    ms = 1e3 * seconds
    return number(ms) if ms < 999.5 else f"{ms:,.0f}"


def megabytes(n_bytes: int | None) -> str:
    """In print; a dash where it is not known."""
    return "–" if n_bytes is None else f"{n_bytes / 1e6:,.2f} MB"


def labels(found: Bench) -> list[str]:
    """The shortest names that tell the models apart."""
    paths = [model.path for model in found.models]
    for names in ([short(PurePath(path).name, 40) for path in paths], [short(path, 60) for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({word})" for name, word in zip(names, ("first", "again"), strict=True)]


def model_text(model: Model) -> str:
    """A network in a line."""
    zeros = f"{percent(model.sparsity)} of the prunable weights are zero" if model.n_zero else "no zeros"
    return f"{model.path}: {model.n_parameters:,} parameters, {zeros}, {megabytes(model.size_bytes)}"


def weight_rows(found: Bench) -> Table:
    """What each contender is and weighs."""
    has_accuracy = any(row.accuracy is not None for row in found.rows)
    head = ("loads in s", "on disk", "resident", "peak", "difference", *(("accuracy",) if has_accuracy else ()))
    rows = []
    for row in found.rows:
        accuracy = row.accuracy
        rows.append(
            [
                *_who(found, row),
                "–" if row.load_s is None else f"{row.load_s:.2f}",
                *map(megabytes, (row.size_bytes, row.resident_bytes, row.peak_bytes)),
                "–" if row.difference is None else f"{row.difference:.1e}",
                *(["–" if accuracy is None else _share(accuracy.value, *accuracy.interval)] if has_accuracy else []),
                f"{row.outcome}: {row.why}" if row.why else row.outcome,
            ]
        )
    return (*_who_head(found), *head, "outcome"), rows


def latency_rows(found: Bench) -> dict[str, Table]:
    """{size: what each contender takes there}."""
    tables = {}
    for k, first in enumerate(found.rows[0].latencies):
        what = "examples" if first.tokens is None else "tokens"
        head = (*_who_head(found), "p50 ms", "p90 ms", f"{what} per s", "speed-up (95 %)")
        rows = []
        for row in found.timed:
            at = row.latencies[k]
            cells = [milliseconds(at.quantile(0.5)), milliseconds(at.quantile(0.9)), f"{at.per_second:,.0f}"]
            rows.append([*_who(found, row), *cells, at.speedup_text])
        tables[first.size] = (head, rows)
    return tables


def choice_rows(found: Bench) -> Table:
    """What was decided for the layers and for whole ones of a transformer, those of one shape and decision together."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in found.timed:
        for size, choices in (row.choices or {}).items():
            for choice in choices:
                shape, stays = " × ".join(map(str, choice["shape"])), choice["stays"]
                if stays != DENSE:
                    shape = f"whole, {shape}"
                how = choice["chosen"] if choice["speed_up"] is not None else f"{stays}: {choice['reason']}"
                groups.setdefault((*_who(found, row), size, shape, how), []).append(choice)
    rows = []
    for key, alike in groups.items():
        zeros = sorted(choice["sparsity"] for choice in alike)
        ratios = sorted(choice["speed_up"]["mean"] for choice in alike if choice["speed_up"] is not None)
        span = f"{ratios[0]:.2f} to {ratios[-1]:.2f}" if ratios else "–"
        rows.append([*key, f"{len(alike)}", f"{percent(zeros[0], 0)} to {percent(zeros[-1], 0)}", span])
    return (*_who_head(found), "size", "layer", "runs as", "layers", "zeros", "× faster at best"), rows


def plan_rows(lines: Sequence[Line]) -> Table:
    """What each sparsity would give for the layers."""
    rows = []
    for line in lines:
        ratios = [line.speedups.get(sparsity) for sparsity in SPARSITIES]
        cells = [
            "–" if each is None else "no difference" if each.low <= 1 <= each.high else f"{each.mean:.2f}"
            for each in ratios
        ]
        even = "none of these" if line.break_even is None else percent(line.break_even, 0)
        rows.append(
            [
                f"{line.shape[0]} × {line.shape[1]}",
                line.size,
                line.values,
                f"{line.n_tokens}",
                f"{len(line.names)}",
                *cells,
                even,
            ]
        )
    return (
        "layer",
        "size",
        "values",
        "rows of input",
        "layers",
        *(percent(each, 0) for each in SPARSITIES),
        "pays from",
    ), rows


def machine_text(about: Mapping[str, Any]) -> str:
    """What it was measured on."""
    versions = {"torch": about["torch"], "secateurs": about["secateurs"], **about["libraries"]}
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} thread{'s' if about['threads'] > 1 else ''}, "
        f"{about['vectors']}; {', '.join(f'{name} {version}' for name, version in versions.items())}; python "
        f"{about['python']}."
    )


def how_text(found: Bench) -> str:
    """What the numbers are."""
    return (
        f"{found.n_rounds} rounds, each contender in its own process. Speed-up: the time of {found.rows[0].contender} "
        f"of {found.models[0].path} by that of the row, median of the rounds, with a bootstrap interval; one that "
        "contains 1 is no difference. Difference: the largest to torch-fp32 of the same network, as a share of the "
        "largest answer. Memory: more than before the network was opened, mapped weights counted."
    )


def _who_head(found: Bench) -> tuple[str, ...]:
    return ("contender", "model") if len(found.models) > 1 else ("contender",)


def _who(found: Bench, row: Row) -> list[str]:
    return [row.contender, labels(found)[row.model]] if len(found.models) > 1 else [row.contender]


def _share(value: float, low: float, high: float) -> str:
    return f"{100 * value:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
