"""Attention: which tokens a network looks at, heard from outside, so that a teacher can teach it.

    with listening() as maps: module(x)          one Map for each call of torch's scaled dot product attention
    attention_loss(maps, theirs)                 how far they are apart

Networks of this package and those of transformers (attn_implementation="sdpa", their default) attend in this way.
Wang et al. 2020, arXiv:2002.10957.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from secateurs.errors import RecipeError

FORBIDDEN = -1e4  # what a mask adds to a score is 0 or far below this


@dataclass(frozen=True, eq=False)
class Map:
    """One attention.

    logs  (batch, heads, asking, answering) logarithms of the shares that each token pays to the others
    asks  (batch, heads, asking) bool, which rows are those of tokens; the others are padding
    """

    logs: Tensor
    asks: Tensor


@contextmanager
def listening() -> Iterator[list[Map]]:
    """Every attention that torch computes meanwhile, in order; each is computed once more for it."""
    maps: list[Map] = []
    with _Ear(maps):
        yield maps


class _Ear(TorchFunctionMode):
    def __init__(self, maps: list[Map]) -> None:
        super().__init__()
        self.maps = maps

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.maps.append(_map(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _map(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Map:
    """What `scaled_dot_product_attention` of these arguments multiplies the values by, before any dropout."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = (query @ key.transpose(-2, -1)).float() * (scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
    n_asking, n_answering = scores.shape[-2:]
    allowed = torch.ones(n_asking, n_answering, dtype=torch.bool, device=scores.device)
    if is_causal:
        allowed = allowed.tril()
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        allowed = allowed & (attn_mask > FORBIDDEN)
        scores = scores + attn_mask.clamp_min(FORBIDDEN)
    elif attn_mask is not None:
        allowed = allowed & attn_mask
    allowed = allowed.expand(scores.shape)
    # A row's own token is padding where it may not be looked at, not even by itself.
    is_square = n_asking == n_answering
    asks = allowed.diagonal(dim1=-2, dim2=-1) if is_square else allowed.any(-1)
    lowest = torch.finfo(scores.dtype).min / 2  # and not -inf: its gradient is no number
    return Map(F.log_softmax(scores.masked_fill(~allowed, lowest), -1), asks)


def attention_loss(maps: Sequence[Map], theirs: Sequence[Map]) -> Tensor:
    """Mean over attentions, and over their heads and asking tokens, of KL(teacher || network); never below 0.

    RecipeError where there are none, or not as many heads and tokens in both.
    """
    shapes = [[tuple(each.logs.shape[1:]) for each in found] for found in (maps, theirs)]
    if not maps or shapes[0] != shapes[1]:
        shown = [", ".join(" x ".join(map(str, shape)) for shape in each) or "none" for each in shapes]
        raise RecipeError(
            "Distilling attention needs the same attentions (heads x asking x answering tokens) in both networks, each "
            f"by torch's scaled_dot_product_attention; the network has {shown[0]}, the teacher {shown[1]}. "
            "Use attention=0 for the answers alone."
        )
    losses = []
    for mine, other in zip(maps, theirs, strict=True):
        apart = (other.logs.exp() * (other.logs - mine.logs)).sum(-1)  # (batch, heads, asking)
        losses.append((apart * other.asks).sum() / other.asks.sum().clamp_min(1))
    return torch.stack(losses).mean().clamp_min(0.0)
