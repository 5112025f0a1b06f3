"""`secateurs explore`: options in, an Exploration run, a table out."""

import json
from pathlib import Path

import click
from click.core import ParameterSource

from secateurs.budgets import threshold
from secateurs.cli import options
from secateurs.cli.recipes import read_recipe, read_text
from secateurs.cli.runs import command, numbers, shown
from secateurs.cli.screen import watch
from secateurs.errors import RecipeError
from secateurs.experiments.directory import check_directory, locked
from secateurs.experiments.exploration import LADDER, Experiment, Exploration
from secateurs.experiments.explore import Explorer
from secateurs.experiments.presets import data_for, preset
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec
from secateurs.recipe import Recipe, with_words
from secateurs.train.training import Training
from secateurs.words import parse_argument

DEFAULT_RECIPE = "magnitude element model sparsity(0.7) cubic(begin=0.1, end=0.6, every=4)"


@click.command(context_settings=options.SETTINGS)
@options.DATA
@options.DATA_DIR
@click.option(
    "--model", "model_text", help="A reference network, such as cls-transformer(dim=64).  [default: cls-transformer]"
)
@options.RECIPE
@click.option(
    "--tau", help="The story's threshold: 0.9sigma (of each layer) or 0.4 (absolute).  [default: takes about 70 %]"
)
@click.option("--absolute-tau", default=0.4, show_default=True, help="The extra stage, cut once at this tau.")
@options.SEEDS
@click.option("--sparsities", help="Where the trade-off is measured, such as 0.5,0.9.  [default: 0.5 … 0.98]")
@options.EPOCHS
@click.option(
    "--experiment",
    "file",
    help="An exploration.yaml of an earlier run; only --recipe and --tau change it.",
)
@options.out("runs/explore")
@options.JOBS
@options.JSON
@options.dry_run("the plan: what would be pruned, run and written")
@options.DEBUG
def explore(
    source: str,
    data_dir: str | None,
    model_text: str | None,
    recipe_text: str | None,
    tau: str | None,
    absolute_tau: float,
    seeds: int,
    sparsities: str | None,
    epochs: float | None,
    file: str | None,
    out: str,
    jobs: int | None,
    as_json: bool,
    dry_run: bool,
    debug: bool,
) -> None:
    """See what pruning does to one network.

    Trains it, prunes it inside the training loop and once afterwards, and writes the four stages as pictures, an
    interactive page (report.html), the trade-off of sparsity and accuracy, and a verdict on each claim.
    """
    if file is not None:
        for name in ("source", "data_dir", "model_text", "absolute_tau", "seeds", "sparsities", "epochs"):
            if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise RecipeError(
                    "--experiment says everything but --recipe, --tau, --out and --jobs; drop the others."
                )
        exploration = Exploration.from_yaml(read_text(file))
        recipe = _recipe(recipe_text, tau, exploration.experiment.recipe)
        values = exploration.values()
        exploration = Exploration(**{**values, "experiment": {**values["experiment"], "recipe": recipe.values()}})
    else:
        recipe = _recipe(recipe_text, tau, Recipe.parse(DEFAULT_RECIPE))
        model = ModelSpec.parse(model_text or "cls-transformer")
        chosen = preset(model.name)
        training, fine_tune = chosen.training, chosen.fine_tune
        if epochs is not None:
            training = Training(**{**training.values(), "epochs": epochs})
            fine_tune = Training(**{**fine_tune.values(), "epochs": epochs / 2})
        experiment = Experiment(
            model=model,
            data=data_for(model, source=source, directory=data_dir),
            training=training,
            recipe=recipe,
            seeds=tuple(range(seeds)),
        )
        ladder = LADDER if sparsities is None else numbers("--sparsities", sparsities)
        exploration = Exploration(
            experiment=experiment, fine_tune=fine_tune, sparsities=ladder, absolute_tau=absolute_tau
        )
    n_jobs = jobs or int(environment()["cores"])
    explorer = Explorer(exploration, Path(out), n_jobs=n_jobs, command=command(recipe=2, tau=2))
    run = explorer.check()
    check_directory(Path(out), exploration.to_yaml())
    if dry_run:
        from secateurs.cli.tables import print_plan

        print_plan(explorer, as_json)
        return
    with locked(Path(out), exploration.to_yaml()), watch(lambda: shown(explorer.work.progress())):
        results = explorer.run()
    if as_json:
        click.echo(json.dumps(results, allow_nan=False))
        return
    from secateurs.cli.tables import print_results

    print_results(results, run.out)


def _recipe(text: str | None, tau: str | None, default: Recipe) -> Recipe:
    """The recipe of --recipe, or the default, with --tau as its budget."""
    recipe = default if text is None else read_recipe(text)
    if tau is None:
        return recipe
    number = parse_argument(tau)
    return with_words(recipe, budget=threshold(float(number) if isinstance(number, int) else number))
