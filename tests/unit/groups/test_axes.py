"""Axes: unifying is type inference; what cannot be aligned is fixed."""

import numpy as np

from secateurs.groups.axes import Axis, fix, product, total, unify


def leaves(axis: Axis) -> list[int]:
    return [leaf.size for leaf in axis.leaves()]


def test_a_flattened_axis_takes_the_factors_it_is_viewed_as() -> None:
    width, heads, each = Axis(12), Axis(3), Axis(4)
    unify(product([heads, each]), width)
    assert list(width.leaves()) == [heads, each]
    assert width.keep({heads: np.array([True, False, True])}).tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert width.units_of(each).tolist() == [0, 1, 2, 3] * 3
    assert width.n_kept({heads: 2}) == 8


def test_products_are_cut_at_each_others_boundaries() -> None:
    outer, inner, rows, columns = Axis(2), Axis(12), Axis(8), Axis(3)
    unify(product([outer, inner]), product([rows, columns]))
    assert leaves(rows) == [2, 4]
    assert leaves(inner) == [4, 3]
    assert next(rows.leaves()) is outer.find()
    assert list(inner.leaves())[1] is columns.find()


def test_sums_are_cut_at_each_others_boundaries() -> None:
    a, b, whole = Axis(3), Axis(5), Axis(8)
    unify(total([a, b]), whole)
    first, second = Axis(4), Axis(4)
    unify(total([first, second]), whole)
    assert leaves(whole) == [3, 1, 4]
    assert whole.units_of(a.find()).tolist() == [0, 1, 2, -1, -1, -1, -1, -1]


def test_what_does_not_align_is_fixed_on_both_sides() -> None:
    two, six, four, three = Axis(2), Axis(6), Axis(4), Axis(3)
    unify(product([two, six]), product([four, three]))  # 6 = 2 x 3 and 4 = 2 x 2: that aligns
    assert not any(leaf.why for leaf in two.leaves())
    three, four, other = Axis(3), Axis(4), [Axis(4), Axis(3)]
    unify(product([three, four]), product(other))
    assert all(leaf.why for axis in (three, four, *other) for leaf in axis.leaves())
    tied, summed = product([Axis(2), Axis(4)]), total([Axis(3), Axis(5)])
    unify(tied, summed)
    assert all(leaf.why for axis in (tied, summed) for leaf in axis.leaves())


def test_reasons_go_with_the_axis_whichever_way_it_is_unified() -> None:
    a, b, c = Axis(6), Axis(6), Axis(6)
    fix(a, "input")
    unify(b, a)
    unify(c, b)
    parts = Axis(2), Axis(3)
    unify(product(parts), c)
    assert [leaf.why for leaf in c.leaves()] == [["input"], ["input"]]


def test_an_axis_is_not_a_part_of_itself() -> None:
    a = Axis(4)
    whole = total([a, Axis(0)])
    unify(whole, a)
    assert not a.why
