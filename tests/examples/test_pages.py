"""What people read is true: generated tables, schemas, commands and links."""

import importlib.util
import json
import re
import shlex
import sys
from functools import cache

import click
import pytest

from secateurs.budgets import sparsity, threshold
from secateurs.cli.main import secateurs
from secateurs.data import DataSpec
from secateurs.experiments.comparison import Comparison
from secateurs.experiments.compression import Compression
from secateurs.experiments.exploration import Experiment, Exploration
from secateurs.experiments.lottery import Lottery
from secateurs.experiments.presets import preset
from secateurs.models import ModelSpec
from secateurs.recipe import Recipe
from secateurs.words import parse_argument

from .pages import PAGES, ROOT, blocks, name_of, prose

SHELLS = ("console", "sh", "bash", "shell")


@cache
def generator():
    if str(ROOT / "docs") not in sys.path:
        sys.path.append(str(ROOT / "docs"))  # as for a script that is run from there
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_and_schemas_are_up_to_date(capsys):
    code = generator().main(["--check"])
    assert code == 0, capsys.readouterr().out


def test_what_is_stale_is_named_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    text = "\n".join(f"<!-- generated: {name} -->\nout of date\n<!-- end -->" for name in generator().TABLES)
    page.write_text(text)
    monkeypatch.setattr(generator(), "DOCS", tmp_path)
    assert generator().main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "/page.md" in said
    assert "/schema/recipe.json" in said
    assert page.read_text() == text
    assert generator().main([]) == 0
    assert generator().main(["--check"]) == 0
    assert "out of date" not in page.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- generated: scores -->\n", "without its <!-- end -->"),
        ("<!-- generated: nonsense -->\n<!-- end -->", "'nonsense'"),
        ("<!-- generated: scores -->\n<!-- end -->", "No page shows the table"),
    ],
)
def test_a_broken_page_stops_the_generator(text, said, tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr(generator(), "DOCS", tmp_path)
    with pytest.raises(SystemExit, match=re.escape(said)):
        generator().main([])


def an_exploration():
    chosen = preset("cls-transformer")
    experiment = Experiment(
        model=ModelSpec.parse("cls-transformer(dim=32, patch=2x8)"),
        data=DataSpec(source="mnist", directory="somewhere", mean=(0.1,), std=(0.3,)),
        training=chosen.training,
        recipe=Recipe(budget=threshold("1sigma"), skip=["a", "b"], min_keep=0.1, schedule="cubic(begin=0.1)"),
    )
    return Exploration(experiment=experiment, fine_tune=chosen.fine_tune)


def test_the_schemas_accept_what_is_written_and_refuse_what_is_not():
    jsonschema = pytest.importorskip("jsonschema")
    value = an_exploration()
    written = {
        "exploration": value,
        "experiment": value.experiment,
        "comparison": Comparison(experiment=value.experiment, fine_tune=value.fine_tune),
        "lottery": Lottery(experiment=value.experiment.model_copy(update={"recipe": Recipe(budget=sparsity(0.2))})),
        "compression": Compression(
            model=value.experiment.model, data=value.experiment.data, training=value.fine_tune, recovery=value.fine_tune
        ),
        "training": value.fine_tune,
        "model": value.experiment.model,
        "data": value.experiment.data,
        "recipe": value.experiment.recipe,
    }
    assert set(written) == set(generator().SCHEMAS)
    for name, settings in written.items():
        schema = json.loads((ROOT / "docs" / "schema" / f"{name}.json").read_text("utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        check = jsonschema.Draft202012Validator(schema)
        check.validate(settings.values())
        assert not check.is_valid({**settings.values(), "unknown": 1})
        for field in schema["properties"].values():
            if "default" in field and "$ref" not in field:
                jsonschema.validate(field["default"], {**field, "$defs": schema.get("$defs", {})})


def commands(page):
    """(line, words) of every command in the page's shell blocks."""
    for block in blocks(page):
        if block.info in SHELLS:
            for i, line in enumerate(block.text.replace("\\\n", "  ").splitlines()):
                for part in re.split(r"&&|\|(?!')|;", line.removeprefix("$ ")):
                    if words := shlex.split(part, comments=True):
                        yield block.line + i, words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_is_understood(page, monkeypatch):
    monkeypatch.setattr("secateurs.models.table.pinned", lambda directory: {})  # the pages' directories are not here
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for line, words in commands(page):
        where = f"{name_of(page)}:{line}: {shlex.join(words)}"
        if words[0] == "secateurs":
            assert_understood(words[1:], where)
        elif words[0] == "make":
            for target in [word for word in words[1:] if "=" not in word and not word.startswith("-")]:
                assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{where}: no such target"
        elif words[0].startswith("python") and len(words) > 1 and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), f"{where}: no such script"


def assert_understood(words, where):
    """Click parses the words, and the values in our own language are read; nothing is run."""
    try:
        if not words or words[0].startswith("-"):
            secateurs.make_context("secateurs", list(words))
            return
        name, command, rest = secateurs.resolve_command(click.Context(secateurs), list(words))
        found = command.make_context(name, rest).params
    except click.exceptions.Exit:
        return  # --help, --version
    except click.ClickException as error:
        pytest.fail(f"{where}: {error.format_message()}")
    recipe = found.get("recipe_text")
    if recipe and not recipe.endswith((".yaml", ".yml")):
        Recipe.parse(recipe)
    if found.get("model_text"):
        ModelSpec.parse(found["model_text"])
    if found.get("tau"):
        tau = parse_argument(found["tau"])
        threshold(float(tau) if isinstance(tau, int) else tau)
    if found.get("sparsities"):
        assert all(0 < float(s) < 1 for s in found["sparsities"].split(",")), where


@pytest.mark.parametrize("words", [["explore", "--nonsense"], ["explain"], ["explore", "--seeds", "0"]])
def test_a_wrong_command_would_be_noticed(words):
    with pytest.raises(pytest.fail.Exception):
        assert_understood(words, "here")


def anchors(page):
    """The anchors that a page's headings make, as GitHub makes them."""
    heads = re.findall(r"^#+\s+(.*?)\s*$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).replace("`", "") for head in heads]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_internal_link_of_a_page_leads_somewhere(page):
    text = prose(page)
    links = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}, which does not exist"
        assert target.is_relative_to(ROOT), f"{name_of(page)} links to {link}, outside the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name_of(page)} links to {link}; headings: {sorted(anchors(target))}"


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    assert not [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and page.name not in index
    ]
