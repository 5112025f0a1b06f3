"""Prune tables: what a person reads after `prune`, or before it with --dry-run."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from secateurs.cli.inspect_tables import print_table, size
from secateurs.cli.safe import plain, plain_console
from secateurs.see.style import number

if TYPE_CHECKING:
    from secateurs.checkpoint.preview import Preview
    from secateurs.checkpoint.streamed import Streaming
    from secateurs.checkpoint.tensors import Checkpoint


def print_manifest(manifest: Mapping[str, Any], run: "Streaming") -> None:
    """Every layer, the totals, and where everything lies."""
    console = plain_console()
    _print_layers(console, manifest["layers"])
    totals = manifest["totals"]
    n, n_pruned = totals["n_prunable"], totals["n_pruned"]
    console.print(
        f"Pruned {n_pruned:,} of {n:,} prunable weights ({_percent(n_pruned, n)}), {_percent(n_pruned, totals['n'])} "
        f"of all {totals['n']:,}. Zeros in these tensors: {totals['n_zero_before']:,} before, {totals['n_zero']:,} now."
    )
    _print_left(console, run.checkpoint)
    n_bytes = sum(about["size"] for about in manifest["files"].values())
    files = f"{len(manifest['files']) + 1} files of {size(n_bytes)}"
    if run.was_done:
        console.print(f"It was done already: {files} in {plain(str(run.out))}/. Nothing was written.", style="bold")
    else:
        resumed = f", {run.n_resumed} of them by an earlier run" if run.n_resumed else ""
        console.print(f"Wrote {files}{resumed} to {plain(str(run.out))}/", style="bold")
    console.print("The zeros are stored like any other number: the files are as large as before.")


def print_preview(found: "Preview", checkpoint: "Checkpoint") -> None:
    """What would go, and what it would take."""
    console = plain_console()
    _print_layers(console, found.layers)
    n = sum(layer["n"] for layer in found.layers if layer["status"] == "pruned")
    n_pruned = sum(layer["n_pruned"] for layer in found.layers)
    console.print(f"Recipe: {plain(found.recipe)}")
    console.print(f"Would prune {n_pruned:,} of {n:,} prunable weights ({_percent(n_pruned, n)}).")
    _print_left(console, checkpoint)
    console.print(
        f"Would write {found.size_bytes:,} bytes, with at most about {found.memory_bytes / 1e6:,.0f} MB of memory, in "
        f"about {found.seconds:.1f} s and what the disk takes to write them. Nothing was written.",
        style="bold",
    )


def _print_layers(console: Console, layers: Iterable[Mapping[str, Any]]) -> None:
    found = list(layers)
    has_tau = any(layer["tau"] is not None for layer in found)
    rows = []
    for layer in found:
        shape = "×".join(map(str, layer["shape"])) or "scalar"
        is_cut = layer["status"] == "pruned"
        cells = [f"{layer['n_pruned']:,}", _percent(layer["n_pruned"], layer["n"])] if is_cut else ["–", "–"]
        why = (
            ""
            if is_cut
            else plain(layer["reason"] if layer["status"] == "skipped" else f"impossible: {layer['reason']}")
        )
        rows.append(
            (layer["name"], shape, layer["dtype"], f"{layer['n']:,}", *cells, *(_tau(layer) if has_tau else ()), why)
        )
    head = (
        "tensor",
        "shape",
        "dtype",
        "weights",
        "pruned",
        "share",
        *(("τ", "in σ") if has_tau else ()),
        "left alone because",
    )
    print_table(console, "Tensors", head, rows, texts=(0, len(head) - 1))


def _tau(layer: Mapping[str, Any]) -> tuple[str, str]:
    if layer["tau"] is None:
        return "–", "–"
    return number(layer["tau"]), number(layer["tau"] / layer["sigma"]) if layer["sigma"] else "–"


def _print_left(console: Console, checkpoint: "Checkpoint") -> None:
    for note in checkpoint.notes:
        console.print(plain(note))
    for name, why in (*checkpoint.left, *checkpoint.ignored):
        console.print(f"Not carried over: {plain(name)} ({plain(why)}).")


def _percent(n: int, of: int) -> str:
    return f"{100 * n / of:.2f} %" if of else "–"
