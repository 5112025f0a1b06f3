"""Laws of every score in the table, and of each by its definition."""

import inspect
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import secateurs as sc
from laws.strategies import DTYPES, fractions, matrices, weights
from secateurs.scores import SCORES, Score

# Scores that need evidence come with it in their own tests; these need only the weight.
ALONE = {
    name: score
    for name, score in SCORES.items()
    if all(p.default is not p.empty for p in list(inspect.signature(score).parameters.values())[1:])
}
each_score = pytest.mark.parametrize("score", ALONE.values(), ids=ALONE)


def ranking(score, weight):
    """Flat indexes from the first survivor to the last."""
    return score(weight).flatten().double().argsort(descending=True, stable=True).tolist()


def test_the_table_has_the_promised_scores():
    assert {"magnitude", "lamp", "random"} <= set(ALONE)


@each_score
@given(weight=weights())
def test_a_score_has_the_weights_shape_and_is_a_number_of_at_least_0(score, weight):
    before = weight.clone()
    worth = score(weight)
    assert worth.shape == weight.shape
    assert worth.is_floating_point()
    assert worth.isfinite().all()
    assert (worth >= 0).all()
    assert torch.equal(weight, before)


@each_score
@given(weight=weights(), factor=st.sampled_from([0.25, 2.0, 16.0]), s=fractions())
def test_a_weight_times_a_power_of_two_is_pruned_the_same(score, weight, factor, s):
    keep = sc.select(score(weight), sc.element, sc.layer, sc.sparsity(s))
    assert torch.equal(sc.select(score(weight * factor), sc.element, sc.layer, sc.sparsity(s)), keep)


@each_score
@given(weight=weights())
def test_the_sign_of_a_weight_does_not_matter(score, weight):
    assert torch.equal(score(-weight), score(weight))


@each_score
def test_a_score_gives_the_same_twice_and_leaves_the_random_numbers_alone(score):
    weight = torch.linspace(-1, 1, 60).reshape(6, 10)
    state = torch.random.get_rng_state()
    assert torch.equal(score(weight), score(weight))
    assert torch.equal(torch.random.get_rng_state(), state)


@each_score
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_score_selects_the_same_on_every_device(score):
    weight = torch.randn(40, 30)
    keep = sc.select(score(weight), sc.element, sc.layer, sc.sparsity(0.7))
    assert torch.equal(sc.select(score(weight.cuda()), sc.element, sc.layer, sc.sparsity(0.7)).cpu(), keep)


@given(weights())
def test_magnitude_is_the_absolute_value(weight):
    assert torch.equal(SCORES["magnitude"](weight), weight.abs())


@given(weights())
def test_lamp_equals_its_definition(weight):
    """w^2 over the squares of all weights that rank no lower; of equal weights the earlier ranks higher."""
    squares = [Fraction(value) ** 2 for value in weight.flatten().tolist()]
    higher = sorted(range(len(squares)), key=lambda index: (-squares[index], index))
    expected, total = [0.0] * len(squares), Fraction(0)
    for index in higher:
        total += squares[index]
        expected[index] = float(squares[index] / total) if total else 0.0
    torch.testing.assert_close(
        SCORES["lamp"](weight).flatten().double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0
    )


@given(weights())
def test_lamp_gives_the_strongest_weight_of_a_layer_1_and_no_other(weight):
    worth = SCORES["lamp"](weight)
    assert int((worth == 1).sum()) == (1 if weight.any() else 0)


@given(weights())
def test_lamp_ranks_a_layer_as_magnitude_does(weight):
    assert ranking(SCORES["lamp"], weight) == ranking(SCORES["magnitude"], weight)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12))
@example([1.0, 1e-30, 2e-30])
def test_lamp_ranks_any_floats_as_magnitude_does(values):
    """Weights may differ in the last bit, or by twenty powers of ten."""
    weight = torch.tensor([values])
    assert ranking(SCORES["lamp"], weight) == ranking(SCORES["magnitude"], weight)


@given(weights(), st.integers(0, 1000))
def test_random_knows_the_seed_and_the_name_but_not_the_weight(weight, seed):
    random = SCORES["random"]
    worth = random(weight, seed=seed, name="a")
    assert torch.equal(random(torch.zeros_like(weight), seed=seed, name="a"), worth)
    if weight.numel() > 1:
        assert not torch.equal(random(weight, seed=seed + 1, name="a"), worth)
        assert not torch.equal(random(weight, seed=seed, name="b"), worth)


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_draws_the_same_for_every_dtype(dtype):
    random = SCORES["random"]
    wide = random(torch.zeros(20, 30), seed=3, name="a")
    worth = random(torch.zeros(20, 30, dtype=dtype), seed=3, name="a")
    keep = sc.select(wide, sc.element, sc.layer, sc.sparsity(0.5))
    assert torch.equal(sc.select(worth, sc.element, sc.layer, sc.sparsity(0.5)), keep)


@given(matrices(12), fractions())
def test_random_prunes_exactly_the_asked_share(shape, s):
    weight = torch.zeros(shape)
    keep = sc.select(SCORES["random"](weight, seed=1, name="x"), sc.element, sc.layer, sc.sparsity(s))
    assert int((~keep).sum()) == round(s * weight.numel())


def test_random_scores_do_not_depend_on_torchs_defaults():
    weight = torch.ones(3, 4)
    expected = Score.parse("random(3)")(weight, name="a")
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            found = Score.parse("random(3)")(weight, name="a")
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
