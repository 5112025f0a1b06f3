"""`secateurs inspect`: a checkpoint in, its numbers as tables, JSON, a page or a picture out."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.survey import TAUS, Survey, Tensor
from secateurs.checkpoint.survey import inspect as survey_of
from secateurs.checkpoint.taus import Tau
from secateurs.checkpoint.tensors import Checkpoint
from secateurs.checks import extra
from secateurs.durable import write_bytes, write_text
from secateurs.errors import OutputError

SORTS: dict[str, Callable[[Tensor], Any]] = {
    "file": lambda tensor: 0,
    "name": lambda tensor: tensor.name,
    "size": lambda tensor: -tensor.n_bytes,
    "sigma": lambda tensor: -(tensor.sigma or 0.0),
    "zeros": lambda tensor: -(tensor.n_zero or 0) / max(1, tensor.n),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("path")
@click.option(
    "--tau",
    "taus",
    multiple=True,
    help=f"What a threshold would remove: 0.01 or 0.5sigma; may be repeated.  [default: {', '.join(TAUS)}]",
)
@click.option("--only", multiple=True, help="Look only at the tensors whose names match; may be repeated.")
@click.option("--skip", multiple=True, help="Leave out the tensors whose names match; may be repeated.")
@click.option(
    "--sort", type=click.Choice(list(SORTS)), default="file", show_default=True, help="The order of the rows."
)
@click.option("--html", help="Write the distributions of the prunable tensors as one page that needs no network.")
@click.option("--png", help="Write them as one picture.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads that count.  [default: the number of cores]")
@click.option("--json", "as_json", is_flag=True, help="Print every number as JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def inspect(
    path: str,
    taus: tuple[str, ...],
    only: tuple[str, ...],
    skip: tuple[str, ...],
    sort: str,
    html: str | None,
    png: str | None,
    threads: int | None,
    as_json: bool,
    debug: bool,
) -> None:
    """See what is in a checkpoint, in exact numbers, without loading it.

    PATH is a safetensors, PyTorch or ONNX file, a directory with one, or org/name on the hub. Per tensor: shape,
    dtype, spread, sizes, exact zeros, NaN, dead rows and columns, n:m patterns, and what each tau would remove.
    """
    if threads is not None:
        os.environ["SECATEURS_THREADS"] = str(threads)
    asked = tuple(Tau.parse(tau) for tau in taus or TAUS)
    outputs = [Path(out) for out in (html, png) if out is not None]
    for out in outputs:
        _check_output(out)
    if len({os.path.realpath(out) for out in outputs}) < len(outputs):
        raise OutputError(f"--html and --png both name {html}. Name two files.")
    if outputs:
        extra("altair", "explore")
        extra("vl_convert", "explore")
    with open_checkpoint(path) as checkpoint:
        for out in outputs:
            checkpoint.assert_apart(out)
        survey = survey_of(checkpoint, [str(tau) for tau in asked], only=only, skip=skip)
        survey = replace(survey, tensors=tuple(sorted(survey.tensors, key=SORTS[sort])))
        if outputs:
            _draw(checkpoint, survey, html, png)
    if as_json:
        click.echo(json.dumps(survey.values(), allow_nan=False))
        return
    from secateurs.cli.inspect_tables import print_survey

    print_survey(survey, outputs)


def _check_output(path: Path) -> None:
    """OutputError, before any work, where a file cannot be written."""
    if path.is_dir():
        raise OutputError(f"Cannot write {path}: it is a directory. Name a file in it.")
    if not path.parent.is_dir():
        raise OutputError(f"Cannot write {path}: there is no directory {path.parent}. Make it first.")


def _draw(checkpoint: Checkpoint, survey: Survey, html: str | None, png: str | None) -> None:
    from secateurs.see.pictures import png_of, svg_of
    from secateurs.see.survey_charts import distributions, survey_chart
    from secateurs.see.survey_page import survey_page

    drawn = distributions(checkpoint, survey)
    if html is not None:
        write_text(Path(html), survey_page(survey, drawn))
    if png is not None:
        write_bytes(Path(png), png_of(svg_of(survey_chart(survey, drawn))))
