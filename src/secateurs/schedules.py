"""Schedules: when. A schedule is a function (p, density) -> share of the final budget in force at progress p.

p        progress between the schedule's begin and end, in [0, 1]
density  the share of weights the final budget keeps, which only `rounds` looks at
To add one: write it here and add its line to SCHEDULES; the laws, the CLI and the docs find it there.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from secateurs.checks import nearest
from secateurs.errors import RecipeError
from secateurs.words import Argument, Word, a_count, a_number, by_name, format_call, parse_call


def one_shot(p: float, density: float = 0.0) -> float:
    """All at once, from the beginning on.

    >>> one_shot(0.0)
    1.0
    """
    return 1.0


def linear(p: float, density: float = 0.0) -> float:
    """The same amount in every step.

    >>> linear(0.25)
    0.25
    """
    return p


def cubic(p: float, density: float = 0.0) -> float:
    """Fast at first, gentle at the end.

    >>> [round(cubic(p), 3) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.875, 1.0]

    Zhu & Gupta 2017, arXiv:1710.01878.
    """
    return 1.0 - (1.0 - p) ** 3


def rounds(p: float, density: float = 0.0, n: int = 5) -> float:
    """n equal rounds; every round prunes the same share of what is left: after k rounds density ** (k / n) is kept.

    With a threshold, which knows no density, every round raises tau by the same amount (density=1).

    >>> [round(rounds(p, density=0.25, n=2), 3) for p in (0.0, 0.5, 0.99, 1.0)]
    [0.0, 0.667, 0.667, 1.0]

    Han et al. 2015, arXiv:1506.02626; Frankle & Carbin 2019, arXiv:1803.03635.
    """
    k = math.floor(p * n + 1e-9)
    if k == n or density == 1.0:
        return k / n
    return float((1.0 - density ** (k / n)) / (1.0 - density))


SCHEDULES: dict[str, Callable[..., float]] = {
    "one_shot": one_shot,
    "linear": linear,
    "cubic": cubic,
    "rounds": rounds,
}


@dataclass(frozen=True)
class Schedule(Word):
    """When the budget is reached: `one_shot`, `linear`, `cubic(0.1, 0.75, every=50)`, `rounds(5)`.

    begin, end  progress of the training, in [0, 1]: nothing is pruned before begin, everything from end on
    every       the masks are chosen anew every so many optimizer steps in between
    n           rounds only: how many
    """

    name: str
    n: int = 0
    begin: float = 0.0
    end: float = 1.0
    every: int = 1
    examples: ClassVar[tuple[str, ...]] = ("one_shot", "cubic(0.1, 0.75, every=50)", "rounds(5)")

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise RecipeError(f"Unknown schedule {self.name!r}. {nearest(self.name, SCHEDULES)}")
        object.__setattr__(self, "begin", a_number("A schedule's begin", self.begin, 0.0, 1.0))
        object.__setattr__(self, "end", a_number("A schedule's end", self.end, 0.0, 1.0))
        a_count("A schedule's every", self.every, 1)
        if self.begin > self.end:
            raise RecipeError(f"A schedule ends after it begins; got begin={self.begin}, end={self.end}.")
        if self._takes_n:
            a_count("The number of rounds", self.n, 1)
        elif self.n:
            raise RecipeError(f"Schedule '{self.name}' takes no n.")

    @property
    def _takes_n(self) -> bool:
        return "n" in inspect.signature(SCHEDULES[self.name]).parameters

    @classmethod
    def parse(cls, value: object) -> "Schedule":
        """From a Schedule, its text, or a function of SCHEDULES."""
        if isinstance(value, Schedule):
            return value
        if callable(value):
            value = getattr(value, "__name__", repr(value))
        if not isinstance(value, str):
            raise RecipeError(f"A schedule is a word such as 'cubic'; got {value!r}.")
        name, positional, named = parse_call(value)
        if name not in SCHEDULES:
            raise RecipeError(f"Unknown schedule {name!r}. {nearest(name, SCHEDULES)}")
        first = ("n",) if "n" in inspect.signature(SCHEDULES[name]).parameters else ()
        known = (*first, "begin", "end", "every")
        if len(positional) > len(known) or not set(named) <= set(known):
            raise RecipeError(f"Schedule {value!r}: '{name}' takes {', '.join(known)}.")
        given = by_name(value, known, positional, named)
        return cls(name, **given)  # type: ignore[arg-type]

    def __str__(self) -> str:
        shown: dict[str, Argument] = {}
        if self.begin != 0.0:
            shown["begin"] = self.begin
        if self.end != 1.0:
            shown["end"] = self.end
        if self.every != 1:
            shown["every"] = self.every
        return format_call(self.name, (self.n,) if self._takes_n else (), shown)

    def share(self, p: float, density: float = 0.0) -> float:
        """Share of the final budget in force at progress p of the whole training; 0 before begin, 1 from end on."""
        if p < self.begin:
            return 0.0
        if p >= self.end:
            return 1.0
        q = (p - self.begin) / (self.end - self.begin)
        settings = {"n": self.n} if self._takes_n else {}
        return SCHEDULES[self.name](q, density, **settings)
