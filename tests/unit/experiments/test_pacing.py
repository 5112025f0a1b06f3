"""How much training fits into the time, and what is said when none does."""

from typing import Any

import pytest

from secateurs.data import DataSpec
from secateurs.errors import RecipeError
from secateurs.experiments.compression import Compression
from secateurs.experiments.pacing import Clock, Cost, pace_of, replanned
from secateurs.models import ModelSpec
from secateurs.train.training import Training

TRAINING = Training(epochs=10.0, batch_size=10)


def asked(recovery: Training = TRAINING, **fields: Any) -> Compression:
    spec = ModelSpec.parse("lenet-300-100")
    return Compression(model=spec, data=DataSpec(), training=TRAINING, recovery=recovery, **fields)


def test_rungs_are_three_times_as_long_each() -> None:
    pace = pace_of(asked(epochs=9.0), 5, 100, 0.01, 2)
    assert pace.rungs == pytest.approx((1.0, 3.0, 9.0))
    assert pace.kept == (5, 4, 2)
    # Dense 10; five of 1; four of 3 and a quarter; two of 9 and a quarter; two controls of 9: 10 steps an epoch.
    assert pace.n_steps == round(10 * (10 + 5 + 4 * 3.75 + 2 * 11.25 + 18))


def test_a_teacher_who_answers_every_batch_anew_takes_time() -> None:
    moving = Training(**{**TRAINING.values(), "shift": 1})
    paces = [pace_of(asked(recovery=each, epochs=9.0), 5, 100, 0.01, 2) for each in (TRAINING, moving)]
    assert paces[1].epoch_s / paces[0].epoch_s == pytest.approx(1.8 / 1.4)


def test_no_core_waits_for_want_of_candidates() -> None:
    kept = [pace_of(asked(epochs=9.0), 5, 100, 0.01, n_jobs).kept for n_jobs in (1, 2, 3, 4, 16)]
    assert kept == [(5, 4, 2), (5, 4, 2), (5, 6, 3), (5, 4, 4), (5, 8, 8)]


def test_what_is_to_come_is_as_long_as_there_is_time_for() -> None:
    plan, sizes = asked(max_time_s=1000.0), (1000, 100, 200)
    pace = pace_of(plan, 5, 1000, 0.01, 2)
    # Two candidates and two controls side by side on two cores: 1.25 and 1 turns; 100 s of 1000 are kept back. The
    # receipt's nine steps answer twice as many examples in five turns, in one way of six: 5/3 of what a turn takes.
    found = replanned(plan, pace, 2, 775.0 + 15.0 * (2 + 5 / 3), Cost(20.0, 15.0), sizes)
    assert found.rungs[:-1] == pace.rungs[:-1]
    assert found.rungs[-1] == pytest.approx(675 / (2.25 * 20.0))
    assert found.n_steps - pace.n_steps == round(4.5 * (found.rungs[-1] - pace.rungs[-1]) * 100)
    # Before it four candidates of a third: two turns of 1.25 / 3.
    found = replanned(plan, pace, 1, 775.0 + 15.0 * (4 + 5 / 3), Cost(20.0, 15.0), sizes)
    assert found.rungs[0] == pace.rungs[0]
    assert found.rungs[2] == pytest.approx(675 / ((2.25 + 2.5 / 3) * 20.0), rel=0.01)
    assert found.rungs[1] == pytest.approx(found.rungs[2] / 3)
    assert replanned(plan, pace, 2, 1e6, Cost(1.0, 0.0), sizes).rungs[-1] == 20.0
    late = replanned(plan, pace, 2, -5.0, Cost(1.0, 0.0), sizes)
    assert late.rungs[-1] == pytest.approx(pace.rungs[-1] / 4, rel=0.01)


def test_what_a_turn_costs_is_told_apart_from_its_epochs() -> None:
    # 30 s of every turn are not for its epochs.
    assert Cost.of([(1.0, 40.0), (3.0, 60.0)], 99.0) == Cost(10.0, 30.0)
    assert Cost(10.0, 30.0).turn(9.0) == 120.0
    assert Cost.of([(1.0, 40.0)], 10.0) == Cost(10.0, 30.0)
    assert Cost.of([(1.0, 40.0)], 60.0) == Cost(40.0, 0.0)  # the plan was too slow
    assert Cost.of([(1.0, 40.0), (3.0, 30.0)], 10.0) == Cost(10.0, 0.0)  # something else slowed the first one down
    assert Cost.of([(1.0, 1.0), (3.0, 60.0)], 10.0) == Cost(20.0, 0.0)


def test_little_time_is_less_training_and_much_is_no_more_than_twice_the_dense_networks() -> None:
    short, long = (pace_of(asked(max_time_s=s), 5, 1000, 0.001, 1) for s in (20.0, 1e6))
    assert short.rungs[-1] < long.rungs[-1] == 20.0
    assert short.seconds == pytest.approx(20.0, rel=0.02)


def test_a_given_network_is_not_trained_again() -> None:
    fresh, given = (pace_of(asked(epochs=9.0, start_sha256=name), 5, 100, 0.01, 2) for name in (None, "0" * 64))
    assert fresh.n_steps - given.n_steps == 100


def test_too_little_time_says_how_much_it_takes() -> None:
    with pytest.raises(RecipeError, match=r"5 s are too short to try 5 candidates: .* takes \d+ s at the very least"):
        pace_of(asked(max_time_s=5.0), 5, 100_000, 0.1, 1)


def test_the_clock_counts_all_times_it_was_begun(tmp_path: Any) -> None:
    first = Clock(tmp_path / "clock.json")
    first.keep()
    (tmp_path / "clock.json").write_text('{"seconds": 100.0}')
    assert Clock(tmp_path / "clock.json").seconds >= 100.0
