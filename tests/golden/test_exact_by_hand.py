"""The exact engine, worked out by hand on bits that can be read."""

import numpy as np

from secateurs.exact.choose import Cut, choose
from secateurs.exact.kinds import KINDS
from secateurs.exact.parts import Part
from secateurs.exact.zeroing import zero_cut, zero_neighbours, zero_rows

BF16, F16, E4M3 = KINDS["BF16"], KINDS["F16"], KINDS["F8_E4M3"]


def test_the_numbers_of_a_few_patterns():
    """bfloat16 1|8|7: 0x3F80 = 2^0, 0x4040 = 2^1 * 1.5. float8 1|4|3: 0x38 = 2^0, 0x3C = 1.5, 0x01 = 2^-6 / 8."""
    assert BF16.values(np.array([0x3F80, 0xBF80, 0x4040, 0x8000], np.uint16)).tolist() == [1.0, -1.0, 3.0, 0.0]
    assert E4M3.values(np.array([0x38, 0xBC, 0x01, 0x7E], np.uint8)).tolist() == [1.0, -1.5, 2.0**-9, 448.0]


def test_the_keys_around_a_number():
    """float16 near 1 goes in steps of 2^-10 = 0.00098: 0x3C00 is 1 and 0x3C01 is 1.00098."""
    assert (F16.key_upto(1.0), F16.key_from(1.0)) == (0x3C00, 0x3C00)
    assert (F16.key_upto(1.0005), F16.key_from(1.0005)) == (0x3C00, 0x3C01)
    assert (F16.rounded(1.0004), F16.rounded(1.0006)) == (1.0, 1 + 2**-10)


def test_half_of_two_layers_of_two_kinds():
    """a, bfloat16: 1 -3 0 2    b, float8: 1 1.5 -1 -0.

    Of eight the four smallest go: both zeros and two of the three ones; the one of `a` lives, by its name.
    """
    a = np.array([0x3F80, 0xC040, 0x0000, 0x4000], np.uint16)
    b = np.array([0x38, 0x3C, 0xB8, 0x80], np.uint8)
    cuts = choose({"b": Part.of(E4M3, b), "a": Part.of(BF16, a)}, 4)
    assert cuts == {"a": Cut(0x3F80, n_ties=1, n_kept=3), "b": Cut(0x38, n_ties=0, n_kept=1)}
    zero_cut(a, BF16, cuts["a"])
    zero_cut(b, E4M3, cuts["b"])
    assert a.tolist() == [0x3F80, 0xC040, 0, 0x4000]
    assert b.tolist() == [0, 0x3C, 0, 0]


def test_ties_are_spared_across_stretches():
    """Two of 1 1 | 1 live: the second stretch is told that none is left to spare."""
    first, second = np.array([0x3F80, 0x3F80], np.uint16), np.array([0x3F80, 0x4000], np.uint16)
    left = zero_cut(first, BF16, Cut(0x3F80, n_ties=2, n_kept=3))
    assert left.n_ties == 0
    zero_cut(second, BF16, left)
    assert (first.tolist(), second.tolist()) == ([0x3F80, 0x3F80], [0, 0x4000])


def test_two_of_each_row_and_one_of_every_two_neighbours():
    """1 -3 1 2 | 0 1 1 1"""
    rows = np.array([0x3F80, 0xC040, 0x3F80, 0x4000, 0x0000, 0x3F80, 0x3F80, 0x3F80], np.uint16)
    pairs = rows.copy()
    zero_rows(rows, BF16, 4, 2)
    assert rows.tolist() == [0, 0xC040, 0, 0x4000, 0, 0x3F80, 0x3F80, 0]
    zero_neighbours(pairs, BF16, (2, 4), 2, 1)
    assert pairs.tolist() == [0, 0xC040, 0, 0x4000, 0, 0x3F80, 0x3F80, 0]
    # A kernel of two places: neighbours along the inputs are two apart, 1 and 1, -3 and 2, 0 and 1, 1 and 1.
    places = np.array([0x3F80, 0xC040, 0x3F80, 0x4000, 0x0000, 0x3F80, 0x3F80, 0x3F80], np.uint16)
    zero_neighbours(places, BF16, (2, 2, 2), 2, 1)
    assert places.tolist() == [0x3F80, 0xC040, 0, 0, 0, 0x3F80, 0x3F80, 0]
