"""What one example looks like: an image of fixed size, or a padded row of token ids, and how many classes."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from secateurs.settings import Settings

# Bounds on what a file may declare, so that a forged header cannot make a network of a billion units.
MAX_CLASSES = 100_000
MAX_SIDE = 65_536
MAX_VOCABULARY = 10_000_000


def as_tuple(value: Any) -> Any:
    """JSON and YAML have lists where a frozen value has tuples."""
    return tuple(value) if isinstance(value, list) else value


class InputShape(Settings):
    """The shape of one example, and the number of classes to tell apart.

    kind "image"   size = (channels, height, width)
    kind "tokens"  size = (vocabulary size, longest length); id 0 is padding

    >>> str(InputShape(kind="image", size=(1, 8, 8), n_classes=10))
    '1x8x8 images, 10 classes'
    """

    kind: Literal["image", "tokens"]
    size: Annotated[tuple[int, ...], BeforeValidator(as_tuple)]
    n_classes: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        wanted, bound = (3, MAX_SIDE) if self.kind == "image" else (2, MAX_VOCABULARY)
        if len(self.size) != wanted or not all(1 <= n <= bound for n in self.size):
            raise ValueError(f"{self.kind} inputs have {wanted} sizes from 1 to {bound:,}; found {self.size}.")
        if not 2 <= self.n_classes <= MAX_CLASSES:
            raise ValueError(f"A classifier has 2 to {MAX_CLASSES:,} classes; found {self.n_classes}.")
        return self

    def __str__(self) -> str:
        if self.kind == "image":
            what = "x".join(map(str, self.size)) + " images"
        else:
            what = f"sequences of up to {self.size[1]} tokens out of {self.size[0]:,}"
        return f"{what}, {self.n_classes} classes"
