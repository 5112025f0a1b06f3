"""Memory: what a run takes follows the largest tensor and never their number, and is what a preview says at most."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import PEAK, write_f32

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")

SIDE = 1024  # 4 MB a tensor


def run(*words: object) -> tuple[str, int]:
    """What a command says, and its own memory at its peak."""
    command = [sys.executable, "-c", PEAK, *map(str, words), "--threads", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, int(ended.stderr.rpartition("peak ")[2])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """{number of tensors: checkpoint}, of tensors of one size."""
    numbers = np.random.default_rng(0).standard_normal(SIDE * SIDE, np.float32)
    home = tmp_path_factory.mktemp("memory")
    found = {}
    for n in (4, 64):
        weights = {f"{i}.weight": np.roll(numbers, 1000 * i).reshape(SIDE, SIDE) for i in range(n)}
        found[n] = write_f32(home / f"{n}.safetensors", weights)
    return found


@pytest.mark.parametrize("score", ["magnitude", "lamp"])
def test_sixteen_times_the_tensors_take_no_more_memory(score: str, places: dict[int, Path], tmp_path: Path) -> None:
    peaks = {
        n: run("prune", path, "-o", tmp_path / str(n), "--sparsity", "0.7", "--score", score)[1]
        for n, path in places.items()
    }
    assert peaks[64] < peaks[4] + 40_000_000, peaks


@pytest.mark.parametrize(
    "words",
    [
        ["--sparsity", "0.7"],
        ["--sparsity", "0.7", "--score", "lamp"],
        ["--tau", "0.4sigma"],
        pytest.param(["--sparsity", "0.7", "--pool", "row"], marks=pytest.mark.slow),
        pytest.param(["--budget", "top:2", "--pool", "4"], marks=pytest.mark.slow),
        pytest.param(["--sparsity", "0.7", "--unit", "block(2, 2)"], marks=pytest.mark.slow),
        pytest.param(["--sparsity", "0.7", "--score", "random"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_run_takes_no_more_than_its_preview_says(words: list[str], places: dict[int, Path], tmp_path: Path) -> None:
    told, _ = run("prune", places[64], "--dry-run", "--json", *words)
    _, peak = run("prune", places[64], "-o", tmp_path / "out", *words)
    assert peak <= json.loads(told)["memory_bytes"]
