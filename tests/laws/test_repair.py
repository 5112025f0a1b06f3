"""Least squares on a mask: never worse than the mask alone, and the best there is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from secateurs.masks import Masks
from secateurs.pruning import prune
from secateurs.recipe import Recipe
from secateurs.repair import least_squares, repair

sizes = st.integers(1, 12)


@st.composite
def tasks(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(weight, keep, x, y): any mask, empty and full rows, equal patterns, dead and equal inputs, few examples."""
    n_out, n_in, n = draw(sizes), draw(sizes), draw(st.integers(1, 30))
    random = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    weight, x = torch.randn(n_out, n_in, generator=random), torch.randn(n, n_in, generator=random).double()
    keep = torch.rand(n_out, n_in, generator=random) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    if draw(st.booleans()):
        keep = keep[:1].expand(n_out, n_in).clone()
    if draw(st.booleans()):
        x[:, 0] = 0.0
    if draw(st.booleans()):
        x[:, -1] = x[:, 0]
    y = x @ weight.double().T
    if draw(st.booleans()):
        y = y + torch.randn(n, n_out, generator=random)
    return weight * draw(st.sampled_from([1e-3, 1.0, 1e3])), keep, x, y


def errors(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (x @ weight.double().T - y).square().sum(0)


@given(task=tasks(), damping=st.sampled_from([0.0001, 0.01, 10.0]))
def test_no_row_is_ever_worse_and_the_zeros_stay(task: tuple[Tensor, ...], damping: float) -> None:
    weight, keep, x, y = task
    fitted = least_squares(weight, keep, x.T @ x, y.T @ x, damping)
    assert fitted.dtype == weight.dtype
    assert not bool(fitted[~keep].any())
    before, after = errors(torch.where(keep, weight, 0), x, y), errors(fitted, x, y)
    assert bool((after <= before * (1 + 1e-9) + 1e-9 * y.square().sum()).all())


@given(task=tasks())
def test_with_little_damping_it_is_the_least_squares_solution(task: tuple[Tensor, ...]) -> None:
    weight, keep, x, y = task
    fitted = least_squares(weight.double(), keep, x.T @ x, y.T @ x, 1e-9)
    after = errors(fitted, x, y)
    for row in range(len(weight)):
        alive = keep[row]
        best = torch.linalg.lstsq(x[:, alive], y[:, row], driver="gelsd").solution if alive.any() else x.new_zeros(0)
        residue = (x[:, alive] @ best - y[:, row]).square().sum()
        assert float(after[row]) <= float(residue) * (1 + 1e-4) + 1e-5 * float(y.square().sum())


def two_convolutions(groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, (3, 1), dilation=2, padding=(2, 0), groups=groups),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("recipe", ["magnitude element model sparsity(0.6)", "magnitude row layer sparsity(0.5)"])
def test_every_layer_of_a_network_answers_nearer_to_the_dense_one(groups: int, recipe: str) -> None:
    x = torch.randn(64, 4, 8, 8)
    dense = two_convolutions(groups)
    dense(x)
    module = two_convolutions(groups)
    module(x)
    module.load_state_dict(dense.state_dict())
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    masks = prune(module, Recipe.parse(recipe))
    cut = (module.eval()(x) - dense.eval()(x)).square().mean().item()
    module.train()
    done = repair(module, masks, dense, x)
    assert [line.name for line in done] == list(masks)
    assert all(line.before is not None and line.after is not None and line.after <= line.before for line in done)
    assert all(not bool(module.get_parameter(name)[~keep].any()) for name, keep in masks.items())
    assert all(torch.equal(value, dense.state_dict()[name]) for name, value in before.items())
    assert module.training
    assert (module.eval()(x) - dense(x)).square().mean().item() < cut


def test_the_error_that_is_told_is_the_error_that_is_there() -> None:
    dense = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3))
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3))
    module.load_state_dict(dense.state_dict())
    x = torch.randn(50, 2, 4, 4)
    masks = prune(module, Recipe(budget="sparsity(0.5)", pool="layer"))
    first_cut = ((module[0](x) - dense[0](x)).square().sum() / dense[0](x).square().sum()).sqrt().item()
    first, last = repair(module, masks, dense, x)
    assert first.before == pytest.approx(first_cut, rel=1e-5)
    left = ((module(x) - dense(x)).square().sum() / dense(x).square().sum()).sqrt().item()
    assert last.after == pytest.approx(left, rel=1e-5)


def test_nothing_cut_changes_next_to_nothing() -> None:
    dense = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    module.load_state_dict(dense.state_dict())
    masks = Masks.make(module, Recipe(budget="sparsity(0.0)"))
    done = repair(module, masks, dense, torch.randn(30, 6))
    assert all(line.after is not None and line.after < 1e-6 for line in done)
