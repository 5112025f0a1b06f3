"""Repair: the weights that live take over the work of those that were cut, layer by layer, without training.

    repair(module, masks, dense, x)  ->  [Repaired(name, before, after, reason), ...]

Every layer of `module` is fitted to what the same layer of `dense` answers to the same examples, in the order in which
the network calls them, each on what the layers before it, already repaired, now give it.

    least_squares(weight, keep, gram, cross) -> weight       one layer: rows (out, in), exactly, on the mask
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateurs.checks import nearest
from secateurs.errors import InputError
from secateurs.evaluating import evaluating
from secateurs.layers import named_parameters, owners_of, unwrap
from secateurs.masks import Masks
from secateurs.norms import norms_behind

DAMPING = 0.01  # of the mean square of an input; Frantar & Alistarh 2023, arXiv:2301.00774, section 3.2


@dataclass(frozen=True)
class Repaired:
    """One layer: its error against the dense network's answers, before and after.

    before, after  root of the squared error by the squared answers, over the calibration data; None where not measured
    reason         why it was left as it was; empty if it was repaired
    """

    name: str
    before: float | None = None
    after: float | None = None
    reason: str = ""


def least_squares(weight: Tensor, keep: Tensor, gram: Tensor, cross: Tensor, damping: float = DAMPING) -> Tensor:
    """The weights on the mask whose answers are nearest to the wanted ones, row by row.

        minimise |w x - y|^2 + damping * mean(diag(gram)) * |w - weight|^2    over w, 0 where not keep

    weight, keep  (out, in)
    gram          (in, in)   x x^T, summed over the examples
    cross         (out, in)  y x^T

    The penalty pulls towards `weight`, so no row's squared error is ever larger than it was: a row that is not better
    for what rounding leaves of it stays. LeCun et al. 1989 (OBD), without its diagonal; Hubara et al. 2021,
    arXiv:2102.08124.
    """
    gram, cross = gram.double(), cross.double()
    old = torch.where(keep, weight, 0).double()
    pull = (damping * gram.diagonal().mean()).clamp_min(torch.finfo(torch.float64).tiny)  # inputs may all be 0
    rest = cross - old @ gram  # (out, in): what is still missing
    new = old.clone()
    patterns, which = torch.unique(keep, dim=0, return_inverse=True)
    rows_of = which.argsort(stable=True).split(which.bincount(minlength=len(patterns)).tolist())
    for pattern, rows in zip(patterns, rows_of, strict=True):
        alive = pattern.nonzero().squeeze(1)
        if len(alive):
            factor = torch.linalg.cholesky(
                gram[alive[:, None], alive] + pull * torch.eye(len(alive), dtype=gram.dtype, device=gram.device)
            )
            step = torch.cholesky_solve(rest[rows[:, None], alive].T, factor).T
            new[rows[:, None], alive] += step
    new = new.to(weight.dtype)
    is_better = _row_errors(new.double(), gram, cross) < _row_errors(old, gram, cross)
    return torch.where(is_better[:, None], new, old.to(weight.dtype))


def _row_errors(weight: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """|w x - y|^2 of every row, less |y|^2: (out,)."""
    return ((weight @ gram - 2 * cross) * weight).sum(1)


@torch.no_grad()
def repair(
    module: nn.Module, masks: Masks, dense: nn.Module, x: Tensor, *, damping: float = DAMPING, batch_size: int = 100
) -> tuple[Repaired, ...]:
    """Fit the linear and convolution layers of `masks` to the network before the cut, in place; the zeros stay.

    module  the pruned network           dense  the same network before it was pruned; it is left as it is
    x       calibration inputs (n, ...); several hundred

    Biases are fitted too. A layer without one that a BatchNorm reads is fitted but for a constant, which goes into the
    running mean: weights that have to make it of their inputs' means are worse, also to train on. A layer of another
    kind, a tied one, and one the network does not call are left, with the reason.
    """
    module, dense = unwrap(module), unwrap(dense)
    networks = named_parameters(module), named_parameters(dense)
    parts = owners_of(module)
    found: dict[str, Repaired] = {}
    targets: dict[str, str] = {}  # module name -> the masks' name
    for name in masks:
        for by_name in networks:
            if name not in by_name:
                raise InputError(f"The masks name '{name}', which a network does not have. {nearest(name, by_name)}")
        owner, _, kind = name.rpartition(".")
        part = parts[name]
        if kind != "weight":
            found[name] = Repaired(name, reason="it is not the weight of a linear layer or convolution")
        elif not isinstance(part, nn.Linear | nn.Conv2d):
            found[name] = Repaired(name, reason=f"a {type(part).__name__} is not repaired")
        elif isinstance(part, nn.Conv2d) and (part.padding_mode != "zeros" or isinstance(part.padding, str)):
            found[name] = Repaired(name, reason="only zero padding given in numbers is repaired")
        elif len(masks.names_of(name)) > 1:
            found[name] = Repaired(name, reason="its weights are tied")
        else:
            targets[owner] = name
            found[name] = Repaired(name, reason="the network does not call it")
    with evaluating(module), evaluating(dense):
        batches = torch.split(x, batch_size)
        first = batches[0].to(next(module.parameters(), x).device)
        norms = norms_behind(module, targets, lambda: module(first))
        for owner, n_calls in _calls(module, targets, batches[0]).items():
            name = targets[owner]
            norm = norms.get(owner)
            found[name] = _repair(module, dense, owner, n_calls, masks[name], batches, damping, name, norm)
    return tuple(found[name] for name in masks)


def _repair(
    module: nn.Module,
    dense: nn.Module,
    owner: str,
    n_calls: int,
    keep: Tensor,
    batches: tuple[Tensor, ...],
    damping: float,
    name: str,
    norm: _BatchNorm | None,
) -> Repaired:
    part = unwrap(module.get_submodule(owner))
    assert isinstance(part, nn.Linear | nn.Conv2d)
    weight, bias = part.weight, part.bias
    if bias is None and norm is not None:
        bias = weight.new_zeros(len(weight))
    n_groups = part.groups if isinstance(part, nn.Conv2d) else 1
    sums: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        inputs = _rows_in(part, _caught(module, owner, n_calls, batch, True), n_groups)  # per group (n, in)
        answers = _rows_out(part, _caught(dense, owner, n_calls, batch, False), n_groups)  # per group (n, out)
        if bias is not None:
            inputs = [torch.cat([each, torch.ones_like(each[:, :1])], 1) for each in inputs]
        new = [(a.T @ a, b.T @ a, b.square().sum(0)) for a, b in zip(inputs, answers, strict=True)]
        sums = [tuple(map(torch.add, old, more)) for old, more in zip(sums, new, strict=True)] if sums else new  # type: ignore[misc]
    rows = torch.cat([weight.flatten(1), bias[:, None]], 1) if bias is not None else weight.flatten(1)
    alive = keep.to(weight.device).flatten(1)
    if bias is not None:
        alive = torch.cat([alive, torch.ones_like(alive[:, :1])], 1)
    fitted, errors, size = [], [0.0, 0.0], 0.0
    for old, living, (gram, cross, squares) in zip(rows.chunk(n_groups), alive.chunk(n_groups), sums, strict=True):
        best = least_squares(old, living, gram, cross, damping)
        fitted.append(best)
        size += float(squares.sum())
        for i, each in enumerate((torch.where(living, old, 0), best)):
            errors[i] += float((_row_errors(each.double(), gram, cross) + squares).clamp_min(0).sum())
    best = torch.cat(fitted)
    if bias is not None:
        if part.bias is not None:
            bias.copy_(best[:, -1])
        elif norm is not None and norm.running_mean is not None:
            norm.running_mean -= best[:, -1]
        best = best[:, :-1]
    weight.copy_(best.reshape(weight.shape))
    before, after = ((error / size) ** 0.5 if size else 0.0 for error in errors)
    return Repaired(name, before, after)


def _rows_in(part: nn.Linear | nn.Conv2d, inputs: list[Tensor], n_groups: int) -> list[Tensor]:
    """What the rows of the weight are multiplied with, in float64: per group (n, in)."""
    if isinstance(part, nn.Linear):
        return [torch.cat([each.flatten(0, -2) for each in inputs]).double()]
    assert not isinstance(part.padding, str)
    patches = [
        F.unfold(each.double(), part.kernel_size, part.dilation, part.padding, part.stride)  # (batch, in, places)
        for each in inputs
    ]
    return list(torch.cat([each.transpose(1, 2).flatten(0, 1) for each in patches]).chunk(n_groups, 1))


def _rows_out(part: nn.Linear | nn.Conv2d, answers: list[Tensor], n_groups: int) -> list[Tensor]:
    """What the rows of the weight should give, in float64: per group (n, out)."""
    if isinstance(part, nn.Conv2d):
        answers = [each.flatten(2).transpose(1, 2) for each in answers]
    return list(torch.cat([each.flatten(0, -2) for each in answers]).double().chunk(n_groups, 1))


class _EnoughError(Exception):
    """Ends a forward pass once it has passed the layer."""


def _caught(module: nn.Module, owner: str, n_calls: int, batch: Tensor, is_input: bool) -> list[Tensor]:
    """What the part of this name is given, or gives, when the network sees the batch; once for every call."""
    found: list[Tensor] = []

    def catch(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(inputs[0] if is_input else output)
        if len(found) == n_calls:
            raise _EnoughError

    handle = module.get_submodule(owner).register_forward_hook(catch)
    try:
        with suppress(_EnoughError):
            module(batch.to(next(module.parameters(), batch).device))
    finally:
        handle.remove()
    return found


def _calls(module: nn.Module, targets: Iterable[str], batch: Tensor) -> dict[str, int]:
    """How often the network calls these parts, in the order of the first calls; without those it does not call."""
    called: Counter[str] = Counter()
    handles = [
        module.get_submodule(owner).register_forward_pre_hook(lambda *_, owner=owner: called.update([owner]))
        for owner in targets
    ]
    try:
        module(batch.to(next(module.parameters(), batch).device))
    finally:
        for each in handles:
            each.remove()
    return dict(called)
