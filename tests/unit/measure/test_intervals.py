"""Student's t over seeds, a bootstrap over pairs."""

import json
import math

import numpy as np
import pytest

from secateurs.measure.intervals import LEAST, Interval, half_width, over_seeds, paired_ratio, wilson


def test_three_seeds_by_hand() -> None:
    # mean 0.9; deviations -0.02, 0, +0.02; s = sqrt(0.0008 / 2) = 0.02; half = 4.303 * 0.02 / sqrt(3)
    interval = over_seeds([0.88, 0.90, 0.92])
    half = 4.303 * 0.02 / math.sqrt(3)
    assert (interval.mean, interval.n) == (pytest.approx(0.9), 3)
    assert (interval.low, interval.high) == (pytest.approx(0.9 - half), pytest.approx(0.9 + half))
    assert interval.values() == {"mean": interval.mean, "low": interval.low, "high": interval.high, "n_seeds": 3}


def test_two_seeds_by_hand() -> None:
    # s = |a - b| / sqrt(2); half = 12.706 * s / sqrt(2) = 12.706 * |a - b| / 2
    interval = over_seeds([1.0, 2.0])
    assert (interval.low, interval.high) == (pytest.approx(1.5 - 6.353), pytest.approx(1.5 + 6.353))


def test_one_seed_has_no_bounds_and_its_json_says_none() -> None:
    interval = over_seeds([0.9])
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert interval.values() == {"mean": 0.9, "low": None, "high": None, "n_seeds": 1}
    assert json.loads(json.dumps(interval.values(), allow_nan=False))["low"] is None


def test_equal_seeds_have_no_width() -> None:
    interval = over_seeds([0.7] * 5)
    assert (interval.low, interval.mean, interval.high) == (0.7, 0.7, 0.7)


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (4, 3.182), (16, 2.131), (17, 2.120), (31, 2.042), (101, 1.984)])
def test_students_t_of_any_number_of_seeds_is_that_of_the_tables(n: int, t: float) -> None:
    values = np.random.default_rng(n).normal(size=n)
    interval = over_seeds(list(values))
    found = (interval.high - interval.mean) / (values.std(ddof=1) / math.sqrt(n))
    assert found == pytest.approx(t, rel=5e-3)


def test_the_ratio_of_equal_seconds_is_one() -> None:
    seconds = list(np.random.default_rng(0).uniform(1, 2, 40))
    interval = paired_ratio(seconds, seconds)
    assert (interval.mean, interval.low, interval.high, interval.n) == (1.0, 1.0, 1.0, 40)


def test_noise_of_the_same_size_contains_one_and_a_factor_does_not() -> None:
    noise = np.random.default_rng(1).uniform(1, 1.2, (2, 60))
    same, twice = paired_ratio(noise[0], noise[1]), paired_ratio(2 * noise[0], noise[1])
    assert same.low < 1.0 < same.high
    assert 1.9 < twice.low < 2.0 < twice.high < 2.1
    assert paired_ratio(noise[0], noise[1]) == same, "the bootstrap is seeded"


def test_bounds_may_be_kept_within_what_the_quantity_can_be() -> None:
    interval = over_seeds([0.9, 1.0])
    assert (interval.low, interval.high) == (pytest.approx(0.3147, abs=1e-4), pytest.approx(1.5853, abs=1e-4))
    kept = interval.within(0.0, 1.0)
    assert (kept.mean, kept.low, kept.high, kept.n) == (interval.mean, interval.low, 1.0, 2)


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0.0, 0) == (0.0, 1.0)
    assert wilson(0.5, 10) == pytest.approx((0.236593, 0.763407), abs=2e-6)


def test_half_of_an_interval_is_the_side_that_no_bound_cut() -> None:
    found = over_seeds([0.10, 0.22, 0.10])
    half = found.high - found.mean
    assert found.low < 0
    assert half_width(found.within(0.0, 1.0).values()) == pytest.approx(half)
    assert half_width(Interval(0.9, 0.7, 1.0, 3).values()) == pytest.approx(0.2)
    assert half_width(over_seeds([0.5]).values()) is None


def test_of_fewer_than_six_pairs_nothing_is_sure() -> None:
    assert 2 * 0.5**LEAST < 0.05 < 2 * 0.5 ** (LEAST - 1)
    few, enough = (paired_ratio([2.0] * n, [1.0] * n) for n in (LEAST - 1, LEAST))
    assert (few.mean, few.low, few.high) == (2.0, 0.0, math.inf)
    assert (enough.mean, enough.low, enough.high) == (2.0, 2.0, 2.0)
