"""Units: what lives or dies together.

A unit cuts a weight (out, in, *kernel) into a grid (R, C, K) of equal pieces: R along the outputs, C along the
inputs, K over kernel positions. A unit's score is the mean of its elements' scores.
To add one: give it a line in UNITS and in `Unit.piece`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from secateurs.checks import shown
from secateurs.errors import PatternError, RecipeError
from secateurs.words import Word, a_count, call

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Unit(Word):
    """What lives or dies together: `element`, `row`, `column`, `block(h, w)`."""

    kind: str
    h: int = 1
    w: int = 1
    examples: ClassVar[tuple[str, ...]] = ("element", "row", "column", "block(4, 4)")

    @classmethod
    def parse(cls, value: object) -> "Unit":
        """From a Unit or its text."""
        if isinstance(value, Unit):
            return value
        if not isinstance(value, str):
            raise RecipeError(f"A unit is a word such as 'element' or 'block(4, 4)'; got {shown(value)}.")
        unit: Unit = call("unit", {**UNITS, **OF_NETWORKS}, value)
        return unit

    def __str__(self) -> str:
        return f"block({self.h}, {self.w})" if self.kind == "block" else self.kind

    def piece(self, shape: Shape) -> Grid:
        """How many outputs, inputs and kernel positions one unit covers in a weight of this shape."""
        out, inputs, kernel = canonical(shape)
        if self.kind == "row":
            return 1, inputs, kernel
        if self.kind == "column":
            return out, 1, kernel
        return self.h, self.w, 1

    def grid(self, shape: Shape) -> Grid:
        """How many units there are: (R, C, K). PatternError where blocks would be ragged."""
        if self.kind in OF_NETWORKS:
            raise PatternError(f"A {self} is more than one weight: `shrink` finds and removes it.")
        if len(shape) == 1 and self.kind != "element":
            raise PatternError(f"A vector {shape} has no '{self}' units; it has elements.")
        size, piece = canonical(shape), self.piece(shape)
        if any(p and s % p for s, p in zip(size, piece, strict=True)):
            raise PatternError(
                f"{self} needs outputs divisible by {self.h} and inputs divisible by {self.w}; the weight is {shape}."
            )
        r, c, k = (s // p if p else 0 for s, p in zip(size, piece, strict=True))
        return r, c, k

    def gather(self, scores: "Tensor") -> "Tensor":
        """Element scores (out, in, *kernel) -> unit scores (R, C, K): the mean over each unit's elements."""
        r, c, k = self.grid(tuple(scores.shape))
        h, w, d = self.piece(tuple(scores.shape))
        if h * w * d <= 1:
            return scores.reshape(r, c, k)
        import torch  # recipes and checkpoints are read without it

        exact = scores.reshape(r, h, c, w, k, d).double().mean(dim=(1, 3, 5))
        # Rounding to float32 hides the order of summation, which differs between devices.
        return exact if scores.dtype == torch.float64 else exact.float()

    def spread(self, keep: "Tensor", shape: Shape) -> "Tensor":
        """Unit decisions (R, C, K) -> one decision per element, in the weight's shape."""
        r, c, k = keep.shape
        h, w, d = self.piece(shape)
        return keep.view(r, 1, c, 1, k, 1).expand(r, h, c, w, k, d).reshape(shape)


def canonical(shape: Shape) -> Grid:
    """(out, in, kernel positions) of a weight; a vector counts as one row. PatternError for a scalar."""
    if len(shape) == 0:
        raise PatternError("A scalar has nothing to choose from; scores need one dimension or more.")
    if len(shape) == 1:
        return 1, shape[0], 1
    return shape[0], shape[1], math.prod(shape[2:])


def block(h: int, w: int) -> Unit:
    """Blocks of h consecutive outputs by w consecutive inputs."""
    return Unit("block", a_count("The height of a block", h, 1), a_count("The width of a block", w, 1))


element = Unit("element")
row = Unit("row")
column = Unit("column")

UNITS: dict[str, Callable[..., Unit]] = {
    "element": lambda: element,
    "row": lambda: row,
    "column": lambda: column,
    "block": block,
}

# What only a whole network has: heads of attention, channels of convolutions (a `row` there, rows of matrices too), and
# layers, such as the blocks of a transformer.
OF_NETWORKS: dict[str, Callable[..., Unit]] = {
    "head": lambda: Unit("head"),
    "channel": lambda: Unit("channel"),
    "layer": lambda: Unit("layer"),
}
