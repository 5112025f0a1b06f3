"""ModelSpec: one line of text, a value, YAML; unknown names suggest the nearest."""

import pytest

from secateurs.errors import RecipeError
from secateurs.models import MODELS, ModelSpec
from secateurs.settings import Settings


class Holder(Settings):
    model: ModelSpec


@pytest.mark.parametrize(
    "text",
    [
        *(name for name in MODELS if name != "pretrained"),
        "cls-transformer(dim=64, depth=2)",
        "cls-transformer(patch=2x8, dropout=0.1)",
        "pretrained(directory=anywhere, weights=sha256:0123456789abcdef)",
    ],
)
def test_text_and_value_are_the_same_thing(text: str) -> None:
    spec = ModelSpec.parse(text)
    assert str(spec) == text
    assert ModelSpec.parse(str(spec)) == spec
    assert ModelSpec.from_yaml(spec.to_yaml()) == spec
    assert hash(ModelSpec.parse(text)) == hash(spec)


def test_a_field_takes_text_mapping_or_value() -> None:
    value = ModelSpec.parse("cls-transformer(dim=32)")
    as_text = Holder(model="cls-transformer(dim=32)")
    assert as_text == Holder(model={"name": "cls-transformer", "args": {"dim": 32}}) == Holder(model=value)
    assert Holder(**as_text.values()) == as_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lenet5", "There is no network 'lenet5'. Did you mean 'lenet-5'?"),
        ("cls-transformer(deph=2)", "has no argument 'deph'. Did you mean 'depth'?"),
        ("lenet-5(dim=2)", "has no argument 'dim'. It takes none."),
        ("cls-transformer(64)", "arguments of a network by name. Known: dim, depth"),
        ("cls transformer", "is not a word"),
        ("pretrained", "needs the directory of an encoder"),
    ],
)
def test_errors_help(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ModelSpec.parse(text)


def test_errors_help_inside_another_value() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'lenet-5'"):
        Holder(model="lenet5")
    with pytest.raises(RecipeError, match="args"):
        ModelSpec(name="cls-transformer", args={"dim": True})


def test_equal_specs_have_equal_hashes_whatever_the_order_of_their_arguments() -> None:
    one, other = (ModelSpec.parse(f"cls-transformer({a})") for a in ("dim=64, depth=2", "depth=2, dim=64.0"))
    assert one == other
    assert hash(one) == hash(other)
