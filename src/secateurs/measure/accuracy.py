"""Accuracy: how many are right of how many, and how sure that is."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateurs.evaluating import logits_of
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


def accuracy(module: nn.Module, x: Tensor, y: Tensor, batch_size: int | None = None) -> Accuracy:
    """How many of the examples x (n, ...) the network puts into their class y (n,); its train/eval mode stays."""
    n_correct, loss = 0, 0.0
    for which, logits in logits_of(module, x, batch_size):
        right = y[which.to(y.device)].to(logits.device)
        n_correct += int((logits.argmax(dim=1) == right).sum())
        loss += float(nn.functional.cross_entropy(logits.float(), right, reduction="sum"))
    return Accuracy(n_correct, len(y), loss / max(1, len(y)))


def correct(module: nn.Module, x: Tensor, y: Tensor, batch_size: int | None = None) -> Tensor:
    """(n,) which of the examples x (n, ...) the network puts into their class y (n,); its train/eval mode stays."""
    found = torch.zeros(len(y), dtype=torch.bool)
    for which, logits in logits_of(module, x, batch_size):
        found[which.cpu()] = logits.argmax(dim=1).cpu() == y[which.to(y.device)].cpu()
    return found
