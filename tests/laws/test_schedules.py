"""Laws of every schedule in the table: starts at 0 or more, never falls, ends at 1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateurs.errors import RecipeError
from secateurs.schedules import SCHEDULES, Schedule

moments = st.floats(0, 1)
SETTINGS = {"rounds": ("5", "3")}  # a schedule that needs a setting says two of them here
TEXTS = [
    f"{name}({', '.join(part for part in (SETTINGS.get(name, ('', ''))[i], when) if part)})"
    for name in SCHEDULES
    for i, when in enumerate(["", "begin=0.1, end=0.75"])
]
each_value = pytest.mark.parametrize("schedule", [Schedule.parse(text) for text in TEXTS], ids=TEXTS)


def test_the_table_has_the_promised_schedules():
    assert {"one_shot", "linear", "cubic", "rounds"} <= set(SCHEDULES)


@each_value
@given(p=moments, q=moments, density=st.floats(0.001, 1))
def test_a_share_lies_in_0_to_1_and_never_falls(schedule, p, q, density):
    early, late = sorted((p, q))
    assert 0 <= schedule.share(early, density) <= schedule.share(late, density) <= 1


@each_value
@pytest.mark.parametrize("density", [1.0, 0.5, 0.3, 0.1, 0.05, 0.01, 1 / 3, 0.0])
def test_a_schedule_ends_at_exactly_1(schedule, density):
    """At the end the budget is met to the last weight, whatever floats do on the way."""
    assert schedule.share(1.0, density) == 1.0
    assert schedule.share(schedule.end, density) == 1.0


@each_value
@given(p=moments)
def test_nothing_happens_before_begin(schedule, p):
    if p < schedule.begin:
        assert schedule.share(p, 0.1) == 0
    else:
        assert 0 <= schedule.share(p, 0.1) <= 1


@each_value
def test_schedules_are_frozen_and_compare_by_value(schedule):
    with pytest.raises((AttributeError, TypeError, ValueError)):
        schedule.begin = 0.5
    assert schedule == type(schedule).parse(str(schedule))
    assert hash(schedule) == hash(type(schedule).parse(str(schedule)))


@pytest.mark.parametrize("text", ["linear(0.5, 0.5)", "cubic(0.5, 0.5)", "one_shot(0.5, 0.5)", "rounds(3, 0.5, 0.5)"])
def test_a_schedule_may_end_where_it_begins(text):
    schedule = Schedule.parse(text)
    assert [schedule.share(p, 0.1) for p in (0.49, 0.5, 0.51)] == [0.0, 1.0, 1.0]


@given(moments)
def test_the_curves_of_the_first_schedules(p):
    assert Schedule.parse("one_shot").share(p) == 1.0
    assert Schedule.parse("linear").share(p) == pytest.approx(p, abs=1e-12)
    assert Schedule.parse("cubic").share(p) == pytest.approx(1 - (1 - p) ** 3, abs=1e-12)


@given(moments)
def test_a_curve_is_stretched_between_begin_and_end(q):
    """Half way between begin and end is half way along the curve."""
    p = 0.25 + q * 0.5
    assert Schedule.parse("cubic(0.25, 0.75)").share(p) == pytest.approx(1 - (1 - q) ** 3, abs=1e-12)


@given(st.integers(1, 12), st.integers(0, 12), st.floats(0.001, 0.999))
def test_rounds_are_geometric_in_density(n, k, density):
    """After k of n rounds density ** (k / n) is left, so every round removes the same share of survivors."""
    k = min(k, n)
    share = Schedule.parse(f"rounds({n})").share(k / n, density)
    assert 1 - share * (1 - density) == pytest.approx(density ** (k / n), rel=1e-9)


@given(st.integers(1, 50), st.sampled_from([0.0, 0.1, 0.3, 0.25]), st.sampled_from([1.0, 0.7, 0.9]))
def test_rounds_step_exactly_n_times(n, begin, end):
    """Round k is in force from its k-th part on, also where that is not a float."""
    schedule = Schedule.parse(f"rounds({n}, {begin}, {end})")
    shares = [schedule.share(begin + (end - begin) * k / n, 0.1) for k in range(n + 1)]
    assert shares[0] == 0
    assert shares == sorted(set(shares))


@pytest.mark.parametrize(
    "text",
    [
        "cubic(0.8, 0.2)",
        "cubic(-0.1)",
        "cubic(end=1.5)",
        "cubic(every=0)",
        "cubic(every=1.5)",
        "linear(0, nan)",
        "rounds(0)",
        "rounds(-2)",
        "rounds",
        "one_shot(begin=2)",
        "linear(n=3)",
        "cubic(0, 1, 1, 1)",
    ],
)
def test_impossible_schedules_are_refused(text):
    with pytest.raises(RecipeError):
        Schedule.parse(text)
