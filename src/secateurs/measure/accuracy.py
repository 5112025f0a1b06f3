"""Accuracy: how many are right of how many, and how sure that is."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateurs.measure.intervals import wilson


@dataclass(frozen=True)
class Accuracy:
    """`n_correct` of `n`."""

    n_correct: int
    n: int

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


def accuracy(module: nn.Module, x: Tensor, y: Tensor, batch_size: int = 512) -> Accuracy:
    """How many of the examples x (n, ...) the network puts into their class y (n,); its train/eval mode stays."""
    return Accuracy(int(correct(module, x, y, batch_size).sum()), len(y))


@torch.no_grad()
def correct(module: nn.Module, x: Tensor, y: Tensor, batch_size: int = 512) -> Tensor:
    """(n,) which of the examples x (n, ...) the network puts into their class y (n,); its train/eval mode stays."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    device = next(module.parameters(), x).device
    found = torch.zeros(len(y), dtype=torch.bool)
    for start in range(0, len(y), batch_size):
        logits = module(x[start : start + batch_size].to(device))  # (batch, classes)
        found[start : start + batch_size] = logits.argmax(dim=1).cpu() == y[start : start + batch_size]
    for part, was_training in modes:
        part.training = was_training
    return found
