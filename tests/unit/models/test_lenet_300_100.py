"""LeNet-300-100 starts from the weights that its argument names."""

import pytest

from secateurs.data.shape import InputShape
from secateurs.errors import RecipeError
from secateurs.models import ModelSpec, build

MNIST = InputShape(kind="image", size=(1, 28, 28), n_classes=10)


def test_glorot_weights_are_normal_and_biases_start_at_zero() -> None:
    module = build(ModelSpec.parse("lenet-300-100(init=glorot)"), MNIST, 0)
    for layer, fans in ((module.fc1, 784 + 300), (module.fc2, 300 + 100)):
        weight = layer.weight.detach()
        assert float(weight.std()) == pytest.approx((2 / fans) ** 0.5, rel=0.03)
        assert float(weight.abs().max()) > 3.5 * float(weight.std()), "a bell has tails"
        assert not layer.bias.any()
    assert "Glorot normal" in module.initialiser


def test_the_default_is_torchs_own() -> None:
    plain = build(ModelSpec.parse("lenet-300-100"), MNIST, 0).state_dict()
    named = build(ModelSpec.parse("lenet-300-100(init=torch)"), MNIST, 0).state_dict()
    assert all(bool((plain[name] == named[name]).all()) for name in plain)


def test_an_unknown_init_suggests() -> None:
    with pytest.raises(RecipeError, match=r"no init 'glorott'\. Did you mean 'glorot'"):
        build(ModelSpec.parse("lenet-300-100(init=glorott)"), MNIST, 0)
