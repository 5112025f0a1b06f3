"""`secateurs prune`: a checkpoint and a recipe in, a pruned directory out."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from secateurs.budgets import Budget, Top, threshold
from secateurs.checkpoint.many_ranks import ranks_here
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.streamed import Progress, Streaming
from secateurs.cli.recipes import read_recipe
from secateurs.cli.safe import warnings_told
from secateurs.cli.screen import Shown, watch
from secateurs.errors import RecipeError
from secateurs.recipe import Recipe, n_of_m
from secateurs.words import parse_argument

if TYPE_CHECKING:
    from secateurs.checkpoint.tensors import Checkpoint

WORDS = ("score", "unit", "pool", "budget", "sparsity", "tau", "pattern", "min_keep")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("source", metavar="SRC")
@click.option("-o", "--out", help="The directory to write; an interrupted run goes on there.")
@click.option("--sparsity", type=float, help="The share of the prunable weights that goes, such as 0.7.")
@click.option("--tau", help="A threshold instead: 0.02 (absolute) or 0.4sigma (of each layer).")
@click.option("--pattern", help="n:m instead, such as 2:4: the best n of every m neighbours stay.")
@click.option("--budget", help="Any other budget: erk:0.7, top:2, or a mapping '{pattern: sparsity(0.5), ...}'.")
@click.option(
    "--pool",
    help="Who competes: model, layer, row, or 4 neighbours.  [default: model; layer for --tau, erk and a mapping]",
)
@click.option(
    "--unit", default="element", show_default=True, help="What goes together: element, row, column, block(4, 4)."
)
@click.option("--score", default="magnitude", show_default=True, help="What is kept first: magnitude, lamp, random(7).")
@click.option("--min-keep", help="Units (2), or a share of them (0.01), that every layer keeps.")
@click.option("--recipe", "recipe_text", help="Instead of these: a YAML file, or one line of words.")
@click.option("--skip", multiple=True, help="Leave alone the tensors whose names match; may be repeated.")
@click.option("--only", multiple=True, help="Prune only these; '*' is every weight of two or more dimensions.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads that work.  [default: the number of cores]")
@click.option(
    "--dry-run", is_flag=True, help="Choose, print what would go, bytes, memory and time. Nothing is written."
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, or the plan, as JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def prune(
    source: str,
    out: str | None,
    sparsity: float | None,
    tau: str | None,
    pattern: str | None,
    budget: str | None,
    pool: str | None,
    unit: str,
    score: str,
    min_keep: str | None,
    recipe_text: str | None,
    skip: tuple[str, ...],
    only: tuple[str, ...],
    threads: int | None,
    dry_run: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Zero the weights of a checkpoint of any size, exactly, streamed from disk to disk.

    SRC is a safetensors, PyTorch or ONNX file, a directory with one, or org/name on the hub; it is only read. The
    result is a directory that stock loaders read: the same shards, config and tokenizer, and secateurs.json.

    Over several processes: torchrun --nproc-per-node 2 -m secateurs prune SRC -o OUT --sparsity 0.7
    """
    if threads is not None:
        os.environ["SECATEURS_THREADS"] = str(threads)
    if recipe_text is not None:
        _assert_alone("--recipe")
        recipe = read_recipe(recipe_text, {"skip": skip, "only": only})
    else:
        if pattern is not None:
            if pool is not None or unit != "element":
                raise RecipeError(f"--pattern {pattern} says who competes, and is of elements; drop --pool and --unit.")
            n, m = n_of_m(pattern)
            pool = str(m)
        chosen = _budget(sparsity, tau, budget, None if pattern is None else f"top({n})")
        if pool is None and isinstance(chosen, Top):
            raise RecipeError(f"{chosen} of what? Say who competes: --pool 4 keeps {chosen.n} of every 4 neighbours.")
        recipe = Recipe(
            score=score,
            unit=unit,
            pool=pool or ("model" if chosen.is_shared and tau is None else "layer"),
            budget=chosen,
            skip=skip,
            only=only,
            min_keep=0 if min_keep is None else parse_argument(min_keep),
        )
    if out is None and not dry_run:
        raise RecipeError("Say where to write: -o DIRECTORY; or --dry-run, which writes nothing.")
    with ranks_here() as ranks, open_checkpoint(source) as checkpoint, warnings_told():
        if dry_run:
            from secateurs.checkpoint.preview import preview

            if out is not None:
                Streaming(checkpoint, recipe, Path(out)).check()
            found = preview(checkpoint, recipe)
            if ranks.index == 0:
                _show_preview(found, checkpoint, as_json)
            return
        assert out is not None
        run = Streaming(checkpoint, recipe, Path(out), ranks)
        with watch(lambda: _shown(run.progress)):
            manifest = run.run()
        if ranks.index == 0:
            _show_manifest(manifest, run, as_json)


def _assert_alone(option: str) -> None:
    given = click.get_current_context().get_parameter_source
    if any(given(word) is ParameterSource.COMMANDLINE for word in WORDS):
        raise RecipeError(f"{option} says everything but --skip and --only; drop the other words.")


def _budget(sparsity: float | None, tau: str | None, budget: str | None, top: str | None) -> Budget:
    if sum(each is not None for each in (sparsity, tau, budget, top)) != 1:
        raise RecipeError(
            "Say how much is to go: one of --sparsity 0.7, --tau 0.4sigma, --pattern 2:4, --budget erk:0.7, or "
            "--recipe."
        )
    if top is not None:
        return Budget.parse(top)
    if sparsity is not None:
        return Budget.parse(f"sparsity({sparsity})")
    if tau is not None:
        number = parse_argument(tau)
        return threshold(float(number) if isinstance(number, int) else number)
    name, colon, value = (budget or "").partition(":")
    return Budget.parse(f"{name}({value})" if colon and name.isidentifier() else budget)


def _shown(progress: Progress) -> Shown:
    return Shown(progress.n_bytes_done, progress.n_bytes, f"{progress.doing} · {progress.n_bytes / 1e6:,.0f} MB")


def _show_preview(found: Any, checkpoint: "Checkpoint", as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        click.echo(json.dumps({"format": "secateurs.preview/1", **asdict(found)}, allow_nan=False))
        return
    from secateurs.cli.prune_tables import print_preview

    print_preview(found, checkpoint)


def _show_manifest(manifest: dict[str, Any], run: Streaming, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(manifest, allow_nan=False))
        return
    from secateurs.cli.prune_tables import print_manifest

    print_manifest(manifest, run)
