"""Which candidate is handed over: small cases worked out by hand."""

from secateurs.experiments.candidates import Candidate
from secateurs.experiments.choosing import Goal, Tried, best, closest, front, meets


def tried(sparsity: float, size: int, drop: float, error: float = 0.001, **fields: object) -> Tried:
    values = {"values": "exact", "student": 0.0, **fields}
    latency = values.pop("latency_s", None)
    return Tried(Candidate(sparsity=sparsity, **values), 1.0, False, size, drop, error, 1000, latency)  # type: ignore[arg-type]


GOAL = Goal(max_drop=0.005)
DENSER, MIDDLE, SPARSER = tried(0.8, 300, 0.001), tried(0.9, 200, 0.004), tried(0.95, 100, 0.02)


def test_a_standard_error_is_added_before_the_goal_is_met() -> None:
    assert meets(tried(0.8, 300, 0.004, 0.001), GOAL)
    assert not meets(tried(0.8, 300, 0.0045, 0.001), GOAL)


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
    # 0.006 is 1.2 times 0.005; 0.021 is 4.2 times as much.
    assert closest([SPARSER, tried(0.9, 200, 0.005)], GOAL).size_bytes == 200
    # 300 bytes are 3 times 100, a drop of 0.021 is 4.2 times too large.
    assert closest([DENSER, SPARSER], Goal(0.005, size_bytes=100)) is DENSER


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    beaten = tried(0.85, 250, 0.01)
    assert front([DENSER, beaten, MIDDLE, SPARSER]) == [SPARSER, MIDDLE, DENSER]
