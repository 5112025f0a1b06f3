"""True for every learning rate's curve; walks RATES."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateurs.train.rates import RATES, Rate
from secateurs.train.training import Training

each_rate = pytest.mark.parametrize("text", Rate.examples)


def test_every_rate_has_an_example() -> None:
    assert {Rate.parse(text).name for text in Rate.examples} == set(RATES)


@each_rate
@given(q=st.floats(0.0, 1.0))
def test_a_rate_is_a_share_that_starts_at_the_highest(text: str, q: float) -> None:
    rate = Rate.parse(text)
    assert rate.share(0.0) == 1.0
    assert 0.0 <= rate.share(q) <= 1.0


@each_rate
def test_a_rate_is_the_text_that_reads_back(text: str) -> None:
    assert str(Rate.parse(text)) == text
    assert Rate.parse(str(Rate.parse(text))) == Rate.parse(text)


@each_rate
@given(p=st.floats(0.0, 1.0), warmup=st.floats(0.0, 0.9), begin=st.floats(0.0, 0.99))
def test_a_training_that_begins_later_on_the_curve_is_the_same_curve(
    text: str, p: float, warmup: float, begin: float
) -> None:
    whole = Training(rate=text, warmup=warmup)
    later = Training(rate=text, warmup=warmup, rate_from=begin)
    assert later.rate_at(p) == whole.rate_at(begin + (1.0 - begin) * p)
