"""`secateurs compare`: options in, a comparison run, a table out."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from secateurs.checks import extra
from secateurs.cli import options
from secateurs.cli.networks import named, opened
from secateurs.cli.recipes import read_recipe, read_text
from secateurs.cli.runs import command, numbers, print_work, shown
from secateurs.cli.safe import plain, plain_console
from secateurs.cli.screen import watch
from secateurs.errors import RecipeError
from secateurs.experiments.backends import connected
from secateurs.experiments.cells import keep_weights, stored_weights
from secateurs.experiments.comparison import LADDER, Comparison, ComparisonRun
from secateurs.experiments.directory import check_directory, locked
from secateurs.experiments.exploration import Experiment
from secateurs.experiments.strategies import FROM_FIRST_WEIGHTS, STRATEGIES
from secateurs.experiments.work import Work
from secateurs.measure.environment import environment
from secateurs.recipe import Recipe
from secateurs.see.comparison_page import dense_text, point_text
from secateurs.see.curves import COMPARISON
from secateurs.see.style import percent
from secateurs.train.training import Training

MARK = "comparison.yaml"
# LAMP over the whole network leaves no layer empty, whatever the sizes of its first weights.
DEFAULT_RECIPE = "lamp element model sparsity(0.9) cubic(begin=0.1, end=0.7, every=4)"


@click.command(context_settings=options.SETTINGS)
@options.DATA
@options.DATA_DIR
@click.option("--model", "model_text", help="A reference network.  [default: lenet-300-100]")
@click.option("--start", help="The model/ directory of a run, whose network is pruned; in place of --model.")
@click.option("--recipe", "recipe_text", help="A YAML file or one line; its budget is replaced by each sparsity.")
@click.option("--strategies", help=f"Some of {', '.join(STRATEGIES)}.  [default: all]")
@click.option("--sparsities", help="Where they are compared, such as 0.5,0.9.  [default: 0.5 … 0.98]")
@click.option("--rounds", default=4, show_default=True, type=click.IntRange(1, 100), help="Of iterative pruning.")
@click.option("--fine-tune", "fine_tune_file", help="A YAML file: the training after a cut; the rest is preset.")
@click.option(
    "--epochs",
    type=click.FloatRange(0, min_open=True),
    help="Of the training; fine-tuning gets half as many. With --start, of the fine-tuning.",
)
@options.SEEDS
@options.out("runs/compare")
@options.JOBS
@options.BACKEND
@options.JSON
@options.dry_run()
@options.DEBUG
def compare(
    source: str,
    data_dir: str | None,
    model_text: str | None,
    start: str | None,
    recipe_text: str | None,
    strategies: str | None,
    sparsities: str | None,
    rounds: int,
    fine_tune_file: str | None,
    epochs: float | None,
    seeds: int,
    out: str,
    jobs: int | None,
    backend: str,
    as_json: bool,
    dry_run: bool,
    debug: bool,
) -> None:
    """Compare the ways to a pruned network, fairly.

    Dense, one-shot with and without repair and fine-tuning, in the loop, iterative, rewound, and the controls: all
    with the same training budget, at several sparsities and seeds, with intervals and differences seed by seed. With
    --start a network that you have is pruned, and nothing is trained before the cut; where the fine-tuning distils,
    that network is the teacher.
    """
    if start is not None and model_text is not None:
        raise RecipeError("--start says which network it is; drop --model.")
    if start is None:
        given = named(model_text or "lenet-300-100", source, data_dir, 0)
    else:
        given = opened(start, source, data_dir)
    begin_with = None if start is None else stored_weights(given.network)
    training, fine_tune = given.preset.training, given.preset.fine_tune
    if fine_tune_file is not None:
        fine_tune = Training.from_yaml(read_text(fine_tune_file), fine_tune)
    if epochs is not None and start is None:
        training = Training(**{**training.values(), "epochs": epochs})
    if epochs is not None:
        fine_tune = Training(**{**fine_tune.values(), "epochs": epochs / 2 if start is None else epochs})
    possible = [name for name in STRATEGIES if start is None or name not in FROM_FIRST_WEIGHTS]
    asked = Comparison(
        experiment=Experiment(
            model=given.spec,
            data=given.data_spec,
            training=training,
            recipe=Recipe.parse(DEFAULT_RECIPE) if recipe_text is None else read_recipe(recipe_text),
            seeds=tuple(range(seeds)),
        ),
        fine_tune=fine_tune,
        sparsities=LADDER if sparsities is None else numbers("--sparsities", sparsities),
        strategies=tuple(possible) if strategies is None else tuple(strategies.replace(" ", "").split(",")),
        n_rounds=rounds,
        start_sha256=None if begin_with is None else begin_with[0],
    )
    data = given.data
    run = ComparisonRun(asked, Path(out), command(), data, given.network)
    run.check()
    for module in ("altair", "vl_convert"):
        extra(module, "explore")
    n_jobs = jobs or int(environment()["cores"])
    work = Work(run.cells(), run.out, len(data.y_train), n_jobs=n_jobs)
    check_directory(run.out, asked.to_yaml(), MARK)
    if dry_run:
        print_work(work, run.network, data, fine_tune if start else training, {"comparison": asked.values()}, as_json)
        return
    with locked(run.out, asked.to_yaml(), MARK), connected(backend), watch(lambda: shown(work.progress())):
        if begin_with is not None:
            keep_weights(*begin_with, run.out)
        results = run.run(work)
    if as_json:
        click.echo(json.dumps(results, allow_nan=False))
        return
    print_points(results)
    plain_console().print(f"\nPage (report.html), picture, results.json, the networks: {plain(out)}/")


def print_points(results: dict[str, Any]) -> None:
    """Every strategy (rows) at every sparsity (columns), and what the sparsest ones take."""
    dense, n = results["dense"], len(results["seeds"])
    asked = list(dict.fromkeys(point["asked"] for point in results["points"]))
    title = f"Test accuracy in %, mean of {n} seed{'s' if n > 1 else ''}; {dense_text(results, 2)}"
    columns = [percent(s, 0) for s in asked]
    table = Table("strategy", *columns, "epochs", "bytes", "multiply-adds", title=title, title_justify="left")
    by_point = {(point["strategy"], point["asked"]): point for point in results["points"]}
    for name in dict.fromkeys(point["strategy"] for point in results["points"]):
        points = [by_point[name, s] for s in asked]
        last = points[-1]
        size, work = f"{last['packed_bytes']:,.0f}", f"{last['multiply_adds']:,.0f}"
        cells = [point_text(point, 2) for point in points]
        table.add_row(COMPARISON[name], *cells, f"{last['epochs']:g}", size, work)
    size, work = f"{dense['packed_bytes']:,.0f}", f"{dense['multiply_adds']:,.0f}"
    table.add_row("dense", *[""] * len(asked), f"{dense['epochs']:g}", size, work)
    console = plain_console()
    console.print(table)
    console.print(
        f"* differs from dense beyond seed noise (95 % interval, seed by seed). Bytes (packed without loss) and "
        f"theoretical multiply-adds of one example: at {columns[-1]}."
    )
