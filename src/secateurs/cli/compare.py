"""`secateurs compare`: options in, a comparison run, a table out."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from secateurs.checks import extra
from secateurs.cli import options
from secateurs.cli.recipes import read_recipe
from secateurs.cli.runs import command, numbers, print_work, shown
from secateurs.cli.safe import plain, plain_console
from secateurs.cli.screen import watch
from secateurs.data import load_data
from secateurs.experiments.backends import connected
from secateurs.experiments.comparison import LADDER, Comparison, ComparisonRun
from secateurs.experiments.directory import check_directory, locked
from secateurs.experiments.exploration import Experiment
from secateurs.experiments.presets import data_for, preset
from secateurs.experiments.strategies import STRATEGIES
from secateurs.experiments.work import Work
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, build
from secateurs.recipe import Recipe
from secateurs.see.comparison_page import mean_text, point_text
from secateurs.see.curves import COMPARISON
from secateurs.see.style import percent
from secateurs.train.training import Training

MARK = "comparison.yaml"
# LAMP over the whole network leaves no layer empty, whatever the sizes of its first weights.
DEFAULT_RECIPE = "lamp element model sparsity(0.9) cubic(begin=0.1, end=0.7, every=4)"


@click.command(context_settings=options.SETTINGS)
@options.DATA
@options.DATA_DIR
@click.option("--model", "model_text", default="lenet-300-100", show_default=True, help="A reference network.")
@click.option("--recipe", "recipe_text", help="A YAML file or one line; its budget is replaced by each sparsity.")
@click.option("--strategies", help=f"Some of {', '.join(STRATEGIES)}.  [default: all]")
@click.option("--sparsities", help="Where they are compared, such as 0.5,0.9.  [default: 0.5 … 0.98]")
@click.option("--rounds", default=4, show_default=True, type=click.IntRange(1, 100), help="Of iterative pruning.")
@options.EPOCHS
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
    model_text: str,
    recipe_text: str | None,
    strategies: str | None,
    sparsities: str | None,
    rounds: int,
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
    with the same training budget, at several sparsities and seeds, with intervals and differences seed by seed.
    """
    model = ModelSpec.parse(model_text)
    chosen = preset(model.name)
    training, fine_tune = chosen.training, chosen.fine_tune
    if epochs is not None:
        training = Training(**{**training.values(), "epochs": epochs})
        fine_tune = Training(**{**fine_tune.values(), "epochs": epochs / 2})
    asked = Comparison(
        experiment=Experiment(
            model=model,
            data=data_for(model, source=source, directory=data_dir),
            training=training,
            recipe=Recipe.parse(DEFAULT_RECIPE) if recipe_text is None else read_recipe(recipe_text),
            seeds=tuple(range(seeds)),
        ),
        fine_tune=fine_tune,
        sparsities=LADDER if sparsities is None else numbers("--sparsities", sparsities),
        strategies=tuple(STRATEGIES) if strategies is None else tuple(strategies.replace(" ", "").split(",")),
        n_rounds=rounds,
    )
    data = load_data(asked.experiment.data)
    run = ComparisonRun(asked, Path(out), command(), data, build(model, data.shape, 0))
    run.check()
    for module in ("altair", "vl_convert"):
        extra(module, "explore")
    n_jobs = jobs or int(environment()["cores"])
    work = Work(run.cells(), run.out, len(data.y_train), n_jobs=n_jobs)
    check_directory(run.out, asked.to_yaml(), MARK)
    if dry_run:
        print_work(work, run.network, data, training, {"comparison": asked.values()}, as_json)
        return
    with locked(run.out, asked.to_yaml(), MARK), connected(backend), watch(lambda: shown(work.progress())):
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
    title = f"Test accuracy in %, mean of {n} seed{'s' if n > 1 else ''}; dense {mean_text(dense, 2)}"
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
