"""Plan: what a recipe means for a checkpoint, tensor by tensor, before any weight is read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from secateurs.budgets import Budget, Simple, Threshold
from secateurs.checkpoint.prunable import entry_reasons
from secateurs.checkpoint.tensors import Checkpoint, Entry
from secateurs.cuttable import cuttable
from secateurs.errors import RecipeError
from secateurs.exact.kinds import KINDS, Kind
from secateurs.fit import n_first_of, no_room
from secateurs.layer_report import Status
from secateurs.recipe import Recipe
from secateurs.scores import SCORES, evidence_of


@dataclass(frozen=True)
class Planned:
    """One tensor and what is to become of it.

    seen    its shape as (out, in, *kernel)
    reason  why nothing is, or ""
    """

    entry: Entry
    reason: str
    status: Status = "skipped"

    @property
    def name(self) -> str:
        """Its first name."""
        return self.entry.name

    @property
    def aliases(self) -> tuple[str, ...]:
        """Its other names."""
        return self.entry.aliases

    @property
    def seen(self) -> tuple[int, ...]:
        """Its shape as (out, in, *kernel)."""
        shape, groups = self.entry.shape, self.entry.groups
        return (groups * shape[1], shape[0] // groups, *shape[2:]) if self.entry.is_turned else shape

    @property
    def kind(self) -> Kind:
        """How its weights are stored."""
        return KINDS[self.entry.dtype]


@dataclass(frozen=True)
class Plan:
    """Every tensor of a checkpoint with what is to become of it, in the order of the source."""

    recipe: Recipe
    tensors: tuple[Planned, ...]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of those that are cut

    @property
    def cut(self) -> tuple[Planned, ...]:
        """Those that the recipe cuts."""
        return tuple(each for each in self.tensors if each.status == "pruned")

    def n_units(self, each: Planned) -> int:
        """How many units of the recipe a tensor has."""
        return math.prod(self.recipe.unit.grid(each.seen))

    def n_first(self, each: Planned) -> int:
        """How many of them live whatever happens."""
        return n_first_of(self.recipe.min_keep, self.n_units(each))

    def budgets(self, budget: Budget) -> dict[str, Simple]:
        """The budget of every tensor that is cut."""
        return budget.for_layers(self.shapes)


def make_plan(checkpoint: Checkpoint, recipe: Recipe) -> Plan:
    """What `recipe` asks of the tensors of `checkpoint`.

    RecipeError where it names nothing, needs more than the weights or leaves no room, PatternError where `only` names
    a tensor that cannot be cut so.
    """
    if missing := evidence_of(recipe.score.name):
        raise RecipeError(
            f"Score '{recipe.score.name}' needs {', '.join(missing)} from data; a checkpoint has weights alone. "
            f"Use one of {', '.join(name for name in SCORES if not evidence_of(name))}, or prune the live network."
        )
    reasons = entry_reasons(checkpoint.entries, recipe.skip, recipe.only)
    found = [Planned(entry, reason) for entry, reason in zip(checkpoint.entries, reasons, strict=True)]
    candidates, why = cuttable(found, recipe, recipe.budget)
    chosen = {each.name for each in candidates}
    tensors = tuple(
        Planned(each.entry, "", "pruned")
        if each.name in chosen
        else Planned(each.entry, *((each.reason, "skipped") if each.reason else (why[each.name][1], why[each.name][0])))
        for each in found
    )
    plan = Plan(recipe, tensors, {each.name: each.seen for each in candidates})
    _check_room(plan, plan.cut)
    return plan


def _check_room(plan: Plan, cut: Sequence[Planned]) -> None:
    """PatternError where min_keep holds more units than the budget keeps."""
    recipe = plan.recipe
    simple = plan.budgets(recipe.budget)
    if recipe.pool.kind == "model":
        if any(isinstance(rule, Threshold) for rule in simple.values()):
            return
        n_units, n_first = sum(map(plan.n_units, cut)), sum(map(plan.n_first, cut))
        budget = next(iter(simple.values()))
        if n_units and n_first > (n_keep := n_units - budget.n_pruned(n_units)):
            raise no_room("the model", recipe.min_keep, n_first, budget, n_keep, n_units)
        return
    for each in cut:
        if isinstance(simple[each.name], Threshold):
            continue
        n_units, n_kept = plan.n_units(each), n_kept_of(plan, each, simple[each.name])
        if plan.n_first(each) > n_kept:
            raise no_room(f"'{each.name}'", recipe.min_keep, plan.n_first(each), simple[each.name], n_kept, n_units)


def n_kept_of(plan: Plan, each: Planned, budget: Simple) -> int:
    """How many units of a tensor a budget that is no threshold keeps, where layers do not compete."""
    n_units, per_pool = plan.n_units(each), pool_size(plan, each)
    return n_units // per_pool * (per_pool - budget.n_pruned(per_pool)) if n_units else 0


def pool_size(plan: Plan, each: Planned) -> int:
    """Units in one pool of a tensor, where layers do not compete."""
    r, c, k = plan.recipe.unit.grid(each.seen)
    pool = plan.recipe.pool
    return {"row": c * k, "neighbours": pool.n // plan.recipe.unit.w if pool.n else 0}.get(pool.kind, r * c * k)
