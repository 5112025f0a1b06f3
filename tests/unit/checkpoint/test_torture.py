"""Prune under torture: kills, signals, full disks, locks, mutated input and awkward places lose nothing."""

import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import header_file
from safetensors.numpy import load_file, save_file

from secateurs.checkpoint.verifying import MANIFEST, verify
from secateurs.cli import main

_SPEC = importlib.util.spec_from_file_location(
    "torture", Path(__file__).parents[3] / "benchmarks" / "torture.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
torture = importlib.util.module_from_spec(_SPEC)
sys.modules["torture"] = torture
_SPEC.loader.exec_module(torture)

N_KILLS = 20
SHARES = (0.10, 0.50, 0.90, 0.99)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of 8 MB; only to be read."""
    return torture.make_source(tmp_path_factory.mktemp("torture") / "source")


@pytest.fixture(scope="module")
def reference(source: Path) -> Path:
    """What an undisturbed run writes; only to be read."""
    out = source.parent / "reference"
    ended = torture.run(source, out)
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture(scope="module")
def whole(reference: Path) -> dict[str, str]:
    """The hashes of the reference."""
    return torture.hashes(reference)


@pytest.fixture
def untouched(source: Path) -> Iterator[None]:
    """The source has the same bytes and names after the test."""
    before = torture.hashes(source)
    yield
    assert torture.hashes(source) == before


def assert_ends_the_same(source: Path, out: Path, whole: dict[str, str]) -> None:
    """The same command once more gives every byte of the reference and leaves nothing else."""
    ended = torture.run(source, out)
    assert ended.returncode == 0, ended.stderr
    assert torture.hashes(out) == whole
    assert verify(out).problems == ()


def test_the_reference_is_good(reference: Path, whole: dict[str, str]) -> None:
    assert verify(reference).is_ok
    assert not [name for name in whole if name.endswith(".tmp")]
    assert torture.stock_load(reference).keys() == torture.stock_load(reference.parent / "source").keys()


def test_killed_runs_resume_to_the_same_bytes(source: Path, tmp_path: Path) -> None:
    found = torture.torture(source, tmp_path, N_KILLS, seed=1)
    assert found["n_kills"] == N_KILLS
    print(json.dumps(found, indent=1))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_signal_ends_cleanly(
    number: int, code: int, share: float, source: Path, whole: dict[str, str], tmp_path: Path, untouched: None
) -> None:
    took = torture.timing(source, tmp_path / "timed")
    codes = []
    for attempt in range(10):
        out = tmp_path / f"out{attempt}"
        codes.append(torture.kill(source, out, share * took.writing_s, True, number))
        if codes[-1] == code:
            break
        assert codes[-1] == 0
    assert codes[-1] == code
    assert_ends_the_same(source, out, whole)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many bytes in memory, or gives it another size."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(n_bytes: int) -> Path:
        remount = "remount," if os.path.ismount(place) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{remount}size={n_bytes}", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        return place

    try:
        yield sized
    finally:
        if os.path.ismount(place):
            subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("share", SHARES)
def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    share: float, source: Path, whole: dict[str, str], reference: Path, disk: Callable[[int], Path], untouched: None
) -> None:
    needed = sum(path.stat().st_size for path in reference.rglob("*") if path.is_file())
    out = disk(int(share * needed)) / "out"
    ended = torture.run(source, out)
    assert ended.returncode == 4, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "MB" in ended.stderr
    assert not [path for path in out.glob("*.safetensors")]
    disk(3 * needed)
    assert_ends_the_same(source, out, whole)


def fill(place: Path) -> Path:
    """Take all the space that is left on a disk."""
    filler = place / "filler"
    with open(filler, "wb") as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
                    file.flush()
            except OSError:
                continue
    return filler
