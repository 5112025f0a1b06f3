"""`secateurs bench MODEL --vs MODEL`: one or two networks in, the receipt of this machine out."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secateurs.cli.safe import plain, plain_console
from secateurs.errors import OutputError, RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from secateurs.data import DataSpec
    from secateurs.measure.bench.results import Bench

SHAPES = "Dense seconds by packed seconds, at each share of zeros"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("model", metavar="MODEL")
@click.option("--vs", metavar="MODEL", help="A second network, such as the pruned one, in the same run.")
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(1, 1 << 16),
    help="Examples at once; may be repeated.  [default: 1, 8, 64; 1 for texts]",
)
@click.option(
    "--tokens",
    multiple=True,
    type=click.IntRange(1, 1 << 20),
    help="Of each text; may be repeated.  [default: 1, 16, 128]",
)
@click.option("--data", help="Also measure the accuracy, on these data: mnist, a file, a directory.")
@click.option("--data-dir", help="Where the files of mnist are.")
@click.option(
    "--contender",
    "contenders",
    multiple=True,
    metavar="NAME",
    help="Only this way to run it, beside torch-fp32: torch-bf16, secateurs-fp32, secateurs-int8, secateurs-w8a8, "
    "onnxruntime-fp32, onnxruntime-int8, openvino-fp32, openvino-bf16, cuda-fp16, cuda-2:4; may be repeated.  "
    "[default: all]",
)
@click.option(
    "--rounds", type=click.IntRange(6, 10_000), default=20, show_default=True, help="Turns that each one has per size."
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Of every contender.  [default: as many as torch uses]")
@click.option(
    "-o", "--out", metavar="DIR", help="Also write results.json, latency.png and report.html, which needs no network."
)
@click.option(
    "--plan", is_flag=True, help="Instead: what packed layers of these shapes would give here, at 50 to 95 % zeros."
)
@click.option(
    "--break-even",
    is_flag=True,
    help="Also time packed layers of these shapes at 50 to 95 % zeros: from which share on each is faster.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every number as JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def bench(
    model: str,
    vs: str | None,
    batches: tuple[int, ...],
    tokens: tuple[int, ...],
    data: str | None,
    data_dir: str | None,
    contenders: tuple[str, ...],
    rounds: int,
    threads: int | None,
    out: str | None,
    plan: bool,
    break_even: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Time and weigh a network under every runtime that is installed, against dense torch fp32.

    MODEL is a directory with a network of this package or of transformers, or a packed file beside its config.json.
    Every contender runs in its own process; they take turns, and every ratio has an interval: one that contains 1 is
    no difference.
    """
    from secateurs.checks import extra
    from secateurs.cli.screen import Shown, watch
    from secateurs.measure.bench.progress import Progress
    from secateurs.measure.bench.running import bench as run

    if plan:
        given = {"--vs": vs, "--data": data, "--data-dir": data_dir, "--contender": contenders, "--out": out,
                 "--break-even": break_even}  # fmt: skip
        if other := [name for name, value in given.items() if value]:
            raise RecipeError(f"--plan times layers with random weights: leave {other[0]} out.")
        _plan(model, batches, tokens, threads, as_json)
        return
    spec = _spec(data, data_dir)
    if out is not None:
        if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
            raise OutputError(f"'{out}' is not an empty directory. Give a new one.")
        extra("altair", "explore")
        extra("vl_convert", "explore")
    progress = Progress()
    with watch(lambda: Shown(progress.n_turns_done, progress.n_turns, plain(progress.text))):
        found = run(
            *(model, vs),
            batches=batches,
            tokens=tokens,
            data=spec,
            contenders=contenders,
            rounds=rounds,
            threads=threads,
            break_even=break_even,
            progress=progress,
        )
    values = {"command": shlex.join(["secateurs", *sys.argv[1:]]), **found.values()}
    if out is not None:
        _write(Path(out), found, values)
    if as_json:
        click.echo(json.dumps(values, allow_nan=False))
        return
    print_bench(plain_console(), found)
    if out is not None:
        plain_console().print(f"\nEvery number, the chart, the page: {plain(out)}/")


def _plan(model: str, batches: tuple[int, ...], tokens: tuple[int, ...], threads: int | None, as_json: bool) -> None:
    """Time the layers and say what was found."""
    import torch

    from secateurs.cli.inspect_tables import print_table
    from secateurs.cli.screen import Shown, watch
    from secateurs.measure.bench.plan import plan
    from secateurs.measure.bench.progress import Progress
    from secateurs.measure.environment import machine
    from secateurs.see.bench_tables import machine_text, plan_rows

    progress = Progress()
    with watch(lambda: Shown(progress.n_turns_done, progress.n_turns, progress.text)):
        lines = plan(model, batches=batches, tokens=tokens, threads=threads, progress=progress)
    about = machine(torch.get_num_threads())
    if as_json:
        click.echo(json.dumps({"lines": [line.as_values() for line in lines], "environment": about}, allow_nan=False))
        return
    head, rows = plan_rows(lines)
    print_table(plain_console(), SHAPES, head, rows, texts=(0, 1, 2))
    plain_console().print(f"\n{plain(machine_text(about))}")


def _spec(data: str | None, data_dir: str | None) -> "DataSpec | None":
    if data is None:
        if data_dir is not None:
            raise RecipeError("--data-dir is for measuring the accuracy: say on which data, with --data.")
        return None
    from secateurs.data import DataSpec

    return DataSpec(source=data, directory=data_dir)


def _write(out: Path, found: "Bench", values: dict[str, Any]) -> None:
    from secateurs.durable import make_directory, write_bytes, write_json, write_text
    from secateurs.see.bench_page import bench_page
    from secateurs.see.latencies import latency_chart
    from secateurs.see.pictures import png_of, svg_of

    make_directory(out)
    write_json(out / "results.json", values)
    write_bytes(out / "latency.png", png_of(svg_of(latency_chart(found))))
    write_text(out / "report.html", bench_page(found, values["command"]))


def print_bench(console: "Console", found: "Bench") -> None:
    """What each is, how fast it is at each size, what was decided for the layers, and the machine."""
    from secateurs.cli.inspect_tables import print_table
    from secateurs.see.bench_tables import (
        choice_rows,
        how_text,
        latency_rows,
        machine_text,
        model_text,
        plan_rows,
        weight_rows,
    )

    for model in found.models:
        console.print(plain(model_text(model)))
    names = tuple(range(min(2, len(found.models))))
    tables = {
        "Contenders": (weight_rows(found), (*names, -1)),
        **{f"At {size}": (table, names) for size, table in latency_rows(found).items()},
        "What was decided for the layers": (choice_rows(found), (*names, *(len(names) + k for k in range(3)))),
        SHAPES: (plan_rows(found.shapes) if found.shapes else ((), []), (0, 1, 2)),
    }
    for title, ((head, rows), texts) in tables.items():
        if rows:
            places = [place % len(head) for place in texts]
            print_table(console, title, head, [[plain(cell) for cell in row] for row in rows], places)
    console.print(f"\n{plain(how_text(found))} {plain(machine_text(found.environment))}")
