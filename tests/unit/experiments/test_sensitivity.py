"""The scan cuts one layer at a time, and an allocation made from it spends exactly what it may."""

import math

import pytest
import torch

from secateurs.data import DataSpec, load_data
from secateurs.errors import RecipeError
from secateurs.experiments.sensitivity import LADDER, allocate, scan, side_by_side
from secateurs.masks import Masks
from secateurs.measure.accuracy import accuracy
from secateurs.measure.operations import uses
from secateurs.models import ModelSpec, build
from secateurs.recipe import Recipe

DATA = DataSpec(limit_train=200, limit_validation=60, limit_test=60)
RECIPE = Recipe(budget="sparsity(0.5)", pool="layer")


def points(*accuracies: float) -> list[dict[str, float]]:
    return [{"sparsity": s, "accuracy": a, "n": 100} for s, a in zip((0.0, 0.5, 0.9), accuracies, strict=True)]


def test_a_scan_is_what_cutting_that_layer_alone_gives_and_changes_nothing() -> None:
    data = load_data(DATA)
    module = build(ModelSpec.parse("lenet-300-100"), data.shape, 0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = scan(module, RECIPE, data.x_val, data.y_val, (0.0, 0.9))
    assert list(found) == ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    Masks.make(module, Recipe(budget="sparsity(0.9)", pool="layer", only=("fc2.weight",))).apply(module)
    assert found["fc2.weight"][1]["accuracy"] == accuracy(module, data.x_val, data.y_val).value


def test_layers_that_do_not_care_are_cut_and_those_that_do_are_spared() -> None:
    scanned = {"robust": points(0.9, 0.9, 0.9), "fragile": points(0.9, 0.5, 0.1)}
    found = allocate(scanned, {"robust": 100, "fragile": 100}, 0.45)
    assert found["robust"] == pytest.approx(0.9, abs=0.01)
    assert found["fragile"] == pytest.approx(0.0, abs=0.01)


def test_equal_layers_are_cut_alike_and_the_sum_is_what_was_asked() -> None:
    for s in (0.1, 0.5, 0.77, 0.95):
        scanned = {"a": points(0.9, 0.8, 0.2), "b": points(0.9, 0.8, 0.2), "c": points(0.9, 0.9, 0.6)}
        weight = {"a": 10.0, "b": 1000.0, "c": 300.0}
        found = allocate(scanned, weight, s)
        assert found["a"] == found["b"]
        assert math.fsum(weight[name] * each for name, each in found.items()) / 1310 == pytest.approx(s, abs=1e-6)


def test_a_noisy_scan_that_rises_again_is_not_trusted() -> None:
    noisy = allocate({"a": points(0.9, 0.4, 0.9), "b": points(0.9, 0.9, 0.9)}, {"a": 1, "b": 1}, 0.4)
    assert noisy["a"] < 0.05


def test_every_allocation_is_equal_in_what_its_view_says() -> None:
    data = load_data(DATA)
    module = build(ModelSpec.parse("cls-transformer(dim=16, depth=1, heads=2, patch=4)"), data.shape, 0)
    scanned = scan(module, RECIPE, data.x_val, data.y_val, LADDER[::3])
    lines = side_by_side(module, RECIPE, data, scanned, (0.6,))
    used = uses(module, data.x_train[:1])
    total = sum(dict(module.named_parameters())[name].numel() for name in scanned)
    work = sum(dict(module.named_parameters())[name].numel() * used[name] for name in scanned)
    assert [(line["view"], line["allocation"]) for line in lines] == [
        (view, allocation)
        for view in ("size", "multiply-adds")
        for allocation in ("uniform", "erk", "global", "lamp", "sensitivity")
    ]
    for line in lines:
        share = line["n_kept"] / total if line["view"] == "size" else line["multiply_adds"] / work
        assert share == pytest.approx(0.4, abs=2e-3), line
        assert line["n"] == 60


def test_an_allocation_of_what_cannot_be_is_refused() -> None:
    scanned = {"a": [{"sparsity": 0.0, "accuracy": 1.0}, {"sparsity": 0.9, "accuracy": 0.5}]}
    with pytest.raises(RecipeError, match="sparsity of an allocation must be a number from 0"):
        allocate(scanned, {"a": 10.0}, 1.5)
    with pytest.raises(RecipeError, match="The scan has a, of which no weight was given"):
        allocate(scanned, {"b": 10.0}, 0.5)
