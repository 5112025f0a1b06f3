"""Sensitivity: how much each layer alone can lose, the allocation made from it, and allocations side by side.

    scan(module, recipe, x, y)                    {layer: [accuracy with so much of this layer cut], ...}
    allocate(scanned, weight, s)                  {layer: sparsity}, in all s of the weight
    side_by_side(module, recipe, data, scanned)   every allocation at equal size and at equal multiply-adds

Nothing is trained. The scan looks at validation examples; the comparison measures test examples, once.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from secateurs.budgets import Budget, erk, per_layer, sparsity
from secateurs.data import Dataset
from secateurs.errors import RecipeError
from secateurs.layers import layers, named_parameters
from secateurs.masks import Masks
from secateurs.measure.accuracy import accuracy
from secateurs.measure.operations import multiply_adds, uses
from secateurs.recipe import Recipe, with_words
from secateurs.words import a_number

LADDER = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
SLOPE = 1e-3  # drop that is added per unit of sparsity: of two layers that do not care, both are cut alike
Scan = Mapping[str, Sequence[Mapping[str, float]]]


def scan(
    module: nn.Module, recipe: Recipe, x: Tensor, y: Tensor, ladder: Sequence[float] = LADDER
) -> dict[str, list[dict[str, float]]]:
    """Accuracy on (x, y) when one layer alone is cut; {layer: [{sparsity, accuracy, n}, ...]}, the module unchanged.

    Units and score are the recipe's, the pool is the layer. Han et al. 2015, arXiv:1506.02626, figure 6.
    """
    found: dict[str, list[dict[str, float]]] = {}
    whole = accuracy(module, x, y)
    for layer in (each for each in layers(module, recipe.skip, recipe.only) if each.is_prunable):
        before, found[layer.name] = layer.parameter.detach().clone(), []
        for s in ladder:
            measured = whole
            if s:
                alone = Recipe(
                    score=recipe.score, unit=recipe.unit, pool="layer", budget=sparsity(s), only=(layer.name,)
                )
                Masks.make(module, alone, is_trial=True).apply(module)
                measured = accuracy(module, x, y)
                layer.parameter.data.copy_(before)
            found[layer.name].append({"sparsity": s, "accuracy": measured.value, "n": measured.n})
    return found


def allocate(scanned: Scan, weight: Mapping[str, float], s: float) -> dict[str, float]:
    """The sparsity of each layer: all lose the same accuracy by the scan, and s of the weight goes in all.

    weight  {layer: what its elements count together}: their number for equal size, their multiply-adds for equal work

    RecipeError where a layer's weight is missing, or s is no share.
    """
    a_number("The sparsity of an allocation", s, 0.0, 1.0)
    if missing := [name for name in scanned if name not in weight]:
        raise RecipeError(f"The scan has {', '.join(missing)}, of which no weight was given. Give one for each layer.")
    curves = {name: _rising(points) for name, points in scanned.items()}
    total = sum(weight[name] for name in curves)

    def at(drop: float) -> dict[str, float]:
        return {name: _cut_for(curve, drop) for name, curve in curves.items()}

    low, high = 0.0, max(curve[-1][1] for curve in curves.values())
    for _ in range(60):
        middle = (low + high) / 2
        gone = sum(weight[name] * each for name, each in at(middle).items()) / total
        low, high = (middle, high) if gone < s else (low, middle)
    return at(high)


def _rising(points: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    """(sparsity, drop), strictly rising: a scan is noisy, and a layer that may lose all ends at sparsity 1."""
    first, worst, curve = points[0]["accuracy"], 0.0, []
    for point in points:
        worst = max(worst, first - point["accuracy"])
        curve.append((point["sparsity"], worst + SLOPE * point["sparsity"]))
    return [*curve, (1.0, worst + 1.0)]


def _cut_for(curve: Sequence[tuple[float, float]], drop: float) -> float:
    """The sparsity at which a rising curve reaches this drop, between its points in a straight line."""
    for (s0, d0), (s1, d1) in pairwise(curve):
        if drop <= d1:
            return s0 + (s1 - s0) * max(0.0, drop - d0) / (d1 - d0)
    return curve[-1][0]


def side_by_side(
    module: nn.Module, recipe: Recipe, data: Dataset, scanned: Scan, sparsities: Sequence[float]
) -> list[dict[str, Any]]:
    """Every allocation, cut once, at equal size and at equal multiply-adds; one line each.

    view, asked, allocation, n_kept, multiply_adds, accuracy, n, sparsities of the layers
    """
    used = uses(module, data.x_train[:1])
    n = {name: named_parameters(module)[name].numel() for name in scanned}
    work = {name: n[name] * used.get(name, 0) for name in scanned}

    def by_scan(weight: Mapping[str, float]) -> Callable[[float], Recipe]:
        return lambda s: with_words(recipe, pool="layer", budget=_budget(allocate(scanned, weight, s)))

    shared: dict[str, Callable[[float], Recipe]] = {
        "uniform": lambda s: with_words(recipe, pool="layer", budget=sparsity(s)),
        "erk": lambda s: with_words(recipe, pool="layer", budget=erk(s)),
        "global": lambda s: with_words(recipe, pool="model", budget=sparsity(s)),
        "lamp": lambda s: with_words(recipe, score="lamp", pool="model", budget=sparsity(s)),
    }
    views = {"size": n, "multiply-adds": work}
    found = []
    for view, weight in views.items():
        for s in sparsities:
            for allocation, at in {**shared, "sensitivity": by_scan(weight)}.items():
                masks = _nearest(module, at, weight, s)
                pruned = copy.deepcopy(module)
                masks.apply(pruned)
                kept = {name: int(keep.count_nonzero()) for name, keep in masks.items()}
                measured = accuracy(pruned, data.x_test, data.y_test)
                found.append(
                    {
                        "view": view,
                        "asked": s,
                        "allocation": allocation,
                        "n_kept": sum(kept.values()),
                        "multiply_adds": multiply_adds(kept, used),
                        "accuracy": measured.value,
                        "n": measured.n,
                        "layers": {name: 1 - kept[name] / n[name] for name in kept},
                    }
                )
    return found


def _budget(sparsities: Mapping[str, float]) -> Budget:
    return per_layer({name: sparsity(s) for name, s in sparsities.items()})


def _nearest(module: nn.Module, at: Callable[[float], Recipe], weight: Mapping[str, float], s: float) -> Masks:
    """The masks of the recipe that removes s of the weight, found by halving; more sparsity removes more of it."""
    total, low, high = sum(weight.values()), 0.0, 1.0
    best, off = None, float("inf")
    middle = s  # right at once where the weight is the size
    for _ in range(24):
        masks = Masks.make(module, at(middle), is_trial=True)
        gone = sum(weight[name] * float((~keep).float().mean()) for name, keep in masks.items()) / total
        if abs(gone - s) < off:
            best, off = masks, abs(gone - s)
        if off < 1e-4:
            break
        low, high = (middle, high) if gone < s else (low, middle)
        middle = (low + high) / 2
    assert best is not None
    return best
