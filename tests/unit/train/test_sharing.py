"""Sharing: the gradient of a shared number by hand, ends, and refusals."""

import pytest
import torch
from torch import nn

from secateurs.errors import InputError, RecipeError
from secateurs.train.sharing import Sharing


def linear(rows):
    """A linear layer with these weights and no bias."""
    module = nn.Linear(len(rows[0]), len(rows), bias=False)
    module.weight.data = torch.tensor(rows)
    return module


def test_a_shared_number_moves_by_the_sum_of_its_gradients():
    module = linear([[1.0, 0.0, 1.0], [-2.0, 1.0, 0.0]])
    sharing = Sharing(module, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    gradient = torch.tensor([[0.2, 9.0, 0.4], [0.6, -1.0, 9.0]])
    (module.weight * gradient).sum().backward()
    optimizer.step()
    sharing.step()
    # 1.0 has the gradients 0.2, 0.4 and -1.0: it moves by -0.5 * -0.4. The zeros, whose gradient is 9, do not move.
    wanted = torch.tensor([[1.2, 0.0, 1.2], [-2.3, 1.2, 0.0]])
    assert torch.allclose(module.weight, wanted)
    assert torch.allclose(sharing.shared["weight"].numbers, torch.tensor([-2.3, 1.2]))


def test_k_means_chooses_the_numbers():
    module = linear([[1.0, 1.2, 3.0, 5.0, 7.2, 7.0, 0.0]])
    Sharing(module, 2)
    assert torch.allclose(module.weight, torch.tensor([[1.1, 1.1, 3.0, 5.0, 7.1, 7.1, 0.0]]))


def test_layers_may_have_bits_of_their_own():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30), nn.Linear(30, 30))
    free = module[1].weight.detach().clone()
    Sharing(module, {"0.weight": 2, "2.weight": 5})
    assert [len(module[i].weight.unique()) for i in (0, 2)] == [4, 32]
    assert torch.equal(module[1].weight, free)


def test_after_the_end_weights_learn_one_by_one():
    module = linear([[1.0, 1.0, 0.0]])
    Sharing(module, 2).end()
    (module.weight * torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    assert module.weight.grad.tolist() == [[1.0, 2.0, 3.0]]


def test_convolutions_in_any_memory_format():
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, 3, bias=False)
    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    sharing = Sharing(module, 3)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    module(torch.randn(2, 3, 5, 5)).square().sum().backward()
    before = module.weight.detach().clone()
    optimizer.step()
    sharing.end()
    assert len(module.weight.unique()) <= 8
    assert not torch.equal(module.weight, before)
    assert [len(module.weight[before == number].unique()) for number in before.unique()] == [1] * len(before.unique())


@pytest.mark.parametrize(
    ("n_bits", "words"),
    [
        (1, "from 2 to 8; got 1 for 'weight'"),
        (9, "got 9"),
        (2.0, "got 2.0"),
        ({"wieght": 4}, "named 'wieght'. There are: weight"),
    ],
)
def test_what_cannot_be_shared(n_bits, words):
    with pytest.raises(RecipeError, match=words):
        Sharing(linear([[1.0, 2.0]]), n_bits)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="'weight' holds NaN"):
        Sharing(linear([[1.0, float("nan")]]), 4)


def test_a_frozen_layer_is_left_alone_and_refused_where_it_is_named():
    """Bug: its weights were replaced before torch refused the hook."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    module[0].weight.requires_grad_(False)
    before = [part.weight.detach().clone() for part in module]
    with pytest.raises(RecipeError, match=r"'0\.weight' is frozen"):
        Sharing(module, {"1.weight": 2, "0.weight": 2})
    assert all(torch.equal(part.weight, weight) for part, weight in zip(module, before, strict=True))
    assert list(Sharing(module, 2).shared) == ["1.weight"]
    assert torch.equal(module[0].weight, before[0])
