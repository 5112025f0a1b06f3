"""`secateurs lottery`: options in, a lottery run, a table out."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from secateurs.checks import extra
from secateurs.cli import options
from secateurs.cli.recipes import read_recipe
from secateurs.cli.runs import command, print_work, shown
from secateurs.cli.safe import plain, plain_console
from secateurs.cli.screen import watch
from secateurs.data import DataSpec, load_data
from secateurs.errors import ScalingError
from secateurs.experiments.backends import connected
from secateurs.experiments.directory import check_directory, locked
from secateurs.experiments.exploration import Experiment
from secateurs.experiments.lottery import CONTROLS, KINDS, Lottery, LotteryPlan
from secateurs.experiments.lottery_results import LotteryRun
from secateurs.experiments.presets import TICKETS
from secateurs.experiments.work import Work
from secateurs.masks import Masks
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, build
from secateurs.recipe import Recipe, with_words
from secateurs.see.style import percent
from secateurs.train.training import Training

MARK = "lottery.yaml"


@click.command(context_settings=options.SETTINGS)
@options.DATA
@options.DATA_DIR
@click.option(
    "--model", "model_text", default="lenet-300-100(init=glorot)", show_default=True, help="A reference network."
)
@click.option(
    "--recipe", "recipe_text", help="A YAML file or one line; its budget is what every round cuts of what is left."
)
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(1, 100), help="Levels after the dense.")
@click.option("--steps", default=50_000, show_default=True, type=click.IntRange(1), help="Of every training.")
@click.option(
    "--controls",
    default=",".join(CONTROLS),
    show_default=True,
    help="What tickets are compared with: their masks on other first weights, random masks.",
)
@click.option("--rewind", default=0, show_default=True, type=click.IntRange(0), help="The step survivors return to.")
@options.SEEDS
@options.out("runs/lottery")
@options.JOBS
@options.BACKEND
@options.JSON
@options.dry_run()
@options.DEBUG
def lottery(
    source: str,
    data_dir: str | None,
    model_text: str,
    recipe_text: str | None,
    rounds: int,
    controls: str,
    steps: int,
    rewind: int,
    seeds: int,
    out: str,
    jobs: int | None,
    backend: str,
    as_json: bool,
    dry_run: bool,
    debug: bool,
) -> None:
    """Find lottery tickets: train, cut a share of what is left, rewind, again.

    Every level has the ticket and its controls: its masks on other first weights, and random masks. Without --recipe a
    round cuts a fifth of what is left in every layer, and a tenth in the last.
    """
    model = ModelSpec.parse(model_text)
    spec = DataSpec(source=source, directory=data_dir, **TICKETS.data)
    try:
        data = load_data(spec)
    except ScalingError:  # the paper's is for grey pixels from 0 to 1
        spec = DataSpec(**{**spec.values(), "mean": None, "std": None})
        data = load_data(spec)
    network = build(model, data.shape, 0)
    head = network.tracked["cls-head"]
    default = Recipe(pool="layer", budget={head: "sparsity(0.1)", "*": "sparsity(0.2)"})
    recipe = default if recipe_text is None else read_recipe(recipe_text)
    n_train = len(data.y_train)
    epochs = steps / TICKETS.training.steps_per_epoch(n_train)
    training = Training(**{**TICKETS.training.values(), "epochs": epochs})
    experiment = Experiment(model=model, data=spec, training=training, recipe=recipe, seeds=tuple(range(seeds)))
    asked = Lottery(experiment=experiment, n_rounds=rounds, rewind=rewind, controls=_words(controls))
    plan = LotteryPlan(asked, data.fingerprint, n_train)
    Masks.make(network, with_words(recipe, budget=plan.level(rounds).budget), is_trial=True)
    for module in ("altair", "vl_convert"):
        extra(module, "explore")
    n_jobs = jobs or int(environment()["cores"])
    work = Work(plan.cells.values(), Path(out), n_train, n_jobs=n_jobs)
    check_directory(Path(out), asked.to_yaml(), MARK)
    if dry_run:
        print_work(work, network, data, training, {"lottery": asked.values()}, as_json)
        return
    run = LotteryRun(asked, plan, Path(out), command(), data, network, work)
    with locked(Path(out), asked.to_yaml(), MARK), connected(backend), watch(lambda: shown(work.progress())):
        results = run.run()
    if as_json:
        click.echo(json.dumps(results, allow_nan=False))
        return
    print_levels(results)
    plain_console().print(f"\nPictures, results.json, the networks: {plain(out)}/")


def print_levels(results: dict[str, Any]) -> None:
    """Every level: what is kept, the accuracies, and what the ticket has over its first control."""
    n, last = len(results["seeds"]), results["levels"][-1]["kinds"]
    kinds = {kind: word for kind, word in KINDS.items() if kind in last}
    first = list(kinds)[1]
    title = f"Test accuracy in %, mean of {n} seed{'s' if n > 1 else ''}; ticket - {KINDS[first]} in points"
    table = Table("kept", "weights", *kinds.values(), "gap", "95 % interval", title=title, title_justify="left")
    for level in results["levels"]:
        means = [f"{100 * level['kinds'][kind]['mean']:.2f}" if kind in level["kinds"] else "" for kind in kinds]
        gap = level["gaps"].get(f"ticket-{first}")
        told = ["", ""] if gap is None else [f"{100 * gap['mean']:+.2f}", _interval(gap)]
        table.add_row(percent(level["kept"], 2), f"{level['n_kept']:,}", *means, *told)
    plain_console().print(table)


def _words(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _interval(gap: dict[str, Any]) -> str:
    if gap["low"] is None:
        return "one seed"
    noise = "" if gap["is_beyond_noise"] else ", within seed noise"
    return f"{100 * gap['low']:+.2f} to {100 * gap['high']:+.2f}{noise}"
