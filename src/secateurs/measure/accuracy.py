"""Accuracy: how many are right of how many, and how sure that is."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
        """95 % Wilson score interval: the sampling error of n examples, of one network. Wilson 1927."""
        z, n, p = 1.959964, self.n, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def values(self) -> dict[str, float]:
        """JSON-able: value, n, low, high."""
        low, high = self.interval
        return {"value": self.value, "n": self.n, "low": low, "high": high}


@torch.no_grad()
def accuracy(module: nn.Module, x: Tensor, y: Tensor, batch_size: int = 512) -> Accuracy:
    """How many of the examples x (n, ...) the network puts into their class y (n,); its train/eval mode stays."""
    was_training = module.training
    module.eval()
    n_correct = 0
    for start in range(0, len(y), batch_size):
        logits = module(x[start : start + batch_size])  # (batch, classes)
        n_correct += int((logits.argmax(dim=1) == y[start : start + batch_size]).sum())
    module.train(was_training)
    return Accuracy(n_correct, len(y))
