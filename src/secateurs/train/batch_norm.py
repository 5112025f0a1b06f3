"""Batch norm: running statistics measured anew, because those of the network before the cut no longer fit."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateurs.errors import InputError
from secateurs.evaluating import evaluating


@torch.no_grad()
def measure_batch_norm(module: nn.Module, x: Tensor, batch_size: int = 500) -> int:
    """Set every BatchNorm's running mean and variance to their plain averages over the batches of x, in place.

    x        calibration inputs (n, ...), in batches of nearly equal size; several hundred are enough
    returns  how many normalisations were measured; 0 changes nothing

    Nothing else changes and nothing is drawn: dropout is off, all weights and modes stay; where the network raises, so
    do the statistics. InputError where x is empty. Li et al. 2020, arXiv:2007.02491, section 3.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    if not norms:
        return 0
    if not len(x):
        raise InputError("There are no inputs to measure the statistics of BatchNorm on. Give several hundred.")
    device = next(module.parameters(), x).device
    before = [(norm, norm.momentum, copy.deepcopy(dict(norm.named_buffers()))) for norm in norms]
    try:
        with evaluating(module):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch: the average of all batches alike
                norm.train()
            for part in torch.tensor_split(x, -(-len(x) // batch_size)):
                module(part.to(device))
    except BaseException:
        for norm, _, buffers in before:
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
        raise
    finally:
        for norm, momentum, _ in before:
            norm.momentum = momentum
    return len(norms)
