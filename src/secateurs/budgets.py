"""Budgets: how many units survive in each pool.

A budget is `for_layers(shapes) -> {name: simple budget}`; a simple budget is `n_pruned(units in a pool)`, or a
threshold on the unit's score. `at(p, schedule)` is the budget in force at progress p.
To add one: write its class and its line in BUDGETS; the laws, the CLI and the docs find it there.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from secateurs.checks import shown
from secateurs.errors import PatternError, RecipeError
from secateurs.schedules import Schedule
from secateurs.units import Shape, canonical
from secateurs.words import Word, a_count, a_number, call, split_outside

LINEAR = Schedule("linear")


class Budget(Word):
    """How many survive: `sparsity(0.7)`, `threshold(0.4)`, `threshold(1.2sigma)`, `top(2)`, `erk(0.7)`, `per_layer`."""

    examples: ClassVar[tuple[str, ...]] = (
        "sparsity(0.7)",
        "threshold(0.4)",
        "threshold(1.2sigma)",
        "top(2)",
        "erk(0.7)",
    )
    json_types: ClassVar[tuple[str, ...]] = ("string", "object")

    @classmethod
    def parse(cls, value: object) -> "Budget":
        """From a Budget, its text, or a mapping {pattern: budget}."""
        if isinstance(value, Budget):
            return value
        if isinstance(value, Mapping):
            return per_layer(value)
        if not isinstance(value, str):
            raise RecipeError(f"A budget is a word such as 'sparsity(0.7)' or a mapping of them; got {shown(value)}.")
        text = value.strip()
        if text.startswith("{") and text.endswith("}"):
            rules = [part.partition(":") for part in split_outside(text[1:-1], ",")]
            names = [pattern.strip() for pattern, _, _ in rules]
            if not all(colon for _, colon, _ in rules) or len(set(names)) != len(names):
                raise RecipeError(f"{value!r} is not a mapping {{pattern: budget, ...}} with every pattern once.")
            return per_layer(dict(zip(names, (budget for _, _, budget in rules), strict=True)))
        budget: Budget = call("budget", {**BUDGETS, **OF_NETWORKS}, text)
        return budget

    def for_layers(self, shapes: Mapping[str, Shape]) -> "dict[str, Simple]":
        """The simple budget of every layer that this budget speaks of."""
        raise NotImplementedError

    def at(self, p: float, schedule: Schedule = LINEAR) -> "Budget":
        """The budget in force at progress p in [0, 1] of the training."""
        raise NotImplementedError

    @property
    def is_shared(self) -> bool:
        """Whether all layers may compete for one budget (pool=model)."""
        return True


class Simple(Budget):
    """A budget that is the same for every pool."""

    def for_layers(self, shapes: Mapping[str, Shape]) -> "dict[str, Simple]":
        """The same for all."""
        return dict.fromkeys(shapes, self)

    @abstractmethod
    def n_pruned(self, n_units: int) -> int:
        """How many of the n_units in a pool go."""


@dataclass(frozen=True)
class Sparsity(Simple):
    """Exactly round(s * n) units of each pool go (Python's round, halves to even)."""

    s: float

    def n_pruned(self, n_units: int) -> int:
        """round(s * n_units)"""
        return round(self.s * n_units)

    def at(self, p: float, schedule: Schedule = LINEAR) -> "Sparsity":
        """Sparsity scaled by the schedule's share."""
        return Sparsity(self.s * schedule.share(p, 1.0 - self.s))

    def __str__(self) -> str:
        return f"sparsity({self.s})"


@dataclass(frozen=True)
class Threshold(Simple):
    """Units whose score is at most tau go, whatever the pool.

    tau        absolute, or in standard deviations of the layer's weights if per_sigma
    per_sigma  the deviation is taken when tau is set (`for_layers` of the caller), then frozen
    """

    tau: float
    per_sigma: bool = False

    def n_pruned(self, n_units: int) -> int:
        """Not known before the scores are seen."""
        raise TypeError("a threshold does not say how many go")

    def at(self, p: float, schedule: Schedule = LINEAR) -> "Threshold":
        """Tau scaled by the schedule's share."""
        return Threshold(self.tau * schedule.share(p, 1.0), self.per_sigma)

    def __str__(self) -> str:
        return f"threshold({self.tau}{'sigma' if self.per_sigma else ''})"


@dataclass(frozen=True)
class Top(Simple):
    """Exactly n units of each pool stay; while a schedule runs, as many more as it asks for at progress p."""

    n: int
    p: float = 1.0
    schedule: Schedule = LINEAR

    def n_pruned(self, n_units: int) -> int:
        """n_units - n in the end, or PatternError where a pool has fewer than n."""
        if self.n > n_units:
            raise PatternError(f"top({self.n}) needs pools of at least {self.n} units; this one has {n_units}.")
        share = self.schedule.share(self.p, self.n / n_units) if n_units else 1.0
        return round(share * (n_units - self.n))

    def at(self, p: float, schedule: Schedule = LINEAR) -> "Top":
        """The same, on the way; how far depends on the size of the pool."""
        # No density has a smaller share than 1: where that is all of the budget, it is the final one.
        return Top(self.n) if schedule.share(p, 1.0) == 1.0 else Top(self.n, p, schedule)

    def __str__(self) -> str:
        return f"top({self.n})"


@dataclass(frozen=True)
class Erk(Budget):
    """Sparsity s over all layers, each layer's density proportional to (sum of its dimensions) / (their product).

    Layers that would need a density above 1 stay dense and the others make up for it. Evci et al. 2020,
    arXiv:1911.11134.
    """

    s: float

    def for_layers(self, shapes: Mapping[str, Shape]) -> dict[str, Simple]:
        """The sparsity of each layer."""
        size = {name: math.prod(canonical(shape)) for name, shape in shapes.items()}
        raw = {name: sum(shape) / size[name] if size[name] else 0.0 for name, shape in shapes.items()}
        dense: set[str] = set()
        while True:
            rest = [name for name in shapes if name not in dense and size[name]]
            n_kept = (1.0 - self.s) * sum(size.values()) - sum(size[name] for name in dense)
            scale = n_kept / sum(raw[name] * size[name] for name in rest) if rest else 0.0
            full = {name for name in rest if scale * raw[name] > 1.0}
            if not full:
                break
            dense |= full
        return {
            name: Sparsity(0.0 if name in dense else min(1.0, max(0.0, 1.0 - scale * raw[name]))) for name in shapes
        }

    def at(self, p: float, schedule: Schedule = LINEAR) -> "Erk":
        """The whole network's sparsity scaled by the schedule's share."""
        return Erk(self.s * schedule.share(p, 1.0 - self.s))

    @property
    def is_shared(self) -> bool:
        """Each layer has its own share."""
        return False

    def __str__(self) -> str:
        return f"erk({self.s})"


@dataclass(frozen=True)
class PerLayer(Budget):
    """The first pattern (shell-style: *, ?, [...]) that matches a layer's name gives its budget; others are left."""

    rules: tuple[tuple[str, Simple], ...]

    def for_layers(self, shapes: Mapping[str, Shape]) -> dict[str, Simple]:
        """The budget of every layer that a pattern matches."""
        found = {name: next((b for pattern, b in self.rules if fnmatchcase(name, pattern)), None) for name in shapes}
        return {name: budget for name, budget in found.items() if budget is not None}

    def at(self, p: float, schedule: Schedule = LINEAR) -> "PerLayer":
        """Every rule's budget at progress p."""
        moved = [(pattern, budget.at(p, schedule)) for pattern, budget in self.rules]
        return PerLayer(tuple((pattern, budget) for pattern, budget in moved if isinstance(budget, Simple)))

    @property
    def is_shared(self) -> bool:
        """Each layer has its own share, unless all are thresholds."""
        return all(isinstance(budget, Threshold) for _, budget in self.rules)

    def __str__(self) -> str:
        return "{" + ", ".join(f"{pattern}: {budget}" for pattern, budget in self.rules) + "}"


@dataclass(frozen=True)
class Target(Budget):
    """As many units go as it takes: the network's parameters or multiply-adds fall to a share, its latency to seconds.

    A budget of `shrink` alone: what it means for one weight depends on all others.
    """

    of: str
    most: float

    def for_layers(self, shapes: Mapping[str, Shape]) -> dict[str, Simple]:
        """Not known for single weights."""
        raise RecipeError(f"'{self}' speaks of a whole network: use it with shrink, not to choose weights.")

    def at(self, p: float, schedule: Schedule = LINEAR) -> "Target":
        """The same."""
        return self

    def __str__(self) -> str:
        return f"latency({self.most * 1e3:g}ms)" if self.of == "latency" else f"{self.of}({self.most})"


def sparsity(s: float) -> Sparsity:
    """Exactly round(s * n) units of each pool go; s in [0, 1]."""
    return Sparsity(a_number("A sparsity", s, 0.0, 1.0))


def threshold(tau: float | str) -> Threshold:
    """Units with score <= tau go; tau >= 0, or text such as "1.2sigma" (with magnitude)."""
    if not isinstance(tau, str):
        return Threshold(_a_tau(tau))
    match = re.fullmatch(r"\s*([^\s]+?)\s*(?:sigma|σ)\s*", tau)
    try:
        return Threshold(_a_tau(float(match.group(1) if match else "")), per_sigma=True)
    except ValueError as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"A threshold is a number or a text such as '1.2sigma'; got {shown(tau)}.") from None


def _a_tau(value: object) -> float:
    tau = a_number("A threshold", value, 0.0, math.inf)
    if math.isinf(tau):
        raise RecipeError("A threshold must be finite; got inf.")
    return tau


def top(n: int) -> Top:
    """Exactly n units of each pool stay (2:4 is pool 4, top(2))."""
    return Top(a_count("top", n, 0))


def erk(s: float) -> Erk:
    """Sparsity s over all layers, thinner where layers are larger (Erdos-Renyi-Kernel)."""
    return Erk(a_number("A sparsity", s, 0.0, 1.0))


def per_layer(rules: Mapping[str, object]) -> PerLayer:
    """A budget for each pattern of layer names; the first pattern that matches counts."""
    if not rules:
        raise RecipeError("A mapping of budgets needs at least one pattern.")
    pairs = []
    for pattern, value in rules.items():
        budget = Budget.parse(value)
        if not isinstance(budget, Simple):
            raise RecipeError(f"The budget of '{pattern}' must be sparsity, threshold or top; got {budget}.")
        if not isinstance(pattern, str) or not pattern or re.search(r"[:{},()\s]", pattern):
            raise RecipeError(f"{pattern!r} is not a pattern of layer names.")
        pairs.append((pattern, budget))
    return PerLayer(tuple(pairs))


BUDGETS: dict[str, Callable[..., Budget]] = {"sparsity": sparsity, "threshold": threshold, "top": top, "erk": erk}


def _latency(most: float | str) -> Target:
    """At most so much time for one run: "8ms"."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(ms|s)\s*", str(most))
    if match is None:
        raise RecipeError(f"A latency is a time with its unit, such as 8ms; got {most!r}.")
    return Target("latency", float(match.group(1)) * (1e-3 if match.group(2) == "ms" else 1.0))


OF_NETWORKS: dict[str, Callable[..., Budget]] = {
    "params": lambda share: Target("params", a_number("A share of the parameters", share, 0.0, 1.0)),
    "macs": lambda share: Target("macs", a_number("A share of the multiply-adds", share, 0.0, 1.0)),
    "latency": _latency,
}
