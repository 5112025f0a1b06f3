"""Quantizer: a network that learns while its weights are few numbers; it computes with what `pack` will store.

quantizer.start()      # optional: the weights take their values before the first step
optimizer.step()
quantizer.step()       # the pruner's step, too; every weight is code * scale, or a number of its codebook
...
quantizer.end()        # `pack(module, out, values=...)` loses nothing

Straight-through: Bengio, Léonard & Courville 2013, arXiv:1308.3432; codebooks: train/sharing.py.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateurs.checkpoint.live import open_module
from secateurs.checkpoint.packing import values_of
from secateurs.checkpoint.prunable import unfit
from secateurs.errors import InputError, RecipeError
from secateurs.layers import named_parameters
from secateurs.quantizing import assert_finite_in, rounded, take
from secateurs.train.pruner import Pruner
from secateurs.train.sharing import Sharing


class Quantizer:
    """Gives the weights of `module` their `values`, as `pack` takes them, while `optimizer` trains it.

    int8, int4   from the first step on, the parameter is code * scale of a dense weight, which takes every update: what
                 rounding took away is kept beside the parameter and put back before the next update is rounded
    codebook     the kept weights share their numbers (`Sharing`) as soon as the pruner's masks are final
    pruner       steps with the quantizer, and chooses among the dense weights. Where it prunes nothing, what is zero
                 when the quantizer is made, or at `start`, stays exactly zero, but for vectors

    Buffers that a pattern names, and vectors with a codebook, have their values from `end` on. No parameter is renamed
    or wrapped.

    RecipeError for values that mean nothing, and, at `start`, for a codebook under masks that are never final.
    """

    def __init__(
        self, module: nn.Module, values: str | Mapping[str, str], optimizer: Optimizer, pruner: Pruner | None = None
    ) -> None:
        checkpoint, by_name = open_module(module), named_parameters(module)
        self.module, self.optimizer, self.pruner = module, optimizer, pruner
        chosen = {name: each for name, each in values_of(checkpoint, values).items() if not each.is_exact}
        fit = {entry.name for entry in checkpoint.entries if not unfit(entry)}
        is_trained = {name for name, each in by_name.items() if each.requires_grad}
        self.ints = {name: each for name, each in chosen.items() if name in fit | is_trained and each.name == "int"}
        self.n_bits = {
            name: each.n_bits for name, each in chosen.items() if name in fit & is_trained and each.name == "codebook"
        }
        self.others = {name: each for name, each in chosen.items() if name not in {*self.ints, *self.n_bits}}
        self.sharing: Sharing | None = None
        self._lost: dict[str, Tensor] = {}  # dense weight - parameter
        self._keeps = self._found_keeps()
        self._is_begun = self._is_over = False

    @torch.no_grad()
    def start(self) -> None:
        """Optional, before the first step, after the pruner's `start` or `hold`: the weights take their values now."""
        self._keeps = self._found_keeps()
        self._begin()
        self._take()

    def _begin(self) -> None:
        """Raises what cannot be done."""
        self._is_begun, pruner = True, self.pruner
        if self.n_bits and pruner is not None and _is_changing_to_the_end(pruner):
            raise RecipeError(
                "The numbers of a codebook are trained once the masks are final, and these masks change to the end "
                f"(schedule '{pruner.recipe.schedule}', revive='{pruner.revive}'). Give the schedule an end below 1, "
                "as in 'cubic(0.0, 0.5)', and revive='never' or 'dense'; or train with int8 or int4."
            )
        assert_finite_in(open_module(self.module), {*self.ints, *self.n_bits, *self.others})

    def _found_keeps(self) -> dict[str, Tensor]:
        """What is not zero, of the weights that the pruner leaves alone."""
        by_name, pruned = named_parameters(self.module), () if self.pruner is None else self.pruner.names
        return {
            name: by_name[name].detach() != 0
            for name in (*self.ints, *self.n_bits)
            if name not in pruned and by_name[name].dim() > 1
        }

    @torch.no_grad()
    def step(self) -> None:
        """Follow `optimizer.step()`: step the pruner on the dense weights, and give every weight its values again."""
        if self._is_over:
            raise RecipeError("This Quantizer's `end` was called: from then on the weights learn as any others.")
        if not self._is_begun:
            self._begin()
        by_name = named_parameters(self.module)
        for name, lost in self._lost.items():
            by_name[name].add_(lost)
        for name, keep in self._keeps.items():
            by_name[name].masked_fill_(~keep, 0.0)
        if self.pruner is not None:
            self.pruner.step()
        self._take()

    def end(self) -> None:
        """After the last step; from here on the weights learn as any others."""
        if self.sharing is None:
            self._share()
        assert self.sharing is not None
        self.sharing.end()
        self._is_over = True
        take(open_module(self.module), self.others)

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs besides the weights."""
        return {
            "lost": dict(self._lost),
            "keeps": dict(self._keeps),
            "shared": None if self.sharing is None else self.sharing.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, in place of `start`; the module has the weights of then."""
        by_name = named_parameters(self.module)
        self._is_begun = True
        self._lost, self._keeps = (
            {name: value.to(by_name[name].device) for name, value in state[key].items()} for key in ("lost", "keeps")
        )
        self.sharing = None if state["shared"] is None else Sharing.resumed(self.module, state["shared"])

    def _take(self) -> None:
        by_name = named_parameters(self.module)
        for name, values in self.ints.items():
            parameter = by_name[name]
            try:
                found = rounded(parameter, values)
            except InputError:
                raise RecipeError(
                    f"The training diverged: '{name}' is no longer finite. Lower the learning rate."
                ) from None
            self._lost[name] = parameter - found
            parameter.copy_(found)
        if self.sharing is not None:
            self.sharing.step()
        elif self.pruner is None or self.pruner.is_settled:
            self._share()

    def _share(self) -> None:
        by_name = named_parameters(self.module)
        self.sharing = Sharing(self.module, self.n_bits, only=self.n_bits)
        for name in self.n_bits:
            # What it remembers of single weights would part those that share a number from now on.
            for memory in self.optimizer.state.get(by_name[name], {}).values():
                if isinstance(memory, Tensor):
                    memory.zero_()


def _is_changing_to_the_end(pruner: Pruner) -> bool:
    return not pruner.is_settled and (pruner.revive == "forget" or pruner.recipe.schedule.end >= 1.0)
