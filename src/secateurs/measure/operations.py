"""Operations: multiply-adds of one example, by weight; theoretical, since no ordinary runtime skips a zero."""

import torch
from torch import Tensor, nn

from secateurs.evaluating import evaluating
from secateurs.layers import layers


@torch.no_grad()
def uses(module: nn.Module, x: Tensor) -> dict[str, int]:
    """{weight: how often one example multiplies each of its elements}: once, or at every place of a convolution.

    x  one example (1, ...)

    Of the prunable weights of linear and convolution layers; what others do (attention between tokens) is not counted.
    """
    found: dict[str, int] = {}
    owners = {layer.name: layer.name.rpartition(".")[0] for layer in layers(module) if layer.is_prunable}

    def count(name: str, part: nn.Module, output: Tensor) -> None:
        n_out = part.weight.shape[0] if isinstance(part, nn.Linear) else output.shape[1]
        found[name] = found.get(name, 0) + output.numel() // int(n_out)

    handles = []
    for name, owner in owners.items():
        part = module.get_submodule(owner)
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
            handles.append(part.register_forward_hook(lambda part, _, output, name=name: count(name, part, output)))
    try:
        with evaluating(module):
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def multiply_adds(n_kept: dict[str, int], used: dict[str, int]) -> int:
    """Multiply-adds of one example when so many elements of each weight are not zero."""
    return sum(n * used.get(name, 0) for name, n in n_kept.items())
