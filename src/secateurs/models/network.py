"""Network: what every reference network promises, and the checks they share.

    Network(shape, **arguments).forward(x) -> logits (batch, n_classes)

To add one: a final class in a file of its own, and its line in MODELS (models/table.py).
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from secateurs.data.shape import InputShape
from secateurs.errors import RecipeError

TORCH_DEFAULT = (
    "Kaiming uniform with a=sqrt(5) (torch's default for linear and convolution layers): "
    "uniform within 1/sqrt(fan in), not a bell"
)


class Network(nn.Module):
    """An interface: nobody instantiates it, and nobody subclasses what implements it.

    tracked      the two weights the story follows, by parameter name: the class head ("cls-head") and the
                 first hidden feed-forward weight ("ffnn")
    initialiser  one sentence: the distribution the weights really start from

    hidden_names  the parts whose outputs a teacher of the same network can teach, by module name
    stock         the configuration of a library's network inside, from which it is built again; else None
    """

    tracked: ClassVar[dict[str, str]]
    initialiser: str

    @property
    def hidden_names(self) -> tuple[str, ...]:
        return ()

    @property
    def stock(self) -> dict[str, Any] | None:
        return None

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def image_size(shape: InputShape, name: str) -> tuple[int, int, int]:
    """(channels, height, width), or RecipeError where the data are not images."""
    if shape.kind != "image":
        raise RecipeError(
            f"The network {name!r} reads images; the data are {shape}. Use 'cls-transformer' for token sequences."
        )
    channels, height, width = shape.size
    return channels, height, width


def need_size(shape: InputShape, name: str, needed: tuple[int, int, int]) -> None:
    """RecipeError unless the images are exactly of the size that the layers of this network are cut for."""
    found = image_size(shape, name)
    if found != needed:
        text = "x".join(map(str, needed))
        raise RecipeError(
            f"The network {name!r} needs {text} images (channels x height x width); the data are {shape}. "
            "Use 'cls-transformer' or 'lenet-300-100', which take any image size."
        )


def whole(value: object, name: str, low: int, high: int) -> int:
    """The argument as an int within [low, high], or RecipeError."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RecipeError(f"{name} must be a whole number from {low} to {high:,}; found {value!r}.")
    return value
