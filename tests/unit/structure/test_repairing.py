"""Repair: what is left makes up for what is gone; statistics are those of the batches."""

import copy
from typing import Any

import pytest
import torch
from architectures import depthwise, perceptron, projected, settle
from torch import Tensor, nn

from secateurs.errors import InputError
from secateurs.groups.tracing import call
from secateurs.recipe import Recipe
from secateurs.structure.repairing import re_estimate, repair
from secateurs.structure.shrinking import Shrunk, WeightReport, shrink

HALF = Recipe.parse("random(1) row layer sparsity(0.5)")


def error(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((call(a.eval(), x) - call(b.eval(), x)).square().mean())


def test_a_copy_of_a_unit_is_made_up_for_exactly() -> None:
    """Two equal units, one of them removed: the other one's column takes both parts."""
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        module[0].weight[1], module[0].bias[1] = module[0].weight[0], module[0].bias[0]
        module[2].weight[:, 1] *= 0.1
        module[2].weight[:, 0] *= 9.0
        module[2].weight[:, 2:] *= 9.0
    small = shrink(module, Recipe.parse("l2 row layer sparsity(0.25)"), torch.randn(2, 3))
    batches = [torch.randn(200, 3)]
    before = error(module, small.module, batches[0])
    assert repair(module, small, batches) == ("2",)
    assert error(module, small.module, batches[0]) < 1e-4 * before


@pytest.mark.parametrize("made", [perceptron, projected, depthwise])
def test_the_outputs_come_nearer_on_the_batches(made) -> None:
    module, inputs = settle(made()[0]), made()[1]
    small = shrink(module, HALF, inputs)
    batches = [torch.randn(64, *inputs.shape[1:], generator=torch.Generator().manual_seed(i)) for i in range(3)]
    before = sum(error(module, small.module, x) for x in batches)
    assert repair(module, small, batches)
    assert sum(error(module, small.module, x) for x in batches) < before


def test_statistics_are_those_of_the_batches_and_nothing_else_changes() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    weights = copy.deepcopy(list(module.parameters()))
    batches = [torch.randn(50, 3), torch.randn(50, 3)]
    re_estimate(module, batches)
    means = torch.stack([module[0](x).mean(0) for x in batches]).mean(0)
    torch.testing.assert_close(module[1].running_mean, means.detach())
    assert module[1].momentum == 0.1
    assert not module.training
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))


@pytest.mark.parametrize("how", [{"padding": "same"}, {"padding": "valid"}, {"padding": 1, "padding_mode": "circular"}])
def test_a_convolution_is_fitted_to_what_it_reads_at_the_edges(how: dict[str, Any]) -> None:
    """Bug: "same" and "valid" hit an assert, and other edges than zeros were taken for zeros."""
    module, small = (nn.Sequential(nn.Conv2d(1, n, 1), nn.ReLU(), nn.Conv2d(n, 2, 3, **how)).eval() for n in (4, 3))
    with torch.no_grad():
        module[0].weight[3], module[0].bias[3] = module[0].weight[0], module[0].bias[0]
        module[0].bias.add_(1.0)
        for tensor, whole in zip(small.parameters(), module.parameters(), strict=True):
            tensor.copy_(whole[: tensor.shape[0], :3] if whole.dim() > 1 else whole[: tensor.shape[0]])
    line = WeightReport("2.weight", tuple(module[2].weight.shape), tuple(small[2].weight.shape), "shrunk")
    batches = [torch.randn(100, 1, 5, 5)]
    before = error(module, small, batches[0])
    assert repair(module, Shrunk(small, (), (line,), (0, 0), (0, 0), {}, 0.0), batches) == ("2",)
    assert error(module, small, batches[0]) < 1e-4 * before


@pytest.mark.parametrize("batches", [[], [torch.randn(5, 3), torch.randn(5, 7)]], ids=["none", "one is refused"])
def test_statistics_that_cannot_be_estimated_are_as_they_were(batches: list[Tensor]) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module(torch.randn(9, 3))
    before = copy.deepcopy(module.eval().state_dict())
    with pytest.raises(InputError):
        re_estimate(module, batches)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert (module[1].momentum, module[1].training) == (0.1, False)
