"""Selection: scores in, keep out; the one place where it is decided which weights live.

    keep = select(scores, unit, pool, budget)

Exact under ties: the earlier name, then the earlier flat index, survives. Everything is decided on the bit patterns
of the scores, whose order as integers is their order as numbers, so no device or library can disagree.
"""

import math
from collections.abc import Mapping
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from secateurs.budgets import Budget, PerLayer, Simple, Threshold
from secateurs.errors import PatternError, RecipeError
from secateurs.pools import Pool
from secateurs.units import Unit

DEAD = -1  # the key of units that may not survive: below every score


@overload
def select(
    scores: Tensor,
    unit: Unit | str,
    pool: Pool | Unit | int | str,
    budget: Budget | str | Mapping[str, object],
    min_keep: float = ...,
    among: Tensor | None = ...,
) -> Tensor: ...
@overload
def select(
    scores: "np.ndarray[Any, Any]",
    unit: Unit | str,
    pool: Pool | Unit | int | str,
    budget: Budget | str | Mapping[str, object],
    min_keep: float = ...,
    among: "np.ndarray[Any, Any] | None" = ...,
) -> "np.ndarray[Any, Any]": ...
@overload
def select(
    scores: Mapping[str, Tensor],
    unit: Unit | str,
    pool: Pool | Unit | int | str,
    budget: Budget | str | Mapping[str, object],
    min_keep: float = ...,
    among: Mapping[str, Tensor] | None = ...,
) -> dict[str, Tensor]: ...
def select(scores: Any, unit: Any, pool: Any, budget: Any, min_keep: float = 0, among: Any = None) -> Any:
    """Which weights live: bool, True = keep, in the shape of `scores`.

    scores    (out, in, *kernel) or a vector, all >= 0, larger = keep; a tensor, a numpy array, or {name: tensor}
    unit      what lives or dies together; its score is the mean of its elements' scores
    pool      who competes with whom; `model` is all layers of the mapping
    budget    how many survive; prunes exactly round(s * n_units) of each pool for `sparsity(s)`. A threshold
              ignores the pool and keeps units with score > tau, tau rounded to the scores' dtype as in `w.abs() > tau`
    min_keep  this many units (int), or this share of the units (float below 1), of each layer survive first; the
              rest compete and the total stays exact
    among     only units with a True here may survive, within the same total

    Raises PatternError where unit, pool or budget do not fit a shape, RecipeError where they do not fit each other
    or a score is negative or NaN.
    """
    unit, pool, budget = Unit.parse(unit), Pool.parse(pool), Budget.parse(budget)
    check_words(pool, budget, min_keep)
    if isinstance(scores, Mapping):
        is_numpy = {name: isinstance(score, np.ndarray) for name, score in scores.items()}
        tensors = {name: torch.as_tensor(score) for name, score in scores.items()}
        alive = None if among is None else {name: torch.as_tensor(among[name]) for name in scores}
        keep = _select(tensors, unit, pool, budget, min_keep, alive)
        return {name: value.numpy() if is_numpy[name] else value for name, value in keep.items()}
    if isinstance(scores, np.ndarray):
        alive = None if among is None else {"scores": torch.from_numpy(among)}
        return _select({"scores": torch.from_numpy(scores)}, unit, pool, budget, min_keep, alive)["scores"].numpy()
    if not isinstance(scores, Tensor):
        raise RecipeError(f"Scores are a tensor, a numpy array or a mapping of tensors; got {type(scores).__name__}.")
    alive = None if among is None else {"scores": among}
    return _select({"scores": scores}, unit, pool, budget, min_keep, alive)["scores"]


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


def _select(
    scores: Mapping[str, Tensor],
    unit: Unit,
    pool: Pool,
    budget: Budget,
    min_keep: float,
    among: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    names = sorted(scores)
    shapes = {name: tuple(scores[name].shape) for name in names}
    simple = budget.for_layers(shapes)
    if isinstance(budget, PerLayer) and (lost := [name for name in names if name not in simple]):
        raise RecipeError(f"No pattern of {budget} matches {', '.join(map(repr, lost))}.")
    units: dict[str, Tensor] = {}
    keys: dict[str, Tensor] = {}
    is_double = any(score.dtype == torch.float64 or not score.is_floating_point() for score in scores.values())
    for name in names:
        try:
            check_fit(shapes[name], unit, pool, simple[name])
        except PatternError as error:
            raise PatternError(f"'{name}': {error}") from None
        units[name] = unit.gather(scores[name].detach())
        keys[name] = _keys(name, units[name], torch.float64 if is_double else torch.float32)
        if among is not None:
            alive = unit.gather(among[name].to(torch.float32)) > 0
            keys[name] = torch.where(alive, keys[name], DEAD)
    first = {name: _largest(keys[name].reshape(1, -1), _n_first(min_keep, keys[name].numel())) for name in names}
    kept: dict[str, Tensor] = {}
    by_count = [name for name in names if not isinstance(simple[name], Threshold)]
    for name in names:
        budget_here = simple[name]
        if isinstance(budget_here, Threshold):
            if budget_here.per_sigma:
                raise RecipeError(
                    f"'{budget_here}' needs the weights, not scores alone: use prune() or an absolute tau."
                )
            kept[name] = (units[name] > budget_here.tau) | first[name].view(units[name].shape)
    if pool.kind == "model" and by_count:
        flat = torch.cat([keys[name].reshape(1, -1) for name in by_count], dim=1)
        forced = torch.cat([first[name] for name in by_count], dim=1)
        pooled = _choose(flat, forced, simple[by_count[0]], min_keep, "the model")
        for name, part in zip(
            by_count, torch.split(pooled, [keys[name].numel() for name in by_count], dim=1), strict=True
        ):
            kept[name] = part.view(units[name].shape)
    elif by_count:
        for name in by_count:
            grid = unit.grid(shapes[name])
            forced = pool.split(first[name].view(grid), unit)
            chosen = _choose(pool.split(keys[name], unit), forced, simple[name], min_keep, f"'{name}'")
            kept[name] = pool.join(chosen, grid, unit)
    keep = {name: unit.spread(kept[name] & (keys[name] > DEAD), shapes[name]) for name in scores}
    return keep if among is None else {name: value & among[name] for name, value in keep.items()}


def _keys(name: str, units: Tensor, dtype: torch.dtype) -> Tensor:
    """Unit scores -> integers in the same order, -0.0 as 0.0; RecipeError for NaN and negative scores."""
    values = units.to(dtype)
    if bool((~(values >= 0)).any()):
        found = "NaN" if bool(values.isnan().any()) else "a negative number"
        raise RecipeError(f"The scores of '{name}' must be >= 0; found {found}.")
    return values.abs().contiguous().view(torch.int64 if dtype == torch.float64 else torch.int32)


def _n_first(min_keep: float, n_units: int) -> int:
    wanted = min_keep if isinstance(min_keep, int) else math.ceil(min_keep * n_units - 1e-9)
    return min(wanted, n_units)


def _choose(keys: Tensor, forced: Tensor, budget: Simple, min_keep: float, where: str) -> Tensor:
    """(pools, units) keys -> bool: what the budget keeps of each pool, `forced` units first."""
    n_pools, n_units = keys.shape
    if n_pools == 0 or n_units == 0:
        return torch.zeros_like(forced)
    n_keep = n_units - budget.n_pruned(n_units)
    n_forced = int(forced.sum(dim=1).max())
    if n_forced > n_keep:
        raise PatternError(
            f"min_keep={min_keep} holds {n_forced} units of a pool in {where}, but {budget} keeps only {n_keep} of "
            f"its {n_units}. Ask for less sparsity or a smaller min_keep."
        )
    return _largest(torch.where(forced, torch.iinfo(keys.dtype).max, keys), n_keep)


def _largest(keys: Tensor, n_keep: int) -> Tensor:
    """(pools, units) -> bool with exactly n_keep True in each pool; among equals the earlier survives."""
    n_units = keys.shape[1]
    if n_keep == 0 or keys.numel() == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    if n_keep == n_units:
        return torch.ones_like(keys, dtype=torch.bool)
    kth = keys.kthvalue(n_units - n_keep + 1, dim=1, keepdim=True).values
    above = keys > kth
    tied = keys == kth
    # `keys >= kth` would keep every unit tied with the last survivor.
    n_spare = n_keep - above.sum(dim=1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=1) <= n_spare))
