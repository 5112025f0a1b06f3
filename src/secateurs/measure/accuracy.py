"""Accuracy: how many are right of how many, and how sure that is."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateurs.evaluating import evaluating
from secateurs.measure.intervals import wilson


@dataclass(frozen=True)
class Accuracy:
    """`n_correct` of `n`; `loss` is their mean cross-entropy, None where it was not measured."""

    n_correct: int
    n: int
    loss: float | None = None

    @property
    def value(self) -> float:
        """Share in [0, 1]."""
        return self.n_correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval: the sampling error of n examples, of one network."""
        return wilson(self.value, self.n)

    def values(self) -> dict[str, float]:
        """JSON-able: value, n, low, high."""
        low, high = self.interval
        return {"value": self.value, "n": self.n, "low": low, "high": high}


@torch.no_grad()
def accuracy(module: nn.Module, x: Tensor, y: Tensor, batch_size: int = 512) -> Accuracy:
    """How many of the examples x (n, ...) the network puts into their class y (n,); its train/eval mode stays."""
    n_correct, loss = 0, 0.0
    for logits, right in _answers(module, x, y, batch_size):
        n_correct += int((logits.argmax(dim=1) == right).sum())
        loss += float(nn.functional.cross_entropy(logits.float(), right, reduction="sum"))
    return Accuracy(n_correct, len(y), loss / max(1, len(y)))


@torch.no_grad()
def correct(module: nn.Module, x: Tensor, y: Tensor, batch_size: int = 512) -> Tensor:
    """(n,) which of the examples x (n, ...) the network puts into their class y (n,); its train/eval mode stays."""
    found = [(logits.argmax(dim=1) == right).cpu() for logits, right in _answers(module, x, y, batch_size)]
    return torch.cat([torch.zeros(0, dtype=torch.bool), *found])


def _answers(module: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (batch, classes) and classes (batch,), batch by batch, on the network's device."""
    device = next(module.parameters(), x).device
    with evaluating(module):
        for start in range(0, len(y), batch_size):
            batch = slice(start, start + batch_size)
            yield module(x[batch].to(device)), y[batch].to(device)
