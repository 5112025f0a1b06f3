"""Cuttable: what a recipe means for the weights at hand: which can be cut, by what budget, and why others cannot."""

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from secateurs.budgets import Budget, PerLayer, Simple, Threshold
from secateurs.checkpoint.prunable import VECTOR, names_it
from secateurs.checks import nearest
from secateurs.errors import InputError, PatternError, RecipeError
from secateurs.fit import check_fit
from secateurs.layer_report import Status
from secateurs.recipe import Recipe


class Weight(Protocol):
    """What is known of a weight before it is read; `seen` is its shape as (out, in, *kernel)."""

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def seen(self) -> tuple[int, ...]: ...
    @property
    def reason(self) -> str: ...


W = TypeVar("W", bound=Weight)
MOST = 8  # weights in one message


def cuttable(found: Sequence[W], recipe: Recipe, budget: Budget) -> tuple[list[W], dict[str, tuple[Status, str]]]:
    """The weights the recipe can cut, and {name: (status, reason)} of the prunable ones it cannot.

    RecipeError where none can be, PatternError where `only` names one that cannot.
    """
    prunable = [weight for weight in found if not weight.reason]
    shapes = {weight.name: weight.seen for weight in prunable}
    if isinstance(budget, PerLayer):
        for pattern, _ in budget.rules:
            if not any(fnmatchcase(name, pattern) for name in shapes):
                raise RecipeError(
                    f"The budget's pattern {pattern!r} matches no prunable layer. {nearest(pattern, shapes)}"
                )
    simple = budget.for_layers(shapes)
    reasons: dict[str, tuple[Status, str]] = {}
    candidates = []
    for weight in prunable:
        if weight.name not in simple:
            reasons[weight.name] = ("skipped", "no pattern of the budget names it")
            continue
        try:
            check_fit(shapes[weight.name], recipe.unit, recipe.pool, simple[weight.name])
        except PatternError as error:
            if any(names_it(pattern, (weight.name, *weight.aliases)) for pattern in recipe.only):
                raise PatternError(f"'{weight.name}' cannot be cut as asked: {error}") from error
            reasons[weight.name] = ("impossible", str(error))
            continue
        candidates.append(weight)
    if not candidates:
        # Those that were meant come first, then those that never are.
        left = sorted(((weight.reason or reasons[weight.name][1], weight.name) for weight in found), key=_is_general)
        said = "; ".join(f"'{name}': {why.rstrip('.')}" for why, name in left[:MOST])
        more = f"; and {len(left) - MOST:,} more" if len(left) > MOST else ""
        raise RecipeError(f"Nothing to prune. {said + more or 'There are no weights'}.")
    return candidates, reasons


def _is_general(why: tuple[str, str]) -> bool:
    return why[0] == VECTOR


def absolute(
    budget: Budget, shapes: Mapping[str, tuple[int, ...]], sigma_of: Callable[[str], float]
) -> tuple[Budget, dict[str, float], dict[str, float]]:
    """The budget with its sigmas replaced by numbers, and the tau and sigma of every layer under a threshold.

    InputError where a float cannot hold one of them.
    """
    simple = budget.for_layers(shapes)
    taus, sigmas = {}, {}
    for name, rule in simple.items():
        if isinstance(rule, Threshold):
            sigmas[name] = sigma_of(name)
            taus[name] = rule.tau * sigmas[name] if rule.per_sigma else rule.tau
            if not (math.isfinite(sigmas[name]) and math.isfinite(taus[name])):
                raise InputError(
                    f"The weights of '{name}' are too large for a threshold: sigma is {sigmas[name]}, tau "
                    f"{taus[name]}. Scale them, skip the layer, or ask for a sparsity."
                )
    if not any(isinstance(rule, Threshold) and rule.per_sigma for rule in simple.values()):
        return budget, taus, sigmas
    return (
        _exactly({name: Threshold(taus[name]) if name in taus else rule for name, rule in simple.items()}),
        taus,
        sigmas,
    )


def _exactly(simple: Mapping[str, Simple]) -> PerLayer:
    """Budgets by exact layer name."""
    return PerLayer(tuple((_literal(name), rule) for name, rule in simple.items()))


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
