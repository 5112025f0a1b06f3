"""Many ranks: processes that torchrun (or SLURM through it) started, which share one run and add up their counts.

torchrun --nproc-per-node 2 -m secateurs prune SRC -o OUT      every rank sees the same SRC and OUT
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from secateurs.errors import InputError
from secateurs.exact.ranks import ALONE, Counts, Ranks


class ManyRanks(Ranks):
    """This process's place in a torch.distributed group."""

    def __init__(self, index: int, n: int) -> None:
        self.index = index
        self.n = n

    def sum(self, counts: Any) -> Counts:
        """All-reduced, in integers: the order in which ranks come in changes nothing."""
        import torch
        from torch import distributed

        total = torch.from_numpy(np.array(counts, np.int64))
        device = torch.device("cuda") if distributed.get_backend() == "nccl" else torch.device("cpu")
        total = total.to(device)
        distributed.all_reduce(total)
        return total.cpu().numpy()

    def wait(self) -> None:
        """A barrier."""
        from torch import distributed

        distributed.barrier()


@contextmanager
def ranks_here() -> Iterator[Ranks]:
    """The group that torchrun's variables describe, or one process alone where there are none.

    InputError where the group cannot be formed.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1") or "RANK" not in os.environ:
        yield ALONE
        return
    from torch import distributed

    try:
        distributed.init_process_group("gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"The ranks of WORLD_SIZE={os.environ['WORLD_SIZE']} cannot meet: {error}. Start them with torchrun."
        ) from error
    try:
        yield ManyRanks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
