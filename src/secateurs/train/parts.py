"""Parts: what a training is made of, moved one step at a time; all of its state, so that it can go on after a kill."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.masks import Masks
from secateurs.recipe import Recipe, with_words
from secateurs.train.pruner import Pruner
from secateurs.train.quantizer import Quantizer
from secateurs.train.sharpness import uphill
from secateurs.train.training import Training


@dataclass(frozen=True)
class Parts:
    """The network and all that changes it.

    order  draws the examples
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    pruner: Pruner | None
    quantizer: Quantizer | None
    order: torch.Generator

    @classmethod
    def make(cls, module: nn.Module, training: Training, recipe: Recipe | None, n_steps: int, seed: int) -> "Parts":
        """For a training of so many steps; seeds torch's numbers, too. Without a step, a recipe prunes at once."""
        optimizer = training.make_optimizer(module)
        if recipe is not None and not n_steps:
            recipe = with_words(recipe, schedule="one_shot")
        pruner = Pruner(module, recipe, optimizer, max(n_steps, 1), training.revive) if recipe else None
        quantizer = Quantizer(module, training.quantize, optimizer, pruner) if training.is_quantized else None
        torch.manual_seed(seed)
        return cls(module, optimizer, pruner, quantizer, torch.Generator().manual_seed(seed))

    @property
    def masks(self) -> Masks | None:
        """What the pruner keeps at this moment; None where nothing is pruned."""
        return None if self.pruner is None else self.pruner.masks

    @property
    def learning_rate(self) -> float:
        """Of the step that was last taken, or is about to be."""
        return float(self.optimizer.param_groups[0]["lr"])

    def begin(self, masks: Masks | None) -> None:
        """Before the first step; masks: held in place of the recipe's choices."""
        if self.pruner is not None and masks is not None:
            self.pruner.hold(masks)
        elif self.pruner is not None:
            self.pruner.start()
        if self.quantizer is not None:
            self.quantizer.start()

    def learn(self, loss_of: Callable[[], Tensor], learning_rate: float, training: Training) -> Tensor:
        """One step down the gradient of this loss, with the training's `clip` and `sharpness`; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        if training.sharpness:
            with uphill(self.module, training.sharpness, self.masks or {}):
                loss_of().backward()  # type: ignore[no-untyped-call]
        if training.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), training.clip)
        self.optimizer.step()
        if self.quantizer is not None:
            self.quantizer.step()  # and the pruner's
        elif self.pruner is not None:
            self.pruner.step()
        return loss.detach()

    def end(self) -> None:
        """After the last step."""
        if self.quantizer is not None:
            self.quantizer.end()

    def state(self) -> dict[str, Any]:
        """Weights, optimizer, pruner, quantizer, and every source of random numbers."""
        device = next(self.module.parameters()).device
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": None if self.pruner is None else self.pruner.state_dict(),
            "quantizer": None if self.quantizer is None else self.quantizer.state_dict(),
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put everything where `state` found it."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, memory in self.optimizer.state.items():
            for key, value in memory.items():
                # Fused optimizers walk through memory in its own order: it has to be laid out as the parameter is.
                is_alike = isinstance(value, Tensor) and value.shape == parameter.shape
                if is_alike and value.stride() != parameter.stride():
                    memory[key] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        if self.pruner is not None:
            self.pruner.load_state_dict(state["pruner"])
        if self.quantizer is not None:
            self.quantizer.load_state_dict(state["quantizer"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], next(self.module.parameters()).device)
