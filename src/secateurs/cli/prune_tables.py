"""Prune tables: what a person reads after `prune`, or before it with --dry-run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from secateurs.cli.safe import plain, plain_console

if TYPE_CHECKING:
    from secateurs.checkpoint.preview import Preview
    from secateurs.checkpoint.tensors import Checkpoint


def print_manifest(manifest: Mapping[str, Any], checkpoint: "Checkpoint", out: Path) -> None:
    """Every layer, the totals, and where everything lies."""
    console = plain_console()
    _print_layers(console, manifest["layers"])
    totals = manifest["totals"]
    n, n_pruned = totals["n_prunable"], totals["n_pruned"]
    console.print(
        f"Pruned {n_pruned:,} of {n:,} prunable weights ({_percent(n_pruned, n)}), {_percent(n_pruned, totals['n'])} "
        f"of all {totals['n']:,}; {totals['n_zero_before']:,} of them were zero before."
    )
    _print_left(console, checkpoint)
    size = sum(about["size"] for about in manifest["files"].values())
    console.print(
        f"Wrote {len(manifest['files'])} files, {size:,} bytes, with secateurs.json to {plain(str(out))}/", style="bold"
    )
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


def _print_layers(console: Console, layers: Any) -> None:
    table = Table("tensor", "shape", "weights", "go", "", "why", title_justify="left")
    for column in table.columns[2:5]:
        column.justify = "right"
    has_tau = any(layer["tau"] is not None for layer in layers)
    if has_tau:
        table.add_column("tau", justify="right")
        table.add_column("in sigmas", justify="right")
    for layer in layers:
        shape = " × ".join(map(str, layer["shape"])) or "scalar"
        is_cut = layer["status"] == "pruned"
        cells = [f"{layer['n_pruned']:,}", _percent(layer["n_pruned"], layer["n"])] if is_cut else ["", layer["status"]]
        more = _tau(layer) if has_tau else []
        table.add_row(
            plain(layer["name"]), f"{shape} {layer['dtype']}", f"{layer['n']:,}", *cells, plain(layer["reason"]), *more
        )
    console.print(table)


def _tau(layer: Mapping[str, Any]) -> list[str]:
    if layer["tau"] is None:
        return ["", ""]
    return [f"{layer['tau']:.4g}", f"{layer['tau'] / layer['sigma']:.3g}" if layer["sigma"] else ""]


def _print_left(console: Console, checkpoint: "Checkpoint") -> None:
    for note in checkpoint.notes:
        console.print(plain(note))
    for name, why in (*checkpoint.left, *checkpoint.ignored):
        console.print(f"Not carried over: {plain(name)} ({plain(why)}).")


def _percent(n: int, of: int) -> str:
    return f"{n / of:.2%}" if of else "0 of 0"
