"""Pools: who competes with whom.

A pool lays unit scores (R, C, K) out as (pools, units per pool), each pool in the order of flat indices.
To add one: give it a line in POOLS and in `split` and `join`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from secateurs.checks import shown
from secateurs.errors import PatternError, RecipeError
from secateurs.units import Grid, Shape, Unit
from secateurs.words import Word, a_count, call

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pool(Word):
    """Who competes with whom: `4` (neighbours along the inputs), `row`, `layer`, `model`."""

    kind: str
    n: int = 0
    examples: ClassVar[tuple[str, ...]] = ("model", "layer", "row", "4")
    json_types: ClassVar[tuple[str, ...]] = ("string", "integer")

    @classmethod
    def parse(cls, value: object) -> "Pool":
        """From a Pool, its text, a number of neighbours, or the unit `row`."""
        if isinstance(value, Pool):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return neighbours(value)
        if isinstance(value, Unit):
            value = str(value)
        if not isinstance(value, str):
            raise RecipeError(f"A pool is a number of neighbours, 'row', 'layer' or 'model'; got {shown(value)}.")
        if value.strip().lstrip("-").isdigit():
            return neighbours(int(value))
        pool: Pool = call("pool", POOLS, value)
        return pool

    def __str__(self) -> str:
        return str(self.n) if self.kind == "neighbours" else self.kind

    def check_unit(self, unit: Unit) -> None:
        """PatternError unless a pool can hold whole units, whatever the weights."""
        if self.kind in ("layer", "model"):
            return
        if unit.kind in ("row", "column") or unit.h > 1:
            raise PatternError(
                f"A pool '{self}' lies within one row and cannot hold whole units '{unit}'. Use layer or model."
            )
        if self.kind == "neighbours" and self.n % unit.w:
            raise PatternError(f"A pool of {self.n} neighbours cannot hold whole units '{unit}'.")

    def check(self, unit: Unit, shape: Shape) -> None:
        """PatternError unless every pool in a weight of this shape holds whole units."""
        self.check_unit(unit)
        inputs = shape[1] if len(shape) > 1 else shape[0] if shape else 0
        if self.kind == "neighbours" and inputs % self.n:
            raise PatternError(
                f"A pool of {self.n} needs an input dimension divisible by {self.n}; the weight is {shape}."
            )

    def split(self, units: "Tensor", unit: Unit) -> "Tensor":
        """(R, C, K) -> (pools, units per pool)."""
        r, c, k = units.shape
        if self.kind == "row":
            return units.reshape(r, c * k)
        if self.kind == "neighbours":
            g = self.n // unit.w
            return units.view(r, c // g, g, k).transpose(2, 3).reshape(r * (c // g) * k, g)
        return units.reshape(1, r * c * k)

    def join(self, pooled: "Tensor", grid: Grid, unit: Unit) -> "Tensor":
        """(pools, units per pool) -> (R, C, K): undoes `split`."""
        r, c, k = grid
        if self.kind == "neighbours":
            g = self.n // unit.w
            return pooled.view(r, c // g, k, g).transpose(2, 3).reshape(r, c, k)
        return pooled.view(r, c, k)


def neighbours(n: int) -> Pool:
    """Groups of n consecutive weights along the input dimension, at one output and kernel position."""
    return Pool("neighbours", a_count("A pool of neighbours", n, 1))


layer = Pool("layer")
model = Pool("model")

POOLS: dict[str, Callable[..., Pool]] = {"row": lambda: Pool("row"), "layer": lambda: layer, "model": lambda: model}
