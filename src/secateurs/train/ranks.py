"""Ranks: several processes train one network; where they no longer agree on its masks, all of them end at once."""

import hashlib

import torch
import torch.distributed as dist

from secateurs.errors import RanksError
from secateurs.masks import Masks


def assert_same_on_all_ranks(masks: Masks, step: int) -> None:
    """RanksError on every rank unless all chose these masks; nothing where there is one process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    mine = torch.tensor(list(checksum(masks)), dtype=torch.uint8, device=device)
    all_ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(all_ranks, mine)
    different = [rank for rank, other in enumerate(all_ranks) if not torch.equal(other, all_ranks[0])]
    if different:
        raise RanksError(
            f"At step {step} the masks of rank {', '.join(map(str, different))} are not those of rank 0: the copies of "
            "the network have drifted apart. Check that all ranks begin with the same weights, wrap the network in "
            "DistributedDataParallel, and step together."
        )


def checksum(masks: Masks) -> bytes:
    """16 bytes that equal masks share."""
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(name.encode())
        digest.update(masks[name].detach().contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.digest()[:16]
