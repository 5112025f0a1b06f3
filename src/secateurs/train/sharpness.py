"""Sharpness: the gradient of the worst place near the weights, so that training ends where the loss is flat around it.

    with uphill(module, radius, masks):     # after loss.backward()
        loss().backward()                   # the gradients there; the weights come back as they were

    weight + radius * gradient / |gradient|, over all weights together; a step then takes two backward passes.

What generalises better is also cut with less harm. Sharpness-aware minimization: Foret et al. 2021, arXiv:2010.01412;
before pruning: Na, Mehta & Strubell 2022, arXiv:2205.12694.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateurs.layers import named_parameters


@contextmanager
def uphill(module: nn.Module, radius: float, keeps: Mapping[str, Tensor]) -> Iterator[None]:
    """The weights are moved by `radius` along their gradients; after it they are what they were, bit for bit.

    keeps  {name: bool of the weight's shape}: what is pruned stays zero there, too, and its gradient counts for nothing

    The gradients are gone inside, for those of the place to come. BatchNorm counts no batch twice: its running
    statistics are those of the first pass. Where all gradients are zero, the place is the same.
    """
    by_name = named_parameters(module)
    keep_of = {by_name[name]: keep for name, keep in keeps.items()}
    moved = [(weight, weight.grad) for weight in module.parameters() if weight.grad is not None]
    before = [weight.detach().clone() for weight, _ in moved]
    with torch.no_grad(), _statistics_held(module):
        ways = [gradient * keep_of[weight] if weight in keep_of else gradient for weight, gradient in moved]
        step = radius / nn.utils.get_total_norm(ways).clamp_min(torch.finfo(torch.float32).tiny)
        for (weight, _), way in zip(moved, ways, strict=True):
            weight.addcmul_(way, step.to(weight.dtype))
            weight.grad = None
        try:
            with torch.enable_grad():
                yield
        finally:
            for (weight, _), value in zip(moved, before, strict=True):
                weight.copy_(value)


@contextmanager
def _statistics_held(module: nn.Module) -> Iterator[None]:
    """Batches that pass leave the running statistics of normalisations as they are."""
    buffers = [each for part in module.modules() if isinstance(part, _BatchNorm) for each in part.buffers()]
    before = [each.clone() for each in buffers]
    yield
    for each, value in zip(buffers, before, strict=True):
        each.copy_(value)
