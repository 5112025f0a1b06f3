"""Survey page: what `inspect` found as one HTML page without a script, that needs no network and no other file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from secateurs import __version__
from secateurs.checkpoint.survey import QUANTILES, Survey, Tensor
from secateurs.see import stats
from secateurs.see.pictures import svg_of
from secateurs.see.static_page import Cell, apart, breakable, escaped, figures, region, static_page, table
from secateurs.see.style import number, percent, short, sigma_text
from secateurs.see.survey_charts import drawable, facts, largest, page_chart

MOST_ROWS = 2000  # of a table; the largest tensors'


def survey_page(survey: Survey, counted: Mapping[str, stats.Grid]) -> str:
    """The page: figures, warnings, thresholds, distributions, structure, every tensor.

    counted  the exact counts of the tensors to draw, as `distributions` gives them
    """
    name = short(PurePath(survey.path).name or "A live network", 100)
    prunable = [tensor for tensor in survey.tensors if tensor.is_prunable and tensor.n]
    drawn = [tensor for tensor in drawable(survey) if tensor.name in counted]
    rows, all_rows = largest(prunable, MOST_ROWS), largest(survey.tensors, MOST_ROWS)
    return static_page(
        "survey",
        "inspect",
        {
            "distributions": "Distributions",
            "thresholds": "Thresholds",
            "structure": "Structure",
            "tensors": "All tensors",
        },
        {
            "title": escaped(f"{name}: secateurs inspect"),
            "headline": escaped(name),
            "figures": _figures(survey),
            "warnings": "".join(_warnings(survey)),
            "removals": _removals(survey, rows),
            "removals_left_out": _left_out(len(prunable), len(rows), "tensors are listed"),
            "distributions": "".join(_card(tensor, counted[tensor.name], k) for k, tensor in enumerate(drawn)),
            "distributions_left_out": _left_out(len(drawable(survey)), len(drawn), "distributions are drawn"),
            "structure": _structure(rows),
            "tensors": _tensors(all_rows),
            "tensors_left_out": _left_out(len(survey.tensors), len(all_rows), "tensors are listed"),
            "totals": _totals(survey),
            "notes": escaped(" ".join([f"{survey.path}, secateurs {__version__}.", *survey.notes])),
        },
    )


def _left_out(n: int, n_shown: int, what: str) -> str:
    if n == n_shown:
        return ""
    return f'<p class="note">Only the {n_shown:,} largest of {n:,} {what}; inspect --json has the numbers of all.</p>'


def _figures(survey: Survey) -> str:
    total, prunable, bodies = (survey.totals[name] for name in ("all", "prunable", "without embeddings"))
    pairs = [
        ("Tensors", f"{total.n_tensors:,}", f"{prunable.n_tensors:,} prunable"),
        ("Elements", f"{total.n:,}", f"{bodies.n:,} without embeddings"),
        ("Bytes", f"{total.n_bytes:,}", f"{bodies.n_bytes:,} without embeddings"),
        ("Sparsity, prunable", _share(prunable.n_zero, prunable.n_floating, 2), f"{prunable.n_zero:,} exact zeros"),
        ("Model sparsity", _share(total.n_zero, total.n_floating, 2), f"{total.n_zero:,} exact zeros"),
    ]
    return figures(pairs)


def _share(n: int, of: int, digits: int = 1) -> str:
    return percent(n / of, digits) if of else "–"


def _warnings(survey: Survey) -> Iterable[str]:
    for tensor in survey.tensors:
        if not tensor.is_finite:
            yield (
                f'<p class="warning loud"><b>Not finite:</b> {escaped(tensor.name)} holds {tensor.n_nan:,} NaN and '
                f"{tensor.n_inf:,} infinite of {tensor.n:,} weights; prune refuses it.</p>"
            )
    n = survey.totals["prunable"].n_tensors
    for tau, names in survey.emptied.items():
        some = ", ".join(names[:6]) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")
        yield (
            f'<p class="warning"><b>Layer collapse:</b> τ = {sigma_text(tau)} leaves nothing of {len(names):,} of '
            f"{n:,} prunable tensors: {escaped(some)}.</p>"
        )


def _removals(survey: Survey, tensors: Sequence[Tensor]) -> str:
    def share(n_removed: int, n: int) -> Cell:
        return _share(n_removed, n), "all" if n_removed == n else ""

    total = survey.totals["prunable"]
    rows: list[list[Cell]] = [
        [
            tensor.name,
            f"{tensor.n:,}",
            _some(tensor.sigma),
            *([share(removal.n_removed, tensor.n) for removal in tensor.removals] or ["refused"] * len(survey.taus)),
        ]
        for tensor in tensors
    ]
    sums = [share(total.removed[tau], total.n_in_order) for tau in survey.taus]
    head = ("Tensor", "Weights", "σ", *(f"τ = {sigma_text(tau)}" for tau in survey.taus))
    return table(head, rows, ["All prunable", f"{total.n_in_order:,}", "", *sums])


def _some(value: float | None) -> str:
    return "–" if value is None else number(value)


def _card(tensor: Tensor, counted: stats.Grid, place: int) -> str:
    """A tensor's histogram and what it shows in words."""
    chart, n_beyond = page_chart(tensor, counted)
    svg = apart(svg_of(chart), f"t{place}")
    beyond = (
        f"{n_beyond:,} weights lie beyond, the farthest at |w| = {_some(tensor.largest)}"
        if n_beyond
        else "All are drawn"
    )
    told = f"Histogram of {escaped(tensor.name)}: {escaped(facts(tensor))}"
    return (
        f'<article class="card"><h3>{breakable(tensor.name)}</h3><p class="facts">{escaped(facts(tensor))}</p>'
        f'<div class="chart" role="img" aria-label="{told}">{svg}</div><p class="note">{beyond}.</p></article>'
    )


def _structure(tensors: Sequence[Tensor]) -> str:
    if not any(tensor.n_zero for tensor in tensors):
        return '<p class="lead">No prunable tensor has an exact zero: no dead rows or columns, no n:m pattern.</p>'

    def held(value: float | None) -> Cell:
        return "–" if value is None else "holds" if value == 1 else percent(value)

    rows: list[list[Cell]] = [
        [
            tensor.name,
            _share(tensor.n_zero or 0, tensor.n),
            f"{tensor.dead_rows:,} of {tensor.n_rows:,}",
            f"{tensor.dead_columns:,} of {tensor.n_columns:,}",
            *map(held, (tensor.held or {}).values()),
        ]
        for tensor in tensors
    ]
    lead = "Rows are outputs, columns inputs. n:m: the share of groups of m consecutive inputs with at most n weights."
    body = table(("Tensor", "Exact zeros", "Dead rows", "Dead columns", "1:4", "2:4", "4:8"), rows)
    return f'<p class="lead">{lead}</p>{region("Structure", body)}'


def _tensors(tensors: Sequence[Tensor]) -> str:
    rows: list[list[Cell]] = [
        [
            tensor.name,
            " × ".join(map(str, tensor.shape)) or "scalar",
            tensor.dtype,
            "–" if tensor.n_zero is None else f"{tensor.n_zero:,}",
            *map(_some, (tensor.mean, tensor.sigma, tensor.low, tensor.high)),
            *(_some((tensor.quantiles or {}).get(percent)) for percent in QUANTILES),
            (tensor.reason or "prunable", "reason"),
        ]
        for tensor in tensors
    ]
    sizes = (f"|w| {percent} %" for percent in QUANTILES)
    return table(("Tensor", "Shape", "Dtype", "Zeros", "Mean", "σ", "Min", "Max", *sizes, "Prunable"), rows)


def _totals(survey: Survey) -> str:
    rows: list[list[Cell]] = [
        [name, f"{t.n_tensors:,}", f"{t.n:,}", f"{t.n_bytes:,}", f"{t.n_zero:,}", _share(t.n_zero, t.n_floating, 2)]
        for name, t in survey.totals.items()
    ]
    return table(("Total", "Tensors", "Elements", "Bytes", "Exact zeros", "Sparsity"), rows)
