"""Rates: the learning rate on its way. A rate is a function (q, *numbers) -> share of the highest rate in force at q.

q        progress of the rate's curve after the warm-up, in [0, 1]
numbers  what stands in the brackets of its word
To add one: write it here and add its line to RATES; the laws, the CLI and the docs find it there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from secateurs.checks import nearest
from secateurs.errors import RecipeError
from secateurs.words import Word, a_count, a_number, format_call, parse_call


def constant(q: float) -> float:
    """The highest rate all the time.

    >>> constant(0.5)
    1.0
    """
    return 1.0


def cosine(q: float) -> float:
    """Half a cosine, from the highest rate down to 0.

    >>> [round(cosine(q), 3) for q in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]

    Loshchilov & Hutter 2017, arXiv:1608.03983.
    """
    return 0.5 * (1.0 + math.cos(math.pi * q))


def step(q: float, *at: float) -> float:
    """A tenth of what it was, at each of the given moments.

    >>> [round(step(q, 0.5, 0.75), 3) for q in (0.0, 0.5, 0.75)]
    [1.0, 0.1, 0.01]

    He et al. 2015, arXiv:1512.03385.
    """
    return 0.1 ** sum(q >= moment for moment in at)


def restarts(q: float, n: int = 4) -> float:
    """n cosines one after the other, each from the highest rate down to 0.

    >>> [round(restarts(q, 2), 3) for q in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.5, 1.0, 0.0]

    Loshchilov & Hutter 2017, arXiv:1608.03983.
    """
    return cosine(1.0 if q >= 1.0 else q * n % 1.0)


RATES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "step": step,
    "restarts": restarts,
}


@dataclass(frozen=True)
class Rate(Word):
    """How the learning rate moves: `cosine`, `constant`, `step(0.5, 0.75)`, `restarts(4)`."""

    name: str
    numbers: tuple[float, ...] = ()
    examples: ClassVar[tuple[str, ...]] = ("constant", "cosine", "step(0.5, 0.75)", "restarts(4)")

    def __post_init__(self) -> None:
        if self.name not in RATES:
            raise RecipeError(f"Unknown rate {self.name!r}. {nearest(self.name, RATES)}")
        if self.name == "step":
            for moment in self.numbers:
                a_number("A moment of the rate 'step'", moment, 0.0, 1.0)
            if not self.numbers or list(self.numbers) != sorted(set(self.numbers)):
                raise RecipeError(f"The rate 'step' takes rising moments, as in step(0.5, 0.75); got {self}.")
        elif self.name == "restarts" and len(self.numbers) == 1:
            a_count("The number of restarts", self.numbers[0], 1)
        elif self.numbers:
            raise RecipeError(
                f"The rate '{self}' has too many numbers. Write it as one of: {', '.join(self.examples)}."
            )

    @classmethod
    def parse(cls, value: object) -> "Rate":
        """From a Rate or its text."""
        if isinstance(value, Rate):
            return value
        if not isinstance(value, str):
            raise RecipeError(f"A rate is a word such as 'cosine'; got {value!r}.")
        name, positional, named = parse_call(value)
        if named:
            raise RecipeError(f"The rate {value!r} has named numbers. Write it as one of: {', '.join(cls.examples)}.")
        return cls(name, positional)  # type: ignore[arg-type]  # text among the numbers is refused there

    def __str__(self) -> str:
        return format_call(self.name, self.numbers, {})

    def share(self, q: float) -> float:
        """The share of the highest rate at progress q of the curve."""
        return RATES[self.name](q, *self.numbers)
