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
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checkpoint_files import header_file
from safetensors.numpy import load_file, save_file

from secateurs.checkpoint.difference import diff
from secateurs.checkpoint.manifest import NAME as MANIFEST
from secateurs.checkpoint.streamed import WORK
from secateurs.checkpoint.verifying import verify

N_KILLS = 20
N_MUTATED = 2000
SLOWEST_S = 10.0  # of one run on a few kilobytes, on a busy machine


def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torture", Path(__file__).parents[3] / "benchmarks" / "torture.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["torture"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["torture"])
    return sys.modules["torture"]


torture = _benchmark()
arguments = torture.prune_arguments


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of 8 MB; only to be read."""
    return torture.make_source(tmp_path_factory.mktemp("torture") / "source")


@pytest.fixture(scope="module")
def start(source: Path) -> Iterator[Callable[..., Any]]:
    """Runs that begin at once: forks of one process that has everything loaded."""
    warm = torture.Warm(source, source.parent)
    yield warm
    warm.close()


@pytest.fixture(scope="module")
def reference(source: Path) -> Path:
    """What the command line writes where nobody disturbs it; only to be read."""
    out = source.parent / "reference"
    assert torture.Run(*arguments(source, out)).end() == (0, "")
    return out


@pytest.fixture(scope="module")
def whole(reference: Path) -> dict[str, str]:
    """The hashes of the reference."""
    return torture.hashes(reference)


@pytest.fixture(autouse=True)
def _untouched(source: Path) -> Iterator[None]:
    """The source has the same bytes and names after every test."""
    before = torture.hashes(source)
    yield
    assert torture.hashes(source) == before


def assert_ends_the_same(start: Callable[..., Any], source: Path, out: Path, whole: dict[str, str]) -> None:
    """The same command once more gives every byte of the reference and leaves nothing else."""
    assert start(*arguments(source, out)).end() == (0, "")
    assert torture.hashes(out) == whole


def test_the_reference_is_good(source: Path, reference: Path, whole: dict[str, str]) -> None:
    assert verify(reference).problems == ()
    assert {*whole} == {*torture.hashes(source), MANIFEST}
    changed = diff(source, reference)
    assert changed.total("n_lost") == changed.total("n_kept_changed") == 0
    assert changed.total("n_zero_b") == round(0.7 * 2 * 5 * 1024 * 1024)


def test_killed_runs_resume_to_the_same_bytes(source: Path, start: Callable[..., Any], tmp_path: Path) -> None:
    found = torture.torture(source, tmp_path, N_KILLS, seed=1, start=start)
    assert found["n_kills"] == N_KILLS
    print(json.dumps(found))


@pytest.mark.parametrize("when", ["", "model-00002-of-00005.safetensors"], ids=["choosing", "writing"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_cleanly(
    number: int, code: int, when: str, source: Path, whole: dict[str, str], start: Callable[..., Any], tmp_path: Path
) -> None:
    run = torture.Run(*arguments(source, tmp_path / "out"))
    torture.wait_for(tmp_path / "out" / when, run)
    run.signal(number)
    ended, said = run.end()
    assert ended == code, said
    assert "Traceback" not in said
    assert "Run the same command again to go on." in said
    assert not [*(tmp_path / "out").rglob("*.part"), *(tmp_path / "out").rglob("*.tmp")]
    torture.assert_safe(tmp_path / "out", whole, source.parent / "reference")
    assert_ends_the_same(start, source, tmp_path / "out", whole)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many bytes in memory, or gives it another size."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(n_bytes: int) -> Path:
        again = "remount," if os.path.ismount(place) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{again}size={n_bytes}", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        return place

    try:
        yield sized
    finally:
        if os.path.ismount(place):
            subprocess.run(["umount", "-l", str(place)], check=True)


def size_of(place: Path) -> int:
    """Bytes of all files in a directory."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.10, 0.50, 0.90, 0.99])
def test_a_disk_that_is_too_small_is_said_before_any_weight_is_written(
    share: float,
    source: Path,
    whole: dict[str, str],
    start: Callable[..., Any],
    disk: Callable[[int], Path],
) -> None:
    needed = size_of(source.parent / "reference")
    out = disk(int(share * needed)) / "out"
    code, said = start(*arguments(source, out)).end()
    assert code == 4, said
    assert f"{out} needs " in said
    assert "Make room" in said
    assert not [*out.glob("*.safetensors")]
    disk(2 * needed)
    assert_ends_the_same(start, source, out, whole)


def fill(place: Path, n_left: int) -> None:
    """Take all but so many bytes of what is left of a disk."""
    free = shutil.disk_usage(place).free
    if free > n_left:
        with open(place / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - n_left)


@pytest.mark.parametrize("share", [0.10, 0.50, 0.90, 0.99])
def test_a_disk_that_fills_up_midway_loses_nothing(
    share: float,
    source: Path,
    whole: dict[str, str],
    start: Callable[..., Any],
    disk: Callable[[int], Path],
) -> None:
    needed = size_of(source.parent / "reference")
    place = disk(2 * needed)
    run = start(*arguments(source, place / "out"))
    torture.wait_for(place / "out" / WORK / "model-00001-of-00005.safetensors.part", run)  # the room was seen
    fill(place, max(0, int(share * needed) - size_of(place)))
    code, said = run.end()
    assert code == 4, said
    assert "No space left on device" in said
    assert "Traceback" not in said
    torture.assert_safe(place / "out", whole, source.parent / "reference")
    assert len([*(place / "out").glob("*.safetensors")]) <= 5 * share
    assert not [*(place / "out").rglob("*.part"), *(place / "out").rglob("*.tmp")]
    code, said = start(*arguments(source, place / "out")).end()
    assert code == 4, said
    (place / "filler").unlink()
    assert_ends_the_same(start, source, place / "out", whole)


def test_a_disk_without_a_byte_left_is_exit_4(
    source: Path, whole: dict[str, str], start: Callable[..., Any], disk: Callable[[int], Path]
) -> None:
    place = disk(100 << 20)
    fill(place, 0)
    code, said = start(*arguments(source, place / "out")).end()
    assert code == 4, said
    (place / "filler").unlink()
    assert_ends_the_same(start, source, place / "out", whole)


def test_an_output_that_another_run_writes_is_exit_5(
    source: Path, whole: dict[str, str], start: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = torture.Run(*arguments(source, out))
    torture.wait_for(out / WORK / "request.json", first)
    first.signal(signal.SIGSTOP)
    try:
        assert not first.is_over()
        code, said = start(*arguments(source, out)).end()
        assert code == 5, said
        assert f"Another run is writing {out}" in said
    finally:
        first.signal(signal.SIGCONT)
    assert first.end() == (0, "")
    assert torture.hashes(out) == whole


# Input that somebody made up.


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint of a few kilobytes in two shards."""
    place = tmp_path / "small"
    place.mkdir()
    rng = np.random.default_rng(0)
    a = {"a.weight": rng.normal(size=(8, 12)).astype(np.float32), "a.bias": np.ones(8, np.float32)}
    b = {"b.weight": rng.normal(size=(4, 8)).astype(np.float16), "ids": np.arange(5)}
    save_file(a, place / "x.safetensors", metadata={"format": "pt"})
    save_file(b, place / "y.safetensors")
    weight_map = {**dict.fromkeys(a, "x.safetensors"), **dict.fromkeys(b, "y.safetensors")}
    (place / torture.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (place / "config.json").write_text('{"model_type": "none"}')
    return place


RECIPES = (
    ["--sparsity", "0.7"],
    ["--sparsity", "0.5", "--pool", "layer"],
    ["--budget", "top:2", "--pool", "4"],
    ["--tau", "0.5sigma"],
    ["--sparsity", "0.5", "--unit", "row", "--pool", "layer"],
    ["--sparsity", "0.5", "--score", "lamp"],
    ["--sparsity", "0.5", "--pool", "row", "--only", "*"],
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The file with bits flipped, numbers made absurd, parts gone or doubled, or its end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 3))):
        at = rng.randrange(len(data))
        at = at if rng.random() < 0.5 else at % 400  # the header is where the trouble is
        match rng.randrange(6):
            case 0:
                del data[at:]
            case 1:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 2:
                del data[at : at + rng.choice((1, 4, 100))]
            case 3:
                data[at:at] = data[at : at + rng.choice((1, 4, 100))]
            case 4:
                data[at : at + 4] = rng.choice((b"9999", b"1e99", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"-1,2", b"null"))
            case 5:
                data[at : at + 2] = rng.choice((b"\0\x7e", b"\x80\x7f", b"\xc0\xff"))  # NaN and infinity
        if not data:
            break
    return bytes(data)


def test_mutated_input_is_pruned_or_refused(small: Path, secateurs: Callable[..., Any], tmp_path: Path) -> None:
    rng = random.Random(3)
    content = {path.name: path.read_bytes() for path in small.iterdir()}
    codes: dict[int, int] = {}
    secateurs("prune", str(small), "-o", str(tmp_path / "first"), "--sparsity", "0.5")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(N_MUTATED):
        name = rng.choice(list(content))
        (small / name).write_bytes(mutated(content[name], rng))
        begin = time.perf_counter()
        said = secateurs("prune", str(small), "-o", str(tmp_path / "out"), *RECIPES[i % len(RECIPES)])
        assert time.perf_counter() - begin < SLOWEST_S
        assert said.code in (0, 2, 3, 4), (i, name, said.err)
        assert "Traceback" not in said.err
        codes[said.code] = codes.get(said.code, 0) + 1
        if said.code == 0:
            assert verify(tmp_path / "out").problems == ()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (small / name).write_bytes(content[name])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(codes, f"{grown:.0f} MB")
    assert codes[0] > 100
    assert codes[3] > 500
    assert grown < 150
