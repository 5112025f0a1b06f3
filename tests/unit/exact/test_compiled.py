"""Compiled functions are kept on disk, until any code that they are made of changes."""

import os
import subprocess
import sys
from pathlib import Path

PART = "from secateurs.exact.compiled import compiled\n\n\n@compiled\ndef part(x):\n    return x + {}\n"
LOOP = """from part import part
from secateurs.exact.compiled import compiled


@compiled
def loop(x):
    return 10 * part(x)


print(loop(1.0), sum(loop.stats.cache_hits.values()))
"""


def said(folder: Path) -> str:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "loop.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_another_file_says_is_not_taken_from_the_cache_when_it_changed(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(LOOP)
    (tmp_path / "part.py").write_text(PART.format(1))
    assert said(tmp_path) == "20.0 0"
    assert said(tmp_path) == "20.0 1", "nothing changed: no compiler runs"
    (tmp_path / "part.py").write_text(PART.format(2))
    assert said(tmp_path) == "30.0 0"
