"""Scores: how much each weight is worth keeping.

A score is a function (weight, *, settings and evidence) -> tensor of weight's shape, >= 0, larger = keep.
To add one: write it here and add its line to SCORES; the laws, the CLI and the docs find it there. A keyword
without a default is evidence the caller must bring (from calibration data); one with a default is a setting.
"""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from secateurs.checks import nearest, shown
from secateurs.errors import RecipeError
from secateurs.words import Argument, Word, by_name, format_call, parse_call

if TYPE_CHECKING:
    from torch import Tensor


def magnitude(weight: "Tensor") -> "Tensor":
    """The size of the weight, |w|.

    weight   any shape; the score has its shape and dtype

    Han et al. 2015, arXiv:1506.02626.
    """
    return weight.abs()


def lamp(weight: "Tensor") -> "Tensor":
    """Squared weight over the squares of all weights in the layer that are at least as large.

        score[u] = w[u]^2 / sum of w[v]^2 over v with |w[v]| >= |w[u]|

    weight   any shape; the score is float64, since squares of small float32 weights are smaller than float32 holds

    Equal weights are ordered by flat index, the earlier counts as larger. One weight of each layer scores 1, so
    with pool=model no layer is emptied while another has two weights left. Lee et al. 2021, arXiv:2010.07611.
    """
    import torch  # recipes are read without it

    flat = weight.detach().flatten().double()
    order = flat.abs().argsort(descending=True, stable=True)
    square = flat[order].square()
    # Devices add up in different orders; on the CPU the sums, and so the scores, are the same everywhere.
    share = square / square.cpu().cumsum(0).to(square.device)
    score = torch.empty_like(flat)
    score[order] = share.nan_to_num(0.0)  # 0 / 0 where every weight is zero
    return score.view(weight.shape)


def random(weight: "Tensor", *, seed: int = 0, name: str = "") -> "Tensor":
    """Uniform in [0, 1): the control that knows nothing about the weights.

    weight   any shape; the score is float32, the same on every device
    name     the layer's name, so that layers of one shape do not share a pattern
    """
    import torch

    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7])
    generator = torch.Generator(device="cpu").manual_seed(key)
    return torch.rand(weight.shape, generator=generator, dtype=torch.float32, device="cpu").to(weight.device)


SCORES: "dict[str, Callable[..., Tensor]]" = {"magnitude": magnitude, "lamp": lamp, "random": random}


# Scores of the units that `shrink` removes; their functions are in structure/unit_scores.py.
OF_UNITS = ("l2", "taylor", "activation", "batch_norm")


def evidence_of(name: str) -> tuple[str, ...]:
    """What a score needs beyond the weight."""
    if name not in SCORES:
        return ("the groups of a network (use shrink)",)
    parameters = list(inspect.signature(SCORES[name]).parameters.values())[1:]
    return tuple(p.name for p in parameters if p.default is p.empty)


@dataclass(frozen=True)
class Score(Word):
    """A score by name, with its settings: `magnitude`, `lamp`, `random(7)`."""

    name: str
    settings: tuple[tuple[str, Argument], ...] = ()
    examples: ClassVar[tuple[str, ...]] = ("magnitude", "lamp", "random(7)")

    @classmethod
    def parse(cls, value: object) -> "Score":
        """From a Score, its text, or a function of SCORES."""
        if isinstance(value, Score):
            return value
        if callable(value):
            value = getattr(value, "__name__", repr(value))
        if not isinstance(value, str):
            raise RecipeError(f"A score is a word such as 'magnitude'; got {shown(value)}.")
        name, positional, named = parse_call(value)
        if name not in SCORES and name not in OF_UNITS:
            raise RecipeError(f"Unknown score {name!r}. {nearest(name, [*SCORES, *OF_UNITS])}")
        known = cls._settings(name)
        if len(positional) > len(known) or not set(named) <= set(known):
            raise RecipeError(f"Score {value!r}: '{name}' takes {', '.join(known) or 'no settings'}.")
        given = by_name(value, known, positional, named)
        for key, setting in given.items():
            if type(setting) is not type(known[key]):
                raise RecipeError(f"Score {value!r}: {key} must be like {known[key]!r}; got {shown(setting)}.")
        return cls(name, tuple((key, given[key]) for key in known if key in given and given[key] != known[key]))

    @staticmethod
    def _settings(name: str) -> dict[str, Any]:
        """The settings of a score with their defaults; `name` is evidence every caller has."""
        parameters = inspect.signature(SCORES[name]).parameters.values() if name in SCORES else ()
        return {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "name"}

    def __call__(self, weight: "Tensor", **evidence: Any) -> "Tensor":
        """The scores of `weight`, from the evidence its function asks for; RecipeError if some is missing."""
        missing = [need for need in evidence_of(self.name) if need not in evidence]
        if missing:
            raise RecipeError(f"Score '{self.name}' needs evidence that was not given: {', '.join(missing)}.")
        parameters = list(inspect.signature(SCORES[self.name]).parameters.values())[1:]
        wanted = {p.name: evidence[p.name] for p in parameters if p.name in evidence}
        return SCORES[self.name](weight, **wanted, **dict(self.settings))

    def __str__(self) -> str:
        return format_call(self.name, (), dict(self.settings))
