"""Pruner: the same recipe inside any training loop.

optimizer.step()
pruner.step()          # pruned weights are exactly zero from here to the next optimizer.step()
"""

import math
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateurs.budgets import Budget, PerLayer, Threshold
from secateurs.checks import nearest, shown
from secateurs.errors import InputError, RecipeError, RequestWarning
from secateurs.layer_report import LayerReport
from secateurs.layers import local, local_like, named_parameters, wrapped
from secateurs.masks import Masks
from secateurs.recipe import Recipe, as_recipe
from secateurs.train.ranks import assert_same_on_all_ranks
from secateurs.words import a_count, a_number

Revive = Literal["never", "dense", "forget"]


class Pruner:
    """Prunes `module` while `optimizer` trains it, by `recipe`, whose schedule runs over `total_steps`.

    revive  "never"   a pruned weight stays zero; the optimizer's memory of it is cleared
            "dense"   a dense copy takes every update, the parameter is keep x dense, weights may return
            "forget"  the budget is applied anew to what is there after every step, and nothing is remembered

    is_shared  every process of torch.distributed trains this network (DistributedDataParallel and FSDP2's fully_shard
               are noticed by themselves): each chooses for itself, and where one chose other masks, all end with a
               RanksError. What FSDP2 spread is gathered while masks are chosen, so they are one process's masks

    Steps are counted by the optimizer: a step that a GradScaler skipped, or a call between two accumulated
    gradients, does not advance. No parameter is renamed or wrapped; `state_dict` makes resuming exact.
    A threshold in sigmas takes each layer's deviation when it first acts, and keeps it.
    """

    def __init__(
        self,
        module: nn.Module,
        recipe: Recipe | str,
        optimizer: Optimizer,
        total_steps: int,
        revive: Revive = "never",
        is_shared: bool = False,
    ) -> None:
        if revive not in get_args(Revive):
            raise RecipeError(f"Unknown revive {revive!r}. {nearest(str(revive), get_args(Revive))}")
        recipe = as_recipe(recipe)
        # Accelerate puts an optimizer of its own around the one that steps.
        optimizer = getattr(optimizer, "optimizer", optimizer)
        # An impossible request is told before the first batch, not after the warm-up.
        trial = Masks.make(module, recipe, is_trial=True)
        by_name = named_parameters(module)
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if not any(id(by_name[each]) in trained for name in trial for each in trial.names_of(name)):
            raise RecipeError(
                "The optimizer holds none of the weights this recipe prunes. Give it the module's parameters."
            )
        self.module = module
        self.recipe = recipe
        self.optimizer = optimizer
        self.total_steps = a_count("total_steps", total_steps, 1)
        self.revive: Revive = revive
        is_sharded = any(local(by_name[name]) is not by_name[name] for name in trial)
        if is_sharded and revive == "dense":
            raise RecipeError(
                "revive='dense' keeps a second copy of every weight, which is not spread over processes as FSDP2 "
                "spreads the weights. Use revive='never' or 'forget', or DistributedDataParallel."
            )
        is_spread = any(isinstance(each, nn.parallel.DistributedDataParallel) for each in wrapped(module))
        self.is_shared = is_shared or is_sharded or is_spread
        self.masks: Masks | None = None
        self.n_steps = 0
        self._n_pending = 0
        self._n_chosen = -1
        self.names = tuple(trial)
        self._budget: Budget | None = None
        self._sigmas: dict[str, float] = {}
        self._dense: dict[str, Tensor] = {}
        self._bits: dict[str, Tensor] = {}
        self._bits_of: Masks | None = None
        self._versions: dict[str, int] = {}  # torch's counts of changes, as they were when the zeros were last laid
        self._hook()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a copy or unpickling: an optimizer's copy has lost its hooks, so count its steps anew."""
        self.__dict__.update(state)
        self._hook()

    def _hook(self) -> None:
        """Count the optimizer's steps, which does not keep the pruner alive."""
        count = weakref.WeakMethod(self._count)

        def after_step(*step: Any) -> None:
            if (found := count()) is not None:
                found(*step)

        self.optimizer.register_step_post_hook(after_step)

    @property
    def sparsity(self) -> float:
        """Share of the weights in the pruned layers that are zero now by this pruner's doing."""
        return 0.0 if self.masks is None else self.masks.sparsity

    @property
    def is_settled(self) -> bool:
        """Whether the masks are there and no later step changes them."""
        if self.masks is None or self._budget is None or self.revive == "forget":
            return False
        if self._progress(self._n_chosen) >= self.recipe.schedule.end:
            return True
        is_final = self._budget == self._budget_at(self.total_steps)
        return self.revive == "never" and is_final and not _has_threshold(self._budget)

    @torch.no_grad()
    def start(self) -> None:
        """Optional, before the first step: apply what the schedule already asks for at progress 0 (`one_shot` does)."""
        if self.masks is None and self._is_due():
            self._choose()
            self._zero()

    @torch.no_grad()
    def hold(self, masks: Masks) -> None:
        """Optional, before the first step: keep to these masks, which the recipe then never changes.

        They are laid on the weights as they are now: those of a network trained earlier, on its first weights, make a
        ticket. RecipeError under revive="forget", which keeps to no masks; InputError where they do not fit.
        """
        if self.revive == "forget":
            raise RecipeError("revive='forget' chooses anew at every step and holds no masks. Use 'never'.")
        keep = self._tensors("masks that are given", masks)
        self.masks = Masks(keep, masks.report, masks.recipe)
        self._n_chosen, self._budget = self.total_steps, self._budget_at(self.total_steps)  # any schedule's last choice
        self._zero()

    @torch.no_grad()
    def step(self) -> None:
        """Follow `optimizer.step()`: choose the masks anew where the schedule says so, and zero what does not live."""
        if self._n_pending == 0:
            self._undo_foreign_step()
            return
        self.n_steps += self._n_pending
        self._n_pending = 0
        self._remember()
        if self._is_due():
            self._choose()
        self._zero()

    def apply(self, module: nn.Module) -> None:
        """Zero the same weights in another copy of the network, such as a moving average."""
        if self.masks is not None:
            self.masks.apply(module)

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs, as tensors, numbers and text (loads with weights_only=True)."""
        return {
            "recipe": self.recipe.to_yaml(),
            "total_steps": self.total_steps,
            "revive": self.revive,
            "n_steps": self.n_steps,
            "n_pending": self._n_pending,
            "n_chosen": self._n_chosen,
            "sigmas": dict(self._sigmas),
            "dense": {name: value.clone() for name, value in self._dense.items()},
            "keep": None if self.masks is None else {name: keep.clone() for name, keep in self.masks.items()},
            # Masks that are held may be another recipe's, or nobody's.
            "keep_recipe": self.masks.recipe.to_yaml() if self.masks is not None and self.masks.recipe else None,
            "report": [] if self.masks is None else [asdict(line) for line in self.masks.report],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; InputError, and no change, if it is another pruner's or malformed."""
        mine = self.state_dict()
        if not isinstance(state, Mapping) or set(state) != set(mine):
            raise InputError(f"A saved pruner holds {', '.join(mine)}; this is something else.")
        for key in ("recipe", "total_steps", "revive"):
            if state[key] != mine[key]:
                raise InputError(f"The saved pruner's {key} is {shown(state[key])}, this one's is {mine[key]!r}.")
        try:
            counts = [
                a_count(key, state[key], low) for key, low in (("n_steps", 0), ("n_pending", 0), ("n_chosen", -1))
            ]
            sigmas = {str(name): a_number("sigma", value, 0.0, math.inf) for name, value in state["sigmas"].items()}
            report = tuple(LayerReport.read(line) for line in state["report"])
            keep = None if state["keep"] is None else self._tensors("saved pruner's keep", state["keep"])
            chosen_by = None if state["keep_recipe"] is None else Recipe.from_yaml(state["keep_recipe"])
            dense = self._tensors("saved pruner's dense", state["dense"]) if state["dense"] else {}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"The saved pruner is malformed: {type(error).__name__}: {error}") from error
        self.n_steps, self._n_pending, self._n_chosen = counts
        self._sigmas, self._dense = sigmas, dense
        self.masks = None if keep is None else Masks(keep, report, chosen_by)
        self._budget = None if self.masks is None else self._budget_at(self._n_chosen)

    def _tensors(self, what: str, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of these tensors beside the weights they belong to; InputError where they fit none."""
        by_name = named_parameters(self.module)
        if set(saved) != set(self.names):
            raise InputError(f"The {what} name {', '.join(saved)}; here {', '.join(self.names)} are pruned.")
        for name, value in saved.items():
            dtype = by_name[name].dtype if what.endswith("dense") else torch.bool
            if value.shape != by_name[name].shape or value.dtype != dtype:
                raise InputError(
                    f"The {what} of '{name}' is {tuple(value.shape)} of {value.dtype}; expected "
                    f"{tuple(by_name[name].shape)} of {dtype}."
                )
        return {name: value.to(by_name[name].device).clone() for name, value in saved.items()}

    def _count(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # fused optimizers skip inside their own step
        if found_inf is None or not bool(found_inf):
            self._n_pending += 1

    def _undo_foreign_step(self) -> None:
        """Zero what came back although the optimizer took no step, and say so."""
        by_name = named_parameters(self.module)
        if self.masks is None or all(by_name[name]._version == n for name, n in self._versions.items()):
            return
        is_back = [
            bool(local(by_name[name])[~local_like(self._keep(name), by_name[name])].any()) for name in self.masks
        ]
        if not any(is_back):
            return
        warnings.warn(
            "Pruned weights were no longer zero, and the optimizer that this Pruner was given took no step: another "
            "one did, or weights were loaded. They are zero again; the schedule did not advance. Make a Pruner with "
            "the optimizer that steps, or load its state_dict, too.",
            RequestWarning,
            stacklevel=4,
        )
        self._remember()
        self._zero()

    def _progress(self, n_steps: int) -> float:
        return min(1.0, n_steps / self.total_steps)

    def _budget_at(self, n_steps: int) -> Budget:
        return self.recipe.budget.at(self._progress(n_steps), self.recipe.schedule)

    def _is_due(self) -> bool:
        schedule, p = self.recipe.schedule, self._progress(self.n_steps)
        if p < schedule.begin:
            return False
        if self.masks is None or self.revive == "forget":
            return True
        if self._progress(self._n_chosen) >= schedule.end:
            return False
        return p >= schedule.end or self.n_steps - self._n_chosen >= schedule.every

    def _choose(self) -> None:
        budget = self._budget_at(self.n_steps)
        # The same count among the survivors is the same survivors; a threshold finds new victims.
        if self.revive == "never" and budget == self._budget and not _has_threshold(budget):
            self._n_chosen = self.n_steps
            return
        among = self.masks if self.revive == "never" else None
        weights = self._dense if self.revive == "dense" and self._dense else None
        masks = Masks.make(self.module, self.recipe, budget=budget, among=among, weights=weights, sigmas=self._sigmas)
        if self.masks is None:
            self._sigmas = {line.name: line.sigma for line in masks.report if line.sigma is not None}
        if self.revive == "dense" and not self._dense:
            by_name = named_parameters(self.module)
            self._dense = {name: by_name[name].detach().clone() for name in masks}
        if self.is_shared:
            assert_same_on_all_ranks(masks, self.n_steps)
        self.masks, self._budget, self._n_chosen = masks, budget, self.n_steps

    def _remember(self) -> None:
        """The dense copies take the update that the optimizer gave the parameters."""
        by_name = named_parameters(self.module)
        for name, dense in self._dense.items():
            value, keep = by_name[name], self._keep(name)
            # A pruned parameter was exactly zero before the step, so its value is the update.
            dense.copy_(torch.where(keep, value, dense + value))

    def _zero(self) -> None:
        if self.masks is None:
            return
        by_name = named_parameters(self.module)
        for name in self.masks:
            parameter = by_name[name]
            if name in self._dense:
                parameter.copy_(self._dense[name])
            alive = self._alive_bits(name, parameter)
            _and(local(parameter), alive)
            if self.revive == "never":
                # Parameters that are tied by their memory alone each have a state of their own.
                for twin in {by_name[each] for each in self.masks.names_of(name) if each in by_name}:
                    for memory in self.optimizer.state.get(twin, {}).values():
                        if isinstance(memory, Tensor) and memory.shape == parameter.shape:
                            _and(local(memory), alive)
            self._versions[name] = parameter._version

    def _alive_bits(self, name: str, parameter: Tensor) -> Tensor:
        """Every bit of the weights that live, no bit of the others, laid out as the parameter."""
        if self._bits_of is not self.masks:
            self._bits, self._bits_of = {}, self.masks
        if name not in self._bits:
            as_bits = local(parameter.detach()).view(_BITS[parameter.element_size()])
            self._bits[name] = torch.empty_like(as_bits).copy_(local_like(self._keep(name), parameter)).neg_()
        return self._bits[name]

    def _keep(self, name: str) -> Tensor:
        assert self.masks is not None
        return self.masks[name]


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _and(value: Tensor, bits: Tensor) -> None:
    """Zero what has no bits, NaN too; on a CPU this takes a thirtieth of the time of masked_fill_."""
    if value.element_size() != bits.element_size():
        value.masked_fill_(bits == 0, 0.0)
        return
    value.detach().view(bits.dtype).bitwise_and_(bits)


def _has_threshold(budget: Budget) -> bool:
    rules = [rule for _, rule in budget.rules] if isinstance(budget, PerLayer) else [budget]
    return any(isinstance(rule, Threshold) for rule in rules)
