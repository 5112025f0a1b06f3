"""Which candidate is handed over: small cases worked out by hand."""

import numpy as np
import pytest

from secateurs.experiments.candidates import Candidate
from secateurs.experiments.choosing import KNOWN, WORSE, Goal, Tried, best, closest, front, meets, surely
from secateurs.measure.drop import error_of

MANY = 10**12  # examples: then the drop is what was measured


def tried(sparsity: float, size: int, drop: float, **fields: object) -> Tried:
    values = {"values": "exact", "student": 0.0, **fields}
    latency = values.pop("latency_s", None)
    return Tried(Candidate(sparsity=sparsity, **values), 1.0, False, size, MANY, round(drop * MANY), 0, latency)  # type: ignore[arg-type]


GOAL = Goal(max_drop=0.005)
DENSER, MIDDLE, SPARSER = tried(0.8, 300, 0.001), tried(0.9, 200, 0.004), tried(0.95, 100, 0.02)


@pytest.mark.parametrize(("n_lost", "n_gained"), [(5, 5), (0, 10), (90, 60), (6, 3)])
def test_what_is_sure_is_what_nine_in_ten_draws_stay_below(n_lost: int, n_gained: int) -> None:
    rng, changed, n = np.random.default_rng(0), n_lost + n_gained, 1000
    share = rng.beta(changed + 1, n - changed + 1, 100_000)
    worse = rng.beta(n_lost + WORSE * KNOWN, n_gained + (1 - WORSE) * KNOWN, 100_000)
    found = surely(n, n_lost, n_gained)
    assert float((share * (2 * worse - 1) <= found).mean()) == pytest.approx(0.9, abs=0.02)


def test_what_changes_for_the_worse_alone_is_counted_in_full() -> None:
    assert surely(1000, 10, 0) == pytest.approx(0.010 + error_of(1000, 10, 0))


def test_the_luck_of_a_few_answers_chooses_nothing() -> None:
    # 30 of 1,000 answers changed, and half of them for the better; or 6 of them.
    def one(lost: int, gained: int) -> Tried:
        return Tried(Candidate(0.0, 0.5), 1.0, False, 100, 1000, lost, gained)

    assert one(15, 15).drop == 0.0
    assert not meets(one(15, 15), GOAL)
    assert meets(one(3, 3), GOAL)
    assert one(0, 4).drop < 0 < one(0, 4).surely  # one that gains is not believed to
    assert one(4, 0).drop < GOAL.max_drop
    assert not meets(one(4, 0), GOAL)  # a margin is on top


def test_the_smallest_that_meets_is_best() -> None:
    assert best([DENSER, MIDDLE, SPARSER], GOAL) is MIDDLE


def test_a_hundredth_of_the_bytes_is_worth_no_accuracy() -> None:
    about, same = tried(0.85, 201, 0.001), tried(0.85, 203, 0.0)
    assert best([DENSER, MIDDLE, about, same, SPARSER], GOAL) is about


def test_where_a_size_is_asked_for_the_most_accurate_within_it_is_best() -> None:
    assert best([DENSER, MIDDLE, SPARSER], Goal(0.005, size_bytes=400)) is DENSER
    assert best([DENSER, MIDDLE, SPARSER], Goal(0.005, size_bytes=250)) is MIDDLE
    assert best([DENSER, MIDDLE, SPARSER], Goal(0.005, size_bytes=150)) is None


def test_a_latency_that_was_not_measured_meets_no_goal() -> None:
    quick = tried(0.8, 300, 0.001, latency_s=0.002)
    assert best([DENSER, quick], Goal(0.005, latency_s=0.003)) is quick
    assert best([DENSER], Goal(0.005, latency_s=0.003)) is None


def test_what_nothing_can_reach_does_not_outweigh_the_accuracy_by_its_noise() -> None:
    good, bad = tried(0.8, 300, 0.0, latency_s=0.0140), tried(0.9, 100, 0.12, latency_s=0.0130)
    assert closest([good, bad], Goal(0.01, latency_s=1e-6)) is good


def test_the_closest_is_the_fewest_times_too_large() -> None:
    # 0.006 is 1.2 times 0.005; 0.020 is 4 times as much.
    assert closest([SPARSER, tried(0.9, 200, 0.006)], GOAL).size_bytes == 200
    # 300 bytes are 3 times 100, a drop of 0.020 is 4 times too large.
    assert closest([DENSER, SPARSER], Goal(0.005, size_bytes=100)) is DENSER


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    beaten = tried(0.85, 250, 0.01)
    assert front([DENSER, beaten, MIDDLE, SPARSER]) == [SPARSER, MIDDLE, DENSER]
