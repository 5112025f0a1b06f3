"""What the laws are tried on: weights full of ties, zeros and odd shapes; shares that round awkwardly.

Values are small multiples of 1/8, so every dtype holds them exactly and sums of them are exact:
a unit's mean has one right value, and a tie is a tie in any precision.
"""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
EIGHTHS = [0.0, -0.0, 0.125, -0.125, 0.25, -0.25, 0.5, 1.0, -1.0, 1.5, -3.0, 4.0]
NAMES = ["head", "b.weight", "a.weight", "layer10", "layer2", "Z"]


def matrices(max_side=9):
    return st.tuples(st.integers(1, max_side), st.integers(1, max_side))


def convs(max_side=4):
    return st.tuples(*[st.integers(1, max_side)] * 4)


SHAPES = matrices() | convs()
ANY_DTYPE = st.sampled_from(DTYPES)


@st.composite
def weights(draw, shapes=SHAPES, dtypes=ANY_DTYPE):
    """A weight with many ties, zeros and minus zeros."""
    values = draw(hnp.arrays(np.float64, shapes, elements=st.sampled_from(EIGHTHS)))
    return torch.from_numpy(values).to(draw(dtypes))


def scores(shapes=SHAPES, dtypes=ANY_DTYPE):
    """A score: weights without their signs."""
    return weights(shapes, dtypes).map(torch.abs)


def mappings(shapes=SHAPES, max_size=4):
    """Some scores by name, in an order that is not the sorted one."""
    return st.lists(
        st.tuples(st.sampled_from(NAMES), scores(shapes)),
        min_size=1,
        max_size=max_size,
        unique_by=lambda item: item[0],
    ).map(dict)


@st.composite
def fractions(draw):
    """A share in [0, 1]: the ends, k/n exactly, (k + 1/2)/n where rounding must choose, or anything."""
    n = draw(st.integers(1, 100))
    k = draw(st.integers(0, n))
    halves = (k + 0.5) / n if k < n else 0.5 / n
    return draw(st.sampled_from([0.0, 1.0, k / n, k / n, halves, halves]) | st.floats(0, 1))
