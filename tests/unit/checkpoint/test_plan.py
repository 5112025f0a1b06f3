"""The plan of a recipe: what is cut, what is left and why, before any weight is read."""

from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import ones, write_f32

import secateurs as sc
from secateurs import scores
from secateurs.budgets import Budget, Simple
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.plan import Plan, make_plan, n_kept_of, pool_size
from secateurs.errors import PatternError, RecipeError

TENSORS = {
    "b.weight": ones(4, 8),
    "a.weight": ones(6, 4, 3, 3),
    "odd.weight": ones(5, 7),
    "embed.weight": ones(9, 4),
    "a.bias": ones(6),
    "scalar": np.ones((), np.float32),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of layers in an order that is not the sorted one."""
    return write_f32(tmp_path / "model.safetensors", TENSORS)


def plan_of(source: Path, **words: object) -> Plan:
    with open_checkpoint(source) as checkpoint:
        return make_plan(checkpoint, sc.Recipe(**words))


def test_every_tensor_has_its_status_in_the_order_of_the_source(source: Path) -> None:
    plan = plan_of(source, budget="sparsity(0.5)", unit="block(2, 2)", skip=["b*"])
    assert [(each.name, each.status, each.reason) for each in plan.tensors] == [
        ("b.weight", "skipped", "skip=b*"),
        ("a.weight", "pruned", ""),
        (
            "odd.weight",
            "impossible",
            "block(2, 2) needs outputs divisible by 2 and inputs divisible by 2; the weight is (5, 7).",
        ),
        ("embed.weight", "skipped", "embedding, class token or position table"),
        ("a.bias", "skipped", "one dimension (bias, norm or scalar)"),
        ("scalar", "skipped", "one dimension (bias, norm or scalar)"),
    ]
    assert [each.name for each in plan.cut] == ["a.weight"]
    assert plan.shapes == {"a.weight": (6, 4, 3, 3)}


def test_a_layer_that_no_pattern_of_the_budget_names_is_left(source: Path) -> None:
    plan = plan_of(source, budget={"a*": "sparsity(0.5)"}, pool="layer")
    assert {each.name: each.reason for each in plan.tensors if "weight" in each.name} == {
        "b.weight": "no pattern of the budget names it",
        "a.weight": "",
        "odd.weight": "no pattern of the budget names it",
        "embed.weight": "embedding, class token or position table",
    }


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"only": ["odd*"], "pool": 4}, PatternError, "'odd.weight' cannot be cut as asked: A pool of 4 needs"),
        ({"only": ["a.bias"]}, RecipeError, "only=a.bias names 'a.bias', which cannot be pruned: one dimension"),
        ({"only": ["c.weight"]}, RecipeError, "No tensor is called 'c.weight'."),
        ({"skip": ["c.weight"]}, RecipeError, "No tensor is called 'c.weight'."),
        ({"skip": ["*"]}, RecipeError, "Nothing to prune. 'b.weight': skip=*;"),
        ({"budget": {"z*": "top(1)"}, "pool": "layer"}, RecipeError, "pattern 'z*' matches no prunable layer."),
        ({"min_keep": 200}, PatternError, "min_keep=200 holds 267 units of the model, but sparsity(0.5) keeps only"),
        ({"min_keep": 0.6}, PatternError, "min_keep=0.6 holds 171 units of the model"),
        ({"min_keep": 17, "pool": "layer"}, PatternError, "min_keep=17 holds 17 units of 'b.weight', but"),
        ({"min_keep": 9, "pool": 4, "budget": "top(1)"}, PatternError, "keeps only 8 of its 32"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_said(source: Path, words: dict[str, object], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as refused:
        plan_of(source, **{"budget": "sparsity(0.5)", **words})
    assert said in str(refused.value)


def test_a_score_that_needs_data_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scores.SCORES, "wanda", lambda weight, input_norm: weight * input_norm)
    with pytest.raises(RecipeError, match=r"'wanda' needs input_norm from data; .* Use one of magnitude, lamp, random"):
        plan_of(source, budget="sparsity(0.5)", score="wanda")


def test_a_threshold_leaves_room_for_any_min_keep(source: Path) -> None:
    assert len(plan_of(source, budget="threshold(9.0)", min_keep=1000).cut) == 3


@pytest.mark.parametrize(
    ("unit", "pool", "size", "n_kept"),
    [
        ("element", "layer", 216, 216 - 108),
        ("element", "row", 36, 6 * (36 - 18)),
        ("element", "2", 2, 6 * 2 * 9),
        ("block(1, 2)", "4", 2, 6 * 9),
        ("row", "layer", 6, 3),
        ("column", "layer", 4, 2),
        ("block(2, 2)", "layer", 54, 27),
    ],
)
def test_sizes_of_pools(source: Path, unit: str, pool: str, size: int, n_kept: int) -> None:
    plan = plan_of(source, budget="sparsity(0.5)", unit=unit, pool=pool, only=["a.weight"])
    (each,) = plan.cut
    budget = Budget.parse("sparsity(0.5)")
    assert isinstance(budget, Simple)
    assert (pool_size(plan, each), n_kept_of(plan, each, budget)) == (size, n_kept)
    assert plan.n_units(each) % size == 0
