"""Bad input: the documented exit code, one clear message, no traceback, and nothing created."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error here must be told before the first batch."""

    def trained(*arguments: object) -> None:
        raise AssertionError("a network was trained before the error was told")

    monkeypatch.setattr("secateurs.experiments.cells.run", trained)


def refused(said: Any, code: int, message: str, place: Path) -> None:
    """One line on stderr that ends in what to do; nothing on stdout; nothing new on disk."""
    assert message in said.err
    assert said.code == code
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.rstrip("\n").splitlines()[-1].startswith(("secateurs: ", "Error: "))
    assert not place.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tau", "-1"], "A threshold must be a number from 0.0 to inf; got -1.0"),
        (["--tau", "nan"], "threshold must be a number"),
        (["--tau", "abc"], "abc"),
        (["--tau", "-1sigma"], "-1"),
        (["--absolute-tau", "nan"], "threshold must be a number"),
        (["--absolute-tau", "-0.4"], "threshold must be a number"),
        (["--model", "resnet20"], "There is no network 'resnet20'. Did you mean 'resnet-20'?"),
        (["--model", "cls-transformer(dmi=4)"], "has no argument 'dmi'. Did you mean 'dim'?"),
        (["--model", "cls-transformer(dim=7, heads=2)"], "dim"),
        (["--model", "lenet-5"], "needs 1x28x28 images (channels x height x width); the data are 1x8x8"),
        (["--model", "cls-transformer(dim=4"], "is not a word of a recipe"),
        (["--recipe", "magnitud element model sparsity(0.7) cubic"], "Did you mean 'magnitude'?"),
        (["--recipe", "magnitude elment model sparsity(0.7) cubic"], "Did you mean 'element'?"),
        (["--recipe", "magnitude element modle sparsity(0.7) cubic"], "Did you mean 'model'?"),
        (["--recipe", "magnitude element model sparsty(0.7) cubic"], "Did you mean 'sparsity'?"),
        (["--recipe", "magnitude element model sparsity(0.7) cubik"], "Did you mean 'cubic'?"),
        (["--recipe", "magnitude element model sparsity(1.7) cubic"], "1.7"),
        (["--recipe", "magnitude element model erk(0.7) cubic"], "erk"),
        (["--recipe", "magnitude element 4 top(2) one_shot"], "explore tells its story with a threshold or a sparsity"),
        (["--recipe", "random element model threshold(1sigma) one_shot"], "sigmas is meant for magnitude"),
        (["--recipe", "one two three"], "is not a recipe: expected 'score unit pool budget schedule'"),
        (["--recipe", "sparsity(0.7) skip=nothing*"], "No parameter is called 'nothing*'"),
        (["--recipe", "sparsity(0.7) only=*.bias"], "Nothing to prune"),
        (["--seeds", "0"], "--seeds"),
        (["--data", "digit"], "There are no data called 'digit'. Did you mean 'digits'?"),
        (["--seeds", "two"], "--seeds"),
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "-1"], "--epochs"),
        (["--jobs", "0"], "--jobs"),
        (["--sparsities", "0.5,1"], "sparsities must lie between 0 and 1; got [0.5, 1.0]"),
        (["--sparsities", "0.5,nan"], "sparsities must lie between 0 and 1"),
        (["--no-such-option"], "No such option"),
        (["surplus"], "surplus"),
        (["--sparsities", "0.5,abc"], "--sparsities takes numbers such as 0.5,0.9; got '0.5,abc'."),
        (["--sparsities", "0.5,"], "--sparsities takes numbers such as 0.5,0.9; got '0.5,'."),
        (["--epochs", "inf"], "epochs must be a finite number of at least 0.0; got inf"),
        (["--epochs", "nan"], "epochs must be a finite number of at least 0.0; got nan"),
        (["--tau", "inf"], "threshold must be finite; got inf"),
        (["--absolute-tau", "inf"], "threshold must be finite; got inf"),
        (  # longer than a file name may be
            ["--recipe", f"sparsity(0.7) skip=[{', '.join(['*.bias'] * 40)}, nothing*]"],
            "No parameter is called 'nothing*'",
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_wrong_word_or_number_is_exit_2(arguments: list[str], message: str, secateurs: Call, tmp_path: Path) -> None:
    refused(secateurs("explore", *arguments, "--out", str(tmp_path / "run")), 2, message, tmp_path / "run")


def test_an_unknown_command_suggests(secateurs: Call) -> None:
    said = secateurs("explroe")
    assert said.code == 2
    assert "No such command 'explroe'. Did you mean 'explore'? Known: " in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "no/such/place.npz"], "no/such/place.npz"),
        (["--data", "mnist", "--data-dir", "no/such/place"], "no/such/place"),
        (["--recipe", "no/such/recipe.yaml"], "Cannot read no/such/recipe.yaml"),
        (["--experiment", "no/such/exploration.yaml"], "Cannot read no/such/exploration.yaml"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_exit_3(arguments: list[str], message: str, secateurs: Call, tmp_path: Path) -> None:
    refused(secateurs("explore", *arguments, "--out", str(tmp_path / "run")), 3, message, tmp_path / "run")


def images(n: int = 60, n_classes: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.random((n, 8, 8), dtype=np.float32)
    y = (np.arange(n) % n_classes).astype(np.int64)
    return {"x_train": x, "y_train": y, "x_test": x[:20], "y_test": y[:20]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.where(np.arange(64).reshape(8, 8) == 9, np.nan, images()["x_train"])}, "NaN"),
        (images(n_classes=1), "class"),
        ({"x_train": images()["x_train"][:, 0]}, "All splits must agree"),
        ({"y_train": images()["y_train"][:-1]}, "60 inputs but 59 labels"),
    ],
    ids=["nan", "one class", "wrong shape", "wrong length"],
)
def test_data_that_cannot_be_used_are_exit_3(
    change: dict[str, np.ndarray], message: str, secateurs: Call, tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", **{**images(), **change})
    said = secateurs("explore", "--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "run"))
    refused(said, 3, message, tmp_path / "run")


def test_a_file_that_is_no_npz_is_exit_3(secateurs: Call, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"not a zip")
    said = secateurs("explore", "--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "run"))
    refused(said, 3, "data.npz", tmp_path / "run")


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--recipe", "budget: sparsity(0.7)\nscor: lamp\n", "Recipe: unknown key 'scor'. Did you mean 'score'?"),
        ("--recipe", "score: magnitude\n", "Recipe: 'budget' is missing."),
        ("--recipe", "a: [\n", "Recipe: not YAML"),
        ("--recipe", "budget: sparsity(0.7)\nmin_keep: lots\n", "min_keep"),
        ("--experiment", "sparsities: [0.5]\n", "'experiment' is missing"),
        ("--experiment", "experiment: {}\nfine_tune: {}\nspeed: 3\n", "unknown key 'speed'"),
    ],
)
def test_a_wrong_yaml_file_is_exit_2(option: str, text: str, message: str, secateurs: Call, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(text)
    said = secateurs("explore", option, str(tmp_path / "file.yaml"), "--out", str(tmp_path / "run"))
    refused(said, 2, message, tmp_path / "run")


def test_a_binary_recipe_is_exit_3(secateurs: Call, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    said = secateurs("explore", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"))
    refused(said, 3, "Cannot read", tmp_path / "run")


def test_an_output_that_cannot_be_is_exit_4_and_stays_as_it_was(secateurs: Call, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    cases = {
        tmp_path / "mine" / "thesis.txt": "is a file; name a directory",
        tmp_path / "mine" / "thesis.txt" / "run": "cannot be written",
        tmp_path / "mine": "is not empty and holds no run",
        Path("/proc/run"): "/proc/run",
    }
    for place, message in cases.items():
        said = secateurs("explore", "--out", str(place))
        assert (said.code, said.out) == (4, ""), said.err
        assert message in said.err
        assert said.err.count("\n") == 1
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "thesis.txt"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_debug_shows_the_traceback_above_the_message(secateurs: Call, tmp_path: Path) -> None:
    said = secateurs("explore", "--tau", "-1", "--debug", "--out", str(tmp_path / "run"))
    assert "Traceback (most recent call last)" in said.err
    assert said.err.splitlines()[-1].startswith("secateurs: ")
    assert said.code == 2


def test_a_dry_run_prints_the_plan_and_writes_nothing(secateurs: Call, tmp_path: Path) -> None:
    import json

    arguments = ["explore", "--dry-run", "--seeds", "2", "--sparsities", "0.5,0.9", "--out", str(tmp_path / "run")]
    said = secateurs(*arguments)
    assert said.code == 0, said.err
    assert "networks" in said.out
    assert "head.weight" in said.out
    plan = json.loads(secateurs(*arguments, "--json").out)
    # per seed: trained, initialised, dense, 2 x 3 strategies; and for the story 4 stages more
    assert plan["n_networks"] == 2 * (3 + 6) + 4
    assert {row["name"]: row["status"] for row in plan["layers"]}["head.weight"] == "prune"
    assert plan["exploration"]["sparsities"] == [0.5, 0.9]
    assert plan["n_steps"] > 0
    assert list(tmp_path.iterdir()) == []
