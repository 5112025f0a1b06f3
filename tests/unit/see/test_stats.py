"""Stats: every count equals a plain recount with numpy."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secateurs.errors import InputError
from secateurs.see import stats

TIES = st.sampled_from([0.0, -0.0, 0.1, -0.1, 0.25, 0.30000001192092896, 1.0, -2.5])
FLOATS = st.floats(-50, 50, width=32)


@st.composite
def weights(draw):
    """float32 arrays full of ties, zeros and odd shapes, empty ones too."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=7))
    return draw(hnp.arrays(np.float32, shape, elements=st.one_of(TIES, FLOATS), fill=TIES))


@given(weights(), st.sampled_from([0.05, 0.1, 1.0, 0.3]))
def test_the_grid_equals_a_recount(w, step):
    counted, values = stats.grid(w, step), w.astype(np.float64).ravel()
    assert counted["n_zero"] == (values == 0).sum()
    for k, (positive, negative) in enumerate(zip(counted["positive"], counted["negative"], strict=True)):
        low, high = step * k, step * (k + 1)
        assert positive == ((values > low) & (values <= high)).sum()
        assert negative == ((values < -low) & (values >= -high)).sum()
    assert counted["n_zero"] + sum(counted["positive"]) + sum(counted["negative"]) == w.size


@given(weights(), st.sampled_from([0.05, 0.1, 0.3]), st.integers(0, 700))
def test_removed_is_exact_at_every_edge(w, step, edge):
    assert stats.removed(stats.grid(w, step), edge) == (np.abs(w.astype(np.float64)) <= step * edge).sum()


def test_an_edge_removes_the_weight_that_lies_on_it():
    step = 0.1
    w = np.array([step * 3, -step * 3, np.nextafter(step * 3, 1), 0.0, -0.0])
    counted = stats.grid(w, step)
    assert (stats.removed(counted, 2), stats.removed(counted, 3), stats.removed(counted, 4)) == (2, 4, 5)
    assert counted["n_zero"] == 2


def test_an_outlier_leaves_the_last_bin_open():
    counted = stats.grid([0.1, -0.5, 1e30], step=0.1)
    assert counted["open"] is True
    assert len(counted["positive"]) == len(counted["negative"]) == stats.MAX_BINS
    assert (counted["positive"][-1], stats.removed(counted, stats.n_edges(counted))) == (1, 2)
    with pytest.raises(ValueError, match="open last bin"):
        stats.removed(counted, stats.MAX_BINS)


def test_exactly_the_most_bins_are_not_open():
    assert "open" not in stats.grid([0.5 * stats.MAX_BINS], step=0.5)
    assert "open" in stats.grid([0.5 * stats.MAX_BINS + 0.1], step=0.5)


@pytest.mark.parametrize(("bad", "said"), [([1.0, np.nan], "1 NaN and 0 infinite of 2"), ([np.inf], "1 infinite")])
def test_weights_that_are_not_finite_are_refused(bad, said):
    with pytest.raises(InputError, match=said):
        stats.grid(bad, 0.1)
    with pytest.raises(InputError):
        stats.describe([bad], absolute_step=0.1)


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
def test_a_step_must_be_positive(step):
    with pytest.raises(ValueError, match="positive"):
        stats.grid([1.0], step)


def test_a_layer_by_hand():
    w = np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 0.0005], [0.0, 3.0, 0.0]], dtype=np.float32)
    found = stats.describe(w, absolute_step=0.5, tau=0.0001)
    assert (found["n"], found["n_zero"], found["n_rows"], found["n_columns"]) == (9, 5, 3, 3)
    assert (found["dead_rows"], found["dead_columns"], found["within_0.001"]) == (1, 0, 6)
    assert (found["min"], found["max"], found["tau"]) == (-2.0, 3.0, 0.0001)
    assert found["sigma"] == pytest.approx(w.astype(np.float64).std())
    assert found["sigma_grid"]["step"] == found["sigma"] * 0.05
    assert found["absolute_grid"]["positive"] == [1, 1, 0, 0, 0, 1]
    assert found["absolute_grid"]["negative"] == [0, 0, 0, 1, 0, 0]


def test_a_convolution_counts_filters_and_input_channels():
    w = np.ones((4, 3, 2, 2))
    w[1] = 0
    w[:, 2] = 0
    found = stats.describe(w, absolute_step=1.0)
    assert (found["n_rows"], found["n_columns"], found["dead_rows"], found["dead_columns"]) == (4, 3, 1, 1)


def test_layers_without_spread_still_count():
    for w in (np.zeros((3, 3)), np.zeros((0, 4)), np.full((2, 2), 0.5)):
        found = stats.describe(w, absolute_step=0.1)
        assert stats.removed(found["sigma_grid"], 0) == (w == 0).sum()
        assert stats.removed(found["sigma_grid"], stats.n_edges(found["sigma_grid"])) == w.size


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=6), st.floats(1e-6, 1e3))
def test_one_step_suits_every_layer(sigmas, largest):
    step = stats.absolute_step(sigmas, largest)
    assert largest <= step * stats.MAX_BINS
    assert step <= 0.05 * min(sigmas) or largest > step / 2.6 * stats.MAX_BINS
    assert f"{step:.0e}"[0] in "125"


def test_shapes_are_told_apart():
    rng = np.random.default_rng(0)
    bell, flat = rng.normal(size=40_000), rng.uniform(-1, 1, 40_000)
    two_humps = np.concatenate([rng.normal(-1, 0.2, 20_000), rng.normal(1, 0.2, 20_000), np.zeros(50_000)])
    assert stats.shape_of(bell)["kurtosis"] == pytest.approx(0, abs=0.1)
    assert stats.shape_of(bell)["within_1_sigma"] == pytest.approx(0.683, abs=0.01)
    assert stats.shape_of(flat)["kurtosis"] == pytest.approx(-1.2, abs=0.05)
    assert stats.shape_of(bell)["hole"] > 0.9
    assert stats.shape_of(flat)["hole"] > 0.9
    assert stats.shape_of(two_humps)["hole"] < 0.01
    assert stats.shape_of(np.zeros(5)) == {"kurtosis": None, "within_1_sigma": None, "hole": None}


@given(weights(), st.integers(1, 9), st.integers(0, 30))
def test_bars_hold_every_surviving_weight_once_and_respect_the_anchor(w, merge, anchor):
    counted = stats.grid(w, 0.1)
    found = stats.bars(counted, merge, anchor)
    assert sum(bar["count"] for bar in found) == np.count_nonzero(w)
    edge = 0.1 * anchor
    for before, after in pairwise(found):
        assert before["x1"] <= after["x0"]
    assert not any(bar["x0"] < x < bar["x1"] for bar in found for x in (-edge, edge))
    values = w.astype(np.float64)
    for bar in found:
        side, low = (values, bar["x0"]) if bar["x1"] > 0 else (-values, -bar["x1"])
        assert bar["count"] == ((side > low) & (side <= max(-bar["x0"], bar["x1"]))).sum()


@given(weights(), st.floats(0, 1))
def test_reach_holds_the_share(w, share):
    limit = stats.reach(stats.grid(w, 0.1), share)
    assert (np.abs(w.astype(np.float64)) <= limit).sum() >= share * w.size * (1 - 1e-12)


def test_an_unknown_stage_lists_the_known_ones(run):
    with pytest.raises(KeyError, match="in-loop"):
        stats.stage(run[0], "in-lop")
