"""Who goes when units of several groups compete."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from secateurs.recipe import Recipe
from secateurs.structure.choosing import choose


def chosen(scores, s):
    """{group: which go} at sparsity s, in pool=model."""
    groups = [SimpleNamespace(name=name, n_units=len(each)) for name, each in scores.items()]
    recipe = Recipe.parse(f"magnitude row model sparsity({s})")
    return choose(groups, scores, recipe, lambda of, gone: 1.0)


def one_by_one(scores, n_gone):
    """The same, said plainly: again and again the one with the least score beside the mean of those left."""
    left = {name: dict(enumerate(each.double().tolist())) for name, each in scores.items()}
    for _ in range(n_gone):
        beside = {
            (name, unit): score / (sum(units.values()) / len(units))
            for name, units in left.items()
            for unit, score in units.items()
            if len(units) > 1
        }
        name, unit = min(beside, key=beside.__getitem__)
        del left[name][unit]
    return {name: np.array([unit not in left[name] for unit in range(len(each))]) for name, each in scores.items()}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("s", [0.1, 0.5, 0.8])
def test_the_next_to_go_is_the_least_beside_those_that_are_left(seed, s):
    generator = torch.Generator().manual_seed(seed)
    scores = {
        "narrow": torch.rand(10, generator=generator, dtype=torch.float64),
        "wide": 1000 * torch.rand(40, generator=generator, dtype=torch.float64) ** 3,
        "even": 5 + torch.rand(20, generator=generator, dtype=torch.float64),
    }
    found, expected = chosen(scores, s), one_by_one(scores, round(s * 70))
    assert sum(int(each.sum()) for each in found.values()) == round(s * 70)
    for name in scores:
        assert (found[name] == expected[name]).all(), name


def test_the_size_of_a_groups_scores_protects_none_of_it():
    scores = {"a": torch.rand(10), "b": torch.rand(10)}
    larger = {"a": 1024 * scores["a"], "b": scores["b"]}
    assert all((chosen(scores, 0.5)[name] == each).all() for name, each in chosen(larger, 0.5).items())


def test_dead_units_go_first_and_one_stays_where_all_are_dead():
    scores = {"dead": torch.zeros(5), "half": torch.tensor([0.0, 3.0, 0.0, 1.0, 2.0])}
    gone = chosen(scores, 0.6)
    assert gone["dead"].sum() == 4
    assert gone["half"].tolist() == [True, False, True, False, False]
