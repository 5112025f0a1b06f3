"""Many ranks: torchrun's processes write, byte for byte, what one process writes; a rank that dies loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hashes, ones, write_f32

import secateurs as sc
from laws.test_exact import on_ranks
from secateurs.checkpoint.many_ranks import ranks_here
from secateurs.checkpoint.shards import Shard
from secateurs.checkpoint.streamed import Streaming, _share, prune_checkpoint
from secateurs.errors import InputError, OutputError, SecateursError
from secateurs.exact.ranks import ALONE, Ranks

pytestmark = pytest.mark.filterwarnings("ignore::secateurs.errors.CollapseWarning")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, one with ties, bf16 and an empty tensor; only to be read."""
    place = tmp_path_factory.mktemp("ranks") / "in"
    place.mkdir()
    generator = np.random.default_rng(0)
    ties = np.round(generator.standard_normal((600, 700), np.float32) * 4) / 4
    write_f32(place / "model-1.safetensors", {"b": generator.standard_normal((900, 800), np.float32), "d": ones(5)})
    write_f32(place / "model-2.safetensors", {"a": ties, "c": ones(0, 4), "e": ties[:4] / 8})
    weight_map = {"b": "model-1.safetensors", "d": "model-1.safetensors"}
    weight_map |= dict.fromkeys("ace", "model-2.safetensors")
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (place / "config.json").write_text("{}")
    return place


def torchrun(n: int, *arguments: str) -> list[str]:
    return [*TORCHRUN, str(n), "--standalone", "-m", "secateurs", "prune", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "SECATEURS_THREADS": "1"}


def worker(launcher: int, rank: int) -> int | None:
    """The process of a rank, a child of torchrun's."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"\0RANK={rank}\0".encode() in b"\0" + (path / "environ").read_bytes():
                return int(path.name)
        except (OSError, ValueError):
            continue
    return None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux to find a rank's process")
@pytest.mark.parametrize(
    ("n", "words", "recipe"),
    [
        (2, ["--sparsity", "0.7", "--min-keep", "3"], {"budget": "sparsity(0.7)", "min_keep": 3}),
        pytest.param(
            3,
            ["--sparsity", "0.7", "--score", "lamp"],
            {"budget": "sparsity(0.7)", "score": "lamp"},
            marks=pytest.mark.slow,
        ),
        pytest.param(3, ["--budget", "erk:0.6"], {"budget": "erk(0.6)", "pool": "layer"}, marks=pytest.mark.slow),
    ],
    ids=["sparsity", "lamp", "erk"],
)
def test_a_rank_that_dies_leaves_a_run_that_ends_as_that_of_one_process(
    n: int, words: list[str], recipe: dict[str, Any], home: Path, tmp_path: Path
) -> None:
    """More ranks than shards too."""
    prune_checkpoint(home, sc.Recipe(**recipe), tmp_path / "one")
    command = torchrun(n, str(home), "-o", str(tmp_path / "many"), *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as launcher:
        end = time.monotonic() + 120
        while not (tmp_path / "many" / ".secateurs" / "request.json").exists():
            assert launcher.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
        pid = worker(launcher.pid, 1)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        launcher.communicate(timeout=120)
        assert launcher.returncode != 0
    assert not (tmp_path / "many" / "secateurs.json").exists()
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Pruned ") == 1
    assert hashes(tmp_path / "many") == hashes(tmp_path / "one")


def test_ranks_are_those_of_torchrun_or_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, rank in (("1", "0"), ("3", None), (None, "0"), (None, None)):
        for name, value in (("WORLD_SIZE", size), ("RANK", rank)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        with ranks_here() as ranks:
            assert ranks is ALONE


def test_ranks_that_cannot_meet_are_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(InputError, match=r"The ranks of WORLD_SIZE=2 cannot meet: .*Start them with torchrun"),
        ranks_here(),
    ):
        pass


@pytest.mark.parametrize(("size", "rank"), [("two", "0"), ("-2", "0"), ("2", "first"), ("2", "")])
def test_ranks_that_are_no_numbers_are_an_input_error(size: str, rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(InputError, match=f"WORLD_SIZE='{size}' and RANK='{rank}' are no numbers"), ranks_here():
        pass


def test_an_error_of_one_rank_is_one_line_of_every_rank(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "in"
    shutil.copytree(home, broken)
    path = broken / "model-1.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start : start + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    command = torchrun(2, str(broken), "-o", str(tmp_path / "out"), "--sparsity", "0.7")
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, timeout=120)
    assert ended.returncode != 0
    ours = [line for line in ended.stderr.splitlines() if "secateurs: " in line]
    assert any("'b' holds 1 weights of 720000 that are infinite or not a number" in line for line in ours), ended.stderr
    rest = {line.partition("secateurs: ")[2] for line in ours if "'b'" not in line}
    assert rest <= {"Another rank ended; see its message.", "Terminated. Run the same command again to go on."}
    assert f'File "{Path(sc.__file__).parent}' not in ended.stderr, "a traceback of ours"


def test_a_rank_that_is_gone_is_told_and_not_hidden_by_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import distributed

    def gone(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    timeouts = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, timeout: timeouts.append(timeout))
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    for name in ("all_reduce", "barrier", "destroy_process_group"):
        monkeypatch.setattr(distributed, name, gone)
    for act in (lambda ranks: ranks.sum([1]), lambda ranks: ranks.wait()):
        with pytest.raises(InputError, match=r"^Another rank ended; see its message\.$"), ranks_here() as ranks:
            act(ranks)
    assert timeouts == [timedelta(days=7)] * 2, "one rank may write for hours while another waits"


# ------------------------------------------------------------------------------------ ranks that are threads


RECIPES: list[dict[str, Any]] = [
    {"budget": "sparsity(0.7)"},
    {"budget": "sparsity(0.9)", "min_keep": 0.01},
    {"budget": "sparsity(0.5)", "score": "lamp"},
    {"budget": "sparsity(0.5)", "unit": "row", "min_keep": 2},
    {"budget": "sparsity(0.5)", "score": "random"},
    {"budget": "threshold(0.8sigma)"},
    {"budget": {"[ab]": "threshold(0.5sigma)", "e": "top(3)"}, "pool": "layer"},
    {"budget": "erk(0.8)", "pool": "layer"},
    {"budget": "top(2)", "pool": 4},
]


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("words", RECIPES, ids=str)
def test_any_number_of_ranks_writes_what_one_writes(words: dict[str, Any], n: int, home: Path, tmp_path: Path) -> None:
    recipe = sc.Recipe(**words)
    alone = prune_checkpoint(home, recipe, tmp_path / "one")
    found = on_ranks(n, lambda ranks: prune_checkpoint(home, recipe, tmp_path / "many", ranks))
    assert found == [alone] * n
    assert hashes(tmp_path / "many") == hashes(tmp_path / "one")


def test_a_run_of_two_ranks_goes_on_with_three_or_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = sc.Recipe(budget="sparsity(0.7)")
    prune_checkpoint(home, recipe, tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(Streaming, "_finish", None)
        with pytest.raises(TypeError):
            on_ranks(2, lambda ranks: prune_checkpoint(home, recipe, tmp_path / "many", ranks))
    (tmp_path / "many" / ".secateurs" / "model-1.safetensors.done.json").unlink()
    on_ranks(3, lambda ranks: prune_checkpoint(home, recipe, tmp_path / "many", ranks))
    assert hashes(tmp_path / "many") == hashes(tmp_path / "one")


def test_ranks_agree_on_a_result_that_another_run_finished_just_before_their_lock(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = sc.Recipe(budget="sparsity(0.7)"), tmp_path / "out"
    plain, prunes = Streaming._lock, [lambda: prune_checkpoint(home, recipe, out)]

    @contextmanager
    def late(self: Streaming, work: Path) -> Iterator[None]:
        if prunes:
            prunes.pop()()
            work.mkdir()
        with plain(self, work):
            yield

    with monkeypatch.context() as patch:
        patch.setattr(Streaming, "_lock", late)
        found = on_ranks(3, lambda ranks: prune_checkpoint(home, recipe, out, ranks))
    alone = prune_checkpoint(home, recipe, tmp_path / "one")
    assert found == [alone] * 3
    assert hashes(out) == hashes(tmp_path / "one")


@pytest.mark.parametrize("what", ["nan", "not empty", "locked"])
def test_what_one_rank_refuses_ends_them_all(what: str, home: Path, tmp_path: Path) -> None:
    source, out = home, tmp_path / "out"
    if what == "nan":
        source = write_f32(tmp_path / "model.safetensors", {"w": np.full((4, 4), np.nan, np.float32)})
    if what == "not empty":
        out.mkdir()
        (out / "mine").write_text("")
    if what == "locked":
        (out / ".secateurs").mkdir(parents=True)
        (out / ".secateurs" / "lock").mkdir()
    error: type[SecateursError] = InputError if what == "nan" else OutputError
    with pytest.raises(error):
        on_ranks(2, lambda ranks: prune_checkpoint(source, sc.Recipe(budget="sparsity(0.5)"), out, ranks))
    assert not (out / "secateurs.json").exists()


class Counted(Ranks):
    """One of n."""

    def __init__(self, n: int) -> None:
        self.n = n


@pytest.mark.parametrize(
    ("sizes", "n", "ranks"),
    [
        ([5, 5, 5, 5], 2, [0, 1, 0, 1]),
        ([1, 9, 3, 5], 2, [1, 0, 1, 1]),
        ([7], 3, [0]),
        ([1, 2, 3], 1, [0, 0, 0]),
        ([0, 0], 2, [0, 0]),
        ([], 2, []),
    ],
)
def test_shards_are_shared_by_their_bytes(sizes: list[int], n: int, ranks: list[int]) -> None:
    shards = tuple(Shard(str(i), b" " * size, ()) for i, size in enumerate(sizes))
    assert _share(shards, Counted(n)) == ranks
