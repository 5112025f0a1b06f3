"""`secateurs compare` and `secateurs lottery`: plans, tables, JSON, errors, clusters, and runs that were killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateurs.cli import runs

Call = Callable[..., Any]
COMPARE = ("compare", "--epochs", "0.3", "--sparsities", "0.5,0.9", "--seeds", "1", "--jobs", "1")
FEW = (*COMPARE, "--strategies", "one-shot, fine-tuned,gradual")
LOTTERY = ("lottery", "--steps", "6", "--rounds", "2", "--seeds", "2", "--jobs", "1")


def test_a_plan_runs_nothing(secateurs: Call, tmp_path: Path) -> None:
    for words, key in ((COMPARE, "comparison"), (LOTTERY, "lottery")):
        said = secateurs(*words, "--out", str(tmp_path / "run"), "--dry-run", "--json")
        assert said.code == 0, said.err
        plan = json.loads(said.out)
        assert plan["n_networks"] > 5
        assert plan["n_steps"] > 5
        assert plan[key]["experiment"]["seeds"]
        said = secateurs(*words, "--out", str(tmp_path / "run"), "--dry-run")
        assert f"{plan['n_networks']} networks, {plan['n_steps']:,} training steps" in said.out.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_a_lottery_prints_its_levels(secateurs: Call, tmp_path: Path) -> None:
    said = secateurs(*LOTTERY, "--out", str(tmp_path / "run"))
    assert said.code == 0, said.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["command"].startswith("secateurs lottery --steps 6 --rounds 2 --seeds 2 --out")
    assert "--jobs" not in results["command"]
    for level in results["levels"]:
        assert f"{level['n_kept']:,}" in said.out
    assert "mean of 2 seeds" in said.out
    assert ", within seed noise" in said.out or "+" in said.out
    again = secateurs(*LOTTERY, "--out", str(tmp_path / "run"), "--json")
    assert json.loads(again.out) == {**results, "command": json.loads(again.out)["command"]}
    other = secateurs("lottery", "--steps", "7", "--out", str(tmp_path / "run"))
    assert other.code == 4
    assert "holds another lottery" in other.err


def test_a_comparison_prints_one_table(secateurs: Call, tmp_path: Path) -> None:
    said = secateurs(*FEW, "--out", str(tmp_path / "run"))
    assert said.code == 0, said.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    lines = {line.split("│")[1].strip(): line for line in said.out.splitlines() if line.count("│") > 4}
    assert set(lines) == {"one-shot", "one-shot + fine-tuning", "gradual in the loop", "dense"}
    for point in results["points"]:
        if point["strategy"] == "gradual":
            assert f"{100 * point['mean']:.2f}" in lines["gradual in the loop"]
    assert "mean of 1 seed;" in said.out
    assert (tmp_path / "run" / "comparison.png").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((*COMPARE, "--strategies", "random,scratch"), 2, "There is no strategy 'scratch'. Did you mean 'scratch-"),
        ((*COMPARE[:-2], "--sparsities", "half"), 2, "--sparsities takes numbers such as 0.5,0.9"),
        (("compare", "--model", "lenet-5"), 2, "lenet-5"),
        (("compare", "--backend", "slurm"), 2, "'slurm' is not one of 'loky', 'dask', 'ray'"),
        (("lottery", "--rewind", "50000"), 2, "rewind=50000 is not before the end of 50000 steps"),
        (("lottery", "--recipe", "magnitude element layer top(2)"), 2, "cuts a share of what is left"),
        (("lottery", "--data", "nowhere.npz"), 3, "nowhere.npz"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    secateurs: Call, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    said = secateurs(*words, "--out", str(tmp_path / "run"))
    assert said.code == code
    assert message in said.err
    assert not (tmp_path / "run").exists()


def test_the_command_is_told_without_what_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = "secateurs compare --jobs 4 --seeds 3 --json --backend=dask --out runs/x --recipe 'a b'"
    monkeypatch.setattr(sys, "argv", ["secateurs", *typed.replace("'", "").replace("a b", "a_b").split()[1:]])
    assert runs.command() == "secateurs compare --seeds 3 --out runs/x --recipe a_b"
    assert runs.command(recipe=2) == "secateurs compare --seeds 3 --out runs/x"


def start(where: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "secateurs", *words, "--out", "run"]
    return subprocess.Popen(
        command, cwd=where, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


LONGER = ("lottery", "--steps", "400", "--rounds", "1", "--seeds", "1", "--jobs", "1")
GRADUAL = ("--strategies", "gradual")
COMPARED = ("compare", "--epochs", "20", "--sparsities", "0.9", "--seeds", "1", "--jobs", "1", *GRADUAL)


@pytest.mark.parametrize("words", [LONGER, COMPARED], ids=["lottery", "compare"])
def test_a_run_killed_within_a_training_goes_on_within_it_to_the_same_bytes(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    for name in ("once", "killed"):
        (tmp_path / name).mkdir()
    process = start(tmp_path / "killed", *words)
    cells = tmp_path / "killed" / "run" / "cells"
    while process.poll() is None and not list(cells.glob("*/*.state")):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for name in ("killed", "once"):
        assert start(tmp_path / name, *words).wait(timeout=300) == 0
    assert_same_bytes(tmp_path / "once", tmp_path / "killed")


def assert_same_bytes(once: Path, killed: Path) -> None:
    """Every file of both runs, but for the seconds that were measured."""
    one, other = (sorted(path for path in (where / "run").rglob("*") if path.is_file()) for where in (once, killed))
    measured = ("latency.json", "results.json", "report.html")  # hold seconds
    assert [path.relative_to(once) for path in one] == [path.relative_to(killed) for path in other]
    for a, b in zip(one, other, strict=True):
        assert a.name in measured or a.read_bytes() == b.read_bytes(), a.name
    first, second = (json.loads((where / "run" / "results.json").read_text()) for where in (once, killed))
    assert {**first, "latency": 0} == {**second, "latency": 0}


def test_a_killed_comparison_ends_as_if_it_never_was(tmp_path: Path) -> None:
    for name in ("once", "killed"):
        (tmp_path / name).mkdir()
    process = start(tmp_path / "killed", *FEW)
    cells = tmp_path / "killed" / "run" / "cells"
    while process.poll() is None and len(list(cells.glob("*/result.json"))) < 3:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "run" / "results.json").exists()
    for name in ("killed", "once"):
        assert start(tmp_path / name, *FEW).wait(timeout=300) == 0
    assert_same_bytes(tmp_path / "once", tmp_path / "killed")


def test_a_network_that_is_given_is_compared(secateurs: Call, tmp_path: Path) -> None:
    trained = ("train", "--model", "lenet-300-100", "--epochs", "1", "--looks", "1", "--out", str(tmp_path / "dense"))
    assert secateurs(*trained).code == 0
    start = ("compare", "--start", str(tmp_path / "dense" / "model"), "--out", str(tmp_path / "run"))
    (tmp_path / "fine.yaml").write_text("learning_rate: 0.001\nepochs: 0.3\ndistill: {hardness: 0.9}\n")
    more = (*start, "--fine-tune", str(tmp_path / "fine.yaml"), *COMPARE[3:], "--strategies", "one-shot,repaired-tuned")
    said = secateurs(*more)
    assert said.code == 0, said.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    before = json.loads((tmp_path / "dense" / "results.json").read_text())
    assert results["given"] == before["test"]
    assert f"dense {100 * results['given']['value']:.2f}, trained on" in " ".join(said.out.split())
    assert results["comparison"]["fine_tune"]["distill"]["hardness"] == 0.9
    assert {point["epochs"] for point in results["points"]} == {0.3}
    for words, message in (
        (("--strategies", "scratch-e"), "'scratch-e' repeats a training from its first weights on"),
        (("--model", "lenet-5"), "--start says which network it is; drop --model."),
    ):
        refused = secateurs(*start, *words)
        assert refused.code == 2
        assert message in " ".join(refused.err.split())


@pytest.mark.parametrize(("size", "highest"), [((8, 8, 3), 256), ((8, 8), 5000.0)])
def test_a_lottery_measures_the_scaling_that_the_papers_does_not_suit(
    size: tuple[int, ...], highest: float, secateurs: Call, tmp_path: Path
) -> None:
    """Bug: colour images and pixels of another range were refused for a mean and std that nobody had given."""
    x = np.random.default_rng(0).integers(0, int(highest), (60, *size))
    x = x.astype(np.uint8 if highest == 256 else np.float32)
    y = np.arange(60) % 2
    np.savez(tmp_path / "x.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    asked = (*LOTTERY, "--dry-run", "--json", "--out", str(tmp_path / "run"))
    said = secateurs(*asked, "--data", str(tmp_path / "x.npz"))
    assert said.code == 0, said.err
    assert json.loads(said.out)["lottery"]["experiment"]["data"]["mean"] is None
    assert json.loads(secateurs(*asked).out)["lottery"]["experiment"]["data"]["mean"] == [0.0]
