"""`secateurs unpack FILE -o OUT`: a packed file in, plain safetensors that every loader reads out."""

import os
from pathlib import Path

import click

from secateurs.cli.safe import plain
from secateurs.cli.screen import Shown, watch


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("source", metavar="FILE")
@click.option("-o", "--out", required=True, help="The file to write: NAME.safetensors.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads to use.  [default: all cores]")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def unpack(source: str, out: str, threads: int | None, debug: bool) -> None:
    """Write the tensors of a packed FILE as plain, dense safetensors."""
    from secateurs.checkpoint.packing import Progress
    from secateurs.checkpoint.packing import unpack as unpack_file

    if threads is not None:
        os.environ["SECATEURS_THREADS"] = str(threads)
    progress = Progress()
    with watch(lambda: Shown(progress.n_bytes_done, progress.n_bytes, f"unpacking {progress.n_bytes / 1e6:,.0f} MB")):
        unpack_file(source, out, progress=progress)
    click.echo(f"{plain(out)}: {Path(out).stat().st_size:,} bytes.")
