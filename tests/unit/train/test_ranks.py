"""Two processes train one network: equal masks go on and equal one process's, other masks end both."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secateurs.masks import Masks
from secateurs.recipe import Recipe
from secateurs.train.ranks import assert_same_on_all_ranks, checksum

CODE = """
import os, sys, torch, torch.distributed as dist
from torch import nn
import secateurs as sc
from secateurs.errors import RanksError

rank, how, where = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
os.environ.update(RANK=sys.argv[1], LOCAL_RANK=sys.argv[1], WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
dist.init_process_group("gloo", init_method=f"file://{where}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
x, y = torch.randn(64, 12), torch.arange(64) % 3
optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
recipe = sc.Recipe(budget="sparsity(0.7)", schedule="cubic(0.2, 0.8)")
if how == "accelerate":
    import accelerate
    engine = accelerate.Accelerator(cpu=True)
    wrapped, optimizer = engine.prepare(module, optimizer)
else:
    wrapped = nn.parallel.DistributedDataParallel(module)
if how == "drifted":
    with torch.no_grad():
        module[0].weight[0] += rank  # one copy is touched behind the back of the others
pruner = sc.Pruner(wrapped, recipe, optimizer, total_steps=10)
try:
    for step in range(10):
        mine = slice(32 * rank, 32 * rank + 32)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(wrapped(x[mine]), y[mine])
        engine.backward(loss) if how == "accelerate" else loss.backward()
        optimizer.step()
        pruner.step()
except RanksError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(3)
torch.save({name: value for name, value in module.state_dict().items()}, f"{where}/rank{rank}.pt")
dist.destroy_process_group()
"""


def two(how: str, where: Path) -> list[tuple[int, str]]:
    """(exit code, output) of both ranks."""
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    pipe = subprocess.PIPE
    ranks = [
        subprocess.Popen([*command, str(rank), how, str(where)], stdout=pipe, stderr=pipe, text=True)
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=240) for rank in ranks]
    return [
        (rank.returncode, out if rank.returncode in (0, 3) else err)
        for rank, (out, err) in zip(ranks, told, strict=True)
    ]


def test_two_ranks_under_accelerate_hold_the_same_zeros_at_the_exact_count(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs the extra hf")
    told = two("accelerate", tmp_path)
    assert [code for code, _ in told] == [0, 0], told
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    n = 12 * 16 + 16 * 3
    assert sum(int((first[name] == 0).sum()) for name in ("0.weight", "2.weight")) == round(0.7 * n)


def test_ranks_that_drifted_apart_all_end_loudly_at_the_first_choice(tmp_path: Path) -> None:
    for code, said in two("drifted", tmp_path):
        assert code == 3
        assert said.startswith("RanksError: At step 3 the masks of rank 1 are not those of rank 0: the copies")
    assert not list(tmp_path.glob("rank*.pt"))


def test_one_process_compares_with_nobody_and_equal_masks_have_equal_checksums() -> None:
    module = torch.nn.Linear(6, 5)
    half, more = (Masks.make(module, Recipe(budget=f"sparsity({s})")) for s in (0.5, 0.6))
    assert_same_on_all_ranks(half, 1)
    assert checksum(half) == checksum(Masks(dict(half))) != checksum(more)
