"""Splits: fixed, stratified, disjoint, seeded; the test split depends on nothing but the source."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateurs.data import Dataset, DataSpec, InputShape, load_data
from secateurs.data.digits import digits_table
from secateurs.data.splits import in_proportion, stratified
from secateurs.errors import RecipeError


def rows(x: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(DataSpec())


def test_digits_are_what_they_say(digits: Dataset) -> None:
    assert (len(digits.x_train), len(digits.x_val), len(digits.x_test)) == (1150, 287, 360)
    assert digits.shape == InputShape(kind="image", size=(1, 8, 8), n_classes=10)
    assert digits.class_names == tuple("0123456789")
    assert digits.x_train.dtype == torch.float32
    assert digits.y_train.dtype == torch.int64
    assert "1,797" in digits.source
    assert "360" in digits.source


def test_digits_are_those_that_scikit_learn_loads() -> None:
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    assert np.array_equal(digits_table(), np.column_stack([bunch.data, bunch.target]))


def test_training_pixels_have_mean_zero_and_std_one(digits: Dataset) -> None:
    assert float(digits.x_train.double().mean()) == pytest.approx(0, abs=1e-6)
    assert float(digits.x_train.double().std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert digits.scaling is not None
    pixels = digits.x_test * digits.scaling.std[0] + digits.scaling.mean[0]
    torch.testing.assert_close(pixels * 16, (pixels * 16).round(), atol=1e-4, rtol=0)
    assert float(pixels.max()) == pytest.approx(1)


def test_the_test_split_is_fixed_for_ever(digits: Dataset) -> None:
    """First labels written down by hand: whoever changes them changes every published number."""
    other = load_data(DataSpec(split_seed=7, validation=0.5))
    assert torch.equal(other.y_test, digits.y_test)
    assert digits.y_test.bincount().tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert digits.y_test[:12].tolist() == [4, 5, 7, 8, 2, 6, 7, 1, 4, 8, 9, 9]


def test_no_example_is_in_two_splits() -> None:
    # The same scale everywhere, so that equal images have equal bytes.
    for seed in (0, 1):
        data = load_data(DataSpec(split_seed=seed, mean=(0.0,), std=(1.0,)))
        train, val, test = rows(data.x_train), rows(data.x_val), rows(data.x_test)
        assert len(train) + len(val) + len(test) == 1797
        assert len(train | val | test) == 1797  # the 1,797 images are distinct


def test_validation_is_never_taken_from_test() -> None:
    tests, validations = [], []
    for seed in range(3):
        data = load_data(DataSpec(split_seed=seed, mean=(0.0,), std=(1.0,)))
        tests.append(rows(data.x_test))
        validations.append(rows(data.x_val))
    assert tests[0] == tests[1] == tests[2]
    assert validations[0] != validations[1]
    assert not tests[0] & (validations[0] | validations[1] | validations[2])


def test_the_fingerprint_names_the_arrays(digits: Dataset) -> None:
    assert len(digits.fingerprint) == 64
    assert load_data(DataSpec()).fingerprint == digits.fingerprint
    others = [DataSpec(split_seed=1), DataSpec(mean=(0.5,), std=(0.5,)), DataSpec(limit_train=100)]
    assert len({digits.fingerprint, *(load_data(spec).fingerprint for spec in others)}) == 4


def test_classes_keep_their_proportions(digits: Dataset) -> None:
    for y in (digits.y_val, digits.y_train):
        share = y.bincount() / len(y)
        whole = digits.y_test.bincount() / len(digits.y_test)
        torch.testing.assert_close(share, whole, atol=0.006, rtol=0)


def test_limits_take_a_stratified_subset(digits: Dataset) -> None:
    data = load_data(DataSpec(limit_train=100, limit_validation=50, limit_test=20, mean=(0.0,), std=(1.0,)))
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (100, 50, 20)
    assert set(data.y_train.bincount().tolist()) <= {9, 10, 11}
    whole = load_data(DataSpec(mean=(0.0,), std=(1.0,)))
    assert rows(data.x_train) <= rows(whole.x_train)
    assert rows(data.x_test) <= rows(whole.x_test)
    assert torch.equal(load_data(DataSpec(limit_train=99_999)).x_train, digits.x_train)
    smallest = load_data(DataSpec(limit_train=10))
    assert sorted(smallest.y_train.tolist()) == list(range(10))
    with pytest.raises(RecipeError, match="limit_train=9 is less than one example for each of 10 classes"):
        load_data(DataSpec(limit_train=9))


@given(
    counts=st.lists(st.integers(2, 30), min_size=2, max_size=8),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_stratified_is_in_proportion_and_leaves_both_sides_every_class(
    counts: list[int], share: float, seed: int
) -> None:
    y = np.random.RandomState(1).permutation(np.repeat(np.arange(len(counts)), counts))
    taken = stratified(y, round(share * len(y)), seed, keep_both=True)
    assert np.array_equal(taken, np.unique(taken))
    n_taken = np.bincount(y[taken], minlength=len(counts))
    assert (n_taken >= 1).all()
    assert (n_taken < counts).all()
    assert (abs(n_taken - np.array(counts) * share) <= 1.51).all()
    assert np.array_equal(taken, stratified(y, round(share * len(y)), seed, keep_both=True))
    n = round(share * len(y))
    assert len(stratified(y, n, seed, keep_both=False)) == n


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": " "}, "source is empty"),
        ({"validation": 0.0}, "validation is a share"),
        ({"validation": 1.0}, "between 0 and 1; got 1.0"),
        ({"validation": float("nan")}, "got nan"),
        ({"split_seed": -1}, "split_seed must be"),
        ({"limit_train": 0}, "limit_train must be 1 or more"),
        ({"limit_test": -5}, "limit_test must be 1 or more; got -5"),
        ({"min_count": 0}, "min_count"),
        ({"max_length": 0}, "max_length must be from 1"),
        ({"vocab_size": 2}, "vocab_size must be from 3"),
        ({"mean": (0.1,)}, "mean and std go together"),
        ({"mean": (0.1,), "std": (0.1, 0.2)}, "one number per channel"),
        ({"mean": (0.1,), "std": (0.0,)}, "std above zero"),
        ({"mean": (float("inf"),), "std": (1.0,)}, "mean must be finite"),
        ({"sorce": "digits"}, "Did you mean 'source'"),
        ({"validation": "a lot"}, "validation"),
    ],
)
def test_impossible_specs(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        DataSpec(**values)


def test_a_spec_survives_yaml() -> None:
    spec = DataSpec(source="mnist", directory="somewhere", mean=(0.1307,), std=(0.3081,), limit_train=10)
    assert DataSpec.from_yaml(spec.to_yaml()) == spec
    assert DataSpec(**spec.values()) == spec


def test_mean_and_std_must_belong_to_the_pixels() -> None:
    with pytest.raises(RecipeError, match=r"2 value\(s\) of mean and std, but the images have 1 channels"):
        load_data(DataSpec(mean=(0.1, 0.2), std=(0.3, 0.3)))
    with pytest.raises(RecipeError, match=r"do not belong to these pixels, whose mean is 0\.305"):
        load_data(DataSpec(mean=(127.0,), std=(60.0,)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "image", "size": (8, 8), "n_classes": 2}, "3 sizes"),
        ({"kind": "tokens", "size": (8, 0), "n_classes": 2}, "2 sizes"),
        ({"kind": "image", "size": (1, 8, 8), "n_classes": 1}, "2 to 100,000 classes; found 1"),
    ],
)
def test_impossible_shapes(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        InputShape(**values)


def test_a_few_of_sorted_examples_are_of_every_class() -> None:
    y = torch.arange(10).repeat_interleave(100)
    picked = in_proportion(y, 50)
    assert y[picked].bincount().tolist() == [5] * 10
    assert torch.equal(in_proportion(y, 1000), torch.arange(1000))
    assert torch.equal(in_proportion(y, 5000), torch.arange(1000))
