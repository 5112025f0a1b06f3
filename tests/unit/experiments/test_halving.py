"""Which candidates get more training, and which is handed over: small cases worked out by hand."""

from secateurs.experiments.candidates import Candidate
from secateurs.experiments.halving import (
    Goal,
    Tried,
    best,
    between,
    closest,
    front,
    meets,
    promising,
    worth_tuning,
)


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


def test_where_a_size_is_asked_for_the_most_accurate_within_it_is_best() -> None:
    assert best([DENSER, MIDDLE, SPARSER], Goal(0.005, size_bytes=400)) is DENSER
    assert best([DENSER, MIDDLE, SPARSER], Goal(0.005, size_bytes=250)) is MIDDLE
    assert best([DENSER, MIDDLE, SPARSER], Goal(0.005, size_bytes=150)) is None


def test_a_latency_that_was_not_measured_meets_no_goal() -> None:
    quick = tried(0.8, 300, 0.001, latency_s=0.002)
    assert best([DENSER, quick], Goal(0.005, latency_s=0.003)) is quick
    assert best([DENSER], Goal(0.005, latency_s=0.003)) is None


def test_the_closest_misses_by_the_smallest_share() -> None:
    # 0.006 is a fifth above 0.005; 0.021 is 3.2 times as much above it.
    assert closest([SPARSER, tried(0.9, 200, 0.005)], GOAL).size_bytes == 200
    # 300 of 100 bytes are two too many, a drop of 0.021 is 3.2 times too large.
    assert closest([DENSER, SPARSER], Goal(0.005, size_bytes=100)) is DENSER


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    beaten = tried(0.85, 250, 0.01)
    assert front([DENSER, beaten, MIDDLE, SPARSER]) == [SPARSER, MIDDLE, DENSER]


def test_promising_are_the_smallest_that_may_still_lose_little_enough() -> None:
    # 0.4 of 0.009 would be little enough; 0.4 of 0.02 would not, but 0.4 of that would.
    hopeful = tried(0.93, 150, 0.009)
    everything = [DENSER, MIDDLE, hopeful, SPARSER]
    assert promising(everything, GOAL, 3) == [hopeful.candidate, MIDDLE.candidate, DENSER.candidate]
    assert promising(everything, GOAL, 3, rungs=2) == [SPARSER.candidate, hopeful.candidate, MIDDLE.candidate]
    assert promising([DENSER, SPARSER], GOAL, 2) == [DENSER.candidate, SPARSER.candidate]


def test_one_of_the_promising_is_on_the_safe_side() -> None:
    # Of those left over, the smallest that meets the goal already; where none does, the one that loses least.
    risky = [tried(0.91 + k / 100, 100 - k, 0.012) for k in range(4)]
    assert promising([*risky, DENSER, MIDDLE], GOAL, 3)[-1] == MIDDLE.candidate
    least = tried(0.85, 290, 0.0052)
    assert promising([*risky, least], GOAL, 3)[-1] == least.candidate


def test_of_each_shape_one_way_to_store_it_goes_on() -> None:
    coarse, fine = tried(0.9, 90, 0.03, values="codebook:2"), tried(0.9, 120, 0.006, values="codebook:4")
    assert promising([MIDDLE, coarse, fine], GOAL, 3) == [fine.candidate]


def test_half_way_is_in_density() -> None:
    known = [DENSER.candidate, MIDDLE.candidate, SPARSER.candidate]
    found = between(DENSER.candidate, known)
    assert found is not None
    assert abs((1 - found.sparsity) - (0.2 * 0.1) ** 0.5) < 1e-5
    beyond = between(SPARSER.candidate, known)
    assert beyond is not None
    assert beyond.sparsity == 0.975
    assert between(Candidate(0.0, 0.5, pattern="2:4"), known) is None


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
    # Half of what rounding to codebook:4 cost is 0.0035: 0.0045 would be left; of codebook:2 0.0105.
    assert worth_tuning([exact, eight, four, two], GOAL) == four.candidate
    # int8 meets the goal as it is, and is the smallest with hope.
    assert worth_tuning([exact, eight, two], GOAL) is None
    assert worth_tuning([exact, two], GOAL) is None
    # Where a size is asked for, what fits and loses least is trained, whatever it loses now.
    assert worth_tuning([exact, eight, four, two], Goal(0.005, size_bytes=250)) == eight.candidate
    assert worth_tuning([exact, eight, four, two], Goal(0.005, size_bytes=150)) == four.candidate
    assert worth_tuning([exact, eight, four, two], Goal(0.005, size_bytes=70)) is None
