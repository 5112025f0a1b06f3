"""`secateurs prune`: every option, what is said, exit codes, and that nothing is touched which should not be."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import secateurs as sc
from secateurs.checkpoint.streamed import WORK
from secateurs.locks import held

Call = Callable[..., Any]


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A directory with two layers, an embedding, a bias and a config."""
    generator = np.random.default_rng(0)
    weights = {
        "a.weight": generator.standard_normal((8, 8), np.float32),
        "b.weight": generator.standard_normal((4, 8), np.float32),
        "odd.weight": generator.standard_normal((5, 7), np.float32),
        "embed.weight": generator.standard_normal((6, 4), np.float32),
        "a.bias": np.ones(8, np.float32),
    }
    (tmp_path / "in").mkdir()
    save_file(weights, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    (tmp_path / "in" / "config.json").write_text("{}")
    return str(tmp_path / "in")


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def times(directory: str) -> dict[str, int]:
    """When each file of a directory was written."""
    return {str(path): path.stat().st_mtime_ns for path in [Path(directory), *Path(directory).rglob("*")]}


# ---------------------------------------------------------------------------------------------------- the words

WORDS = [
    (["--sparsity", "0.7"], {"budget": "sparsity(0.7)"}),
    (["--sparsity", "0"], {"budget": "sparsity(0)"}),
    (["--sparsity", "1e-05"], {"budget": "sparsity(0.00001)"}),
    (["--sparsity", "0.5", "--pool", "layer"], {"budget": "sparsity(0.5)", "pool": "layer"}),
    (["--sparsity", "0.5", "--pool", "row"], {"budget": "sparsity(0.5)", "pool": "row"}),
    (["--sparsity", "0.5", "--unit", "row"], {"budget": "sparsity(0.5)", "unit": "row"}),
    (["--sparsity", "0.5", "--unit", "block(4, 4)"], {"budget": "sparsity(0.5)", "unit": "block(4, 4)"}),
    (["--sparsity", "0.5", "--score", "lamp"], {"budget": "sparsity(0.5)", "score": "lamp"}),
    (["--sparsity", "0.5", "--score", "random(7)"], {"budget": "sparsity(0.5)", "score": "random(7)"}),
    (["--sparsity", "0.5", "--min-keep", "2"], {"budget": "sparsity(0.5)", "min_keep": 2}),
    (["--sparsity", "0.5", "--min-keep", "0.01"], {"budget": "sparsity(0.5)", "min_keep": 0.01}),
    (["--sparsity", "0.5", "--skip", "a*", "--skip", "o*"], {"budget": "sparsity(0.5)", "skip": ["a*", "o*"]}),
    (["--sparsity", "0.5", "--only", "*"], {"budget": "sparsity(0.5)", "only": ["*"]}),
    (["--tau", "0.02"], {"budget": "threshold(0.02)", "pool": "layer"}),
    (["--tau", "1"], {"budget": "threshold(1)", "pool": "layer"}),
    (["--tau", "0.4sigma"], {"budget": "threshold(0.4sigma)", "pool": "layer"}),
    (["--budget", "erk:0.7"], {"budget": "erk(0.7)", "pool": "layer"}),
    (["--budget", "erk(0.7)"], {"budget": "erk(0.7)", "pool": "layer"}),
    (["--budget", "top:2", "--pool", "4"], {"budget": "top(2)", "pool": 4}),
    (["--pattern", "2:4"], {"budget": "top(2)", "pool": 4}),
    (["--recipe", "1:4", "--skip", "b*"], {"budget": "top(1)", "pool": 4, "skip": ["b*"]}),
    (
        ["--budget", "{a*: top(1), b*: sparsity(0.5)}"],
        {"budget": {"a*": "top(1)", "b*": "sparsity(0.5)"}, "pool": "layer"},
    ),
    (["--recipe", "magnitude element layer sparsity(0.5)"], {"budget": "sparsity(0.5)", "pool": "layer"}),
    (["--recipe", "sparsity(0.5)", "--skip", "b*"], {"budget": "sparsity(0.5)", "skip": ["b*"]}),
]


@pytest.mark.parametrize(
    ("words", "recipe"), WORDS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_the_words_of_a_recipe(
    words: list[str], recipe: dict[str, Any], source: str, out: str, secateurs: Call
) -> None:
    said = secateurs("prune", source, "-o", out, *words, "--json")
    assert said.code == 0, said.err
    manifest = json.loads(said.out)
    assert sc.Recipe(**manifest["recipe"]) == sc.Recipe(**recipe)
    assert manifest == json.loads((Path(out) / "secateurs.json").read_text())


def test_a_recipe_in_a_file(source: str, out: str, tmp_path: Path, secateurs: Call) -> None:
    recipe = sc.Recipe(budget="sparsity(0.5)", unit="row", skip=["odd*"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    said = secateurs("prune", source, "-o", out, "--recipe", str(tmp_path / "recipe.yaml"), "--json")
    assert sc.Recipe(**json.loads(said.out)["recipe"]) == recipe


def test_threads(source: str, out: str, monkeypatch: pytest.MonkeyPatch, secateurs: Call) -> None:
    monkeypatch.setenv("SECATEURS_THREADS", "5")  # so that what the command sets is taken back
    assert secateurs("prune", source, "-o", out, "--sparsity", "0.5", "--threads", "1").code == 0
    assert os.environ["SECATEURS_THREADS"] == "1"
    assert secateurs("prune", source, "-o", out, "--sparsity", "0.5", "--threads", "0").code == 2


# ------------------------------------------------------------------------------------------------- what is said


def test_a_table_a_sentence_and_where(source: str, out: str, secateurs: Call) -> None:
    said = secateurs("prune", source, "-o", out, "--sparsity", "0.5", "--pool", "4")
    assert (said.code, said.err) == (0, "")
    assert "embedding, class token or position table" in said.out
    assert "A pool of 4 needs an input dimension divisible by 4; the weight is (5, 7)." in said.out
    assert "one dimension (bias, norm or scalar)" in said.out
    assert "Pruned 48 of 96 prunable weights (50.00 %)" in said.out
    assert f"to {out}/" in said.out
    written = load_file(Path(out) / "model.safetensors")
    assert {name: int((value == 0).sum()) for name, value in written.items()} == {
        "a.weight": 32,
        "b.weight": 16,
        "odd.weight": 0,
        "embed.weight": 0,
        "a.bias": 0,
    }


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_layer_that_loses_everything_is_said_on_stderr(
    more: list[str], source: str, out: str, secateurs: Call
) -> None:
    said = secateurs("prune", source, "-o", out, "--tau", "100", "--skip", "a*", "--skip", "odd*", "--json", *more)
    assert said.code == 0
    assert said.err.count("secateurs: Layer collapse: 'b.weight' (4, 8) loses all of its 32 weights") == 1
    json.loads(said.out)


@pytest.mark.parametrize("words", [["--sparsity", "0.6"], ["--tau", "0.5sigma"], ["--budget", "erk:0.6"]], ids=" ".join)
def test_a_dry_run_says_what_the_run_does_and_writes_nothing(
    words: list[str], source: str, out: str, tmp_path: Path, secateurs: Call
) -> None:
    before = times(str(tmp_path))
    told = json.loads(secateurs("prune", source, "-o", out, *words, "--dry-run", "--json").out)
    assert times(str(tmp_path)) == before
    done = json.loads(secateurs("prune", source, "-o", out, *words, "--json").out)
    for before_run, after_run in zip(told["layers"], done["layers"], strict=True):
        assert before_run == {key: after_run[key] for key in before_run}
    assert told["size_bytes"] == done["files"]["model.safetensors"]["size"]
    assert told["memory_bytes"] > 0


def test_a_dry_run_for_people(source: str, out: str, secateurs: Call) -> None:
    said = secateurs("prune", source, "-o", out, "--sparsity", "0.5", "--dry-run")
    assert said.code == 0
    assert "Recipe: magnitude element model sparsity(0.5) one_shot" in said.out
    assert "Would prune 66 of 131 prunable weights (50.38 %)." in said.out
    assert "Nothing was written." in said.out
    assert not Path(out).exists()


def test_the_same_again_changes_nothing(source: str, out: str, secateurs: Call) -> None:
    first = secateurs("prune", source, "-o", out, "--sparsity", "0.5", "--json")
    before = times(out)
    again = secateurs("prune", source, "-o", out, "--sparsity", "0.5", "--json")
    assert (again.code, again.out) == (0, first.out)
    assert "done already" in secateurs("prune", source, "-o", out, "--sparsity", "0.5").out
    assert times(out) == before


def test_names_are_only_text(tmp_path: Path, out: str, secateurs: Call) -> None:
    name = "\x1b[2J[red]a[/]:smile:\u202e\n\\"
    save_file({name: np.ones((4, 4), np.float32)}, tmp_path / "model.safetensors")
    for code, more in (
        (0, ["--sparsity", "1"]),
        (0, ["--sparsity", "1", "--dry-run"]),
        (2, ["--tau", "1", "--pool", "3"]),
    ):
        said = secateurs("prune", str(tmp_path / "model.safetensors"), "-o", out, *more)
        assert said.code == code
        assert "\\x1b[2J[red]a[/]:smile:\\u202e" in said.out + said.err
        assert all(letter.isprintable() or letter == "\n" for letter in said.out + said.err)


# ---------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Say how much is to go"),
        (["--sparsity", "0.5", "--tau", "1"], "Say how much is to go"),
        (["--sparsity", "1.5"], "A sparsity must be a number from 0.0 to 1.0; got 1.5"),
        (["--sparsity", "nan"], "A sparsity must be a number"),
        (["--sparsity", "much"], "'much' is not a valid float"),
        (["--tau", "-1"], "A threshold must be a number"),
        (["--tau", "inf"], "A threshold must be finite"),
        (["--tau", "much"], "A threshold is a number or a text such as '1.2sigma'"),
        (["--tau", "1sigma", "--score", "lamp"], "A threshold in sigmas is meant for magnitude"),
        (["--budget", "erq:0.5"], "Unknown budget 'erq'"),
        (["--budget", "{}"], "pattern"),
        (["--budget", "erk:0.5", "--pool", "model"], "layers cannot compete"),
        (["--budget", "top:2"], "--pool 4"),
        (["--pattern", "5:4"], "'5:4' is not n:m"),
        (["--pattern", "2"], "'2' is not n:m"),
        (["--pattern", "2:4", "--pool", "4"], "--pattern 2:4 says who competes"),
        (["--pattern", "2:4", "--unit", "block(1, 2)"], "drop --pool and --unit"),
        (["--pattern", "2:4", "--sparsity", "0.5"], "Say how much is to go"),
        (["--pattern", "2:4", "--recipe", "2:4"], "--recipe says everything"),
        (["--sparsity", "0.5", "--pool", "modle"], "Unknown pool 'modle'"),
        (["--sparsity", "0.5", "--pool", "0"], "A pool of neighbours must be a whole number"),
        (["--sparsity", "0.5", "--unit", "block(0, 1)"], "The height of a block"),
        (["--sparsity", "0.5", "--unit", "row", "--pool", "row"], "cannot hold whole units"),
        (["--sparsity", "0.5", "--score", "size"], "Unknown score 'size'"),
        (["--sparsity", "0.5", "--min-keep", "some"], "min_keep"),
        (["--sparsity", "0.5", "--min-keep", "-1"], "min_keep"),
        (["--sparsity", "0.5", "--min-keep", "1000"], "min_keep=1000 holds 131 units of the model"),
        (["--sparsity", "0.5", "--only", "c*"], "No tensor is called 'c*'"),
        (["--sparsity", "0.5", "--skip", "wieght"], "No tensor is called 'wieght'"),
        (["--sparsity", "0.5", "--only", "a.bias"], "cannot be pruned: one dimension"),
        (["--sparsity", "0.5", "--pool", "4", "--only", "odd*"], "'odd.weight' cannot be cut as asked"),
        (["--recipe", "sparsity(0.5)", "--sparsity", "0.5"], "--recipe says everything but --skip and --only"),
        (["--recipe", "sparsity(0.5)", "--unit", "element"], "--recipe says everything but --skip and --only"),
        (["--recipe", "nothing of it"], "is not a recipe"),
        (["--sparsity", "0.5", "--threads", "many"], "'many' is not a valid integer"),
        (["--sparsity", "0.5", "--outt", "x"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_mean_nothing_are_exit_2(
    words: list[str], said: str, source: str, out: str, secateurs: Call
) -> None:
    found = secateurs("prune", source, "-o", out, *words)
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert not Path(out).exists()


def test_no_output_is_exit_2_but_for_a_dry_run(source: str, secateurs: Call) -> None:
    assert secateurs("prune", source, "--sparsity", "0.5").code == 2
    assert secateurs("prune", source, "--sparsity", "0.5", "--dry-run").code == 0


@pytest.mark.parametrize("what", ["missing", "damaged", "nan", "empty directory", "recipe"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_bad_file_is_exit_3(what: str, more: list[str], tmp_path: Path, out: str, secateurs: Call) -> None:
    path, words = tmp_path / "model.safetensors", ["--sparsity", "0.5"]
    save_file({"w": np.full((4, 4), np.nan if what == "nan" else 1, np.float32)}, path)
    if what == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    elif what == "missing":
        path = tmp_path / "nowhere"
    elif what == "empty directory":
        path = tmp_path / "empty"
        path.mkdir()
    elif what == "recipe":
        words = ["--recipe", str(tmp_path / "nowhere.yaml")]
    found = secateurs("prune", str(path), "-o", out, *words, *more)
    assert (found.code, found.out) == (3, "")
    assert found.err.startswith("secateurs: ")
    assert not Path(out).exists()


@pytest.mark.parametrize("place", ["in", "in/deeper", "file", "full"])
def test_an_output_that_cannot_be_is_exit_4(place: str, source: str, tmp_path: Path, secateurs: Call) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    before = times(str(tmp_path))
    found = secateurs("prune", source, "-o", str(tmp_path / place), "--sparsity", "0.5")
    assert (found.code, found.out) == (4, "")
    assert str(tmp_path / place) in found.err
    assert times(str(tmp_path)) == before


def test_another_recipe_in_the_same_directory_is_exit_4(source: str, out: str, secateurs: Call) -> None:
    assert secateurs("prune", source, "-o", out, "--sparsity", "0.5").code == 0
    before = times(out)
    found = secateurs("prune", source, "-o", out, "--sparsity", "0.6")
    assert found.code == 4
    assert "another" in found.err
    assert times(out) == before


def test_a_locked_output_is_exit_5(source: str, out: str, secateurs: Call) -> None:
    (Path(out) / WORK).mkdir(parents=True)
    with held(Path(out) / WORK / "lock"):
        found = secateurs("prune", source, "-o", out, "--sparsity", "0.5")
    assert found.code == 5
    assert out in found.err
    assert secateurs("prune", source, "-o", out, "--sparsity", "0.5").code == 0


# --------------------------------------------------------------------------------------------------- without torch


@pytest.mark.parametrize(
    "words",
    [
        ["--sparsity", "0.5", "--score", "lamp", "--min-keep", "1"],
        ["--tau", "0.4sigma", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_safetensors_source_needs_no_torch(words: list[str], source: str, out: str) -> None:
    code = (
        "import sys\ntry:\n    from secateurs.cli import main; main()\nfinally:\n"
        "    print('torch' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "prune", source, "-o", out, *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == "False"


def test_names_that_are_no_text_do_not_stop_a_run(source: str, tmp_path: Path, secateurs: Call) -> None:
    place = tmp_path / os.fsdecode(b"mod\xe9l")
    Path(source).rename(place)
    (place / os.fsdecode(b"na\xefve.txt")).write_text("x")
    for arguments in (("prune", "--sparsity", "0.5"), ("pack", "--beside")):
        out = str(tmp_path / (os.fsdecode(b"o\xfct ") + arguments[0]))
        assert secateurs(arguments[0], str(place), "-o", out, *arguments[1:]).code == 0
        assert secateurs("verify", out).code == 0


def test_a_dry_run_refuses_what_a_run_refuses(source: str, tmp_path: Path, secateurs: Call) -> None:
    import torch

    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    torch.save({"w": torch.ones(4, 4), "s": torch.eye(3).to_sparse()}, tmp_path / "a.pt")
    for of, out, code in ((source, "loop", 4), (str(tmp_path / "a.pt"), "out", 3)):
        found = [
            secateurs("prune", of, "-o", str(tmp_path / out), "--sparsity", "0.5", *more)
            for more in ((), ("--dry-run",))
        ]
        assert found[0] == found[1]
        assert found[0].code == code
    assert "'s' cannot be read: not a strided tensor" in found[0].err
    assert not (tmp_path / "out").exists()
