"""Choosing: which units of a network a recipe removes, until its budget is met.

    choose(groups, scores, recipe, left) -> {group: bool per unit}      True = goes

`sparsity(s)` is exact per pool, by the same `select` as for single weights. `params(s)`, `macs(s)` and `latency(t)`
find the fewest units, in the order of their scores, that bring the network down to the target. With pool=layer every
group loses the same share. With pool=model the groups compete: the unit that goes next is the one with the least score
beside the mean of all that are left in its group, so that groups of other widths, depths and sizes are comparable, and
it hardly matters whether a score is a size or its square.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from secateurs.budgets import Sparsity, Target
from secateurs.errors import RecipeError
from secateurs.fit import n_first_of
from secateurs.groups.axes import Bools
from secateurs.groups.finding import Group, Structure
from secateurs.recipe import Recipe
from secateurs.selection import select
from secateurs.units import element

Gone = dict[str, Bools]


LATENCY_STEPS = 7  # halvings of the interval that holds the answer: 1 % of the units


class Units(Protocol):
    """A set of units that compete with each other: a group, or a stack of layers."""

    @property
    def name(self) -> str: ...
    @property
    def n_units(self) -> int: ...


def chosen_groups(structure: Structure, recipe: Recipe) -> list[Group]:
    """The groups of the recipe's unit. RecipeError for words that mean nothing here, or where there is none."""
    kind = recipe.unit.kind
    kinds = {"row": ("row", "channel"), "channel": ("channel",), "head": ("head",)}.get(kind)
    if kinds is None:
        raise RecipeError(
            f"The unit '{recipe.unit}' cannot be removed from a network: use row, channel, head or layer."
        )
    check_recipe(recipe)
    found = [group for group in structure.groups if group.kind in kinds]
    if not found:
        there = sorted({group.kind for group in structure.groups})
        reasons = sorted(set(structure.refused.values()))
        raise RecipeError(
            f"This network has no '{recipe.unit}' that can be removed; it has {', '.join(there) or 'no unit at all'}. "
            f"Why others cannot: {'; '.join(reasons[:6]) or 'they are single'}."
        )
    return found


def check_recipe(recipe: Recipe) -> None:
    """RecipeError for a pool, a budget or a schedule that means nothing for units of a network."""
    if recipe.pool.kind not in ("layer", "model"):
        raise RecipeError(f"Units of a network compete in pool=layer or pool=model; the recipe says '{recipe.pool}'.")
    if not isinstance(recipe.budget, Sparsity | Target):
        raise RecipeError(
            f"The budget '{recipe.budget}' does not say how many units go: use sparsity(s), params(s), macs(s) or "
            "latency(8ms)."
        )


def choose(
    groups: Sequence[Units], scores: Mapping[str, Tensor], recipe: Recipe, left: Callable[[str, Gone], float]
) -> Gone:
    """The units that go.

    left  (what, gone) -> the share of "params" or "macs" that is left without such units, or the seconds of "latency"

    RecipeError where the target is out of reach.
    """
    if isinstance(recipe.budget, Sparsity):
        return _at(groups, scores, recipe, recipe.budget.s, is_exact=True)
    assert isinstance(recipe.budget, Target)
    of, most = recipe.budget.of, recipe.budget.most

    def reached(s: float) -> float:
        return left(of, _at(groups, scores, recipe, s))

    least = reached(1.0)
    if least > most:
        how_far = f"{least * 1e3:.3g} ms" if of == "latency" else f"{least:.3f}"
        raise RecipeError(
            f"'{recipe.budget}' is out of reach: with one {recipe.unit} left in each of {len(groups)} groups, {of} is "
            f"still {how_far}. Ask for less, or cut another unit as well."
        )
    low, high = 0.0, 1.0  # the budget is met at high
    if reached(0.0) <= most:
        return _at(groups, scores, recipe, 0.0)
    for _ in range(LATENCY_STEPS if of == "latency" else 40):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) <= most else (middle, high)
    return _at(groups, scores, recipe, high)


def _places(scores: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """When each unit of each group would go if all competed, from 0: what `select` orders them by."""
    beside_left, sizes = [], []
    for name in names:
        size, order = scores[name].double().cpu().sort()
        mean_left = size.flip(0).cumsum(0).flip(0) / torch.arange(len(size), 0, -1)
        ratio = torch.where(size > 0, size / mean_left, 0.0).cummax(0).values  # none goes before a lesser one
        beside_left.append(ratio[order.argsort()])
        sizes.append(scores[name].double().cpu())
    places = torch.from_numpy(np.lexsort((torch.cat(sizes), torch.cat(beside_left))).argsort())
    return dict(zip(names, torch.split(places, [len(each) for each in sizes]), strict=True))


def _at(
    groups: Sequence[Units], scores: Mapping[str, Tensor], recipe: Recipe, s: float, is_exact: bool = False
) -> Gone:
    """The units that go at sparsity s; as many as min_keep allows, unless it is_exact, which may be an error."""
    least = recipe.min_keep if recipe.min_keep else 1
    names = {group.name: group.n_units for group in groups}
    first = {name: max(1, n_first_of(least, n)) for name, n in names.items()}
    if recipe.pool.kind == "model":
        n = sum(names.values())
        most = n - sum(first.values())
        if is_exact and round(s * n) > most:
            raise RecipeError(
                f"'{recipe.budget}' takes {round(s * n)} of {n} units; {most} can go, {sum(first.values())} must stay "
                f"in the {len(names)} groups. Ask for less, or skip some."
            )
        share = s if is_exact else min(s, most / n)
        keep = select(_places(scores, names), element, "model", Sparsity(share), least)
        return {name: ~keep[name].cpu().numpy() for name in names}
    gone = {}
    for name, n in names.items():
        n_gone = round(s * n)
        if is_exact and n_gone > n - first[name]:
            raise RecipeError(
                f"'{recipe.budget}' leaves {n - n_gone} of the {n} units of '{name}'; at least {first[name]} must "
                "stay. Ask for less, or skip it."
            )
        n_gone = min(n_gone, n - first[name])
        gone[name] = ~select(scores[name].double(), element, "layer", Sparsity(n_gone / n)).cpu().numpy()
    return gone
