"""Repairing: what a shrunk network gets back without training: least squares for readers, BatchNorm's statistics.

repair(before, shrunk, batches)       each layer that lost inputs fits what it gave before, in turn
re_estimate(module, batches)          BatchNorm's means and variances as they are now
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.errors import InputError
from secateurs.groups.tracing import call, evaluating, first_tensor
from secateurs.layers import unwrap
from secateurs.structure.shrinking import Shrunk

RIDGE = 1e-4  # of the mean square of the inputs: keeps the solution near the weights where inputs are alike


class _Arrived(Exception):  # noqa: N818 - no error: the rest of the network need not run
    pass


def repair(before: nn.Module, shrunk: Shrunk, batches: Sequence[Any]) -> tuple[str, ...]:
    """Refit, in place, every Linear or convolution of the shrunk network that lost inputs; returns their names.

        min over W, b of  |W x + b - y|^2 + ridge |W - W0|^2

    x  inputs of the layer in the shrunk network, the layers before it repaired already;  y  what it gave before, of the
    outputs that are left;  W0  its weights now. Layers that lost outputs as well, and convolutions in groups, are left.
    It comes before `re_estimate`: what is between the layers is taken to be as it was. Cf. He et al. 2017,
    arXiv:1707.06168.
    """
    before, small = unwrap(before), unwrap(shrunk.module)
    old = dict(before.named_modules())
    repaired = []
    for line in shrunk.report:
        name = line.name.rpartition(".")[0]
        layer = dict(small.named_modules()).get(name)
        if line.before[0] != line.after[0] or line.before[1:2] == line.after[1:2]:
            continue
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            _refit(layer, _pairs(before, old[name], small, layer, batches))
            repaired.append(name)
    return tuple(repaired)


def re_estimate(module: nn.Module, batches: Iterable[Any]) -> None:
    """The means and variances of every BatchNorm over the batches, in place; each batch counts the same.

    InputError where there are no batches or the network refuses one; they are then as they were.
    """
    norms = [each for each in unwrap(module).modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    n = 0
    with evaluating(module), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain average
                norm.train()
            for batch in batches if norms else ():
                call(module, batch)
                n += 1
            if norms and not n:
                raise InputError("The statistics of BatchNorm need batches of inputs; there are none. Give some.")
        except BaseException:
            for buffer, value in before:
                buffer.copy_(value)
            raise
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                norm.eval()


def _pairs(
    before: nn.Module, old: nn.Module, small: nn.Module, new: nn.Module, batches: Sequence[Any]
) -> Iterable[tuple[Tensor, Tensor]]:
    """For each batch, what goes into the new layer and what came out of the old one."""
    for batch in batches:
        yield _stop_at(small, new, batch)[0], _stop_at(before, old, batch)[1]


def _stop_at(module: nn.Module, layer: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """The input and the output of a layer, at its first call."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        seen.append((first_tensor((args, kwargs)).detach(), output.detach()))
        raise _Arrived

    hook = layer.register_forward_hook(look, with_kwargs=True)
    try:
        with evaluating(module), torch.no_grad():
            call(module, batch)
    except _Arrived:
        pass
    finally:
        hook.remove()
    return seen[0]


def _refit(layer: nn.Linear | nn.Conv2d, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Solve the normal equations in double precision, the bias as a column of ones."""
    weight = layer.weight.detach().flatten(1).double()
    n = weight.shape[1] + 1
    gram, moment = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, weight.shape[0], dtype=torch.float64)
    now = torch.zeros(weight.shape[0], dtype=torch.float64) if layer.bias is None else layer.bias.detach().double()
    start = torch.cat([weight.cpu(), now.cpu()[:, None]], 1).T
    for inputs, wanted in pairs:
        x = _rows(layer, inputs).double().cpu()
        y = wanted.movedim(1, -1) if isinstance(layer, nn.Conv2d) else wanted
        x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        gram += x.T @ x
        moment += x.T @ y.reshape(len(x), -1).double().cpu()
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(n, dtype=torch.float64)
    if layer.bias is None:
        ridge[-1, -1] = gram.diagonal().sum() * 1e9  # holds the column of ones at zero
    fitted = torch.linalg.solve(gram + ridge, moment + ridge @ start).T
    with torch.no_grad():
        layer.weight.copy_(fitted[:, :-1].reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(fitted[:, -1])


def _rows(layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> Tensor:
    """The layer's inputs as rows, one per place it looks at."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode)  # "same" and "valid" are numbers there
    patches = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])
