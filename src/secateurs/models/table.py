"""MODELS: the reference networks by name, and how one is named, described and built.

    build(ModelSpec.parse("cls-transformer(dim=64, depth=2)"), shape, seed) -> Network

To add one: write it as a Network in its own file and add its line to MODELS; the spec, the command line and
the tests that walk the table find it there.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from pydantic import Field, model_validator

from secateurs.checks import nearest
from secateurs.data.shape import InputShape
from secateurs.errors import RecipeError
from secateurs.models.cls_transformer import CLSTransformer
from secateurs.models.lenet_5 import LeNet5
from secateurs.models.lenet_300_100 import LeNet300100
from secateurs.models.network import Network
from secateurs.models.pretrained import Pretrained, pinned
from secateurs.models.resnet_20 import ResNet20
from secateurs.models.seed_cnn import SeedCNN
from secateurs.settings import Settings
from secateurs.words import format_call, parse_call

PRETRAINED = "pretrained"
MODELS: dict[str, type[Network]] = {
    "cls-transformer": CLSTransformer,
    "lenet-300-100": LeNet300100,
    "lenet-5": LeNet5,
    "seed-cnn": SeedCNN,
    "resnet-20": ResNet20,
    PRETRAINED: Pretrained,
}


class ModelSpec(Settings):
    """Which network, with which arguments; a frozen value that is also one line of text.

    >>> spec = ModelSpec.parse("cls-transformer(dim=32, patch=2x8)")
    >>> spec.args, str(spec)
    ({'dim': 32, 'patch': '2x8'}, 'cls-transformer(dim=32, patch=2x8)')

    Where a ModelSpec is a field of another value, the text is accepted as well. That of a pretrained network notes the
    weights in its directory, so that other weights there are another network.
    """

    name: str
    args: dict[str, int | float | str] = Field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The spec of `name` or `name(argument=value, ...)`; RecipeError says what is wrong with it."""
        return cls(**_fields(text))

    @model_validator(mode="wrap")
    @classmethod
    def _from_text(cls, value: Any, handler: Callable[[Any], Self]) -> Self:
        return handler(_fields(value) if isinstance(value, str) else value)

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        _check(self.name, self.args)
        if self.name == PRETRAINED and not self.args.get("weights"):
            self.args.update(pinned(str(self.args.get("directory", ""))))
        return self

    def __str__(self) -> str:
        return format_call(self.name, (), self.args)

    def __hash__(self) -> int:
        # Not the text: equal specs may differ in the order of their arguments, or in 64 and 64.0.
        return hash((self.name, frozenset(self.args.items())))


def _fields(text: str) -> dict[str, Any]:
    name, positional, named = parse_call(text)
    if positional:
        raise RecipeError(f"{text!r}: give the arguments of a network by name. {_arguments(name)}")
    return {"name": name, "args": named}


def _check(name: str, args: dict[str, Any]) -> None:
    if name not in MODELS:
        raise RecipeError(f"There is no network {name!r}. {nearest(name, MODELS)}")
    known = _known_arguments(name)
    for argument in args:
        if argument not in known:
            hint = nearest(argument, known) if known else "It takes none."
            raise RecipeError(f"The network {name!r} has no argument {argument!r}. {hint}")


def _known_arguments(name: str) -> list[str]:
    parameters = list(inspect.signature(MODELS[name]).parameters.values())[1:]
    return [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]


def _arguments(name: str) -> str:
    known = _known_arguments(name) if name in MODELS else []
    return f"Known: {', '.join(known)}." if known else ""


def build(spec: ModelSpec, shape: InputShape, seed: int, stock: Mapping[str, Any] | None = None) -> Network:
    """The network with freshly drawn weights: a function of (spec, shape, seed) and the files that the spec names.

    stock  for a pretrained network: the configuration of its encoder, which then begins with drawn weights, too

    The global random state is as before afterwards. RecipeError where spec and shape do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reseed every GPU.
        torch.default_generator.manual_seed(seed)
        given = {} if stock is None else {"stock": stock}
        return MODELS[spec.name](shape, **spec.args, **given)
