"""Commands: what commands print about the small checkpoint that checkpoints.md makes, and mean.

To show another command: a line in SHOWN, and its name on the page.
"""

import io
import json
import re
import shlex
import tempfile
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

from secateurs.cli.main import secateurs

PAGE = Path(__file__).resolve().parent / "checkpoints.md"

# In the order in which they are run, in one directory.
SHOWN = {
    "run-inspect": "inspect model --tau 0.1 --tau 1sigma",
    "run-dry-run": "prune model -o pruned --sparsity 0.7 --dry-run",
    "run-prune": "prune model -o pruned --sparsity 0.7",
    "run-verify": "verify pruned",
    "run-diff": "diff model pruned",
    "run-pack": "pack pruned -o small.packed.safetensors",
}
# Options of prune, and what they ask for.
ASKED = {
    "--sparsity 0.7": "the smallest 70 % of all prunable weights together",
    "--sparsity 0.7 --pool layer": "70 % of each layer",
    "--sparsity 0.7 --pool row": "70 % of the inputs of each output",
    "--pattern 2:4": "two of every four neighbours stay; the same as --budget top:2 --pool 4",
    "--tau 0.02": "every weight of size 0.02 or less",
    "--tau 0.4sigma": "in each layer, all up to 0.4 of its standard deviation",
    "--budget erk:0.7": "70 % over all layers, more where layers are larger",
    "--budget '{head*: sparsity(0.5), *: sparsity(0.9)}'": "each layer its own share, by name; the first that matches",
    "--score lamp --sparsity 0.7": "70 % of all, each weight measured against the larger ones of its layer",
    "--score 'random(7)' --sparsity 0.7": "70 % by chance, the control",
    "--unit row --pool layer --sparsity 0.5": "half the outputs of each layer, by their mean size",
    "--unit 'block(4, 4)' --sparsity 0.5": "half the blocks of 4 outputs by 4 inputs",
    "--sparsity 0.9 --min-keep 0.05": "90 % of all, but every layer keeps its best twentieth",
    "--sparsity 0.7 --skip 'head*'": "70 % of all but the head, which is left alone",
    "--sparsity 0.7 --only '*'": "70 % of every weight of two or more dimensions, embeddings too",
    "--recipe 'magnitude element 4 top(2)'": "a recipe as one line, or the name of its YAML file",
}


def said(words: str) -> str:
    """What a command prints on stdout."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        secateurs.main(shlex.split(words), prog_name="secateurs", standalone_mode=False)
    return out.getvalue()


@cache
def outputs() -> dict[str, str]:
    """What every command of SHOWN and ASKED prints, in a directory with the checkpoint of the page's first block."""
    make = re.search(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert make is not None
    with tempfile.TemporaryDirectory() as place, chdir(place):
        exec(compile(make[1], PAGE.name, "exec"), {"__name__": "page"})
        found = {words: said(words) for words in SHOWN.values()}
        return found | {words: said(f"prune model -o other --dry-run --json {words}") for words in ASKED}


def shown(words: str) -> Callable[[], str]:
    """A function that makes a command and its output as they stand in a terminal."""

    def made() -> str:
        # Estimates of memory and time are of the machine that made the page.
        text = re.sub(r"(at most about|in about) [\d,.]+ (MB|s)\b", r"\1 … \2", outputs()[words])
        text = "\n".join(line.rstrip() for line in text.rstrip().split("\n"))
        return f"```console\nsecateurs {words}\n```\n\n```text\n{text}\n```"

    return made


def recipes() -> list[list[str]]:
    """Rows of (options of prune, the recipe they mean, what that is)."""
    return [[f"`{words}`", f"`{json.loads(outputs()[words])['recipe']}`", what] for words, what in ASKED.items()]
