"""Pruning live networks: `zero_out` leaves alone, refuses and announces what `prune` does."""

import math

import pytest
import torch
from torch import nn

import secateurs as sc
from secateurs.errors import InputError, RecipeError

HALF = sc.Recipe(budget="sparsity(0.5)")


class Attention(nn.Module):
    """A parameter with the name of what other networks keep in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(8, 8))
        self.register_buffer("table", torch.randn(8, 8))


def network() -> nn.ModuleDict:
    """The same numbers every time."""
    torch.manual_seed(0)
    return nn.ModuleDict({"attn": Attention(), "last": nn.Linear(8, 8)})


def test_a_parameter_named_like_a_buffer_is_pruned() -> None:
    pruned, zeroed = network(), network()
    masks = sc.prune(pruned, HALF)
    report = sc.zero_out(zeroed, HALF)
    assert "attn.bias" in masks
    assert next(line for line in report if line.name == "attn.bias").status == "pruned"
    for (name, value), expected in zip(zeroed.state_dict().items(), pruned.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("act", [sc.prune, sc.zero_out])
@pytest.mark.parametrize("word", ["skip", "only"])
def test_patterns_mean_parameters_and_not_buffers(act, word: str) -> None:
    with pytest.raises(RecipeError, match=r"No parameter is called 'attn\.table'"):
        act(network(), sc.Recipe(budget="sparsity(0.5)", **{word: ["attn.table"]}))


def test_autograd_is_told_what_was_zeroed() -> None:
    made = network()["last"]
    given = torch.randn(2, 8, requires_grad=True)
    lost = made(given).sum()
    sc.zero_out(made, HALF)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        lost.backward()


@pytest.mark.parametrize("act", [sc.prune, sc.zero_out])
@pytest.mark.parametrize("budget", ["threshold(0.5sigma)", "threshold(0.5)"])
def test_weights_whose_sigma_overflows_have_no_threshold(act, budget: str) -> None:
    made = nn.Linear(8, 8, bias=False, dtype=torch.float64)
    with torch.no_grad():
        made.weight.mul_(1e200)
    before = made.weight.detach().clone()
    with pytest.raises(InputError, match="The weights of 'weight' are too large for a threshold: sigma is"):
        act(made, sc.Recipe(budget=budget, pool="layer"))
    assert torch.equal(made.weight, before)
    assert math.isfinite(float(before.abs().max()))


def test_a_recipe_may_be_its_line_of_text() -> None:
    words = "magnitude element model sparsity(0.5)"
    assert sc.prune(nn.Linear(8, 8), words).recipe == sc.Recipe.parse(words)
    with pytest.raises(RecipeError, match=r"or a line of its words; got int"):
        sc.prune(nn.Linear(8, 8), 3)
