"""Training: how a network is trained; one frozen value."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, field_serializer
from torch import nn

from secateurs.errors import RecipeError
from secateurs.formats.values import Values
from secateurs.settings import Settings
from secateurs.train.distillation import Distillation
from secateurs.train.precision import Precision
from secateurs.train.pruner import Revive
from secateurs.train.rates import Rate

_Given = str | dict[str, str] | list[tuple[str, str]]


def _from_pairs(value: object) -> object:
    is_pairs = isinstance(value, list) and all(isinstance(each, list | tuple) and len(each) == 2 for each in value)
    return dict(value) if is_pairs else value  # type: ignore[call-overload]


class Training(Settings):
    """Optimizer, rates, length, teacher, and what the pruner does with a weight that grows back.

    optimizer      "sgd" (with Nesterov momentum), "adam" or "adamw"
    momentum       of sgd only
    weight_decay   on parameters of two or more dimensions
    batch_size     examples per step
    epochs         passes over the training data, fractions allowed; 0 trains nothing
    learning_rate  the highest rate
    rate           how the rate moves: "constant", "cosine" down to 0, "step(0.5, 0.75)" down to a tenth at each of
                   these moments, "restarts(4)": so many cosines in a row
    warmup         share of the rate's curve over which it rises from 0, before the rest of the curve
    rate_from      where on the rate's curve this training begins; 0.6 of the epochs' 40 % replays the curve's last
                   40 % (learning-rate rewinding)
    rate_to        where on the rate's curve it ends; with 0.6 of the epochs, the first 60 % of the whole training
    clip           gradients are scaled down to this norm; 0 leaves them
    sharpness      how far from the weights, as their norm, the place lies whose gradient is followed: the worst one
                   near (sharpness-aware minimization); a step takes twice the time; 0 follows that of the weights
    shift          images are moved by up to so many pixels each way, anew in every step
    flip           half of the images are mirrored, anew in every step
    precision      of the forward and backward pass; the weights and the optimizer stay float32. "auto" is bfloat16
                   where the device multiplies it, float32 elsewhere
    distill        what is learned from a teacher; None learns from the labels alone
    revive         see Pruner; only with a recipe
    quantize       the values that weights have while they are trained, as `pack` takes them: "exact", "int8",
                   "int4/32", "codebook:4" for the weights that could be pruned, or {pattern: values}, the last match
                   counts; see Quantizer
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    rate: Rate = Rate("cosine")
    warmup: float = 0.05
    rate_from: float = 0.0
    rate_to: float = 1.0
    epochs: float = 10.0
    batch_size: int = 64
    clip: float = 0.0
    sharpness: float = 0.0
    shift: int = 0
    flip: bool = False
    precision: Precision = "float32"
    distill: Distillation | None = None
    revive: Revive = "never"
    quantize: Annotated[str | dict[str, str], BeforeValidator(_from_pairs, json_schema_input_type=_Given)] = "exact"

    @field_serializer("quantize", when_used="json")
    def _in_order(self, quantize: str | dict[str, str]) -> str | list[tuple[str, str]]:
        """Pairs, as the last match counts and a mapping of JSON has no order."""
        return quantize if isinstance(quantize, str) else list(quantize.items())

    def model_post_init(self, context: Any) -> None:
        """Numbers that can mean something."""
        for key in ("learning_rate", "weight_decay", "epochs", "clip", "sharpness", "momentum", "warmup", "rate_from"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0.0):
                raise RecipeError(f"{key} must be a finite number of at least 0.0; got {value}.")
        for key in ("momentum", "warmup", "rate_from"):
            if getattr(self, key) >= 1.0:
                raise RecipeError(f"{key} must be below 1; got {getattr(self, key)}.")
        if not self.rate_from < self.rate_to <= 1.0:
            raise RecipeError(f"rate_to must be above rate_from={self.rate_from}, at most 1; got {self.rate_to}.")
        if not 0 <= self.shift <= 64:
            raise RecipeError(f"shift must be 0 to 64 pixels; got {self.shift}.")
        if self.batch_size < 1:
            raise RecipeError(f"batch_size must be at least 1; got {self.batch_size}.")
        for text in [self.quantize] if isinstance(self.quantize, str) else self.quantize.values():
            Values.parse(text)

    @property
    def is_moving(self) -> bool:
        """Whether an example looks different every time it is learned from."""
        return bool(self.shift or self.flip)

    @property
    def is_quantized(self) -> bool:
        """Whether any weights have other than exact values."""
        return self.quantize != "exact"

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
        """The share of the learning rate in force at progress p of this training, in [0, 1]."""
        p = self.rate_from + (self.rate_to - self.rate_from) * p
        if p < self.warmup:
            return p / self.warmup
        return self.rate.share((p - self.warmup) / (1.0 - self.warmup))
