"""Generate: the tables between `<!-- generated: NAME -->` and `<!-- end -->` in docs/*.md, schemas and pictures.

    python docs/generate.py            write what is stale
    python docs/generate.py --check    write nothing; exit 1 and name what is stale

To add a table: a function that returns its Markdown, and its line in TABLES.
"""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import commands
import measured
from pydantic.json_schema import GenerateJsonSchema
from torch import nn

from secateurs import errors
from secateurs.budgets import BUDGETS, Budget, Simple, Threshold, per_layer
from secateurs.cli.main import COMMANDS, secateurs
from secateurs.data import DataSpec, InputShape
from secateurs.errors import PatternError, RecipeError
from secateurs.experiments.claims import CLAIMS, Facts
from secateurs.experiments.comparison import Comparison
from secateurs.experiments.compression import Compression
from secateurs.experiments.exploration import Experiment, Exploration
from secateurs.experiments.lottery import Lottery
from secateurs.experiments.presets import DEFAULT, PRESETS
from secateurs.experiments.strategies import STRATEGIES
from secateurs.layers import layers
from secateurs.measure.bench.contenders import CONTENDERS
from secateurs.models import MODELS, ModelSpec, build
from secateurs.models.table import PRETRAINED
from secateurs.pools import Pool
from secateurs.recipe import Recipe
from secateurs.schedules import SCHEDULES, Schedule
from secateurs.scores import SCORES, Score
from secateurs.see.curves import COMPARISON
from secateurs.settings import Settings
from secateurs.train.rates import RATES, Rate
from secateurs.train.training import Training
from secateurs.units import Unit
from secateurs.words import Word, parse_call

DOCS = Path(__file__).resolve().parent
SCHEMAS: dict[str, type[Settings]] = {
    "recipe": Recipe,
    "training": Training,
    "experiment": Experiment,
    "exploration": Exploration,
    "comparison": Comparison,
    "compression": Compression,
    "lottery": Lottery,
    "model": ModelSpec,
    "data": DataSpec,
}
SHAPES = {"1x8x8": (1, 8, 8), "1x28x28": (1, 28, 28), "3x32x32": (3, 32, 32)}
READY = {name: kind for name, kind in MODELS.items() if name != PRETRAINED}  # its sizes are those of its directory
LINEAR, CONVOLUTION = (8, 12), (8, 4, 3, 3)


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [list(head), *rows]]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def first_line(thing: object) -> str:
    """The first line of a docstring, as a sentence that starts with a capital letter."""
    line = (inspect.getdoc(thing) or "").split("\n")[0]
    return line if line[:2] == "n " else line[:1].upper() + line[1:]  # "n" is a name, not a word


def source_of(thing: object) -> str:
    """The papers that a docstring names."""
    return ", ".join(re.findall(r"arXiv:[\d.]+\d", inspect.getdoc(thing) or "")) or "—"


def examples_of(word: type[Word], name: str) -> str:
    """How a recipe writes this word: the class's examples of it, or its bare name."""
    found = [text for text in word.examples if parse_call(text)[0] == name]
    return ", ".join(f"`{text}`" for text in found or [name])


def scores() -> str:
    """Every score of SCORES."""
    rows = []
    for name, function in SCORES.items():
        given = [p for p in list(inspect.signature(function).parameters.values())[1:] if p.name != "name"]
        settings = ", ".join(f"`{p.name}={p.default}`" for p in given if p.default is not p.empty) or "—"
        evidence = ", ".join(f"`{p.name}`" for p in given if p.default is p.empty) or "—"
        rows.append([examples_of(Score, name), first_line(function), settings, evidence, source_of(function)])
    return table(["score", "what it is", "settings", "evidence", "source"], rows)


def _cut(unit: Unit, shape: tuple[int, ...]) -> str:
    try:
        r, c, k = unit.grid(shape)
        h, w, d = unit.piece(shape)
    except PatternError:
        return "does not fit"
    return f"{r * c * k} units of {h * w * d}"


def units() -> str:
    """Every unit, and how it cuts two weights."""
    words = [Unit.parse(text) for text in Unit.examples]
    rows = [[f"`{word}`", _cut(word, LINEAR), _cut(word, CONVOLUTION)] for word in words]
    return table(["unit", f"linear weight {LINEAR}", f"convolution weight {CONVOLUTION}"], rows)


def _pooled(pool: Pool, unit: Unit, shape: tuple[int, ...]) -> str:
    import torch

    try:
        pool.check(unit, shape)
    except PatternError:
        return "error"
    n_pools, n_units = pool.split(unit.gather(torch.zeros(shape)), unit).shape
    return "all layers together" if pool.kind == "model" else f"{n_pools} × {n_units}"


def pools() -> str:
    """Every pool, as pools × units in each, for each unit in one linear weight."""
    units_shown = [Unit.parse(text) for text in Unit.examples if text != "block(4, 4)"] + [Unit.parse("block(1, 2)")]
    rows = [[f"`{text}`", *(_pooled(Pool.parse(text), unit, LINEAR) for unit in units_shown)] for text in Pool.examples]
    return table(["pool", *(f"`{unit}`" for unit in units_shown)], rows)


def budgets() -> str:
    """Every budget of BUDGETS, and what it does to a pool of 10."""
    rows = []
    for name, maker in BUDGETS.items():
        for text in [text for text in Budget.examples if parse_call(text)[0] == name] or [name]:
            budget = Budget.parse(text)
            is_counted = isinstance(budget, Simple) and not isinstance(budget, Threshold)
            goes = str(budget.n_pruned(10)) if is_counted and isinstance(budget, Simple) else "depends"
            rows.append([f"`{text}`", first_line(maker), goes])
    mapping = Budget.parse("{head.*: sparsity(0.5), *: sparsity(0.9)}")
    rows.append([f"`{mapping}`", first_line(per_layer), "depends"])
    return table(["budget", "what it means", "pruned of 10"], rows)


def schedules() -> str:
    """Every schedule of SCHEDULES, with its share on the way."""
    at = (0.0, 0.25, 0.5, 0.75, 1.0)
    rows = []
    for name, function in SCHEDULES.items():
        text = next((text for text in Schedule.examples if parse_call(text)[0] == name), name)
        n = {"n": Schedule.parse(text).n} if "n" in inspect.signature(function).parameters else {}
        shares = [f"{function(p, 0.3, **n):.0%}" for p in at]
        rows.append([f"`{text}`", first_line(function), *shares, source_of(function)])
    return table(["schedule", "how it moves", *(f"p = {p:g}" for p in at), "source"], rows)


def rates() -> str:
    """Every learning rate of RATES, with its share of the highest on the way."""
    at = (0.0, 0.25, 0.5, 0.75, 0.99)
    rows = []
    for text in Rate.examples:
        rate = Rate.parse(text)
        shares = [f"{rate.share(q):.0%}" for q in at]
        rows.append([f"`{text}`", first_line(RATES[rate.name]), *shares, source_of(RATES[rate.name])])
    return table(["rate", "how it moves", *(f"q = {q:g}" for q in at), "source"], rows)


def _counts(spec: ModelSpec, size: tuple[int, int, int]) -> str:
    try:
        network: nn.Module = build(spec, InputShape(kind="image", size=size, n_classes=10), seed=0)
    except RecipeError:
        return "—"
    n_prunable = sum(layer.n for layer in layers(network) if layer.is_prunable)
    return f"{sum(p.numel() for p in network.parameters()):,} ({n_prunable:,})"


def models() -> str:
    """Every network of MODELS: parameters, and in brackets the prunable ones, at three image sizes, 10 classes."""
    rows = []
    for name, kind in READY.items():
        rows.append([f"`{name}`", first_line(kind), *(_counts(ModelSpec(name=name), size) for size in SHAPES.values())])
    return table(["network", "what it is", *SHAPES], rows)


def tracked() -> str:
    """The weights that the story follows, and how the network is initialised."""
    shape = InputShape(kind="image", size=SHAPES["1x28x28"], n_classes=10)
    networks = {name: build(ModelSpec(name=name), shape, seed=0) for name in READY}
    rows = [
        [f"`{name}`", f"`{network.tracked['cls-head']}`", f"`{network.tracked['ffnn']}`", network.initialiser]
        for name, network in networks.items()
    ]
    return table(["network", "CLS head", "FFN", "initialiser"], rows)


def model_arguments() -> str:
    """The arguments that networks take."""
    rows = []
    for name, kind in MODELS.items():
        meaning = meanings(kind)
        for p in [each for each in inspect.signature(kind).parameters.values() if each.kind is not each.KEYWORD_ONLY][
            1:
        ]:
            rows.append([f"`{name}`", f"`{p.name}`", f"`{p.default}`", meaning.get(p.name, "")])
    return table(["network", "argument", "default", "meaning"], rows)


def _made_up_facts() -> Facts:
    """Facts of no run, only so that each claim can be asked for its id, text and rule."""
    three = [1.0, 1.0, 1.0]
    ladder = dict.fromkeys((0.5, 0.7, 0.9), three)
    layer = {"n": 10, "n_zero": 5, "sigma": 1.0}
    test = {"value": 0.5, "n": 10, "low": 0.4, "high": 0.6}
    both = {"cls-head": "head", "ffnn": "ffn"}
    stage = {"layers": {"head": layer, "ffn": layer}, "accuracy": {"test": test}, "sparsity": 0.5}
    absolute = {**stage, "tau_value": Exploration.model_fields["absolute_tau"].default}
    size = dict.fromkeys(("dense", "zeroed", "dense_deflate", "zeroed_deflate"), 1)
    speed = {"ratio": 1.0, "low": 1.0, "high": 1.0, "n": 1, "batch": 1, "threads": 1}
    return Facts(
        initialiser="",
        tracked=both,
        prunable=list(both.values()),
        centre=dict.fromkeys(both, three),
        kurtosis=dict.fromkeys(both, three),
        sigma={part: {"initial": three, "trained": three} for part in both},
        mean_size=dict.fromkeys(both, three),
        near_zero=three,
        survivors=three,
        survivors_at=0.7,
        accuracy=dict.fromkeys(("one-shot", "fine-tuned", "in-loop"), ladder),
        dense=three,
        n_test=10,
        stages={**dict.fromkeys(("trained", "in-loop", "one-shot"), stage), "absolute": absolute},
        zeros_alone={"size_bytes": size, "latency": speed},
    )


def claims() -> str:
    """Every claim of CLAIMS: what it says, what is measured, and the bound it names."""
    facts, rows = _made_up_facts(), []
    for function in CLAIMS:
        claim = function(facts)
        rule = next((part for part in re.split(r"[.;] ", claim.detail) if re.search(r"\bholds\b", part, re.I)), "")
        rule = rule.strip(". ")
        rows.append([f"`{claim.id}`", claim.text, first_line(function), rule[:1].upper() + rule[1:] or "—"])
    return table(["id", "the claim", "what is measured", "extra rule"], rows)


def strategies() -> str:
    """Every strategy of STRATEGIES."""
    rows = [
        [f"`{name}`", COMPARISON[name], first_line(function), source_of(function)]
        for name, function in STRATEGIES.items()
    ]
    return table(["name", "in tables and plots", "what is done", "source"], rows)


def presets() -> str:
    """The training and fine-tuning that `explore` gives to each network."""
    rows = []
    for name, found in {**PRESETS, "all others": DEFAULT}.items():
        label = f"`{name}`" if name in PRESETS else name
        for what, training in (("training", found.training), ("fine-tuning", found.fine_tune)):
            rate = f"{training.learning_rate:g}, {training.rate}"
            rows.append(
                [
                    label,
                    what,
                    f"{training.epochs:g}",
                    training.optimizer,
                    rate,
                    f"{training.weight_decay:g}",
                    training.batch_size,
                ]
            )
    return table(["network", "", "epochs", "optimizer", "learning rate", "weight decay", "batch"], rows)


def options(name: str) -> Callable[[], str]:
    """A function that makes the table of a command's options, from the command itself."""

    def made() -> str:
        command = secateurs.get_command(click.Context(secateurs), name)
        assert command is not None
        context = click.Context(command, info_name=name, **command.context_settings)
        rows = [record for option in command.get_params(context) if (record := option.get_help_record(context))]
        return table(["option", "meaning"], [[f"`{name}`", meaning] for name, meaning in rows if meaning])

    return made


def prune_recipes() -> str:
    """Options of `secateurs prune`, and the recipes that they are."""
    return table(["options", "recipe", "what goes"], commands.recipes())


def contenders() -> str:
    """What `secateurs bench` times."""
    rows = []
    for name, each in CONTENDERS.items():
        opening, given = getattr(each.opening, "func", each.opening), getattr(each.opening, "keywords", {})
        how = ", ".join(str(value) for key, value in given.items() if key != "device")
        needs = f"`pip install 'secateurs[{each.extra}]'`" if each.extra else "a GPU" if each.on_gpu else ""
        rows.append([f"`{name}`", first_line(opening), how, needs, f"{each.bound:g}"])
    return table(["contender", "what it is", "with", "needs", "bound"], rows)


def exit_codes() -> str:
    """The codes of the command line's help, with the errors that give them."""
    line = re.search(r"Exit codes: (.*?)\.(\s|$)", inspect.getdoc(secateurs.callback) or "", re.DOTALL)
    assert line is not None
    codes = dict(part.strip().split(" ", 1) for part in line.group(1).split(","))
    codes |= {"130": "interrupted (Ctrl-C)", "143": "terminated (SIGTERM)"}
    kinds = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.SecateursError)
    ]
    rows = []
    for code, meaning in codes.items():
        raised = [f"`{kind.__name__}`" for kind in kinds if str(kind.exit_code) == code]
        rows.append([code, meaning, ", ".join(raised) or "—"])
    return table(["code", "meaning", "raised in Python as"], rows)


def meanings(kind: type) -> dict[str, str]:
    """{field: meaning} from the `field   meaning` lines of a class's docstring."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(kind) or "").split("\n"):
        match = re.fullmatch(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
        if match:
            names = match.group(1).split(", ")
            found |= dict.fromkeys(names, match.group(2))
        elif line.startswith("   ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    shared = dict(found)
    for name, text in shared.items():
        together = [other for other in shared if shared[other] == text]
        parts = text.split("; ")
        if len(parts) == len(together) > 2:  # "max_length, vocab_size, min_count   one each; in order; of names"
            found[name] = parts[together.index(name)]
    return found


def fields(kind: type[Settings]) -> Callable[[], str]:
    """A function that makes the table of a config's fields."""

    def made() -> str:
        meaning, rows = meanings(kind), []
        for name, field in kind.model_fields.items():
            default = (
                "required"
                if field.is_required()
                else f"`{json.dumps(_plain(field.get_default(call_default_factory=True)))}`"
            )
            rows.append([f"`{name}`", default, meaning.get(name) or _kind(field.annotation)])
        return table(["field", "default", "meaning"], rows)

    return made


def _kind(annotation: Any) -> str:
    """What a field without a line of its own holds: the choices, or what its class says of itself."""
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if inspect.isclass(annotation) and issubclass(annotation, Word | Settings):
        return first_line(annotation)
    return ""


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Word) else list(value) if isinstance(value, tuple) else value


TABLES: dict[str, Callable[[], str]] = {
    "scores": scores,
    "units": units,
    "pools": pools,
    "budgets": budgets,
    "schedules": schedules,
    "rates": rates,
    "models": models,
    "model-arguments": model_arguments,
    "tracked": tracked,
    "claims": claims,
    "presets": presets,
    "strategies": strategies,
    "comparison-fields": fields(Comparison),
    "lottery-fields": fields(Lottery),
    **{f"{name}-options": options(name) for name in COMMANDS},
    "prune-recipes": prune_recipes,
    **{name: commands.shown(words) for name, words in commands.SHOWN.items()},
    "contenders": contenders,
    "exit-codes": exit_codes,
    "recipe-fields": fields(Recipe),
    "training-fields": fields(Training),
    "experiment-fields": fields(Experiment),
    "exploration-fields": fields(Exploration),
    "data-fields": fields(DataSpec),
    **measured.TABLES,
}


def schema(kind: type[Settings]) -> str:
    """JSON Schema of a config, as text."""
    found = kind.model_json_schema()
    return json.dumps({"$schema": GenerateJsonSchema.schema_dialect, **found}, indent=2, ensure_ascii=False) + "\n"


def filled(text: str, page: str, shown: set[str]) -> str:
    """The page with every generated table made anew; adds the tables it shows to `shown`."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in TABLES:
            raise SystemExit(f"{page} asks for the table {name!r}; known are {', '.join(TABLES)}.")
        shown.add(name)
        return f"<!-- generated: {name} -->\n\n{TABLES[name]()}\n\n<!-- end -->"

    made = re.sub(r"<!-- generated: (\S+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)
    if made.count("<!-- generated: ") != made.count("<!-- end -->"):
        raise SystemExit(f"{page}: a generated table without its <!-- end -->.")
    return made


def wanted() -> dict[Path, str]:
    """{file: what it should hold} for every page and schema."""
    shown: set[str] = set()
    readme = DOCS.parent / "README.md"
    pages = [*sorted(DOCS.glob("*.md")), *([readme] if readme.exists() else [])]
    files = {page: filled(page.read_text("utf-8"), page.name, shown) for page in pages}
    if lost := set(TABLES) - shown:
        raise SystemExit(f"No page shows the table(s) {', '.join(sorted(lost))}.")
    images = {DOCS / "images" / f"{name}.svg": make() for name, make in measured.IMAGES.items()}
    return files | images | {DOCS / "schema" / f"{name}.json": schema(kind) for name, kind in SCHEMAS.items()}


def main(arguments: list[str] | None = None) -> int:
    """0 if everything is (or was made) as it should be, 1 if --check finds something stale."""
    parser = argparse.ArgumentParser(description="Make the tables and schemas of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name what is stale")
    is_check = parser.parse_args(arguments).check
    stale = {path: text for path, text in wanted().items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        print(f"{'stale' if is_check else 'written'}: {path.relative_to(DOCS.parent)}")
        if not is_check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    if is_check and stale:
        print("Run: python docs/generate.py")
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
