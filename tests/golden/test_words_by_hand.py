"""Scores and schedules worked out by hand."""

import pytest
import torch

import secateurs as sc
from secateurs.schedules import Schedule
from secateurs.scores import lamp, magnitude


def test_magnitude():
    assert magnitude(torch.tensor([[1.0, -2.0], [-0.0, 0.5]])).tolist() == [[1.0, 2.0], [0.0, 0.5]]


def test_lamp_of_four_weights():
    """Squares from the largest: 16/16, 9/(16 + 9), 4/(16 + 9 + 4), 1/(16 + 9 + 4 + 1)."""
    worth = lamp(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
    torch.testing.assert_close(worth, torch.tensor([[1 / 30, 4 / 29], [9 / 25, 1.0]], dtype=torch.float64))


def test_lamp_of_equal_weights_ranks_the_earlier_higher():
    worth = lamp(torch.tensor([[1.0, 2.0, -2.0, 2.0, 0.0]]))
    torch.testing.assert_close(worth, torch.tensor([[1 / 13, 1.0, 1 / 2, 1 / 3, 0.0]], dtype=torch.float64))


def test_lamp_saves_the_layer_that_magnitude_empties():
    """magnitude: 10 9 | 0.1 0.01. lamp: 1, 81/181 | 1, 0.0001/0.0101."""
    layers = {"large": torch.tensor([[10.0, 9.0]]), "small": torch.tensor([[0.1, 0.01]])}
    alive = {
        score.__name__: [
            keep.tolist()
            for keep in sc.select(
                {name: score(weight) for name, weight in layers.items()}, sc.element, sc.model, sc.sparsity(0.5)
            ).values()
        ]
        for score in (magnitude, lamp)
    }
    assert alive["magnitude"] == [[[True, True]], [[False, False]]]
    assert alive["lamp"] == [[[True, False]], [[True, False]]]


def shares(text, moments, density=0.0):
    schedule = Schedule.parse(text)
    return [schedule.share(p, density) for p in moments]


def test_cubic():
    """1 - (1 - p)^3 at quarters: 1 - 27/64, 1 - 8/64, 1 - 1/64."""
    quarters = [0, 0.25, 0.5, 0.75, 1]
    assert shares("cubic", quarters) == [0.0, 37 / 64, 56 / 64, 63 / 64, 1.0]
    assert shares("cubic(0.5, 1)", quarters) == [0.0, 0.0, 0.0, 56 / 64, 1.0]
    assert shares("cubic(0, 0.5)", quarters) == [0.0, 56 / 64, 1.0, 1.0, 1.0]


def test_linear_and_one_shot():
    quarters = [0, 0.25, 0.5, 0.75, 1]
    assert shares("linear", quarters) == quarters
    assert shares("linear(0.25, 0.75)", quarters) == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert shares("one_shot", quarters) == [1.0] * 5
    assert shares("one_shot(begin=0.5)", quarters) == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_rounds_that_each_prune_a_fifth_of_the_survivors():
    """Density 0.8, 0.64, 0.512 after the rounds: sparsity 0.2, 0.36, 0.488 of the final 0.488."""
    moments = [0, 0.3, 1 / 3, 0.5, 2 / 3, 0.9, 1]
    sparsities = [0.488 * share for share in shares("rounds(3)", moments, density=0.512)]
    assert sparsities == pytest.approx([0, 0, 0.2, 0.2, 0.36, 0.36, 0.488])


def test_a_schedule_in_a_training_of_ten_steps():
    """linear(0.2, 0.8, every=2) to 60 % of 10 weights: chosen at steps 2, 4, 6, 8."""
    module = torch.nn.Linear(10, 1, bias=False)
    optimizer = torch.optim.SGD(module.parameters(), 0.0)
    pruner = sc.Pruner(module, sc.Recipe(budget=sc.sparsity(0.6), schedule="linear(0.2, 0.8, every=2)"), optimizer, 10)
    n_zeros = []
    for _ in range(10):
        module.weight.grad = torch.zeros_like(module.weight)
        optimizer.step()
        pruner.step()
        n_zeros.append(int((module.weight == 0).sum()))
    assert n_zeros == [0, 0, 0, 2, 2, 4, 4, 6, 6, 6]


def test_the_seven_values_of_a_recipe_on_one_line():
    recipe = sc.Recipe(
        score="lamp", pool="model", budget=sc.sparsity(0.9), schedule="cubic(0.1, 0.75, every=50)", skip=["head.*"]
    )
    assert str(recipe) == "lamp element model sparsity(0.9) cubic(begin=0.1, end=0.75, every=50) skip=[head.*]"
    assert recipe.to_yaml() == (
        "score: lamp\nunit: element\npool: model\nbudget: sparsity(0.9)\n"
        "schedule: cubic(begin=0.1, end=0.75, every=50)\nskip:\n- head.*\nonly: []\nmin_keep: 0\n"
    )
