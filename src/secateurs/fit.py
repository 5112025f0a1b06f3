"""Fit: whether the words of a recipe go together, and go with the shape of a weight; before any weight is read."""

import math

from secateurs.budgets import Budget, Simple, Threshold
from secateurs.errors import PatternError, RecipeError
from secateurs.pools import Pool
from secateurs.units import Unit


def check_words(pool: Pool, budget: Budget, min_keep: float) -> None:
    """RecipeError unless the words fit each other, whatever the weights."""
    if pool.kind == "model" and not budget.is_shared:
        raise RecipeError(f"'{budget}' gives each layer its own share, so layers cannot compete: use pool='layer'.")
    is_count = isinstance(min_keep, int) and not isinstance(min_keep, bool) and min_keep >= 0
    is_share = isinstance(min_keep, float) and 0.0 <= min_keep < 1.0
    if not (is_count or is_share):
        raise RecipeError(
            f"min_keep is a number of units (an int >= 0) or a share of them in [0, 1); got {min_keep!r}."
        )


def check_fit(shape: tuple[int, ...], unit: Unit, pool: Pool, budget: Simple) -> None:
    """PatternError unless the words fit a weight of this shape."""
    r, c, k = unit.grid(shape)
    pool.check(unit, shape)
    if not isinstance(budget, Threshold) and pool.kind != "model":
        size = {"row": c * k, "neighbours": pool.n // unit.w, "layer": r * c * k}[pool.kind]
        budget.n_pruned(size)


def n_first_of(min_keep: float, n_units: int) -> int:
    """How many of a layer's units live whatever happens."""
    wanted = min_keep if isinstance(min_keep, int) else math.ceil(min_keep * n_units - 1e-9)
    return min(wanted, n_units)


def no_room(where: str, min_keep: float, n_first: int, budget: Budget, n_kept: int, n_units: int) -> PatternError:
    """The error of a min_keep that leaves nothing to choose."""
    return PatternError(
        f"min_keep={min_keep} holds {n_first} units of {where}, but {budget} keeps only {n_kept} of its {n_units}. "
        "Ask for less sparsity or a smaller min_keep."
    )
