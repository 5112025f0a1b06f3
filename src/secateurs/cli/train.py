"""`secateurs train`: a network, data, a recipe and a training in; a trained directory out."""

import hashlib
import json
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table

from secateurs.cli import options
from secateurs.cli.networks import named, opened
from secateurs.cli.recipes import read_recipe, read_text
from secateurs.cli.safe import plain, plain_console, warnings_told
from secateurs.cli.screen import Shown, watch
from secateurs.data import Dataset
from secateurs.errors import RecipeError
from secateurs.experiments.directory import check_directory, locked
from secateurs.experiments.perform import put_channels_last
from secateurs.experiments.training_run import MARK, Run, TrainingRun
from secateurs.masks import Masks
from secateurs.measure.drop import check_reads
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, Network, load_model
from secateurs.models.files import network_directory, reading, weights_file
from secateurs.recipe import Recipe
from secateurs.see.style import percent
from secateurs.train.distillation import Distillation, loss_with
from secateurs.train.training import Training

BY_CHANCE = 0.005  # of the weights may be zero without anybody having pruned them
EVERYTHING = Recipe(pool="layer", budget="sparsity(0.0)", only=("*",))  # embeddings and tables, too


@click.command(context_settings=options.SETTINGS)
@options.DATA
@options.DATA_DIR
@click.option("--model", "model_text", help="A reference network, such as lenet-5.  [default: cls-transformer]")
@click.option("--start", help="The model/ directory of a run, which is trained on; in place of --model.")
@options.RECIPE
@click.option("--hold", is_flag=True, help="What is zero in --start stays zero; in place of --recipe.")
@click.option("--training", "training_file", help="A YAML file of training settings; the rest is the network's preset.")
@click.option("--epochs", type=click.FloatRange(0), help="In place of the training's.")
@click.option("--teacher", help="The model/ directory of a run, whose answers are learned from.")
@options.SEED
@click.option("--looks", default=20, show_default=True, type=click.IntRange(1), help="How often it measures and saves.")
@click.option("-o", "--out", required=True, help="The directory to write; an interrupted run goes on there.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads that work.  [default: the number of cores]")
@options.JSON
@options.dry_run("what would be pruned, run and written")
@options.DEBUG
def train(
    source: str,
    data_dir: str | None,
    model_text: str | None,
    start: str | None,
    hold: bool,
    recipe_text: str | None,
    training_file: str | None,
    epochs: float | None,
    teacher: str | None,
    seed: int,
    looks: int,
    out: str,
    threads: int | None,
    as_json: bool,
    dry_run: bool,
    debug: bool,
) -> None:
    """Train or fine-tune one network while a recipe prunes it.

    Writes the model, its masks, every measurement and a model card. A killed run goes on in the middle of an epoch
    when the same command is given again, to the same bytes.
    """
    n_threads = threads or int(environment()["cores"])
    torch.set_num_threads(n_threads)
    recipe = None if recipe_text is None else read_recipe(recipe_text)
    if start is not None and model_text is not None:
        raise RecipeError("--start says which network it is; drop --model.")
    if hold and (start is None or recipe is not None):
        raise RecipeError("--hold keeps the zeros of --start, and chooses no others: give --start, and no --recipe.")
    master, read_by = None, {}
    if teacher is not None:
        master, taught = load_model(teacher)
        read_by = reading(taught, network_directory(teacher))
    if start is None:
        given = named(model_text or "cls-transformer", source, data_dir, seed, **read_by)
    else:
        given = opened(start, source, data_dir)
    module, data = given.network, given.data
    if teacher is not None:
        check_reads(taught, data, teacher)
    training = given.preset.training
    if training_file is not None:
        training = Training.from_yaml(read_text(training_file), training)
    values = training.values()
    if epochs is not None:
        values["epochs"] = epochs
    if master is not None and values["distill"] is None:
        values["distill"] = Distillation().values()
    training = Training(**values)
    loss_with(module, training.distill, master, data.x_train[:1])  # whether teacher and training go together
    masks = Masks.of_zeros(module, EVERYTHING) if start is not None else None
    trial = None if recipe is None else Masks.make(module, recipe, is_trial=True)
    if hold:
        trial = masks
    run = Run(
        model=given.spec,
        data=given.data_spec,
        data_hash=data.fingerprint,
        training=training,
        recipe=recipe,
        is_held=hold,
        seed=seed,
        start_sha256=None if start is None else _sha256(start),
        teacher_sha256=None if teacher is None else _sha256(teacher),
        n_looks=looks,
        n_threads=n_threads,
    )
    check_directory(Path(out), run.to_yaml(), MARK)
    n_zero, n_asked = (0 if each is None else each.n_weights - each.n_kept for each in (masks, trial))
    if masks is not None and n_zero > max(n_asked, BY_CHANCE * masks.n_weights):
        click.echo(
            f"secateurs: {n_zero:,} weights in {plain(str(start))} are zero, and this training lets them come back. "
            "--hold keeps them at zero.",
            err=True,
        )
    if dry_run:
        _print_plan(run, module, data, trial, out, as_json)
        return
    put_channels_last(module)
    work = TrainingRun(run, Path(out), data, module, master, masks if hold else None)
    with locked(Path(out), run.to_yaml(), MARK), watch(lambda: _shown(work)), warnings_told():
        results = work.go()
    if as_json:
        click.echo(json.dumps(results, allow_nan=False))
        return
    _print_results(results, out)


def _sha256(directory: str) -> str:
    with weights_file(network_directory(directory)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(work: TrainingRun) -> Shown:
    look = work.latest
    if look is None:
        return Shown(0, 1, "measuring the network as it is")
    loss = "" if look.loss is None else f"loss {look.loss:.3f} · "
    text = f"{loss}accuracy {look.validation.value:.1%} · sparsity {look.sparsity:.0%}"
    return Shown(look.step, max(look.n_steps, 1), text)


def _print_plan(run: Run, module: Network, data: Dataset, trial: Masks | None, out: str, as_json: bool) -> None:
    """What would be pruned, run and written."""
    n_steps = run.training.n_steps(len(data.y_train))
    n_parameters = sum(parameter.numel() for parameter in module.parameters())
    layers = [] if trial is None else trial.report
    plan = {
        "run": run.values(),
        "n_steps": n_steps,
        "size_bytes": 4 * n_parameters,
        "out": out,
        "layers": [
            {"name": line.name, "n": line.n, "n_pruned": line.n_pruned, "status": line.status, "reason": line.reason}
            for line in layers
        ],
    }
    if as_json:
        click.echo(json.dumps(plan))
        return
    console = plain_console()
    if trial is not None:
        table = Table("weight", "shape", "n", "zero at the end", "", "why", title=str(run.model), title_justify="left")
        for line in layers:
            gone = f"{line.n_pruned:,} ({percent(line.n_pruned / line.n)})" if line.n_pruned else ""
            shape = " × ".join(map(str, line.shape))
            table.add_row(plain(line.name), shape, f"{line.n:,}", gone, line.status, line.reason)
        console.print(table)
        how = "Held" if run.is_held else f"Recipe: {run.recipe}, with what the weights are now"
        console.print(f"{how}: {percent(trial.sparsity)} would be zero.")
        if emptied := [line.name for line in layers if line.n_pruned == line.n > 0]:
            console.print(f"Layer collapse: nothing would be left of {plain(', '.join(emptied))}.")
    console.print(
        f"{n_steps:,} steps of {run.training.batch_size} examples on {run.n_threads} threads; "
        f"{4 * n_parameters / 1e6:.1f} MB of weights in {plain(out)}/."
    )


def _print_results(results: dict[str, Any], out: str) -> None:
    """Before and after, and where everything lies."""
    table = Table("", "before", "after", title=str(ModelSpec(**results["run"]["model"])), title_justify="left")
    for part in ("validation", "test"):
        pair = [results["before"][part], results[part]]
        cells = [f"{a['value']:.2%} ({a['low']:.2%} to {a['high']:.2%}, n={a['n']:,})" for a in pair]
        table.add_row(f"{part} accuracy", *cells)
    console = plain_console()
    console.print(table)
    n, n_zero = results["n_prunable"], results["n_zero"]
    console.print(f"Zeros: {n_zero:,} of {n:,} prunable weights ({n_zero / n if n else 0:.2%}).")
    collapsed = [line["name"] for line in results["layers"] if line["n_pruned"] == line["n"] > 0]
    if collapsed:
        console.print(f"Layer collapse: nothing is left of {plain(', '.join(collapsed))}.")
    console.print(f"The model, its card, every measurement: {plain(out)}/")
