"""Memory that is given back is no longer held, and what was mapped is still what it was."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateurs.measure.memory import mapped_bytes, page_out

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process holds")


@on_linux
def test_pages_of_a_file_go_and_come_back(tmp_path: Path) -> None:
    weight = torch.randn(1 << 20)
    save_file({"w": weight}, tmp_path / "w.safetensors")
    mapped = load_file(tmp_path / "w.safetensors")["w"]
    assert mapped.equal(weight)
    before = mapped_bytes()
    page_out([mapped])
    assert mapped_bytes() < before - (3 << 20)
    assert mapped.equal(weight)


@on_linux
def test_what_was_changed_stays(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1 << 16)}, tmp_path / "w.safetensors")
    mapped = load_file(tmp_path / "w.safetensors")["w"]
    mapped[5000] = 7.0
    page_out([mapped])
    assert mapped[5000] == 7.0


def test_weights_that_lie_in_no_file_are_left_alone() -> None:
    for n in (0, 5, 1 << 16):
        weight = torch.arange(n)
        page_out([weight])
        assert weight.equal(torch.arange(n))


CODE = """
import torch
from torch import nn
import secateurs as sc
from secateurs.measure.memory import anonymous_bytes
model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(12))).requires_grad_(False)
for part in model:
    part.weight[torch.rand(1024, 1024) < 0.95] = 0
x = torch.randn(1, 1024)
sc.accelerate(nn.Sequential(model[0]), x, rounds=6)
before = anonymous_bytes()
sc.accelerate(model, x, rounds=6, is_reversible=False)
left = sum(4 * 1024 * 1025 for part in model if isinstance(part, nn.Linear))
print(before - anonymous_bytes(), 12 * 4 * 1024 * 1025 - left - sum(getattr(part, "nbytes", 0) for part in model))
"""


@on_linux
def test_nothing_but_the_packed_layers_stays() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    less, right = map(int, done.stdout.split())
    assert less > 0.8 * right  # huge pages are given back as a whole
