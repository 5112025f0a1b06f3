"""Training: how a network is trained; one frozen value."""

import math
from typing import Any, Literal

import torch
from torch import nn

from secateurs.errors import RecipeError
from secateurs.settings import Settings
from secateurs.train.pruner import Revive


class Training(Settings):
    """Optimizer, rates, length, and what the pruner does with a weight that grows back.

    optimizer      "sgd" (with Nesterov momentum), "adam" or "adamw"
    momentum       of sgd only
    weight_decay   on parameters of two or more dimensions
    batch_size     examples per step
    epochs         passes over the training data, fractions allowed; 0 trains nothing
    learning_rate  the highest rate
    rate           "constant", or "cosine" down to 0 at the end
    warmup         share of the training over which the rate rises from 0
    clip           gradients are scaled down to this norm; 0 leaves them
    revive         see Pruner; only with a recipe
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    rate: Literal["constant", "cosine"] = "cosine"
    warmup: float = 0.05
    epochs: float = 10.0
    batch_size: int = 64
    clip: float = 0.0
    revive: Revive = "never"

    def model_post_init(self, context: Any) -> None:
        """Numbers that can mean something."""
        low = {"learning_rate": 0.0, "weight_decay": 0.0, "epochs": 0.0, "clip": 0.0, "momentum": 0.0, "warmup": 0.0}
        for key, least in low.items():
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= least):
                raise RecipeError(f"{key} must be a finite number of at least {least}; got {value}.")
        for key in ("momentum", "warmup"):
            if getattr(self, key) >= 1.0:
                raise RecipeError(f"{key} must be below 1; got {getattr(self, key)}.")
        if self.batch_size < 1:
            raise RecipeError(f"batch_size must be at least 1; got {self.batch_size}.")

    def n_steps(self, n_examples: int) -> int:
        """Optimizer steps for a training set of this size; at least one where there is any training."""
        return max(round(self.epochs * self.steps_per_epoch(n_examples)), int(self.epochs > 0))

    def steps_per_epoch(self, n_examples: int) -> int:
        """Batches in one pass; the last may be smaller."""
        return math.ceil(n_examples / self.batch_size)

    def make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over all parameters; weight decay on those of two or more dimensions."""
        decayed = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
        plain = [p for p in module.parameters() if p.requires_grad and p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        if self.optimizer == "sgd":
            nesterov = self.momentum > 0
            return torch.optim.SGD(groups, self.learning_rate, self.momentum, nesterov=nesterov, fused=True)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, lr=self.learning_rate, fused=True)

    def rate_at(self, p: float) -> float:
        """The share of the learning rate in force at progress p in [0, 1]."""
        if p < self.warmup:
            return p / self.warmup
        if self.rate == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (p - self.warmup) / (1.0 - self.warmup)))
