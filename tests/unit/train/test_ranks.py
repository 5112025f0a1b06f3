"""Two processes train one network: equal masks go on and equal one process's, other masks end both."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secateurs.masks import Masks
from secateurs.recipe import Recipe
from secateurs.train.ranks import assert_same_on_all_ranks, checksum

SHARDED = """
import sys, torch, torch.distributed as dist
from torch import nn
import secateurs as sc
from secateurs.errors import RecipeError
from secateurs.layers import whole

rank, n_ranks, where = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{where}/meeting{n_ranks}", rank=rank, world_size=n_ranks)
found = {}
for pool, revive in ((p, r) for r in ("never", "forget") for p in ("model", "layer", "row")):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 15), nn.ReLU(), nn.Linear(15, 3), nn.Conv1d(1, 3, 2), nn.Flatten())
    for parameter in module.parameters():
        parameter.data.mul_(8).round_().div_(8)  # full of ties and zeros
    x, y = torch.randn(64, 1, 12), torch.arange(64) % 6
    if n_ranks > 1:
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.device_mesh import init_device_mesh
        mesh = init_device_mesh("cpu", (n_ranks,))
        fully_shard(module[0], mesh=mesh)
        fully_shard(module, mesh=mesh)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.5)
    budget = "sparsity(0.7)" if revive == "never" else "threshold(0.9sigma)"
    masks = sc.prune(module, sc.Recipe(budget="sparsity(0.3)", pool=pool))
    pruner = sc.Pruner(module, sc.Recipe(budget=budget, pool=pool, schedule="cubic(0.2, 0.8)"), optimizer, 10, revive)
    for step in range(10):
        optimizer.zero_grad()
        # Every rank has the same examples: the mean of equal gradients is one process's, bit for bit.
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
        pruner.step()
    for name, parameter in module.named_parameters():
        found[f"{pool} {revive} {name}"] = whole(parameter.detach()).clone()
    for stage, each in (("pruned", masks), ("trained", pruner.masks)):
        found |= {f"{pool} {revive} {stage} {name}": keep for name, keep in each.items()}
    try:
        sc.Pruner(module, sc.Recipe(budget="sparsity(0.7)"), optimizer, 10, revive="dense")
    except RecipeError as error:
        assert n_ranks > 1 and "not spread over processes" in str(error)
    else:
        assert n_ranks == 1
torch.save(found, f"{where}/{n_ranks}-{rank}.pt")
dist.destroy_process_group()
"""

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
    print(f"{type(error).__name__}: {error}", flush=True)
    dist.destroy_process_group()
    os._exit(3)  # gloo's threads abort an interpreter that ends while they hold a tensor
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


def test_under_fsdp2_the_result_equals_one_process_bit_for_bit(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SHARDED]
    pipe = subprocess.PIPE
    ranks = [(rank, n) for n in (1, 2) for rank in range(n)]
    started = [
        subprocess.Popen([*command, str(rank), str(n), str(tmp_path)], stdout=pipe, stderr=pipe, text=True)
        for rank, n in ranks
    ]
    for process in started:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    alone, *both = (torch.load(tmp_path / f"{n}-{rank}.pt", weights_only=True) for rank, n in ranks)
    assert len(alone) == 6 * (6 + 3 + 3)
    for found in both:
        assert {name: value for name, value in found.items() if not torch.equal(value, alone[name])} == {}
    n_zero = sum(int((value == 0).sum()) for name, value in alone.items() if name.startswith("model never 0.w"))
    assert n_zero > 0.3 * 12 * 15


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
