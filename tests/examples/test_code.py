"""What people copy runs: the example scripts, the Python blocks of README and docs, the docstring examples."""

import doctest
import importlib
import runpy
from pathlib import Path

import pytest

import secateurs

from .pages import PAGES, ROOT, blocks, name_of

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PACKAGE = Path(secateurs.__file__).parent
MODULES = sorted(
    ".".join(["secateurs", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_example_runs_and_says_something(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_example_is_short(script):
    assert len(script.read_text("utf-8").splitlines()) <= 40


def test_there_are_examples_and_pages():
    assert len(SCRIPTS) >= 3
    assert sum(block.info == "python" for page in PAGES for block in blocks(page)) >= 20


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """Block after block in one namespace; a block that starts with >>> must also print what it says."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in blocks(page):
        if block.info != "python":
            continue
        if block.text.startswith(">>>"):
            _run_prompts(block, name_of(page), namespace)
        else:
            # The empty lines let a traceback point into the page.
            exec(compile("\n" * (block.line - 1) + block.text, name_of(page), "exec"), namespace)


def _run_prompts(block, name, namespace):
    test = doctest.DocTestParser().get_doctest(block.text, namespace, name, name, block.line - 1)
    said = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=said.append, clear_globs=False)
    namespace.update(test.globs)
    assert not failed, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_python_block_is_left_out(page):
    odd = [f"line {b.line}: {b.info}" for b in blocks(page) if b.info.lower().startswith("py") and b.info != "python"]
    assert not odd, "every Python block runs; write ```python and nothing behind it"
    # A fence that the pattern of `blocks` does not see would not be run either.
    assert page.read_text("utf-8").count("```python") == sum(block.info == "python" for block in blocks(page))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name), verbose=False)
    assert not failed


def test_docstring_examples_are_found():
    assert sum(">>> " in path.read_text("utf-8") for path in PACKAGE.rglob("*.py")) >= 8
