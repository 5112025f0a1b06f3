"""`secateurs diff A B`: what changed between two checkpoints, as a table, a sentence or JSON."""

import json
import math
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from secateurs.checkpoint.difference import Difference, TensorDifference

HEAD = (
    *("tensor", "shape", "dtype", "0 in A", "0 in B", "gained", "lost", "kept changed"),
    *("||B − A||", "of ||A||", "max", "masks"),
)
MASKS = {
    "equal": "the same zeros in both",
    "B in A": "B is nested in A, every zero of A is zero in B",
    "A in B": "A is nested in B, every zero of B is zero in A",
    "neither": "neither is nested in the other",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("a")
@click.argument("b")
@click.option("--all", "show_all", is_flag=True, help="Show the tensors that did not change, too.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON on stdout.")
@click.option("--exit-code", "fails", is_flag=True, help="Exit with 1 if they differ.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def diff(a: str, b: str, show_all: bool, as_json: bool, fails: bool, debug: bool) -> None:
    """See what changed from checkpoint A to checkpoint B.

    Zeros gained and lost, kept weights that changed, the norm of the change, and whether the zeros of one are zeros of
    the other. A and B: a file, a directory or org/name, in any format and of any size; neither is loaded.
    """
    from secateurs.checkpoint.difference import diff as difference_of

    found = difference_of(a, b)
    if as_json:
        click.echo(json.dumps(found.values(), allow_nan=False))
    else:
        _print(found, show_all)
    if fails and not found.is_same:
        click.get_current_context().exit(1)


def _print(found: "Difference", show_all: bool) -> None:
    from secateurs.cli.inspect_tables import print_table
    from secateurs.cli.safe import plain, plain_console

    console = plain_console()
    shown = [tensor for tensor in found.tensors if show_all or tensor.status != "same"]
    if shown:
        rows = [(tensor.name, *_kind(tensor), *_cells(tensor)) for tensor in shown]
        print_table(console, f"A = {plain(found.a)}, B = {plain(found.b)}", HEAD, rows, texts=(0, len(HEAD) - 1))
    if n_same := sum(tensor.status == "same" for tensor in found.tensors):
        hint = "" if show_all else "; --all shows them"
        console.print(f"The same in both: {n_same:,} of {len(found.tensors):,} tensors{hint}.")
    for side, count in (("A", "n_nonfinite_a"), ("B", "n_nonfinite_b")):
        if n := found.total(count):
            console.print(f"NaN or infinite numbers in {side}: {n:,}, which the norms leave out.", style="yellow")
    if any(tensor.is_paired and tensor.is_float for tensor in found.tensors):
        totals = (found.total("n_zero_a"), found.total("n_zero_b"), found.total("n_gained"), found.total("n_lost"))
        console.print("Zeros: {:,} in A, {:,} in B; {:,} gained, {:,} lost.".format(*totals))
        console.print(f"Masks: {MASKS[found.masks]}.")
        relative = f" ({found.norm_change / found.norm_a:.3g} of ||A||)" if 0 < found.norm_a < math.inf else ""
        console.print(f"||B − A|| = {found.norm_change:.6g}{relative}, the largest change {found.max_change:.6g}.")
    console.print(found.verdict, style="bold")


def _kind(tensor: "TensorDifference") -> tuple[str, str]:
    """Shape and dtype, and what became of them."""
    shapes = ["×".join(map(str, shape)) or "scalar" for shape in (tensor.shape_a, tensor.shape_b) if shape is not None]
    dtypes = [dtype for dtype in (tensor.dtype_a, tensor.dtype_b) if dtype is not None]
    return "→".join(dict.fromkeys(shapes)), "→".join(dict.fromkeys(dtypes))


def _cells(tensor: "TensorDifference") -> list[str]:
    """The counts and sizes, and in the last what they mean."""
    if not tensor.is_paired:
        return [*["–"] * 8, tensor.status]
    if not tensor.is_float:
        return [*["–"] * 4, f"{tensor.n_kept_changed:,}", *["–"] * 3, ""]
    counts = (tensor.n_zero_a, tensor.n_zero_b, tensor.n_gained, tensor.n_lost, tensor.n_kept_changed)
    relative = "–" if tensor.relative_change is None else f"{tensor.relative_change:.3g}"
    resigned = f", sign of {tensor.n_resigned:,} zeros" if tensor.n_resigned else ""
    sizes = (f"{tensor.norm_change:.4g}", relative, f"{tensor.max_change:.4g}")
    return [*(f"{count:,}" for count in counts), *sizes, tensor.masks + resigned]
