"""Many ranks: processes that torchrun (or SLURM through it) started, which share one run and add up their counts.

torchrun --nproc-per-node 2 -m secateurs prune SRC -o OUT      every rank sees the same SRC and OUT
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np

from secateurs.checks import shown
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
        with _told():
            distributed.all_reduce(total)
        return total.numpy()

    def wait(self) -> None:
        """A barrier."""
        from torch import distributed

        with _told():
            distributed.barrier()


@contextmanager
def _told() -> Iterator[None]:
    """Have what gloo says when a peer is gone told in one line; the peer told why."""
    try:
        yield
    except RuntimeError as error:
        raise InputError("Another rank ended; see its message.") from error


@contextmanager
def ranks_here() -> Iterator[Ranks]:
    """The group that torchrun's variables describe, or one process alone where there are none.

    InputError where the group cannot be formed.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1") or "RANK" not in os.environ:
        yield ALONE
        return
    size, rank = os.environ["WORLD_SIZE"], os.environ["RANK"]
    if not (size.isdecimal() and rank.isdecimal()):
        raise InputError(f"WORLD_SIZE={shown(size)} and RANK={shown(rank)} are no numbers. Start ranks with torchrun.")
    from torch import distributed

    try:
        # One rank may write for hours while another waits.
        distributed.init_process_group("gloo", timeout=timedelta(days=7))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"The ranks of WORLD_SIZE={size} cannot meet: {error}. Start them with torchrun.") from error
    try:
        yield ManyRanks(distributed.get_rank(), distributed.get_world_size())
    finally:
        with suppress(RuntimeError):  # where a peer is gone, and what the block raised says more
            distributed.destroy_process_group()
