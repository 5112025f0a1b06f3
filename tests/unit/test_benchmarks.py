"""Benchmarks: what they cannot do is refused before they measure anything."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "checkpoints.py"


def test_inspect_refuses_more_than_one_path(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "inspect", "--path", "a", "b", "--out", str(tmp_path / "out.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert "inspect takes one --path, and was given 2" in ended.stderr
    assert not (tmp_path / "out.json").exists()
