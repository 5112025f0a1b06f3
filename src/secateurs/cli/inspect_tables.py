"""Inspect tables: what a person reads in the terminal after `secateurs inspect`.

Names and paths come from files and are untrusted: they are printed as plain text without control characters.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secateurs.checkpoint.survey import Survey, Tensor
from secateurs.cli.safe import plain, plain_console
from secateurs.see.style import number, percent, short, sigma_text

NAME = 16  # the narrowest column of names
MOST_NAMES = 6  # of a list in a sentence
_GAP = 2  # between columns; the table itself puts one of them there


def print_survey(survey: Survey, written: Sequence[Path]) -> None:
    """What is there, what taus would remove, structure, totals, and what is wrong."""
    console = plain_console()
    total = survey.totals["all"]
    title = f"{plain(survey.path)}: {total.n_tensors:,} tensors, {total.n:,} elements, {size(total.n_bytes)}"
    console.print(Text(title, style="bold"))
    if survey.n_left_out:
        console.print(f"{survey.n_left_out:,} more are left out by --only and --skip.")
    for note in survey.notes:
        console.print(Text(plain(note)))
    _print_tensors(console, survey)
    prunable = [tensor for tensor in survey.tensors if tensor.is_prunable and tensor.n]
    if any(tensor.removals for tensor in prunable):
        _print_removals(console, survey, prunable)
    if any(tensor.n_zero for tensor in prunable):
        _print_structure(console, prunable)
    elif prunable:
        console.print("\nNo prunable tensor has an exact zero: no dead rows or columns, no n:m pattern.")
    _print_totals(console, survey)
    _print_warnings(console, survey)
    for path in written:
        console.print(Text(f"Written: {path}"))


def size(n_bytes: int) -> str:
    """Bytes in the largest unit that leaves at least one.

    >>> size(999), size(90_868_376)
    ('999 bytes', '90.9 MB')
    """
    for unit, word in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {word}"
    return f"{n_bytes} bytes"


def listed(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(short(plain(name), 60) for name in names[:MOST_NAMES]) + more


def print_table(
    console: Console,
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    texts: Sequence[int] = (0,),
) -> None:
    """A table whose first column holds names, shortened in the middle where the window is narrow.

    texts  the columns that hold words; numbers stand to the right
    """
    cells = [[plain(row[0]) if isinstance(row[0], str) else row[0], *row[1:]] for row in rows]
    widths = [max(len(str(row[k])) for row in (head, *cells)) for k in range(len(head))]
    others = sum(widths[1:]) + _GAP * (len(head) - 1)
    length = max(NAME, min(widths[0], console.width - others))
    # A number that is cut reads as another number: in a window that narrow, lines may rather be broken.
    console.width = max(console.width, length + others)
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), header_style="bold"
    )
    for place, word in enumerate(head):
        table.add_column(word, justify="left" if place in texts else "right", no_wrap=True, overflow="ellipsis")
    for row in cells:
        name = row[0] if isinstance(row[0], Text) else Text(short(row[0], length))
        table.add_row(name, *(cell if isinstance(cell, Text) else Text(cell) for cell in row[1:]))
    console.print(Text(f"\n{title}", style="bold"))
    console.print(table)


def shape_text(tensor: Tensor) -> str:
    """The stored shape: "384×1536"; a turned one says so."""
    text = "×".join(map(str, tensor.shape)) or "scalar"
    return f"{text} in×out" if tensor.is_turned else text


def _some(value: float | None) -> str:
    return "–" if value is None else number(value)


def _print_tensors(console: Console, survey: Survey) -> None:
    reasons = list(dict.fromkeys(tensor.reason for tensor in survey.tensors if tensor.reason))
    marks = {reason: letters(place) for place, reason in enumerate(reasons)}
    rows = []
    for tensor in survey.tensors:
        sizes = tensor.quantiles or {}
        zeros = (
            "–"
            if tensor.n_zero is None or not tensor.n
            else percent(tensor.n_zero / tensor.n)
            if tensor.n_zero
            else "0"
        )
        rows.append(
            (
                tensor.name,
                marks.get(tensor.reason, ""),
                shape_text(tensor),
                tensor.dtype,
                _some(tensor.sigma),
                _some(sizes.get(50)),
                _some(sizes.get(99)),
                _some(tensor.largest),
                zeros,
            )
        )
    head = ("tensor", "", "shape", "dtype", "σ", "50 %", "99 %", "max", "zeros")
    print_table(console, "Tensors, with the median, the 99 % quantile and the maximum of |w|", head, rows)
    for reason, mark in marks.items():
        n = sum(tensor.reason == reason for tensor in survey.tensors)
        console.print(Text(f"{mark}  not prunable by default: {plain(reason)} ({n:,})"))


def letters(place: int) -> str:
    """a, b, ... z, aa, ab: the mark of a reason.

    >>> letters(0), letters(25), letters(26)
    ('a', 'z', 'aa')
    """
    return (letters(place // 26 - 1) if place >= 26 else "") + chr(ord("a") + place % 26)


def _print_removals(console: Console, survey: Survey, prunable: Sequence[Tensor]) -> None:
    def share(n_removed: int, n: int) -> Text:
        return Text(percent(n_removed / n) if n_removed else "0", style="yellow" if n_removed == n else "")

    rows: list[list[str | Text]] = []
    for tensor in prunable:
        shares = [share(removal.n_removed, tensor.n) for removal in tensor.removals]
        rows.append([tensor.name, f"{tensor.n:,}", *(shares or [Text("refused", style="red")] * len(survey.taus))])
    total = survey.totals["prunable"]
    if total.n_in_order:
        sums = [share(total.removed[tau], total.n_in_order) for tau in survey.taus]
        rows.append([Text("all prunable", style="bold"), f"{total.n_in_order:,}", *sums])
    head = ("tensor", "weights", *(f"τ {sigma_text(tau)}" for tau in survey.taus))
    print_table(console, "What a threshold removes: |w| ≤ τ, exact zeros included", head, rows)


def _print_structure(console: Console, prunable: Sequence[Tensor]) -> None:
    def held(value: float | None) -> str:
        return "–" if value is None else "holds" if value == 1 else percent(value) if value else "0"

    rows = [
        (
            tensor.name,
            percent((tensor.n_zero or 0) / tensor.n) if tensor.n_zero else "0",
            f"{tensor.dead_rows:,}",
            f"{tensor.dead_columns:,}",
            *(held(value) for value in (tensor.held or {}).values()),
        )
        for tensor in prunable
    ]
    head = ("tensor", "zeros", "dead rows", "dead cols", "1:4", "2:4", "4:8")
    print_table(
        console, "Structure: rows are outputs, columns inputs; n:m is the share of groups that keep it", head, rows
    )


def _print_totals(console: Console, survey: Survey) -> None:
    rows = [
        (
            name,
            f"{total.n_tensors:,}",
            f"{total.n:,}",
            size(total.n_bytes),
            f"{total.n_zero:,}",
            "–" if total.sparsity is None else percent(total.sparsity, 2),
        )
        for name, total in survey.totals.items()
    ]
    head = ("total", "tensors", "elements", "bytes", "zero weights", "sparsity")
    print_table(console, "Totals", head, rows)


def _print_warnings(console: Console, survey: Survey) -> None:
    broken = [tensor for tensor in survey.tensors if not tensor.is_finite]
    for tensor in broken:
        line = Text("\n" if tensor is broken[0] else "")
        line.append("NOT FINITE", style="bold red")
        line.append(f"  '{plain(tensor.name)}' holds {tensor.n_nan:,} NaN and {tensor.n_inf:,} infinite of ")
        line.append(f"{tensor.n:,} weights. Its other numbers are of the finite ones; prune refuses it.")
        console.print(line)
    n_prunable = survey.totals["prunable"].n_tensors
    for place, (tau, names) in enumerate(survey.emptied.items()):
        line = Text("\n" if place == 0 else "")
        line.append("Layer collapse", style="yellow")
        line.append(f"  τ = {sigma_text(tau)} leaves nothing of {len(names):,} of {n_prunable:,} prunable tensors: ")
        line.append(f"{listed(names)}.")
        console.print(line)
