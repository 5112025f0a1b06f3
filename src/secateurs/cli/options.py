"""Options that several commands take, in the same words."""

from collections.abc import Callable
from typing import Any

import click

from secateurs.experiments.backends import BACKENDS
from secateurs.experiments.exploration import LARGEST_SEED

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
DATA = click.option(
    "--data", "source", default="digits", show_default=True, help="digits, mnist, a file, a directory, hub:org/name."
)
DATA_DIR = click.option("--data-dir", help="Where the files of mnist are.")
RECIPE = click.option(
    "--recipe", "recipe_text", help="A YAML file, or one line: 'magnitude element model sparsity(0.7) cubic'."
)
EPOCHS = click.option(
    "--epochs", type=click.FloatRange(0, min_open=True), help="Of the training; fine-tuning gets half as many."
)
SEED = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, LARGEST_SEED),
    help="Of weights, order and dropout.",
)
SEEDS = click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(1, 1000), help="How many; the first is 0."
)
JOBS = click.option("--jobs", type=click.IntRange(1), help="Processes at a time.  [default: the number of cores]")
BACKEND = click.option(
    "--backend", default="loky", show_default=True, type=click.Choice(BACKENDS), help="What runs them."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on stdout.")
DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


def out(default: str) -> Decorator:
    """--out of a run that has a place by default."""
    return click.option(
        "--out", default=default, show_default=True, help="The run's directory; an interrupted run goes on there."
    )


def dry_run(what: str = "what would be run and written") -> Decorator:
    """--dry-run, which prints this."""
    return click.option("--dry-run", is_flag=True, help=f"Print {what}. Nothing is run.")
