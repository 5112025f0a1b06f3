"""`secateurs pack SRC -o OUT`: a checkpoint in, a really small file and its receipt out."""

import json
import os
from typing import TYPE_CHECKING

import click

from secateurs.cli.safe import plain, plain_console
from secateurs.cli.screen import Shown, watch
from secateurs.errors import RecipeError

if TYPE_CHECKING:
    from secateurs.checkpoint.receipt import Line, Receipt
    from secateurs.measure.drop import Drop, Evaluation


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("source", metavar="SRC")
@click.option(
    "-o", "--out", required=True, help="The file to write: NAME.packed.safetensors; a directory for --beside."
)
@click.option(
    "--beside",
    is_flag=True,
    help="Write a directory that stock loaders read: plain model.safetensors, the same bits packed beside it, the "
    "config and tokenizer of SRC, and one manifest.",
)
@click.option(
    "--values",
    "values",
    multiple=True,
    metavar="[PATTERN=]VALUES",
    help="exact, int8, int4, int8/64 (a scale per 64 weights) or codebook:2 to codebook:8, for the weights that could "
    "be pruned, or for the tensors that match the pattern; may be repeated, the last that matches counts."
    "  [default: exact]",
)
@click.option("--smallest", is_flag=True, help="Try the slow coders on large tensors, too.")
@click.option("--zstd", type=int, metavar="LEVEL", help="Also say what zstd makes of the dense tensors: 1 to 22.")
@click.option("--data", help="Also measure the accuracy before and after, on these data: mnist, a file, a directory.")
@click.option("--data-dir", help="Where the files of mnist are.")
@click.option("--model", help="The reference network that SRC holds, where no config.json of ours says it: lenet-5.")
@click.option("--mean", metavar="NUMBERS", help="How its pixels were scaled, a number per channel: 0.485,0.456,0.406.")
@click.option("--std", metavar="NUMBERS", help="The same for the standard deviation.")
@click.option("--max-drop", metavar="POINTS", help="Exit with 1 where accuracy falls by more: 0.5pp.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads to use.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def pack(
    source: str,
    out: str,
    beside: bool,
    values: tuple[str, ...],
    smallest: bool,
    zstd: int | None,
    data: str | None,
    data_dir: str | None,
    model: str | None,
    mean: str | None,
    std: str | None,
    max_drop: str | None,
    threads: int | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Store a checkpoint without its zeros, in one file that is checked when it is read.

    SRC is a safetensors, PyTorch or ONNX file, a directory with one, or org/name on the hub; it is only read. Every
    bit comes back unless --values says otherwise. Read it with secateurs.load, or unpack it.
    """
    from secateurs.checkpoint.packed_directory import pack_beside
    from secateurs.checkpoint.packing import Progress
    from secateurs.checkpoint.packing import pack as pack_file

    if threads is not None:
        os.environ["SECATEURS_THREADS"] = str(threads)
    chosen = {"": "exact"}
    for text in values:
        pattern, _, how = text.rpartition("=")
        chosen.pop(pattern, None)  # so that the last one given counts
        chosen[pattern] = how
    most = _points(max_drop, data)
    evaluation = _evaluation(source, data, data_dir, model, mean, std)
    progress = Progress()
    with watch(lambda: Shown(progress.n_bytes_done, progress.n_bytes, f"packing {progress.n_bytes / 1e6:,.0f} MB")):
        receipt = (pack_beside if beside else pack_file)(
            source, out, chosen, smallest=smallest, zstd=zstd, progress=progress
        )
    drop = evaluation.after(receipt.path) if evaluation is not None else None
    if as_json:
        accuracy = {} if drop is None else {"accuracy": drop.values()}
        click.echo(json.dumps({**receipt.values(), **accuracy}, allow_nan=False))
    else:
        _print(receipt)
        if drop is not None:
            plain_console().print(_told(drop))
    if drop is not None and most is not None and 100 * drop.value > most:
        click.echo(
            f"secateurs: accuracy falls by {100 * drop.value:.2f} points, more than the {most:g} allowed. The file is "
            f"written all the same: {plain(receipt.path)}.",
            err=True,
        )
        click.get_current_context().exit(1)


def _evaluation(
    source: str, data: str | None, data_dir: str | None, model: str | None, mean: str | None, std: str | None
) -> "Evaluation | None":
    """The network before, evaluated; None where no data were given."""
    if data is None:
        options = (("--data-dir", data_dir), ("--model", model), ("--mean", mean), ("--std", std))
        if given := [name for name, value in options if value is not None]:
            raise RecipeError(f"{given[0]} is for measuring the accuracy: say on which data, with --data.")
        return None
    from secateurs.data import DataSpec
    from secateurs.measure.drop import evaluation_of

    spec = DataSpec(source=data, directory=data_dir, mean=_numbers("--mean", mean), std=_numbers("--std", std))
    return evaluation_of(source, spec, model)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(each) for each in text.split(","))
    except ValueError:
        raise RecipeError(
            f"{option} takes numbers with commas between them, such as 0.485,0.456; got {text!r}."
        ) from None


def _points(text: str | None, data: str | None) -> float | None:
    """Percentage points: 0.5 for 0.5pp."""
    if text is None:
        return None
    if data is None:
        raise RecipeError("--max-drop is about the accuracy: say on which data, with --data.")
    try:
        found = float(text.removesuffix("pp"))
    except ValueError:
        found = -1.0
    if not text.endswith("pp") or not 0 <= found <= 100:
        raise RecipeError(f"--max-drop takes percentage points from 0 to 100, such as 0.5pp; got {text!r}.")
    return found


def _told(drop: "Drop") -> str:
    low, high = (100 * each for each in drop.interval)
    shares = [
        f"{100 * each.value:.2f} % ({100 * each.interval[0]:.2f} to {100 * each.interval[1]:.2f})"
        for each in (drop.before, drop.after)
    ]
    what = "a drop" if drop.value > 0 else "a gain" if drop.value < 0 else "no change"
    by = f"{what} of {abs(100 * drop.value):.2f} points" if drop.value else what
    return (
        f"Accuracy {shares[0]} before, {shares[1]} after, n = {drop.before.n:,} test examples: {by}, the drop between "
        f"{low:.2f} and {high:.2f} points (95 %)."
    )


def _print(receipt: "Receipt") -> None:
    from secateurs.cli.inspect_tables import print_table

    console = plain_console()
    is_lossy = any(line.values != "exact" for line in receipt.lines)
    rows = []
    for line in receipt.lines:
        shape = "×".join(map(str, line.shape)) or "scalar"
        errors = (f"{line.worst:.3g}", f"{line.mean:.3g}") if is_lossy else ()
        rows.append((line.name, shape, line.dtype, line.values, ", ".join(line.positions), *_cells(line), *errors))
    errors = ("worst error", "mean error") if is_lossy else ()
    print_table(console, "Tensors", (*_COLUMNS, *errors), rows, texts=(0, 1, 2, 3, 4))
    console.print()
    path = plain(receipt.path)
    width = max(len(path), len("scales and codebooks"))
    parts = [(name, receipt.total(f"{what}_bytes")) for name, what in _PARTS]
    for name, size in (*parts, ("header and index", receipt.header_bytes)):
        console.print(f"{name:>{width}}  {size:>16,} bytes  {size / receipt.size_bytes:6.1%}")
    console.print(f"{path:>{width}}  {receipt.size_bytes:>16,} bytes", style="bold")
    others: list[tuple[str, float]] = [
        ("dense", receipt.total("dense_bytes")),
        ("CSR, 32-bit indices", receipt.csr),
        *([("dense + zstd", receipt.zstd)] if receipt.zstd is not None else []),
        ("entropy bound", receipt.bound),
    ]
    for name, n_bytes in others:
        share = receipt.size_bytes / max(1, n_bytes)
        console.print(f"{name:>{width}}  {n_bytes:>16,.0f} bytes  the file is {share:.3f} of it")
    console.print(f"Compression {receipt.compression:.2f}x, all bytes of the file counted.", style="bold")


_COLUMNS = (
    *("tensor", "shape", "dtype", "values", "coded as", "stored", "dense bytes"),
    *("position bytes", "value bytes", "table bytes", "bytes", "bound"),
)
_PARTS = (("positions", "position"), ("values", "value"), ("scales and codebooks", "table"))


def _cells(line: "Line") -> list[str]:
    stored = f"{line.n_stored / line.n:.1%}" if line.n else ""
    counts = (line.dense_bytes, line.position_bytes, line.value_bytes, line.table_bytes, line.packed_bytes)
    return [stored, *(f"{count:,}" for count in counts), "" if line.bound is None else f"{line.bound:,.0f}"]
