"""What is not repaired is left, with the reason."""

import copy

import pytest
import torch
from torch import nn

from secateurs.errors import InputError
from secateurs.masks import Masks
from secateurs.norms import norms_behind
from secateurs.pruning import prune
from secateurs.recipe import Recipe
from secateurs.repair import least_squares, repair


class Odd(nn.Module):
    """Layers that cannot be repaired, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.circular = nn.Conv1d(1, 4, 3)
        self.wrapped = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
        self.plain = nn.Linear(4, 4)
        self.twin = nn.Linear(4, 4)
        self.twin.weight = nn.Parameter(torch.randn(4, 4))
        self.other = nn.Linear(4, 4)
        self.other.weight = self.twin.weight
        self.unused = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.circular(x).mean(2) + self.wrapped(x[:, :, :, None]).mean((2, 3))
        out: torch.Tensor = self.other(self.twin(self.plain(x)))
        return out


def test_what_is_left_says_why() -> None:
    dense = Odd()
    module = copy.deepcopy(dense)
    masks = prune(module, Recipe(budget="sparsity(0.5)", pool="layer"))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    reasons = {line.name: line.reason for line in repair(module, masks, dense, torch.randn(20, 1, 6))}
    assert reasons == {
        "circular.weight": "a Conv1d is not repaired",
        "wrapped.weight": "only zero padding given in numbers is repaired",
        "plain.weight": "",
        "twin.weight": "its weights are tied",
        "unused.weight": "the network does not call it",
    }
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"plain.weight", "plain.bias"}


def test_masks_of_another_network_are_refused() -> None:
    small = nn.Sequential(nn.Linear(3, 2))
    masks = Masks.make(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), Recipe(budget="sparsity(0.5)"))
    with pytest.raises(InputError, match=r"The masks name '1.weight', which a network does not have"):
        repair(small, masks, small, torch.randn(4, 3))


def test_a_row_by_hand() -> None:
    # Inputs 1 and 2 are equal, so the weight that stays takes over the one that goes: 1 + 3.
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    weight, keep = torch.tensor([[1.0, 3.0]]), torch.tensor([[True, False]])
    y = x @ weight.T
    fitted = least_squares(weight, keep, x.T @ x, y.T @ x, 1e-9)
    assert fitted.tolist() == [[pytest.approx(4.0), 0.0]]
    # With the pull of the mean square (5 * 1): (5 + 5) (w - 1) = 5 * 3.
    assert least_squares(weight, keep, x.T @ x, y.T @ x, 1.0)[0, 0].item() == pytest.approx(2.5)


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.shared(torch.relu(self.shared(x)))))
        return out


def test_a_layer_that_is_called_twice_is_fitted_to_both_calls() -> None:
    dense = Twice()
    module = copy.deepcopy(dense)
    masks = prune(module, Recipe(budget="sparsity(0.5)", pool="layer"))
    x = torch.randn(200, 6)
    first = torch.relu(module.shared(x))
    wanted = torch.cat([dense.shared(x), dense.shared(torch.relu(dense.shared(x)))])
    cut = torch.cat([module.shared(x), module.shared(first)])
    shared, _ = repair(module, masks, dense, x)
    assert shared.before == pytest.approx(((cut - wanted).norm() / wanted.norm()).item(), rel=1e-5)
    assert shared.after is not None
    assert shared.after < shared.before


class Normed(nn.Module):
    """Convolutions without bias, of which a BatchNorm reads the first's output."""

    def __init__(self, is_direct: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 3, 1, bias=False)
        self.is_direct = is_direct

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        out: torch.Tensor = self.last(torch.relu(self.norm(x if self.is_direct else x + 0)))
        return out


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_constant_goes_into_the_batch_norm_behind(is_direct: bool) -> None:
    """Inputs with a mean far from zero: without the constant their weights have to make it."""
    torch.manual_seed(0)
    dense, x = Normed(is_direct).eval(), torch.randn(200, 2, 5, 5) + 3
    module = copy.deepcopy(dense)
    masks = prune(module, Recipe.parse("magnitude element layer sparsity(0.6)"))
    by_name = {line.name: line for line in repair(module, masks, dense, x)}
    assert bool(module.norm.running_mean.any()) == is_direct
    assert torch.equal(module.norm.running_var, dense.norm.running_var)
    assert not any(module.get_parameter(name)[~keep].any() for name, keep in masks.items())
    # What it said of its error is what the network gives, the constant taken into account.
    with torch.no_grad():
        shift = dense.norm.running_mean - module.norm.running_mean
        wanted, found = dense.first(x), module.first(x) + shift[:, None, None]
        error = float(((found - wanted).square().sum() / wanted.square().sum()).sqrt())
    assert error == pytest.approx(by_name["first.weight"].after, rel=1e-3)
    assert by_name["first.weight"].after < by_name["first.weight"].before


def test_a_batch_norm_that_two_layers_feed_takes_no_constant() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(self.b(self.norm(self.a(x))))
            return out

    module, x = Shared().eval(), torch.randn(8, 4)
    assert norms_behind(module, ["a", "b"], lambda: module(x)) == {}
    assert norms_behind(module, ["a"], lambda: module(x)) == {}


def test_wrapped_networks_are_repaired_and_weights_of_other_parts_are_left() -> None:
    """Bug: both ended in "a network does not have" a weight that it has."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.attention(x, x, x)[0])
            return out

    dense, x = Attending(), torch.randn(30, 3, 4)
    module = copy.deepcopy(dense)
    masks = prune(
        module, Recipe(budget="sparsity(0.5)", pool="layer", only=["attention.in_proj_weight", "head.weight"])
    )
    found = repair(torch.compile(module, backend="eager"), masks, nn.DataParallel(dense), x)
    assert [(line.name, line.reason) for line in found] == [
        ("attention.in_proj_weight", "it is not the weight of a linear layer or convolution"),
        ("head.weight", ""),
    ]
    assert found[1].after < found[1].before
    alone, x = nn.Linear(4, 4), torch.randn(30, 4)
    cut = copy.deepcopy(alone)
    (line,) = repair(cut, prune(cut, Recipe(budget="sparsity(0.5)")), alone, x)
    assert (line.name, line.reason) == ("weight", "")
