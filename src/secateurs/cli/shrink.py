"""`secateurs shrink SRC -o OUT`: a network in, an ordinary smaller one out."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.table import Table

from secateurs.budgets import Sparsity
from secateurs.cli.recipes import read_recipe
from secateurs.cli.safe import plain, plain_console
from secateurs.errors import RecipeError
from secateurs.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from secateurs.data import Dataset
    from secateurs.masks import Masks
    from secateurs.measure.drop import Drop
    from secateurs.structure.opening import Opened
    from secateurs.structure.shrinking import Shrunk

BATCH = 100  # examples that scores and repairs look at together


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("source", metavar="SRC")
@click.option("-o", "--out", help="The directory to write.")
@click.option("--params", type=float, help="The share of the parameters that is left at most, such as 0.5.")
@click.option("--macs", type=float, help="The share of the multiply-adds that is left at most.")
@click.option("--latency", help="The time that a batch of 2 takes at most, measured here: 8ms.")
@click.option("--sparsity", type=float, help="The share of the units that goes.")
@click.option(
    "--unit",
    default="row",
    show_default=True,
    help="What is removed: row (neurons and filters), channel (of convolutions alone), head, layer (whole blocks).",
)
@click.option(
    "--score",
    default="l2",
    show_default=True,
    help="What is kept first: l2, magnitude, batch_norm, random; with --data also taylor, activation.",
)
@click.option("--pool", default="layer", show_default=True, help="Who competes: layer, or model.")
@click.option(
    "--recipe", "recipes", multiple=True, help="Instead of these: a YAML file or a line of words; repeated, in turn."
)
@click.option("--dead", is_flag=True, help="Only what is dead already: no output changes.")
@click.option("--skip", multiple=True, help="Leave alone the units made by weights whose names match; may be repeated.")
@click.option("--only", multiple=True, help="Only the units made by these.")
@click.option("--data", help="Measure the accuracy before and after, on these: digits, mnist, a file, ...")
@click.option("--data-dir", help="Where the files of mnist are.")
@click.option(
    "--examples",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="Training examples of --data that scores and --repair look at.",
)
@click.option(
    "--repair", is_flag=True, help="Fit what is left to what the network gave before, on the examples; trains nothing."
)
@click.option("--any-size", is_flag=True, help="Also cut what no stock configuration of transformers can say.")
@click.option("--picture", metavar="FILE.svg", help="Draw the weights before and after, to scale.")
@click.option("--block", default="", metavar="PREFIX", help="Of the picture: only weights whose names begin so.")
@click.option("--dry-run", is_flag=True, help="Print what would go. Nothing is written.")
@click.option("--json", "as_json", is_flag=True, help="Print what went as JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def shrink(
    source: str,
    out: str | None,
    params: float | None,
    macs: float | None,
    latency: str | None,
    sparsity: float | None,
    unit: str,
    score: str,
    pool: str,
    recipes: tuple[str, ...],
    dead: bool,
    skip: tuple[str, ...],
    only: tuple[str, ...],
    data: str | None,
    data_dir: str | None,
    examples: int,
    repair: bool,
    any_size: bool,
    picture: str | None,
    block: str,
    dry_run: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Remove neurons, filters, heads and layers for real, and write an ordinary smaller network.

    SRC is a directory with a network of this package or of transformers; it is only read. OUT opens with
    from_pretrained where a stock configuration can say the sizes, else with secateurs.load_shrunk.
    """
    given = {"params": params, "macs": macs, "latency": latency, "sparsity": sparsity}
    budgets = [f"{name}({value})" for name, value in given.items() if value is not None]
    if len(budgets) + bool(recipes) + dead != 1:
        raise RecipeError(
            "Say how much is to go: one of --params 0.5, --macs 0.5, --latency 8ms, --sparsity 0.5, --recipe, --dead."
        )
    if recipes or dead:
        _assert_not_given("--recipe" if recipes else "--dead", "unit", "score", "pool")
    if data is None:
        _assert_not_given("no --data", "data-dir", "examples")
    if picture is None:
        _assert_not_given("no --picture", "block")
    elif dry_run:
        raise RecipeError("--dry-run writes nothing, and no --picture. Leave one of them out.")
    if recipes:
        chosen = [read_recipe(text, {"skip": skip, "only": only}) for text in recipes]
    else:
        chosen = [Recipe(score=score, unit=unit, pool=pool, budget=text, skip=skip, only=only) for text in budgets]
    if picture is not None and any(how.unit.kind == "layer" for how in chosen[:-1]):
        raise RecipeError("A --picture needs the names that the weights had: put the recipe of unit layer last.")
    if out is None and not dry_run:
        raise RecipeError("Say where to write: -o DIRECTORY; or --dry-run, which writes nothing.")

    needs = [str(how.score) for how in chosen if how.score.name in ("taylor", "activation")]
    if data is None and (repair or needs):
        what = f"The score {needs[0]}" if needs else "--repair"
        raise RecipeError(f"{what} looks at examples: name the data that the network was trained on, with --data.")

    from secateurs.errors import OutputError
    from secateurs.masks import Masks
    from secateurs.structure.files import save_shrunk
    from secateurs.structure.opening import open_network, place_of
    from secateurs.structure.repairing import re_estimate
    from secateurs.structure.repairing import repair as repair_network
    from secateurs.structure.shrinking import shrink as shrink_network

    if out is not None and Path(out).exists() and any(Path(out).iterdir()):
        raise OutputError(f"'{out}' is not empty. Give a new directory.")
    if picture is not None:
        _assert_place(Path(picture))
    opened = open_network(Path(source))
    if picture is not None:
        _assert_drawn(opened.module, block)
    shown = None if data is None else _shown(opened, Path(source), data, data_dir, examples)
    module, steps = opened.module, []
    hows: list[Recipe | Masks] = [*chosen] or [Masks({})]
    for how in hows:
        evidence: dict[str, Any] = {} if shown is None else shown.evidence(how)
        steps.append(shrink_network(module, how, opened.example_inputs, stock=not any_size, **evidence))
        if isinstance(how, Recipe):
            _assert_less(how, steps[-1])
        if repair and shown is not None:
            repair_network(module, steps[-1], shown.inputs)
            re_estimate(steps[-1].module, shown.inputs)
        module = steps[-1].module
    drop = None if shown is None else shown.drop(opened.module, module)
    if out is not None and not dry_run:
        save_shrunk(steps[-1], out, opened.reference)
        _carry_over(place_of(Path(source)), Path(out))
    if picture is not None:
        _draw(picture, block, opened.module, steps)
    words = [str(how) for how in chosen] or ["dead units"]
    if as_json:
        values = [_values(word, step) for word, step in zip(words, steps, strict=True)]
        if drop is not None:
            values[-1]["validation"] = drop.values()
        click.echo(json.dumps(values))
    else:
        for word, step in zip(words, steps, strict=True):
            _print(word, step)
        if drop is not None:
            _print_drop(drop)
        if out is not None and not dry_run:
            _print_where(out, steps[-1])


def _assert_not_given(beside: str, *names: str) -> None:
    """RecipeError where one of these was said beside what leaves it without a meaning."""
    source = click.get_current_context().get_parameter_source
    if said := [f"--{name}" for name in names if source(name.replace("-", "_")) is ParameterSource.COMMANDLINE]:
        raise RecipeError(f"With {beside}, {' and '.join(said)} would mean nothing. Leave it out.")


def _assert_place(path: Path) -> None:
    """OutputError where no file can be written there, before any work."""
    from secateurs.errors import OutputError

    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"Cannot write {path}: its directory is not there or not writable.")


def _assert_less(how: Recipe, step: "Shrunk") -> None:
    """RecipeError where some units were to go, and rounding left none of them."""
    if isinstance(how.budget, Sparsity) and how.budget.s > 0 and not any(group.n_removed for group in step.groups):
        raise RecipeError(f"'{how}' takes nothing: of every group that share is less than half a unit. Ask for more.")


@dataclass(frozen=True, eq=False)
class _Shown:
    """The data that the network was trained on, and how many training examples of them are looked at."""

    data: "Dataset"
    n: int

    @property
    def _batches(self) -> "Sequence[Tensor]":
        """Positions of training examples."""
        import torch

        from secateurs.data.splits import in_proportion

        return torch.split(in_proportion(self.data.y_train, self.n), BATCH)

    @property
    def inputs(self) -> "list[Tensor]":
        """In batches."""
        return [self.data.x_train[batch] for batch in self._batches]

    def evidence(self, how: "Recipe | Masks") -> dict[str, Any]:
        """What `shrink` takes for this score."""
        from torch.nn.functional import cross_entropy

        if not isinstance(how, Recipe) or how.score.name != "taylor":
            return {"calibration": self.inputs}
        batches = [(self.data.x_train[batch], self.data.y_train[batch]) for batch in self._batches]
        return {"calibration": batches, "loss": lambda network, batch: cross_entropy(network(batch[0]), batch[1])}

    def drop(self, before: "nn.Module", after: "nn.Module") -> "Drop":
        """On validation examples: whoever tries several cuts chooses among them by this."""
        from secateurs.measure.accuracy import correct
        from secateurs.measure.drop import Drop

        return Drop.of(*(correct(each, self.data.x_val, self.data.y_val) for each in (before, after)))


def _shown(opened: "Opened", source: Path, data: str, data_dir: str | None, n: int) -> _Shown:
    from secateurs.cli.networks import data_of
    from secateurs.structure.opening import place_of

    if opened.reference is None:
        raise RecipeError(
            f"--data is for networks of this package; '{source}' is one of transformers, whose inputs and labels its "
            "own tools know. In Python, shrink takes calibration=."
        )
    return _Shown(data_of(opened.reference, place_of(source), data, data_dir), n)


def _carry_over(source: Path, out: Path) -> None:
    """Tokenizers and the like, which stock loaders look for beside the weights."""
    from secateurs.checkpoint.beside import beside
    from secateurs.models.files import CONFIG_FILE
    from secateurs.structure.files import ABOUT_FILE

    for path in beside(source, set())[0]:
        place = out / path.relative_to(source)
        if path.name not in (CONFIG_FILE, ABOUT_FILE) and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _assert_drawn(module: "nn.Module", block: str) -> None:
    """RecipeError where the picture would show no weight, before any work."""
    from secateurs.see.block_picture import assert_shown

    assert_shown([name for name, parameter in module.named_parameters() if parameter.dim() > 1], block)


def _draw(path: str, block: str, first: "nn.Module", steps: "list[Shrunk]") -> None:
    """All steps in one picture."""
    from dataclasses import replace

    from secateurs.durable import write_bytes
    from secateurs.layers import layers
    from secateurs.see.block_picture import block_picture

    found = {layer.name: layer for layer in layers(first)}
    lines = [
        replace(line, before=found[line.name].seen, after=found[line.name].layout.seen(line.after))
        for line in steps[-1].report
    ]
    write_bytes(Path(path), block_picture(lines, block).encode())


def _values(words: str, step: "Shrunk") -> dict[str, Any]:
    return {
        "recipe": words,
        "groups": [asdict(group) for group in step.groups],
        "weights": [asdict(line) for line in step.report],
        "n_parameters": step.n_parameters,
        "macs": _per_example(step),
        "difference": step.difference,
        "why_not_stock": step.why_not_stock,
    }


def _print(words: str, step: "Shrunk") -> None:
    console = plain_console()
    table = Table("weight", "before", "after", "outcome", title=words, title_justify="left")
    for line in step.report:
        before, after = (" × ".join(map(str, shape)) for shape in (line.before, line.after))
        outcome = line.outcome if line.outcome == "shrunk" else f"{line.outcome}: {line.reason}"
        table.add_row(plain(line.name), before, after if line.outcome == "shrunk" else "", plain(outcome))
    console.print(table)
    n_removed, n_units = sum(group.n_removed for group in step.groups), sum(group.n_units for group in step.groups)
    console.print(f"{n_removed:,} of {n_units:,} units are gone.")
    for what, (old, new) in (("parameters", step.n_parameters), ("multiply-adds of one example", _per_example(step))):
        console.print(f"{what:>28}  {old:,} → {new:,}  ({new / old:.3f} is left)")


def _per_example(step: "Shrunk") -> tuple[int, int]:
    """Multiply-adds, before and after."""
    from secateurs.structure.opening import BATCH

    old, new = step.macs
    return old // BATCH, new // BATCH


def _print_drop(drop: "Drop") -> None:
    low, high = drop.interval
    plain_console().print(
        f"Accuracy on {drop.before.n:,} validation examples: {drop.before.value:.2%} → {drop.after.value:.2%}, not "
        f"trained since ({100 * drop.value:.2f} points lost, {100 * low:.2f} to {100 * high:.2f})."
    )


def _print_where(out: str, last: "Shrunk") -> None:
    from secateurs.structure.files import ABOUT_FILE

    is_ours = (Path(out) / ABOUT_FILE).exists()
    how = "secateurs.load_shrunk" if is_ours else "from_pretrained"
    why = f" (stock code cannot: {last.why_not_stock})" if last.why_not_stock else ""
    plain_console().print(plain(f"{out}: open it with {how}{why}."))
