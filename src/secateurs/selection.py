"""Selection: scores in, keep out; the one place where it is decided which weights live.

    keep = select(scores, unit, pool, budget)

Exact under ties: the earlier name, then the earlier flat index, survives. Everything is decided on the bit patterns
of the scores, whose order as integers is their order as numbers, so no device or library can disagree.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from secateurs.budgets import Budget, PerLayer, Simple, Threshold
from secateurs.errors import InputError, PatternError, RecipeError
from secateurs.exact.choose import place_key
from secateurs.exact.kinds import KINDS
from secateurs.exact.parts import Part
from secateurs.fit import check_fit, check_words, n_first_of, no_room
from secateurs.pools import Pool
from secateurs.units import Unit

MANY = 1 << 20  # units from which on they are not partitioned but counted
DEAD = -1  # the key of units that may not survive: below every score
_KEYS = {torch.float32: torch.int32, torch.float64: torch.int64}


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
    min_keep  at least this many units (int), or this share of the units (float below 1), of each layer survive. With
              pool=model, and under a threshold, each layer's best survive first; the rest compete and the total stays
              exact. Within a layer every pool keeps its own best, so there it is only checked that enough survive
    among     only units with a True here may survive, within the same total

    Raises PatternError where unit, pool or budget do not fit a shape or leave no room for min_keep, RecipeError where
    they do not fit each other or a score is negative or NaN, InputError where `among` lacks a layer.
    """
    unit, pool, budget = Unit.parse(unit), Pool.parse(pool), Budget.parse(budget)
    check_words(pool, budget, min_keep)
    if isinstance(scores, Mapping):
        is_numpy = {name: isinstance(score, np.ndarray) for name, score in scores.items()}
        tensors = {name: torch.as_tensor(score) for name, score in scores.items()}
        alive = None
        if among is not None:
            assert_among(among, scores)
            alive = {name: torch.as_tensor(among[name]) for name in scores}
        del scores
        keep = _select(tensors, unit, pool, budget, min_keep, alive)
        return {name: value.numpy() if is_numpy[name] else value for name, value in keep.items()}
    if isinstance(scores, np.ndarray):
        alive = None if among is None else {"scores": torch.from_numpy(among)}
        return _select({"scores": torch.from_numpy(scores)}, unit, pool, budget, min_keep, alive)["scores"].numpy()
    if not isinstance(scores, Tensor):
        raise RecipeError(f"Scores are a tensor, a numpy array or a mapping of tensors; got {type(scores).__name__}.")
    alive = None if among is None else {"scores": among}
    return _select({"scores": scores}, unit, pool, budget, min_keep, alive)["scores"]


def assert_among(among: Mapping[str, object], names: Iterable[str]) -> None:
    """InputError unless `among` speaks of all these layers."""
    if lost := [name for name in names if name not in among]:
        raise InputError(
            f"The masks among which weights are chosen lack {', '.join(map(repr, lost))}. Give masks of these layers, "
            "too, or skip them in the recipe."
        )


def _select(
    scores: dict[str, Tensor],
    unit: Unit,
    pool: Pool,
    budget: Budget,
    min_keep: float,
    among: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """What `select` gives; `scores` is emptied on the way, so that none is held longer than it is needed."""
    order, names = list(scores), sorted(scores)
    among = None if among is None else {name: among[name].to(scores[name].device) for name in names}
    shapes = {name: tuple(scores[name].shape) for name in names}
    simple = budget.for_layers(shapes)
    if isinstance(budget, PerLayer) and (lost := [name for name in names if name not in simple]):
        raise RecipeError(f"No pattern of {budget} matches {', '.join(map(repr, lost))}.")
    for name in names:
        try:
            check_fit(shapes[name], unit, pool, simple[name])
        except PatternError as error:
            raise PatternError(f"'{name}': {error}") from None
    is_double = any(score.dtype == torch.float64 or not score.is_floating_point() for score in scores.values())
    dtype = torch.float64 if is_double else torch.float32
    kept: dict[str, Tensor] = {}
    if pool.kind == "model" and not any(isinstance(rule, Threshold) for rule in simple.values()):
        grids = {name: unit.grid(shapes[name]) for name in names}
        devices = {name: scores[name].device for name in names}
        flat = torch.empty(
            sum(math.prod(grid) for grid in grids.values()),
            dtype=_KEYS[dtype],
            device=devices[names[0]] if names else None,
        )
        parts = dict(zip(names, torch.split(flat, [math.prod(grid) for grid in grids.values()]), strict=True))
        for name in names:
            parts[name].copy_(_keys(name, unit.gather(scores.pop(name).detach()), dtype, unit, among).flatten())
        pooled = _choose_in_model(flat, list(parts.values()), simple, min_keep)
        for name, part in zip(names, torch.split(pooled, [part.numel() for part in parts.values()]), strict=True):
            kept[name] = part.view(grids[name]).to(devices[name])
    else:
        for name in names:
            units = unit.gather(scores.pop(name).detach())
            keys = _keys(name, units, dtype, unit, among)
            kept[name] = _choose_in_layer(name, units, keys, unit, pool, simple[name], min_keep)
    keep = {name: unit.spread(kept.pop(name), shapes[name]) for name in order}
    return keep if among is None else {name: value & among[name] for name, value in keep.items()}


def _keys(name: str, units: Tensor, dtype: torch.dtype, unit: Unit, among: Mapping[str, Tensor] | None) -> Tensor:
    """Unit scores -> integers in the same order, -0.0 as 0.0, DEAD outside `among`; RecipeError for NaN, negatives."""
    values = units.to(dtype)
    if not bool((values >= 0).all()):
        found = "NaN" if bool(values.isnan().any()) else "a negative number"
        raise RecipeError(f"The scores of '{name}' must be >= 0; found {found}.")
    keys = values.abs().contiguous().view(_KEYS[dtype])
    if among is not None:
        keys.masked_fill_(unit.gather(among[name].to(torch.float32)) <= 0, DEAD)
    return keys


def _choose_in_model(flat: Tensor, parts: list[Tensor], simple: Mapping[str, Simple], min_keep: float) -> Tensor:
    """Keys of all layers, in one row and as its parts (views, which are changed) -> bool: each layer's best first."""
    n_units = flat.numel()
    if n_units == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    budget = next(iter(simple.values()))
    n_keep, n_forced = n_units - budget.n_pruned(n_units), 0
    for part in parts if min_keep else ():
        first = _best(part, n_first_of(min_keep, part.numel()))
        n_forced += int(first.count_nonzero())
        part.masked_fill_(first, torch.iinfo(part.dtype).max)
    if n_forced > n_keep:
        raise no_room("the model", min_keep, n_forced, budget, n_keep, n_units)
    return _best(flat, n_keep)


def _choose_in_layer(
    name: str, units: Tensor, keys: Tensor, unit: Unit, pool: Pool, budget: Simple, min_keep: float
) -> Tensor:
    """(R, C, K) unit scores and keys -> bool: what lives."""
    n_first = n_first_of(min_keep, keys.numel())
    if isinstance(budget, Threshold):
        if budget.per_sigma:
            raise RecipeError(f"'{budget}' needs the weights, not scores alone: use prune() or an absolute tau.")
        kept = (units > budget.tau) & (keys > DEAD)
        return kept | _best(keys.flatten(), n_first).view(kept.shape) if n_first else kept
    r, c, k = keys.shape
    pooled = pool.split(keys, unit)
    n_pools, n_units = pooled.shape
    if pooled.numel() == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    n_keep = n_units - budget.n_pruned(n_units)
    # Nothing to force: every pool keeps its best, which are the layer's best as far as the pool allows.
    if n_first > n_pools * n_keep:
        raise no_room(f"'{name}'", min_keep, n_first, budget, n_pools * n_keep, keys.numel())
    return pool.join(_largest(pooled, n_keep) & (pooled > DEAD), (r, c, k), unit)


def _best(keys: Tensor, n_keep: int) -> Tensor:
    """(units,) -> bool: the n_keep largest that are not dead."""
    return _largest(keys.view(1, -1), n_keep)[0] & (keys > DEAD)


def _largest(keys: Tensor, n_keep: int) -> Tensor:
    """(pools, units) -> bool with exactly n_keep True in each pool; among equals the earlier survives."""
    n_units = keys.shape[1]
    if n_keep == 0 or keys.numel() == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    if n_keep == n_units:
        return torch.ones_like(keys, dtype=torch.bool)
    kth = _in_order(keys, n_units - n_keep)
    above, tied = keys > kth, keys == kth
    # `keys >= kth` would keep every unit tied with the last survivor.
    # Ranks cost 8 bytes a unit, as do sums of bool in int64: in one pool only ties are ranked, else only crowded pools.
    if len(keys) == 1:
        tied[0, tied[0].nonzero()[n_keep - int(above.count_nonzero()) :, 0]] = False
        return above.logical_or_(tied)
    n_spare = n_keep - above.sum(dim=1, dtype=torch.int32)  # (pools,)
    if len(crowded := (tied.sum(dim=1, dtype=torch.int32) > n_spare).nonzero()[:, 0]):
        ties = tied[crowded]
        tied[crowded] = ties & (ties.cumsum(dim=1) <= n_spare[crowded, None])
    return above.logical_or_(tied)


def _in_order(keys: Tensor, place: int) -> Tensor:
    """(pools, units) -> (pools, 1): what stands at `place` of each pool in ascending order."""
    if keys.device.type == "cpu":
        bits, kind = keys.numpy(), KINDS["F32" if keys.dtype == torch.int32 else "F64"]
        # Marks that are no scores (DEAD, and the largest integer) are below and above all of them.
        if len(bits) == 1 and bits.size >= MANY and bits.min() >= 0 and bits.max() < kind.n_finite:
            found = place_key(Part.of(kind, bits[0].view(kind.storage)), place)
            return torch.tensor([[found]], dtype=keys.dtype)
        # torch.kthvalue takes 8 bytes more for every unit.
        return torch.from_numpy(np.partition(bits, place, axis=1)[:, place : place + 1].copy())
    # kthvalue raises on CUDA under torch.use_deterministic_algorithms.
    return keys.sort(dim=1).values[:, place : place + 1].clone()
