"""The smallest real exploration, run as a user runs it: a command in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXPLORATION = """\
experiment:
  model: cls-transformer(dim=16, depth=1, heads=2, patch=4)
  data: {source: digits, limit_train: 100, limit_test: 60}
  training: {epochs: 1.0}
  recipe: {budget: sparsity(0.7), schedule: cubic}
  seeds: [0, 1]
fine_tune: {epochs: 1.0}
sparsities: [0.5, 0.9]
"""
WHOLE = "from secateurs.cli import main; main()"
# The same without pictures and page, which take most of the time and are not what resuming is about.
NO_PICTURES = f"""
import secateurs.experiments.explore as explore
explore._draw_story = explore._draw = lambda *arguments: None
{WHOLE}
"""
UNDRAWN = f"""
import secateurs.experiments.explore as explore
explore.report.report_page = lambda results: "page"
{NO_PICTURES}
"""
ARGUMENTS = ("explore", "--experiment", "tiny.yaml", "--out", "run")
LIMIT = 300.0  # seconds; a machine that is shared is slow


def start(where: Path, code: str = UNDRAWN, *more: str, exploration: str = EXPLORATION) -> subprocess.Popen[str]:
    """The command under way in `where`, in a process group of its own."""
    (where / "tiny.yaml").write_text(exploration)
    pipe = subprocess.PIPE
    # Whoever runs the tests in the background may have switched Ctrl-C off for all their children.
    command = [sys.executable, "-c", f"import signal; signal.signal(2, signal.default_int_handler)\n{code}"]
    command += [*ARGUMENTS, *more]
    return subprocess.Popen(command, cwd=where, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish(where: Path, code: str = UNDRAWN, *more: str, exploration: str = EXPLORATION) -> str:
    """The command to its end; its stdout."""
    process = start(where, code, *more, exploration=exploration)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    return out


def stop_when(process: subprocess.Popen[str], is_time: Callable[[], bool], number: int) -> tuple[int, str]:
    """Send the signal to the whole group once it is time (or let it end by itself); its exit code and stderr."""
    end = time.monotonic() + LIMIT
    while process.poll() is None and not is_time():
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.001)
    if process.poll() is None:
        os.killpg(process.pid, number)
    try:
        _, err = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, err


def n_results(where: Path) -> int:
    """Cells that are complete."""
    return len(list((where / "run" / "cells").glob("*/result.json")))


def n_begun(where: Path) -> int:
    """Cells that have begun."""
    return len(list((where / "run" / "cells").glob("*/metrics.jsonl")))


def is_under_way(where: Path, n: int) -> bool:
    """The run has begun and at least n cells are complete."""
    return (where / "run" / "cells").is_dir() and n_results(where) >= n


def durable_files(where: Path) -> dict[str, bytes]:
    """Models and everything in the cells, but the seconds that were measured."""
    run = where / "run"
    found = [p for part in ("cells", "models") for p in (run / part).rglob("*") if p.is_file()]
    kept = [p for p in found if p.name != "zeros_alone.json" and not p.name.endswith((".tmp", ".part"))]
    return {str(p.relative_to(run)): p.read_bytes() for p in kept}


def results(where: Path) -> dict[str, Any]:
    """results.json."""
    found: dict[str, Any] = json.loads((where / "run" / "results.json").read_text())
    return found


def unmeasured(where: Path) -> str:
    """The text of results.json without the seconds that were measured and the one claim that rests on them."""
    found = results(where)
    del found["zeros_alone"]["latency"]
    found["claims"] = [claim for claim in found["claims"] if claim["id"] != "faster"]
    return json.dumps(found, indent=1)
