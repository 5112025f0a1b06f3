"""Which candidates get more training: small cases worked out by hand."""

from itertools import pairwise

import pytest

from secateurs.experiments.aiming import GAIN, GAINS, aimed, beyond_hope, gain_of, is_hopeless, left_after, worth_tuning
from secateurs.experiments.candidates import Candidate
from secateurs.experiments.choosing import Goal, Tried

GOAL = Goal(max_drop=0.005)
STEPS = 1000  # of training with the values: they leave 0.4 of what rounding costs


MANY = 10**12  # examples: then the drop is what was measured


def tried(sparsity: float, size: int, drop: float, n: int = MANY, **fields: object) -> Tried:
    """After one epoch, unless it is said."""
    values = {"values": "exact", "student": 0.0, **fields}
    latency, epochs, is_tuned = (values.pop(name, None) for name in ("latency_s", "epochs", "is_tuned"))
    candidate = Candidate(sparsity=sparsity, **values)  # type: ignore[arg-type]
    lost = round(drop * n)
    counts = n, max(0, lost), max(0, -lost)
    return Tried(candidate, epochs or 1.0, bool(is_tuned), size, *counts, latency)  # type: ignore[arg-type]


# Density halves from one to the next, bytes fall by 40 %; after one epoch more training brings GAIN of the drop.
LINE = [tried(0.8, 500, 0.004), tried(0.9, 300, 0.010), tried(0.95, 180, 0.040)]


def test_the_edge_lies_between_what_is_allowed_and_what_is_not() -> None:
    # In three epochs GAIN of each drop is left: 0.0016, 0.004, 0.016. 0.005 is 1/12 of the way from the second.
    (found,) = aimed(LINE, GOAL, 3.0, STEPS, [1.0])
    share = (0.005 - GAIN * 0.010) / (GAIN * 0.030)
    assert 1.0 - found.sparsity == pytest.approx(0.1 * 0.5**share, abs=1e-4)
    assert found.values == "exact"


def test_the_gain_is_what_more_training_was_seen_to_leave() -> None:
    assert gain_of(LINE) == GAIN  # nothing was trained for longer
    longer = [tried(0.9, 300, 0.006, epochs=3.0), tried(0.8, 500, 0.0016, epochs=3.0)]
    assert gain_of([*LINE, longer[0]]) == pytest.approx(0.6)
    assert gain_of([*LINE, *longer]) == pytest.approx(0.5)
    # Nine times as much training left 0.36, which is 0.6 of 0.6; at a sparsity between two that were measured.
    between = tried(1 - (0.2 * 0.1) ** 0.5, 400, 0.36 * 0.007, epochs=9.0)
    assert gain_of([*LINE, between]) == pytest.approx(0.6)
    # Noise tells nothing, nor what lies beyond, nor another share of units; and no miracles are believed.
    assert gain_of([*LINE, tried(0.9, 300, 0.006, n=200, epochs=3.0)]) == GAIN
    assert gain_of([*LINE, tried(0.97, 300, 0.006, epochs=3.0)]) == GAIN
    assert gain_of([*LINE, tried(0.9, 300, 0.006, epochs=3.0, student=0.5)]) == GAIN
    assert gain_of([*LINE, tried(0.9, 300, -0.001, epochs=3.0)]) == GAINS[0]
    assert gain_of([*LINE, tried(0.9, 300, 0.02, epochs=3.0)]) == GAINS[1]


def test_one_after_the_other_has_another_share_of_units_gone() -> None:
    students = [tried(each.candidate.sparsity, each.size_bytes // 2, each.drop, student=0.5) for each in LINE]
    found = aimed([*LINE, *students], GOAL, 3.0, STEPS, [1.5, 1.0, 0.7, 0.5])
    assert [each.student for each in found] == [0.5, 0.0, 0.5, 0.0]


def test_bolder_shares_are_sparser_and_all_shapes_differ() -> None:
    found = aimed(LINE, GOAL, 3.0, STEPS, [1.5, 1.0, 0.7, 0.4])
    assert all(bolder.sparsity > safer.sparsity for bolder, safer in pairwise(found))
    assert len({each.shape for each in found}) == 4


def test_more_training_is_expected_to_leave_less() -> None:
    sparsities = [aimed(LINE, GOAL, epochs, STEPS, [1.0])[0].sparsity for epochs in (1.0, 3.0, 9.0)]
    assert sparsities == sorted(set(sparsities))


def test_a_margin_is_on_top() -> None:
    unsure = [tried(0.8, 500, 0.004, 1000), tried(0.9, 300, 0.010, 1000), tried(0.95, 180, 0.040, 1000)]
    assert aimed(unsure, GOAL, 3.0, STEPS, [1.0])[0].sparsity < aimed(LINE, GOAL, 3.0, STEPS, [1.0])[0].sparsity


def test_beyond_the_sparsest_is_half_as_dense_at_most() -> None:
    easy = [tried(0.8, 500, 0.0), tried(0.9, 300, 0.0)]
    assert aimed(easy, GOAL, 3.0, STEPS, [1.0]) == [Candidate(0.0, 0.95)]
    assert aimed(easy[1:], GOAL, 3.0, STEPS, [1.0]) == [Candidate(0.0, 0.9)]  # one place leads nowhere


def test_the_measurement_after_most_training_counts() -> None:
    longer = [tried(0.9, 300, 0.020, epochs=3.0), tried(0.9, 290, 0.0, epochs=1.0)]
    assert aimed([LINE[0], *longer], GOAL, 3.0, STEPS, [1.0])[0].sparsity < 0.9


def test_what_was_trained_with_its_values_is_not_hoped_for_again() -> None:
    exact = [tried(0.8, 900, 0.001), tried(0.9, 800, 0.001)]
    rounded = [tried(s, size, 0.009, values="codebook:2") for s, size in ((0.8, 200), (0.9, 100))]
    assert 0.001 + left_after(STEPS) * 0.008 < 0.005
    assert aimed([*exact, *rounded], GOAL, 1.0, STEPS, [1.0])[0].values == "codebook:2"
    tuned = [tried(s, size, 0.009, values="codebook:2", is_tuned=True) for s, size in ((0.8, 200), (0.9, 100))]
    assert aimed([*exact, *rounded, *tuned], GOAL, 1.0, STEPS, [1.0])[0].values == "exact"


def test_where_nothing_is_hopeful_what_loses_least_is_tried() -> None:
    assert aimed(LINE, Goal(0.0), 3.0, STEPS, [1.0, 0.5]) == [LINE[0].candidate, LINE[1].candidate]


def test_what_one_rung_may_lose_two_rungs_may_lose_more() -> None:
    at = [beyond_hope(GOAL, epochs, 9.0) for epochs in (9.0, 3.0, 1.0)]
    assert at == pytest.approx([1.5 * 0.005, 1.5 * 0.005 / GAIN, 1.5 * 0.005 / GAIN**2])
    assert beyond_hope(Goal(0.005, size_bytes=100), 1.0, 9.0) is None


def test_where_the_gentle_lose_too_much_the_bold_are_hopeless() -> None:
    tested = [tried(0.5, 500, 0.0), tried(0.8, 300, 0.5)]
    assert [is_hopeless(Candidate(0.0, s), tested, GOAL, 9.0) for s in (0.5, 0.7, 0.8, 0.9)] == [
        False,
        False,
        True,
        True,
    ]
    assert is_hopeless(Candidate(0.5, 0.8), tested, GOAL, 9.0)
    assert not is_hopeless(Candidate(0.5, 0.7), tested, GOAL, 9.0)
    assert not is_hopeless(Candidate(0.0, 0.9, pattern="1:10"), tested, GOAL, 9.0)
    assert not is_hopeless(Candidate(0.0, 0.9), tested, Goal(0.005, size_bytes=100), 9.0)
    assert not is_hopeless(Candidate(0.0, 0.9), [], GOAL, 9.0)
    # The network as it is loses nothing; that few examples cannot show it says nothing of what is cut.
    uncut = Tried(Candidate(0.0, 0.0), 0.0, False, 999, 120, 0, 0)
    assert not is_hopeless(Candidate(0.0, 0.9), [uncut], GOAL, 9.0)
    # Nor does one that lost nothing of those few.
    for n, lost, gained in ((1000, 10, 10), (288, 2, 2)):
        even = Tried(Candidate(0.0, 0.5), 1.0, False, 500, n, lost, gained)
        assert not is_hopeless(Candidate(0.0, 0.9), [even], GOAL, 9.0)


def test_a_pattern_has_no_place_beside_it() -> None:
    pattern = tried(0.5, 100, 0.0, pattern="2:4")
    assert aimed([*LINE, pattern], GOAL, 3.0, STEPS, [1.0]) == [pattern.candidate]


def test_a_size_is_met_and_what_fits_is_dense() -> None:
    (found,) = aimed(LINE, Goal(0.005, size_bytes=400), 3.0, STEPS, [1.0])
    assert 0.85 < found.sparsity < 0.9
    assert aimed(LINE, Goal(0.005, size_bytes=600), 3.0, STEPS, [1.0]) == [LINE[0].candidate]
    fallback = aimed(LINE, Goal(0.005, size_bytes=50), 3.0, STEPS, [1.0])  # nothing fits
    assert fallback == [LINE[0].candidate]


def test_what_is_too_slow_or_was_not_timed_is_not_aimed_at() -> None:
    goal, timeless = Goal(0.005, latency_s=0.003), tried(0.9, 300, 0.0)
    slow, quick = tried(0.5, 500, 0.0, latency_s=0.004), tried(0.5, 400, 0.0, latency_s=0.002, pattern="2:4")
    assert aimed([slow, timeless, quick], goal, 3.0, STEPS, [1.0]) == [quick.candidate]
    assert aimed([slow, quick], goal, 3.0, STEPS, [1.0]) == [quick.candidate]


def test_longer_training_with_values_leaves_less_of_what_rounding_costs() -> None:
    assert [round(left_after(n), 2) for n in (0, 1, 10, 100, 1000, 10_000)] == [1.0, 1.0, 1.0, 0.7, 0.4, 0.2]
    exact, two = tried(0.9, 400, 0.001), tried(0.9, 50, 0.01, values="codebook:2")
    assert [worth_tuning([exact, two], GOAL, n) is None for n in (100, 1000, 10_000)] == [True, False, False]


def test_where_nothing_is_hopeful_what_comes_near_is_tried() -> None:
    lost, four = tried(0.9, 400, 0.0055), tried(0.9, 100, 0.007, values="codebook:4")
    assert worth_tuning([lost, four], GOAL, STEPS) == four.candidate  # 0.0061 of 0.00625
    assert worth_tuning([lost, tried(0.9, 100, 0.008, values="codebook:4")], GOAL, STEPS) is None


def test_the_smallest_that_training_with_its_values_may_bring_below_the_goal_is_worth_it() -> None:
    exact, eight, four, two = (
        tried(0.9, size, drop, values=values)
        for values, size, drop in (
            ("exact", 400, 0.001),
            ("int8", 200, 0.002),
            ("codebook:4", 100, 0.008),
            ("codebook:2", 50, 0.02),
        )
    )
    # 0.4 of what rounding to codebook:4 cost is 0.0028: 0.0038 would be left; of codebook:2 0.0086.
    assert worth_tuning([exact, eight, four, two], GOAL, STEPS) == four.candidate
    # int8 meets the goal as it is, and is the smallest with hope.
    assert worth_tuning([exact, eight, two], GOAL, STEPS) is None
    assert worth_tuning([exact, two], GOAL, STEPS) is None
    # What is on the edge without a margin is beyond it with one.
    unsure = tried(0.9, 100, 0.008, 500, values="codebook:4")
    assert worth_tuning([exact, tried(0.9, 200, 0.0055, values="int8"), unsure], GOAL, STEPS).values == "int8"  # type: ignore[union-attr]
    # Where a size is asked for, what fits and loses least is trained, whatever it loses now.
    assert worth_tuning([exact, eight, four, two], Goal(0.005, size_bytes=250), STEPS) == eight.candidate
    assert worth_tuning([exact, eight, four, two], Goal(0.005, size_bytes=150), STEPS) == four.candidate
    assert worth_tuning([exact, eight, four, two], Goal(0.005, size_bytes=70), STEPS) is None


def as_it_is(values: str, size: int, drop: float, epochs: float = 0.0) -> Tried:
    return Tried(Candidate(0.0, 0.0, values), epochs, epochs > 0, size, MANY, round(drop * MANY), 0)


def test_the_network_as_it_is_is_the_densest_place_and_no_training_changes_it() -> None:
    rounded = [as_it_is("exact", 900, 0.0), as_it_is("int8", 300, 0.002), as_it_is("codebook:2", 100, 0.010)]
    # Training with its values leaves 0.4 of what rounding costs.
    assert aimed(rounded, GOAL, 3.0, STEPS, [1.0]) == [Candidate(0.0, 0.0, "codebook:2")]
    # Where that was tried and failed, it is not tried again; what was trained for longer counts.
    failed = [*rounded, as_it_is("codebook:2", 100, 0.009, epochs=3.0), as_it_is("codebook:2", 100, 0.004, epochs=1.0)]
    assert aimed(failed, GOAL, 3.0, STEPS, [1.0]) == [Candidate(0.0, 0.0, "int8")]
    # Half of the way to a sparsity that loses twice what is allowed; and where next to nothing is, nothing is zeroed.
    half = tried(0.5, 450, 0.010 / GAIN)
    assert aimed([rounded[0], half], GOAL, 3.0, STEPS, [1.0]) == [Candidate(0.0, round(1 - 0.5**0.5, 4))]
    assert aimed([rounded[0], half], GOAL, 3.0, STEPS, [0.05]) == [Candidate(0.0, 0.0)]
