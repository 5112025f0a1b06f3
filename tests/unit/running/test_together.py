"""Parts run once each, whoever's threads take them; an error comes out; a forked child still computes."""

import subprocess
import sys
import threading
import time
from functools import partial

import pytest
import torch

import secateurs.running.together as together
from secateurs.formats import bitmask
from secateurs.running import products
from secateurs.running.ready import ready


@pytest.fixture(params=["torch's", "own"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "own":
        monkeypatch.setattr(together, "gnu_openmp", lambda: None)
    elif together.gnu_openmp() is None:
        pytest.skip("torch does not run on GNU's OpenMP here")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_part_runs_once(n: int) -> None:
    done: list[int] = []
    together.together([partial(done.append, i) for i in range(40)], n)
    assert sorted(done) == list(range(40))


@pytest.mark.usefixtures("threads")
def test_parts_run_at_the_same_time() -> None:
    met, places = threading.Barrier(2, timeout=20), []
    together.together([lambda: places.append(met.wait())] * 2, 2)
    assert sorted(places) == [0, 1]  # neither was let on before the other had come


@pytest.mark.usefixtures("threads")
def test_an_error_comes_out_after_what_was_begun_has_ended() -> None:
    begun, ended = [], []

    def part(i: int) -> None:
        begun.append(i)
        if i == 1:
            raise ValueError("of part 1")
        time.sleep(0.01)
        ended.append(i)

    with pytest.raises(ValueError, match="of part 1"):
        together.together([partial(part, i) for i in range(20)], 2)
    assert sorted([*ended, 1]) == sorted(begun)


@pytest.mark.usefixtures("threads")
def test_the_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.randn(64, 96) * (torch.rand(64, 96) < 0.3), torch.randn(9, 96)
    of = ready(bitmask.pack(weight))
    alone = products.product(of, x)
    monkeypatch.setattr(products, "ALONE", 0)
    monkeypatch.setattr(products, "n_threads", lambda: 3)
    assert torch.equal(products.product(of, x), alone)


FORK = """
import os, torch
from secateurs.running.together import together
torch.set_num_threads(2)
torch.randn(600, 600) @ torch.randn(600, 600)
done = []
together([lambda: done.append(1)] * 8, 2)
child = os.fork()
if child == 0:
    together([lambda: done.append(1)] * 8, 2)
    os._exit(len(done))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 16
"""


@pytest.mark.skipif(not hasattr(together.os, "fork"), reason="this system has no fork")
def test_a_forked_child_runs_on_threads_of_its_own() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
