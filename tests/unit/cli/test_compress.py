"""`secateurs compress`: what it asks, refuses, plans; a target out of reach ends with 1, and a killed run goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from secateurs.checkpoint.packing import pack
from secateurs.data import DataSpec, load_data
from secateurs.experiments.compression import Compression
from secateurs.models import ModelSpec, build, save_model

Call = Callable[..., Any]
TINY = "cls-transformer(dim=16, depth=1, heads=2, patch=4)"


def test_a_dry_run_says_what_would_be_tried_and_writes_nothing(secateurs: Call, tmp_path: Path) -> None:
    asked = (
        "compress",
        TINY,
        "--out",
        str(tmp_path / "run"),
        "--max-time",
        "3min",
        "--target-size",
        "8KB",
        "--dry-run",
    )
    said = secateurs(*asked, "--json")
    assert said.code == 0, said.err
    plan = json.loads(said.out)
    assert Compression(**plan["compression"]).size_bytes == 8000.0
    assert len(plan["candidates"]) == plan["pace"]["kept"][0]
    assert plan["pace"]["seconds"] <= 1.02 * 180
    assert not (tmp_path / "run").exists()
    assert "What would be tried" in secateurs(*asked).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cls-transformr",), "Did you mean 'cls-transformer'"),
        ((TINY, "--max-drop", "half"), "--max-drop takes a number with one of the units pp, %"),
        ((TINY, "--target-size", "5 apples"), "--target-size takes a number"),
        ((TINY, "--target-latency", "0ms"), "latency_s must be above 0"),
        ((TINY, "--max-time", "1ms"), "too short to try"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(
    secateurs: Call, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    found = secateurs("compress", *words, "--out", str(tmp_path / "run"), "--dry-run")
    assert found.code == 2
    assert said in found.err
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_not_there_is_told_as_one(secateurs: Call, tmp_path: Path) -> None:
    found = secateurs("compress", "runs/none/model", "--out", str(tmp_path / "run"), "--dry-run")
    assert (found.code, found.out) == (3, "")
    assert "There is no model directory 'runs/none/model'" in found.err


def test_a_directory_of_something_else_is_left_alone(secateurs: Call, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    found = secateurs("compress", TINY, "--out", str(tmp_path))
    assert found.code == 4
    assert "is not empty and holds no run" in found.err


def test_killed_it_goes_on_and_ends_with_1_where_the_target_is_out_of_reach(tmp_path: Path) -> None:
    words = [
        "compress",
        TINY,
        "--epochs",
        "0.9",
        "--target-size",
        "100B",
        "--out",
        str(tmp_path / "run"),
        "--jobs",
        "1",
    ]
    command = [sys.executable, "-m", "secateurs", *words]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    cells = tmp_path / "run" / "cells"
    deadline = time.monotonic() + 120
    while len(list(cells.glob("*/result.json"))) < 3:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/result.json")}
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())  # nothing was trained twice
    results = json.loads(done.stdout)
    assert not results["is_met"]
    packed = tmp_path / "run" / "packed" / "weights.packed.safetensors"
    assert packed.stat().st_size == results["chosen"]["size_bytes"] > 100
    with safe_open(packed, framework="np") as file:
        assert list(file.keys())


def test_it_begins_with_packed_weights_as_with_plain_ones(secateurs: Call, tmp_path: Path) -> None:
    spec, data = ModelSpec.parse(TINY), load_data(DataSpec())
    save_model(build(spec, data.shape, 3), spec, data.shape, tmp_path / "plain", data.about)
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "plain" / "model.safetensors", tmp_path / "packed" / "weights.packed.safetensors")
    shutil.copyfile(tmp_path / "plain" / "config.json", tmp_path / "packed" / "config.json")
    names = set()
    for place in ("plain", "packed"):
        words = ("compress", str(tmp_path / place), "--out", str(tmp_path / "run"), "--epochs", "0.9")
        said = secateurs(*words, "--dry-run", "--json")
        assert said.code == 0, said.err
        names.add(json.loads(said.out)["compression"]["start_sha256"])
    assert len(names) == 1
    assert None not in names


def test_a_network_without_some_of_its_units_is_refused(secateurs: Call, tmp_path: Path) -> None:
    spec, data = ModelSpec.parse(TINY), load_data(DataSpec())
    save_model(build(spec, data.shape, 3), spec, data.shape, tmp_path / "plain", data.about)
    small = secateurs("shrink", str(tmp_path / "plain"), "-o", str(tmp_path / "small"), "--sparsity", "0.5")
    assert small.code == 0, small.err
    for words in (("compress", str(tmp_path / "small")), ("train", "--start", str(tmp_path / "small"))):
        said = secateurs(*words, "--out", str(tmp_path / "run"), "--dry-run")
        assert said.code == 2
        assert "Units were removed from the network in" in said.err


def test_images_move_while_a_network_that_reads_them_is_compressed(
    secateurs: Call, data_dir: Path, tmp_path: Path
) -> None:
    for words, shift in ((("--data", "mnist", "--data-dir", str(data_dir / "mnist")), 1), ((), 0)):
        said = secateurs("compress", "cls-transformer", *words, "--out", str(tmp_path / "run"), "--dry-run", "--json")
        asked = Compression(**json.loads(said.out)["compression"])
        assert asked.recovery.shift == shift  # a 28th of the height: of the digits' 8 pixels none
        assert asked.training.shift == 0
        assert asked.recovery_rates == ((0.5, 2e-3), (0.8, 4e-3), (0.95, 8e-3))
