"""Laws of `select`: exact counts, exact ties, the same answer as the slow judge, for every unit and pool."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import secateurs as sc
from laws.judge import InfeasibleError, judge, units_of
from laws.strategies import NAMES, convs, fractions, mappings, matrices, scores
from secateurs.errors import InputError, PatternError, RecipeError
from secateurs.pools import POOLS
from secateurs.units import UNITS

LEGAL = [
    *[(unit, pool) for unit in ("element", "row", "column", (2, 3), (1, 2)) for pool in ("layer", "model")],
    *[("element", "row"), ("element", 2), ("element", 4), ((1, 2), "row"), ((1, 2), 4)],
]
ILLEGAL = [
    *[(unit, pool) for unit in ("row", "column", "block(2, 1)", "block(2, 2)") for pool in ("row", 2, 4)],
]


def test_the_laws_know_every_unit_and_pool():
    assert {"block" if isinstance(unit, tuple) else unit for unit, _ in LEGAL} == set(UNITS)
    assert {pool for _, pool in LEGAL if isinstance(pool, str)} == set(POOLS)


def unit_value(unit):
    """The unit that the judge calls by a plain word or an (h, w) pair."""
    return sc.block(*unit) if isinstance(unit, tuple) else getattr(sc, unit)


def pool_value(pool):
    return pool if isinstance(pool, int) else getattr(sc, pool)


@st.composite
def cases(draw, legal=LEGAL):
    """(unit, pool, scores by name) that fit together, as the judge spells them."""
    unit, pool = draw(st.sampled_from(legal))
    high, wide = unit if isinstance(unit, tuple) else (1, 1)
    wide = pool if isinstance(pool, int) else wide  # every pool here is a multiple of the width
    sides = matrices(5) | convs(3)
    shapes = sides.map(lambda shape: (shape[0] * high, shape[1] * wide, *shape[2:]))
    return unit, pool, draw(mappings(shapes))


def as_numpy(arrays):
    return {name: array.to(torch.float64).numpy() for name, array in arrays.items()}


def assert_same(keep, expected):
    assert keep.keys() == expected.keys()
    for name in keep:
        np.testing.assert_array_equal(np.asarray(keep[name]), expected[name], err_msg=name)


@given(cases(), fractions())
def test_the_judge_agrees_on_sparsity(case, s):
    unit, pool, arrays = case
    keep = sc.select(arrays, unit_value(unit), pool_value(pool), sc.sparsity(s))
    assert_same(keep, judge(as_numpy(arrays), unit, pool, n_kept=lambda n: n - round(s * n)))


@given(cases(), fractions(), st.integers(0, 5))
def test_the_judge_agrees_on_min_keep(case, s, least):
    unit, pool, arrays = case
    words = unit_value(unit), pool_value(pool), sc.sparsity(s)
    try:
        expected = judge(as_numpy(arrays), unit, pool, n_kept=lambda n: n - round(s * n), min_keep=least)
    except InfeasibleError:
        with pytest.raises(PatternError):
            sc.select(arrays, *words, min_keep=least)
    else:
        assert_same(sc.select(arrays, *words, min_keep=least), expected)


@given(cases(), st.sampled_from([0.0, 0.1, 0.125, 0.3, 0.5, 1.0, 5.0]), st.integers(0, 1))
def test_the_judge_agrees_on_threshold(case, tau, least):
    unit, pool, arrays = case
    keep = sc.select(arrays, unit_value(unit), pool_value(pool), sc.threshold(tau), min_keep=least)
    assert_same(keep, judge(as_numpy(arrays), unit, pool, above=tau, min_keep=least))


@given(cases([("element", 2), ("element", 4)]), st.integers(0, 2))
def test_n_to_m_keeps_exactly_n_of_every_m_inputs(case, n):
    _, m, arrays = case
    keep = sc.select(arrays, sc.element, m, sc.top(n))
    for name, alive in keep.items():
        out, inputs, *kernel = alive.shape
        assert (alive.reshape(out, inputs // m, m, *kernel).sum(2) == n).all(), name
    assert_same(keep, judge(as_numpy(arrays), "element", m, n_kept=lambda _: n))


@given(cases(), st.data())
def test_top_keeps_n_units_of_every_pool(case, data):
    unit, pool, arrays = case
    seen = []
    judge(as_numpy(arrays), unit, pool, n_kept=lambda n: seen.append(n) or n)
    n = data.draw(st.integers(0, min(seen)))
    keep = sc.select(arrays, unit_value(unit), pool_value(pool), sc.top(n))
    assert_same(keep, judge(as_numpy(arrays), unit, pool, n_kept=lambda _: n))
    with pytest.raises(PatternError):
        sc.select(arrays, unit_value(unit), pool_value(pool), sc.top(max(seen) + 1))


@given(cases(), fractions())
def test_units_live_or_die_whole(case, s):
    unit, pool, arrays = case
    keep = sc.select(arrays, unit_value(unit), pool_value(pool), sc.sparsity(s))
    for alive in keep.values():
        for members in units_of(alive.shape, unit):
            assert len(set(alive.ravel()[members].tolist())) == 1


@given(cases())
def test_sparsity_0_keeps_all_and_1_keeps_none(case):
    unit, pool, arrays = case
    everything = sc.select(arrays, unit_value(unit), pool_value(pool), sc.sparsity(0))
    nothing = sc.select(arrays, unit_value(unit), pool_value(pool), sc.sparsity(1))
    assert all(keep.all() for keep in everything.values())
    assert not any(keep.any() for keep in nothing.values())


@given(cases(), fractions(), fractions())
def test_more_sparsity_keeps_a_subset(case, s, t):
    unit, pool, arrays = case
    less, more = (sc.select(arrays, unit_value(unit), pool_value(pool), sc.sparsity(x)) for x in sorted((s, t)))
    assert not any((more[name] & ~less[name]).any() for name in arrays)


@given(cases(), fractions(), st.sampled_from([0.25, 2.0, 8.0]))
def test_scores_times_a_power_of_two_select_the_same(case, s, factor):
    unit, pool, arrays = case
    scaled = {name: array * factor for name, array in arrays.items()}
    keep = sc.select(arrays, unit_value(unit), pool_value(pool), sc.sparsity(s))
    assert_same(sc.select(scaled, unit_value(unit), pool_value(pool), sc.sparsity(s)), as_bool(keep))


def as_bool(keep):
    return {name: np.asarray(alive) for name, alive in keep.items()}


@given(cases(), fractions(), st.randoms(use_true_random=False))
def test_the_order_of_a_mapping_does_not_matter(case, s, random):
    unit, pool, arrays = case
    names = list(arrays)
    random.shuffle(names)
    keep = sc.select(arrays, unit_value(unit), pool_value(pool), sc.sparsity(s))
    shuffled = {name: arrays[name] for name in names}
    assert_same(sc.select(shuffled, unit_value(unit), pool_value(pool), sc.sparsity(s)), as_bool(keep))


@given(cases(), fractions())
def test_words_and_values_select_the_same(case, s):
    unit, pool, arrays = case
    unit_word = "block({}, {})".format(*unit) if isinstance(unit, tuple) else unit
    keep = sc.select(arrays, unit_value(unit), pool_value(pool), sc.sparsity(s))
    assert_same(sc.select(arrays, unit_word, str(pool), sc.sparsity(s)), as_bool(keep))


@given(cases(), fractions())
def test_numpy_in_numpy_out_with_the_same_answer(case, s):
    unit, pool, arrays = case
    words = unit_value(unit), pool_value(pool), sc.sparsity(s)
    for array in arrays.values():
        keep, plain = sc.select(array, *words), sc.select(array.to(torch.float64).numpy(), *words)
        assert (type(keep), keep.dtype) == (torch.Tensor, torch.bool)
        assert (type(plain), plain.dtype) == (np.ndarray, np.dtype(bool))
        np.testing.assert_array_equal(plain, keep.numpy())


@given(cases(), fractions())
def test_a_mapping_of_numpy_gives_a_mapping_of_numpy(case, s):
    unit, pool, arrays = case
    words = unit_value(unit), pool_value(pool), sc.sparsity(s)
    plain = sc.select(as_numpy(arrays), *words)
    assert all(type(alive) is np.ndarray and alive.dtype == bool for alive in plain.values())
    assert_same(plain, as_bool(sc.select(arrays, *words)))


@given(scores(), fractions())
def test_one_array_is_a_mapping_of_one(score, s):
    for budget in (sc.sparsity(s), sc.threshold(s)):
        alone = sc.select(score, sc.element, sc.layer, budget)
        assert alone.shape == score.shape
        assert torch.equal(alone, sc.select({"w": score}, sc.element, sc.model, budget)["w"])


@given(scores(), fractions())
def test_select_does_not_touch_its_input(score, s):
    before = score.clone()
    sc.select(score, sc.element, sc.layer, sc.sparsity(s))
    assert torch.equal(score, before)


@given(scores(matrices(6)), fractions())
def test_memory_layout_does_not_matter(score, s):
    turned = score.t().contiguous().t()  # the same values, stored column by column
    keep = sc.select(score, sc.element, sc.layer, sc.sparsity(s))
    assert torch.equal(sc.select(turned, sc.element, sc.layer, sc.sparsity(s)), keep)
    strided = np.asfortranarray(score.to(torch.float64).numpy())
    np.testing.assert_array_equal(sc.select(strided, sc.element, sc.layer, sc.sparsity(s)), keep.numpy())


@given(st.integers(1, 300), fractions(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_ties_everywhere_keep_the_first(n, s, dtype):
    keep = sc.select(torch.ones(n, 1, dtype=dtype), sc.element, sc.layer, sc.sparsity(s))
    n_kept = n - round(s * n)
    assert keep.ravel().tolist() == [True] * n_kept + [False] * (n - n_kept)


@given(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), fractions())
def test_ties_between_layers_keep_the_earlier_name(names, s):
    keep = sc.select({name: torch.ones(3, 2) for name in names}, sc.element, sc.model, sc.sparsity(s))
    alive = [kept for name in sorted(names) for kept in keep[name].ravel().tolist()]
    n_kept = len(alive) - round(s * len(alive))
    assert alive == [True] * n_kept + [False] * (len(alive) - n_kept)


@given(st.lists(st.floats(0, width=32, allow_nan=False, allow_infinity=False), min_size=1), fractions())
def test_any_float_is_ranked_exactly(values, s):
    """Subnormals, huge values and neighbours that differ in the last bit."""
    score = np.array([values], dtype=np.float32)
    expected = judge({"w": score}, "element", "layer", n_kept=lambda n: n - round(s * n))["w"]
    np.testing.assert_array_equal(sc.select(score, sc.element, sc.layer, sc.sparsity(s)), expected)
    keep = sc.select(torch.from_numpy(score), sc.element, sc.layer, sc.sparsity(s))
    np.testing.assert_array_equal(keep.numpy(), expected)


@given(fractions(), st.integers(1, 50))
def test_one_dimension_is_enough_for_elements(s, n):
    score = torch.arange(n) % 3 / 2
    keep = sc.select(score, sc.element, sc.layer, sc.sparsity(s))
    expected = judge({"w": score.numpy()}, "element", "layer", n_kept=lambda n: n - round(s * n))["w"]
    np.testing.assert_array_equal(keep.numpy(), expected)


@pytest.mark.parametrize("unit", ["row", "column", "block(1, 1)"])
def test_one_dimension_has_no_rows(unit):
    with pytest.raises(PatternError):
        sc.select(torch.ones(4), unit, sc.layer, sc.sparsity(0.5))


@pytest.mark.parametrize(("unit", "pool"), ILLEGAL)
@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 3, 3)])
def test_a_pool_holds_whole_units(unit, pool, shape):
    with pytest.raises(PatternError):
        sc.select(torch.ones(shape), unit, pool, sc.sparsity(0.5))


@pytest.mark.parametrize(
    ("unit", "pool", "shape"),
    [
        ("block(4, 1)", "layer", (6, 8)),
        ("block(1, 4)", "layer", (8, 6)),
        ("block(4, 4)", "model", (8, 6, 3, 3)),
        ("element", 4, (8, 6)),
        ("element", 4, (8, 6, 2, 2)),
        ("element", 9, (8, 6)),
    ],
)
def test_ragged_blocks_and_pools_are_refused(unit, pool, shape):
    with pytest.raises(PatternError, match=r"the\.layer.*6"):
        sc.select({"the.layer": torch.ones(shape)}, unit, pool, sc.sparsity(0.5))


@given(mappings(), st.floats(0.01, 0.99))
def test_each_layer_keeps_its_best_and_the_total_is_exact(arrays, s):
    n = sum(array.numel() for array in arrays.values())
    n_pruned = round(s * n)
    least = min((n - n_pruned) // len(arrays), *[array.numel() for array in arrays.values()])
    keep = sc.select(arrays, sc.element, sc.model, sc.sparsity(s), min_keep=least)
    assert sum(int((~alive).sum()) for alive in keep.values()) == n_pruned
    for name, alive in keep.items():
        assert int(alive.sum()) >= least
        if least:
            best = torch.argsort(arrays[name].ravel().double(), descending=True, stable=True)[:least]
            assert alive.ravel()[best].all()


@pytest.mark.parametrize("pool", ["layer", "model"])
def test_a_min_keep_without_room_is_refused(pool):
    arrays = {"a": torch.ones(2, 5), "b": torch.ones(2, 5)}
    assert sc.select(arrays, sc.element, pool, sc.sparsity(0.8), min_keep=2)["b"].sum() == 2
    with pytest.raises(PatternError):
        sc.select(arrays, sc.element, pool, sc.sparsity(0.8), min_keep=3)


@pytest.mark.parametrize("pool", ["layer", "model"])
@pytest.mark.parametrize("budget", [sc.erk(0.5), sc.per_layer({"*": sc.sparsity(0.5)})])
def test_budgets_that_share_themselves_out_refuse_the_pool_model(budget, pool):
    arrays = {"a": torch.rand(6, 5), "b": torch.rand(3, 8)}
    if pool == "model":
        with pytest.raises(RecipeError):
            sc.select(arrays, sc.element, pool, budget)
    else:
        assert sc.select(arrays, sc.element, pool, budget).keys() == arrays.keys()


@given(st.lists(convs(6) | matrices(20), min_size=1, max_size=4), st.floats(0, 1))
def test_erk_densities_follow_the_dimensions(shapes, s):
    """density = min(1, epsilon * sum of dims / product of dims), the total as asked within rounding."""
    arrays = {f"layer{i}": torch.arange(float(np.prod(shape))).reshape(shape) for i, shape in enumerate(shapes)}
    keep = sc.select(arrays, sc.element, sc.layer, sc.erk(s))
    n_kept = {name: int(alive.sum()) for name, alive in keep.items()}
    n_weights = sum(array.numel() for array in arrays.values())
    assert abs(sum(n_kept.values()) - (1 - s) * n_weights) <= 0.5 * len(arrays) + 1e-6
    # Every layer that is not full shares one epsilon = kept / sum of dims; a full one would need more.
    sums = {name: sum(array.shape) for name, array in arrays.items()}
    partial = [name for name, array in arrays.items() if n_kept[name] < array.numel()]
    for name in partial:
        low, high = (n_kept[name] - 0.5) / sums[name], (n_kept[name] + 0.5) / sums[name]
        for other, array in arrays.items():
            assert n_kept[other] + 0.5 >= min(array.numel(), low * sums[other]) - 1e-6
            assert n_kept[other] - 0.5 <= high * sums[other] + 1e-6


@given(mappings(), fractions(), fractions())
def test_each_layer_obeys_its_own_budget(arrays, s, t):
    budget = sc.per_layer({"layer*": sc.sparsity(s), "*": sc.sparsity(t)})
    keep = sc.select(arrays, sc.element, sc.layer, budget)
    for name, array in arrays.items():
        own = sc.sparsity(s if name.startswith("layer") else t)
        assert torch.equal(keep[name], sc.select(array, sc.element, sc.layer, own))


@pytest.mark.parametrize("bad", [float("nan"), -1.0])
@pytest.mark.parametrize("pool", ["layer", "model", "row", 2])
def test_scores_that_are_not_scores_are_refused(bad, pool):
    with pytest.raises(RecipeError, match=r"the\.layer"):
        sc.select({"the.layer": torch.tensor([[1.0, bad]])}, sc.element, pool, sc.sparsity(0.5))
    with pytest.raises(RecipeError):
        sc.select(np.array([[1.0, bad]]), sc.element, pool, sc.sparsity(0.5))


@pytest.mark.parametrize(("unit", "pool"), [("elment", "layer"), ("element", "layr")])
def test_unknown_words_suggest_the_nearest(unit, pool):
    with pytest.raises(RecipeError, match=r"Did you mean '(element|layer)'"):
        sc.select(torch.ones(2, 2), unit, pool, sc.sparsity(0.5))


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (0, 4, 3, 3)])
@pytest.mark.parametrize("pool", ["layer", "model", "row", 4])
def test_a_layer_without_weights_is_left_as_it_is(shape, pool):
    scores = {"none": torch.ones(shape), "some": torch.ones(2, 4)}
    keep = sc.select(scores, sc.element, pool, sc.sparsity(0.5))
    assert keep["none"].shape == shape
    assert int(keep["some"].sum()) == 4


def test_a_tau_in_sigmas_needs_weights():
    with pytest.raises(RecipeError, match="sigma"):
        sc.select(torch.ones(2, 2), sc.element, sc.layer, sc.threshold("1.2sigma"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@given(cases(), fractions(), st.integers(0, 1))
def test_a_gpu_selects_the_same(case, s, least):
    unit, pool, arrays = case
    there = {name: array.cuda() for name, array in arrays.items()}
    for budget, n in ((sc.sparsity(s), 0), (sc.threshold(s), least)):
        keep = sc.select(arrays, unit_value(unit), pool_value(pool), budget, min_keep=n)
        keep_there = sc.select(there, unit_value(unit), pool_value(pool), budget, min_keep=n)
        assert_same({name: alive.cpu() for name, alive in keep_there.items()}, as_bool(keep))


@pytest.mark.parametrize("s", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("budget", [sc.sparsity, sc.erk])
def test_a_share_outside_0_to_1_is_refused(budget, s):
    with pytest.raises(RecipeError):
        budget(s)


def test_min_keep_wastes_no_place_on_units_that_may_not_live():
    """Bug: the best units of a dead layer took places that nobody filled, and less than asked was kept."""
    scores = {"a": torch.tensor([[9.0, 8.0]]), "b": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    among = {"a": torch.zeros(1, 2, dtype=torch.bool), "b": torch.ones(1, 4, dtype=torch.bool)}
    keep = sc.select(scores, sc.element, sc.model, sc.top(2), min_keep=1, among=among)
    assert (keep["a"].tolist(), keep["b"].tolist()) == ([[False] * 2], [[False, False, True, True]])
    keep = sc.select(scores, sc.element, sc.model, sc.threshold(3.5), min_keep=1, among=among)
    assert (keep["a"].tolist(), keep["b"].tolist()) == ([[False] * 2], [[False, False, False, True]])


@pytest.mark.parametrize("pool", ["row", 4])
def test_min_keep_in_pools_of_a_layer_only_asks_whether_enough_survive(pool):
    """Bug: the layer's four best stood in one group of four, so 2:4 with min_keep=4 was refused."""
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 3.0, 4.0]])
    keep = sc.select(scores, sc.element, pool, sc.top(2), min_keep=4)
    assert keep.tolist() == [[True, True, False, False], [False, False, True, True]]
    with pytest.raises(PatternError, match=r"min_keep=5 holds 5 units of 'scores'.*keeps only 4 of its 8"):
        sc.select(scores, sc.element, pool, sc.top(2), min_keep=5)


@pytest.mark.parametrize("pool", ["row", "layer", "model", 4])
@given(keep=st.integers(0, 4), rows=st.integers(1, 6))
def test_ties_in_some_pools_only_are_ranked_in_those(pool, keep, rows):
    scores = torch.arange(24.0).reshape(6, 4)
    scores[:rows] = 1.0
    expected = judge({"w": scores.numpy()}, "element", pool, n_kept=lambda n: keep * n // 4)["w"]
    share = sc.sparsity(1 - keep / 4)
    np.testing.assert_array_equal(sc.select({"w": scores}, sc.element, pool, share)["w"].numpy(), expected)


def test_selection_takes_little_memory_beside_the_scores():
    """Bug: 30 bytes a weight and more, for ranks and indexes of everything."""
    code = """if True:
        import re, torch, secateurs as sc
        def at(key): return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
        sc.select({"a": torch.rand(1100, 1000)}, sc.element, sc.model, sc.sparsity(0.5))  # loads the kernels
        scores = {name: torch.rand(1000, 2000) for name in "ab"}
        open("/proc/self/clear_refs", "w").write("5")
        before = at("VmRSS")
        sc.select(scores, sc.element, sc.model, sc.sparsity(0.7))
        print((at("VmHWM") - before) / 4e6)
    """
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 13


def test_among_has_to_speak_of_every_layer():
    recipe = sc.Recipe(budget="sparsity(0.5)")
    scores = {name: torch.rand(2, 4) for name in ("a", "b")}
    with pytest.raises(InputError, match="The masks among which weights are chosen lack 'b'"):
        sc.select(scores, sc.element, sc.model, sc.sparsity(0.5), among={"a": torch.ones(2, 4, dtype=torch.bool)})
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    some = sc.Masks.make(module, sc.Recipe(budget="sparsity(0.5)", skip=["1.*"]))
    with pytest.raises(InputError, match=r"lack '1\.weight'\. Give masks of these layers"):
        sc.Masks.make(module, recipe, among=some)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_of_a_cpu_go_with_weights_of_a_gpu():
    recipe, module = sc.Recipe(budget="sparsity(0.5)"), torch.nn.Linear(8, 8)
    masks = sc.Masks.make(module, recipe)
    assert sc.Masks.make(module.cuda(), recipe, among=masks) == masks
