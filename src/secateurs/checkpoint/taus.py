"""Taus: thresholds as a person writes them, absolute ("0.01") or in standard deviations of the layer ("0.5sigma")."""

import math
import re
from dataclasses import dataclass

from secateurs.checks import shown
from secateurs.errors import RecipeError

_TAU = re.compile(r"\s*([^\s]+?)\s*(sigma|σ)?\s*")


@dataclass(frozen=True)
class Tau:
    """A threshold: a weight stays where |w| > tau.

    number     the tau, or how many standard deviations of the layer it is
    per_sigma  which of the two

    >>> str(Tau.parse("0.5 sigma")), Tau.parse(0.01).of(sigma=2.0), Tau.parse("0.5σ").of(sigma=2.0)
    ('0.5sigma', 0.01, 1.0)
    """

    number: float
    per_sigma: bool = False

    @classmethod
    def parse(cls, value: "float | str | Tau") -> "Tau":
        """From a number or its text; RecipeError for what is neither, negative or infinite."""
        if isinstance(value, Tau):
            return value
        match = _TAU.fullmatch(str(value))
        try:
            number = float(match[1]) if match is not None else math.nan
        except ValueError:
            number = math.nan
        if match is None or not 0 <= number < math.inf:
            raise RecipeError(f"A tau is a number of at least 0 or a text such as '0.5sigma'; got {shown(value)}.")
        return cls(number + 0.0, bool(match[2]))

    def of(self, sigma: float) -> float:
        """The absolute threshold for a layer with this standard deviation."""
        return self.number * sigma if self.per_sigma else self.number

    def __str__(self) -> str:
        return repr(self.number).removesuffix(".0") + ("sigma" if self.per_sigma else "")
