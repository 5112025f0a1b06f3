"""Prune under torture: kills, signals, full disks, locks, mutated input and awkward places lose nothing."""

import importlib.util
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from secateurs.checkpoint.difference import diff
from secateurs.checkpoint.manifest import NAME as MANIFEST
from secateurs.checkpoint.streamed import WORK
from secateurs.checkpoint.verifying import verify
from secateurs.cli import main

N_KILLS = 20
N_MUTATED = 1000
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


def fill(place: Path, n_bytes: int) -> None:
    """Take so much of a disk that all others together have at most n_bytes of it."""
    n_taken = shutil.disk_usage(place).free - max(0, n_bytes - size_of(place))
    with open(place / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, n_taken)


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
    torture.wait_for(place / "out" / WORK / "request.json", run)  # the room was seen
    run.signal(signal.SIGSTOP)
    fill(place, int(share * needed))
    run.signal(signal.SIGCONT)
    code, said = run.end()
    assert code == 4, said
    assert "No space left on device" in said
    assert "Traceback" not in said
    torture.assert_safe(place / "out", whole, source.parent / "reference")
    assert len([*(place / "out").glob("*.safetensors")]) <= max(1, 5 * share)
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


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[int, str]]]:
    """Calls the command line in this process: (exit code, stderr); an exception that escapes fails the test."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["secateurs", *map(str, words)])
        said = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(said), pytest.raises(SystemExit) as ended:
            main()
        assert "Traceback" not in said.getvalue()
        return int(ended.value.code or 0), said.getvalue()

    yield call
    signal.signal(signal.SIGTERM, before)


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


def test_mutated_input_is_pruned_or_refused(small: Path, called: Callable[..., Any], tmp_path: Path) -> None:
    rng = random.Random(3)
    content = {path.name: path.read_bytes() for path in small.iterdir()}
    codes: Counter[int] = Counter()
    for recipe in RECIPES:
        assert called("prune", small, "-o", tmp_path / "warm", *recipe)[0] == 0
        shutil.rmtree(tmp_path / "warm")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(N_MUTATED):
        name = rng.choice(list(content))
        (small / name).write_bytes(mutated(content[name], rng))
        begin = time.perf_counter()
        code, said = called("prune", small, "-o", tmp_path / "out", *RECIPES[i % len(RECIPES)])
        assert time.perf_counter() - begin < SLOWEST_S
        assert code in (0, 2, 3), said
        assert bool(code) == said.startswith("secateurs: ") or "Layer collapse" in said, said
        codes[code] += 1
        if code == 0:
            assert verify(tmp_path / "out").problems == ()
        assert (tmp_path / "out" / MANIFEST).exists() == (code == 0)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (small / name).write_bytes(content[name])
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(dict(codes), f"{grown_mb:.0f} MB")
    assert codes[0] > 100
    assert codes[3] > 400
    assert grown_mb < 100


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", "", "..", "x\0y"]
)
@pytest.mark.parametrize("command", ["prune", "inspect", "verify", "diff"])
def test_a_shard_outside_of_the_directory_is_not_read(
    command: str, name: str, small: Path, called: Callable[..., Any], tmp_path: Path
) -> None:
    save_file({"a.weight": np.ones((2, 2), np.float32)}, tmp_path / "secret.safetensors")
    (small / torture.INDEX).write_text(json.dumps({"weight_map": {"a.weight": name}}))
    options = {"prune": ["-o", tmp_path / "out", "--sparsity", "0.5"], "diff": [small]}
    code, said = called(command, small, *options.get(command, []))
    assert code == 3
    assert "Only plain names in the same directory are read" in said
    assert not (tmp_path / "out").exists()


def test_a_shard_that_is_a_link_out_of_the_directory_is_not_read(
    small: Path, called: Callable[..., Any], tmp_path: Path
) -> None:
    (small / "x.safetensors").rename(tmp_path / "secret.safetensors")
    (small / "x.safetensors").symlink_to(tmp_path / "secret.safetensors")
    code, said = called("prune", small, "-o", tmp_path / "out", "--sparsity", "0.5")
    assert code == 3
    assert "a link that leaves the directory" in said


def test_other_files_that_are_links_out_of_the_directory_are_left(
    small: Path, called: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (small / "notes.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(small / "pipe.txt")
    assert called("prune", small, "-o", tmp_path / "out", "--sparsity", "0.5")[0] == 0
    assert not [*(tmp_path / "out").glob("notes.txt"), *(tmp_path / "out").glob("pipe.txt")]


def test_a_link_in_the_output_is_never_written_through(small: Path, called: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "mine").write_text("mine")
    (out / "x.safetensors").symlink_to(tmp_path / "mine")
    code, said = called("prune", small, "-o", out, "--sparsity", "0.5")
    assert code == 4
    assert "is not empty and holds no unfinished run" in said
    assert (tmp_path / "mine").read_text() == "mine"


# Awkward places.


def test_the_source_is_no_output(small: Path, called: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(small)
    before = torture.hashes(small)
    single = small / "x.safetensors"
    for source, out in [
        (small, small),
        (f"{small}/", small),
        (small, f"{small}/"),
        (small, small / "inside"),
        (small, small / "a" / ".." / "inside"),
        (small, tmp_path / "link"),
        (tmp_path / "link", small),
        (tmp_path / "link", small / "inside"),
        (single, small),
        (single, single),
    ]:
        code, said = called("prune", source, "-o", out, "--sparsity", "0.5")
        assert code == 4, (source, out, said)
        assert torture.hashes(small) == before
        assert not (small / "inside").exists()


@pytest.mark.parametrize(
    "name", ["small", "with space", "päth-模型", "-dash", "[a]*", "quote'\"", "new\nline", "x" * 200]
)
def test_any_name_of_a_directory_will_do(name: str, small: Path, called: Callable[..., Any], tmp_path: Path) -> None:
    place = tmp_path / name
    if place != small:
        shutil.copytree(small, place)
    assert called("prune", f"{place}/", "-o", f"{tmp_path}/out of {name}/", "--sparsity", "0.5") == (0, "")
    assert called("prune", small, "-o", tmp_path / "plain", "--sparsity", "0.5") == (0, "")
    found, plain = torture.hashes(tmp_path / f"out of {name}"), torture.hashes(tmp_path / "plain")
    assert {**found, MANIFEST: ""} == {**plain, MANIFEST: ""}
    assert called("verify", tmp_path / f"out of {name}")[0] == 0
    assert called("diff", place, tmp_path / f"out of {name}", "--exit-code")[0] == 1


def test_a_relative_path_and_the_current_directory(
    small: Path, called: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small)
    assert called("prune", ".", "-o", "../out", "--sparsity", "0.5") == (0, "")
    assert verify(tmp_path / "out").is_ok
    assert called("prune", ".", "-o", ".", "--sparsity", "0.5")[0] == 4
    assert called("prune", "x.safetensors", "-o", "sub/dir", "--sparsity", "0.5") == (0, "")
    assert verify(small / "sub" / "dir").is_ok


def test_a_source_without_the_right_to_write_will_do(small: Path, called: Callable[..., Any], tmp_path: Path) -> None:
    for path in (*small.iterdir(), small):
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert called("prune", small, "-o", tmp_path / "out", "--sparsity", "0.5") == (0, "")
    assert all(os.access(path, os.W_OK) for path in (tmp_path / "out").iterdir())
    small.chmod(0o700)


def test_a_read_only_output_is_exit_4(small: Path, called: Callable[..., Any], disk: Callable[[int], Path]) -> None:
    if os.geteuid():
        place = small.parent / "read-only"
        place.mkdir(mode=0o500)
    else:  # root may write anywhere but here
        place = disk(1 << 20)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    for out in (place, place / "new"):
        code, said = called("prune", small, "-o", out, "--sparsity", "0.5")
        assert code == 4, said
        assert str(place) in said


@pytest.mark.parametrize("place", ["/dev/null", "/dev/full", "/proc/self"])
def test_an_output_that_cannot_be_a_directory_is_exit_4(place: str, small: Path, called: Callable[..., Any]) -> None:
    for out in (place, f"{place}/new"):
        code, said = called("prune", small, "-o", out, "--sparsity", "0.5")
        assert code == 4, said


def test_a_finished_output_is_not_written_again_nor_for_another_request(
    small: Path, called: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert called("prune", small, "-o", out, "--sparsity", "0.5") == (0, "")
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()}
    assert called("prune", small, "-o", out, "--sparsity", "0.5") == (0, "")
    code, said = called("prune", small, "-o", out, "--sparsity", "0.6")
    assert code == 4
    assert "Name a new directory" in said
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()} == before
    (out / "y.safetensors").unlink()
    assert called("prune", small, "-o", out, "--sparsity", "0.5")[0] == 4


@pytest.fixture(scope="module")
def interrupted(source: Path, start: Callable[..., Any]) -> Path:
    """What a killed run leaves: some shards and their reports; only to be copied."""
    out = source.parent / "interrupted"
    while not [*(out / WORK).glob("*.done.json")] or (out / MANIFEST).exists():
        shutil.rmtree(out, ignore_errors=True)
        torture.kill(start(*arguments(source, out)), out / "model-00003-of-00005.safetensors", 0.0)
    return out


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"size": 1, "sha256": 2, "layers": 3}'])
@pytest.mark.parametrize("name", ["request.json", "model-00001-of-00005.safetensors.done.json"])
def test_a_damaged_journal_is_redone_or_refused(
    name: str,
    content: bytes,
    interrupted: Path,
    source: Path,
    whole: dict[str, str],
    start: Callable[..., Any],
    tmp_path: Path,
) -> None:
    out = tmp_path / "interrupted"
    shutil.copytree(interrupted, out)
    (out / WORK / name).write_bytes(content)
    code, said = start(*arguments(source, out)).end()
    assert code in (0, 4), said
    assert "Traceback" not in said
    assert code or torture.hashes(out) == whole


@pytest.mark.parametrize("n_bytes", [None, 0, -1], ids=["removed", "emptied", "cut off"])
def test_a_finished_shard_that_was_lost_is_written_again(
    n_bytes: int | None,
    interrupted: Path,
    source: Path,
    whole: dict[str, str],
    start: Callable[..., Any],
    tmp_path: Path,
) -> None:
    out = tmp_path / "interrupted"
    shutil.copytree(interrupted, out)
    shard = out / "model-00001-of-00005.safetensors"
    if n_bytes is None:
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:n_bytes])
    assert_ends_the_same(start, source, out, whole)
