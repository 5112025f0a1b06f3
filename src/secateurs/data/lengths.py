"""Lengths: how many tokens each text has; what is cut or put side by side so that a network computes little padding.

Token ids are int64 (n, length), padded with 0 on the right; everything else (images) has no lengths.
"""

import torch
from torch import Tensor

PADDING = 0
N_SORTED = 32  # batches that are drawn together and sorted: enough for little padding, few enough for other neighbours


def lengths_of(x: Tensor) -> Tensor | None:
    """(n,) int64, tokens of each text, padding inside it included; None for images."""
    if x.dim() != 2 or x.is_floating_point():
        return None
    return ((x != PADDING) * torch.arange(1, x.shape[1] + 1, device=x.device)).amax(dim=1)


def cut(ids: Tensor) -> Tensor:
    """(n, length) without the columns at the end that hold padding alone, but for the first."""
    if torch.compiler.is_compiling() or not len(ids):  # an exported network cannot look at what it is given
        return ids
    at = torch.nonzero((ids != PADDING).any(dim=0))
    return ids[:, : int(at[-1]) + 1 if len(at) else 1]


def typical(x: Tensor, n: int) -> Tensor:
    """n examples that a batch of n costs what batches that are `drawn` cost: texts of about the mean length."""
    lengths = lengths_of(x)
    if lengths is None:
        return x[:n]
    order = lengths.argsort(stable=True)
    middle = int((lengths[order] < lengths.double().mean()).sum())
    first = max(0, min(middle - n // 2, len(x) - n))
    return x[order[first : first + n]]


def drawn(n: int, lengths: Tensor | None, batch_size: int, generator: torch.Generator) -> Tensor:
    """(n,) int64: an epoch's order. Texts of about one length come in one batch, the batches in an order of chance.

    lengths  (n,) of the texts; None: every order is as likely as any other
    """
    order = torch.randperm(n, generator=generator)
    if lengths is None:
        return order
    lengths = lengths.cpu()
    groups = [part[lengths[part].argsort(stable=True)] for part in torch.split(order, N_SORTED * batch_size)]
    batches = [batch for group in groups for batch in torch.split(group, batch_size)]
    # One that is not full can only be the very last: those before it fill whole groups.
    whole = [batch for batch in batches if len(batch) == batch_size]
    mixed = [whole[i] for i in torch.randperm(len(whole), generator=generator).tolist()]
    return torch.cat([*mixed, *(batch for batch in batches if len(batch) < batch_size)])
