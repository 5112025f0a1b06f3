"""No loop reads beyond the arrays it is given and the room behind them: a read that did would kill the process."""

import subprocess
import sys
from pathlib import Path

GUARDED = Path(__file__).parents[2] / "benchmarks" / "guarded.py"


def ended(code: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path.insert(0, {str(GUARDED.parent)!r}); import guarded\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_products_stay_inside_their_memory_and_are_right() -> None:
    done = ended("found = guarded.run(600, 1); assert found['calls'] == 600; assert found['between'] == 60")
    assert done.returncode == 0, done.stderr


def test_a_read_beyond_it_would_be_seen() -> None:
    code = """
import dataclasses, torch
from secateurs.formats import bitmask
from secateurs.running import ready
from secateurs.running.products import product
ready.ROOM = {room}
of = ready.ready(bitmask.pack(torch.ones(1, 4)))
of = dataclasses.replace(of, kept=guarded.guarded(of.kept))
assert product(of, torch.ones(1, 4)) == 4
"""
    assert ended(code.format(room="ready.ROOM")).returncode == 0
    assert ended(code.format(room="0")).returncode == -11  # SIGSEGV
