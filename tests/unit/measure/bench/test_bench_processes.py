"""Workers from the outside: answers, errors, noise, and an end that is noticed."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from secateurs.measure.bench.processes import Process, WorkerError
from secateurs.measure.memory import anonymous_bytes, mapped_bytes

NOISY = """
import secateurs.measure.bench.worker as worker
def shout(self, n):
    print("a library says something")
    return {"twice": 2 * n}
worker.Worker.shout = shout
worker.serve()
"""


def test_what_libraries_print_does_not_come_between_answers():
    questions = "".join(json.dumps({"do": "shout", "n": n}) + "\n" for n in (1, 2))
    done = subprocess.run([sys.executable, "-c", NOISY], input=questions, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"twice": 2}, {"twice": 4}]
    assert "a library says something" in done.stderr


def test_an_error_says_its_kind_and_an_end_is_noticed(tmp_path: Path):
    with Process(tmp_path / "log", threads=1) as process:
        with pytest.raises(WorkerError, match="sing") as failed:
            process.ask("sing")
        assert failed.value.kind == "AttributeError"
        process._child.kill()
        for _ in range(2):
            with pytest.raises(WorkerError, match="its process ended with code -9: it said nothing"):
                process.ask("sing")


def test_memory_of_its_own_is_counted():
    before = anonymous_bytes()
    if before is None:
        pytest.skip("this system does not say")
    held = bytearray(b"x") * 50_000_000
    after = anonymous_bytes()
    assert after is not None
    assert 45_000_000 < after - before < 70_000_000
    assert len(held) == 50_000_000
    assert anonymous_bytes(2**22 + 1) is None


def test_a_mapped_file_counts_once_it_was_looked_at(tmp_path: Path):
    before = mapped_bytes()
    if anonymous_bytes() is None:
        pytest.skip("this system does not say")
    np.save(tmp_path / "weights.npy", np.ones(5_000_000, np.uint8))
    weights = np.load(tmp_path / "weights.npy", mmap_mode="r")
    assert int(weights.sum(dtype=np.int64)) == 5_000_000
    assert 4_900_000 < mapped_bytes() - before < 5_300_000


FAULTS = """
import resource, torch
from secateurs.measure.bench.worker import settle
torch.set_num_threads(1)
settle()
layers = [torch.nn.Linear(256, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 256)]
network = torch.nn.Sequential(*(each for _ in range(2) for each in layers)).eval()
x = torch.randn(1088, 256)
with torch.inference_mode():
    for _ in range(5):
        network(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        network(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of glibc's processes")
def test_a_settled_process_asks_the_system_for_no_memory_while_it_is_timed():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # thousands without `settle`
