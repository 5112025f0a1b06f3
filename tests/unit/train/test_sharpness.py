"""Sharpness: the gradient is that of the place a given distance uphill, and nothing else moves."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateurs.data import Dataset
from secateurs.errors import RecipeError
from secateurs.recipe import Recipe
from secateurs.train.loop import train
from secateurs.train.sharpness import uphill
from secateurs.train.training import Training

Make = Callable[..., nn.Sequential]


def bits(module: nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in module.state_dict().values())


class Bowl(nn.Module):
    """loss = 3 a^2 + 2 b^2: at (1, 1) the gradient is (6, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 2))

    def forward(self) -> Tensor:
        return (torch.tensor([[3.0, 2.0]]) * self.weight.square()).sum()


def test_by_hand_the_gradient_is_that_of_the_place_uphill() -> None:
    bowl = Bowl()
    bowl().backward()
    with uphill(bowl, 0.5, {}):
        bowl().backward()
    norm = 52**0.5
    expected = torch.tensor([[6 * (1 + 0.5 * 6 / norm), 4 * (1 + 0.5 * 4 / norm)]])
    torch.testing.assert_close(bowl.weight.grad, expected)
    assert torch.equal(bowl.weight.detach(), torch.ones(1, 2))


def test_what_is_pruned_stays_zero_uphill_and_does_not_count() -> None:
    bowl = Bowl()
    with torch.no_grad():
        bowl.weight[0, 0] = 0.0
    bowl().backward()
    bowl.weight.grad[0, 0] = 1000.0  # of a pruned weight, which is not moved along it
    with uphill(bowl, 0.5, {"weight": torch.tensor([[False, True]])}):
        assert bowl.weight.tolist() == [[0.0, 1.5]]
        bowl().backward()
    assert bowl.weight.tolist() == [[0.0, 1.0]]


def test_where_no_gradient_is_the_place_is_the_same() -> None:
    bowl = Bowl()
    (0 * bowl()).backward()
    with uphill(bowl, 0.5, {}):
        assert bowl.weight.tolist() == [[1.0, 1.0]]


def test_the_weights_come_back_bit_for_bit_though_the_loss_fails() -> None:
    module = nn.Linear(7, 5)
    before = copy.deepcopy(module.state_dict())
    module(torch.randn(3, 7)).square().sum().backward()
    with pytest.raises(ValueError, match="lost"), uphill(module, 1e-3, {}):
        raise ValueError("lost")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_batch_norm_counts_a_batch_once() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    sharp, x = copy.deepcopy(plain), torch.randn(16, 4)
    plain(x).square().sum().backward()
    sharp(x).square().sum().backward()
    with uphill(sharp, 0.1, {}):
        sharp(x).square().sum().backward()
    assert bits(sharp) == bits(plain)
    assert not torch.equal(sharp[0].weight.grad, plain[0].weight.grad)


@pytest.mark.parametrize("revive", ["never", "dense", "forget"])
def test_a_training_prunes_exactly_and_repeats_to_the_bit(revive: str, network: Make, data: Dataset) -> None:
    training = Training(epochs=2.0, batch_size=8, learning_rate=0.01, sharpness=0.05, revive=revive)
    recipe = Recipe(budget="sparsity(0.5)", schedule="cubic(0.0, 0.5)")
    first, again, plain = network(dropout=0.3), network(dropout=0.3), network(dropout=0.3)
    looks = list(train(first, data, training, seed=1, recipe=recipe))
    assert list(train(again, data, training, seed=1, recipe=recipe))[-1].loss == looks[-1].loss
    assert bits(first) == bits(again)
    masks = looks[-1].masks
    assert masks is not None
    assert masks.sparsity == round(0.5 * masks.n_weights) / masks.n_weights
    assert all(not first.get_parameter(name)[~keep].any() for name, keep in masks.items())
    list(train(plain, data, training.model_copy(update={"sharpness": 0.0}), seed=1, recipe=recipe))
    assert bits(plain) != bits(first)


def test_a_training_that_ends_where_it_is_flat_is_flatter(network: Make, data: Dataset) -> None:
    def sharpness_of(module: nn.Module) -> float:
        def loss() -> Tensor:
            return nn.functional.cross_entropy(module(data.x_train), data.y_train)

        module.zero_grad()
        here = loss()
        here.backward()
        with uphill(module, 0.3, {}):
            return float(loss().detach() - here.detach())

    found = []
    for radius in (0.0, 0.3):
        module = network()
        list(train(module, data, Training(epochs=30.0, batch_size=8, learning_rate=0.02, sharpness=radius), seed=0))
        found.append(sharpness_of(module))
    assert found[1] < found[0]


def test_a_radius_is_a_finite_number() -> None:
    with pytest.raises(RecipeError, match="sharpness must be a finite number of at least 0"):
        Training(sharpness=float("nan"))
    with pytest.raises(RecipeError, match="sharpness must be a finite number of at least 0"):
        Training(sharpness=-0.1)
