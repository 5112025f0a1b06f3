"""Benchmarks: what they cannot do is refused before they measure anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "checkpoints.py"


def test_inspect_refuses_more_than_one_path(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "inspect", "--path", "a", "b", "--out", str(tmp_path / "out.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert "inspect takes one --path, and was given 2" in ended.stderr
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("sizes",), "sizes takes the directories of checkpoints"),
        (("minilm", "--path", "a"), "minilm takes one --path, and --data"),
    ],
)
def test_packed_refuses_what_it_cannot_measure(tmp_path: Path, asked: tuple[str, ...], words: str) -> None:
    ended = _packed(*asked, "--out", str(tmp_path / "out.json"))
    assert ended.returncode == 2
    assert words in ended.stderr
    assert not (tmp_path / "out.json").exists()


def test_packed_adds_its_part_to_the_result(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text('{"sizes": 1}')
    ended = _packed("mutants", "--n", "80", "--out", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["sizes"] == 1
    became = found["mutants"]["became"]
    assert became["loaded"] == became["another exception"] == 0
    assert sum(became.values()) == found["mutants"]["n"] > 70


def test_packed_speed_measures_what_comes_back(tmp_path: Path) -> None:
    for needed in ("backports.zstd", "scipy"):
        pytest.importorskip(needed)
    command = [sys.executable, str(SCRIPT.with_name("packed_speed.py")), "--side", "200", "--n", "2"]
    command += ["--memory-files", str(tmp_path), "--out", str(tmp_path / "out.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["n_zero"] == 28_000
    assert found["ours"]["sizes"]["bitmask exact"] == 200 * 200 // 8 + 4 * 12_000
    assert all(each["n"] == 2 for part in ("ours", "others") for each in found[part]["runs"].values())


def _packed(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT.with_name("packed.py")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
