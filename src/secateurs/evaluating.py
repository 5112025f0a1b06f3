"""Evaluating: a network in evaluation mode for a while, then in the mode it was in; what it says; on how many threads.

with evaluating(module): ...        with threads(2): ...        for which, logits in logits_of(module, x): ...
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateurs.data.lengths import lengths_of

IN_CACHE, BUSY = 64, 512  # examples
SHORT = 16  # texts at once on a CPU: the longest are few, and the others are padded to them


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """No dropout, and normalisations by their running statistics, inside the block."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, was_training in modes:
            part.training = was_training


@contextmanager
def threads(n: int) -> Iterator[None]:
    """torch computes on n threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def logits_of(module: nn.Module, x: Tensor, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """What the network says to the examples x (n, ...) without dropout, batch by batch; its train/eval mode stays.

    Texts go the shortest first, so that no batch is mostly padding.

    batch_size  None: as many as stay in a CPU's cache, or keep another device busy
    yields  (which of x (batch,), on its device; their logits (batch, ...), on the network's)
    """
    device, lengths = next(module.parameters(), x).device, lengths_of(x)
    batch_size = batch_size or (BUSY if device.type != "cpu" else IN_CACHE if lengths is None else SHORT)
    order = torch.arange(len(x), device=x.device) if lengths is None else lengths.argsort(stable=True)
    with evaluating(module):
        for k, which in enumerate(torch.split(order, batch_size)):
            # Images need no picking: a slice of them costs no copy.
            part = x[which] if lengths is not None else x[k * batch_size : (k + 1) * batch_size]
            yield which, module(part.to(device))
