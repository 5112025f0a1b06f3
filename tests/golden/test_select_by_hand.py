"""Selection worked out by hand on weights small enough to read."""

import pytest
import torch

import secateurs as sc

#                       column means 10/3  11/3  11/3  16/3     row means
SCORE = torch.tensor([[1.0, 5.0, 2.0, 8.0],  #                  4
                      [3.0, 2.0, 0.0, 7.0],  #                  3
                      [6.0, 4.0, 9.0, 1.0]])  #                 5     # fmt: skip

CONV = torch.tensor([[[[1.0, 8.0]], [[4.0, 2.0]]],  # filter 0: channel 0, channel 1; mean 15/4
                     [[[3.0, 3.0]], [[9.0, 5.0]]]])  # filter 1; mean 20/4     # fmt: skip


def rows(text):
    """'01 10' -> [[False, True], [True, False]]"""
    return [[letter == "1" for letter in row] for row in text.split()]


@pytest.mark.parametrize(
    ("unit", "pool", "budget", "expected"),
    [
        # round(0.5 * 12) = 6 go: 0 1 1 2 2 3
        ("element", "layer", "sparsity(0.5)", "0101 0001 1110"),
        # 2 of 12 go: 0, and of the two ones the later
        ("element", "layer", "sparsity(0.16666666666666666)", "1111 1101 1110"),
        # 4 of 12 go: 0 1 1, and of the two twos the later
        ("element", "layer", "sparsity(0.3333333333333333)", "0111 1001 1110"),
        ("element", "layer", "top(1)", "0000 0000 0010"),
        ("element", "row", "sparsity(0.5)", "0101 1001 1010"),
        # round(0.375 * 4) = round(1.5) = 2 of each row
        ("element", "row", "sparsity(0.375)", "0101 1001 1010"),
        # round(0.125 * 4) = round(0.5) = 0 of each row
        ("element", "row", "sparsity(0.125)", "1111 1111 1111"),
        ("element", "2", "sparsity(0.5)", "0101 1001 1010"),
        ("element", "2", "top(1)", "0101 1001 1010"),
        ("element", "4", "top(2)", "0101 1001 1010"),
        ("element", "4", "top(1)", "0001 0001 0010"),
        ("element", "4", "top(3)", "0111 1101 1110"),
        ("row", "layer", "sparsity(0.3333333333333333)", "1111 0000 1111"),
        # round(0.5 * 3) = round(1.5) = 2 of 3 rows
        ("row", "layer", "sparsity(0.5)", "0000 0000 1111"),
        ("row", "layer", "top(2)", "1111 0000 1111"),
        # columns 1 and 2 tie at 11/3: the earlier survives
        ("column", "layer", "sparsity(0.5)", "0101 0101 0101"),
        ("column", "layer", "top(3)", "0111 0111 0111"),
        # blocks sum to 21 and 27
        ("block(3, 2)", "layer", "sparsity(0.5)", "0011 0011 0011"),
        # pairs sum to 6 10, 5 7, 10 10
        ("block(1, 2)", "layer", "sparsity(0.5)", "0011 0000 1111"),
        ("block(1, 2)", "layer", "top(2)", "0011 0000 1100"),
        ("block(1, 2)", "row", "top(1)", "0011 0011 1100"),
        ("block(1, 2)", "4", "sparsity(0.5)", "0011 0011 1100"),
        ("block(3, 1)", "layer", "top(1)", "0001 0001 0001"),
        ("block(3, 4)", "layer", "sparsity(0.5)", "1111 1111 1111"),
        ("element", "layer", "threshold(2)", "0101 1001 1110"),
        ("element", "layer", "threshold(0)", "1111 1101 1111"),
        ("row", "layer", "threshold(3.5)", "1111 0000 1111"),
        ("row", "layer", "threshold(4)", "0000 0000 1111"),
    ],
)
def test_a_3_by_4_weight(unit, pool, budget, expected):
    keep = sc.select(SCORE, unit, pool, budget)
    assert keep.tolist() == rows(expected)
    assert sc.select(SCORE.numpy(), unit, pool, budget).tolist() == rows(expected)


@pytest.mark.parametrize(
    ("unit", "pool", "budget", "expected"),
    [
        ("row", "layer", "sparsity(0.5)", "0000 1111"),
        ("column", "layer", "sparsity(0.5)", "0011 0011"),  # channels sum to 15 and 20
        ("element", "row", "sparsity(0.5)", "0110 0011"),
        # Neighbours along the inputs, at one kernel position: 1|4 8|2, 3|9 3|5
        ("element", "2", "top(1)", "0110 0011"),
        ("element", "layer", "top(3)", "0100 0011"),
        # Blocks of two channels at one kernel position: 5 10, 12 8
        ("block(1, 2)", "layer", "sparsity(0.5)", "0101 1010"),
        # Blocks of two filters: 4 11, 13 7
        ("block(2, 1)", "layer", "sparsity(0.5)", "0110 0110"),
    ],
)
def test_a_convolution_with_two_kernel_positions(unit, pool, budget, expected):
    keep = sc.select(CONV, unit, pool, budget)
    assert keep.flatten(1).tolist() == rows(expected)


def test_two_of_four():
    score = torch.tensor([[0.1, 0.4, 0.3, 0.2, 5.0, 5.0, 5.0, 5.0]])
    assert sc.select(score, sc.element, 4, sc.top(2)).tolist() == rows("01101100")


def test_layers_that_compete():
    scores = {"b": torch.tensor([[1.0, 3.0]]), "a": torch.tensor([[3.0, 2.0], [3.0, 0.0]])}
    # 3 of 6 go: 0 1 2. One more: of the three threes the last of the later name.
    keep = sc.select(scores, sc.element, sc.model, sc.sparsity(0.5))
    assert (keep["a"].tolist(), keep["b"].tolist()) == (rows("10 10"), rows("01"))
    keep = sc.select(scores, sc.element, sc.model, sc.top(2))
    assert (keep["a"].tolist(), keep["b"].tolist()) == (rows("10 10"), rows("00"))
    assert list(keep) == ["b", "a"]


def test_min_keep_holds_the_best_of_a_weak_layer():
    scores = {"strong": torch.tensor([[9.0, 8.0, 7.0]]), "weak": torch.tensor([[1.0, 2.0, 3.0]])}
    keep = sc.select(scores, sc.element, sc.model, sc.sparsity(0.5))
    assert (keep["strong"].tolist(), keep["weak"].tolist()) == (rows("111"), rows("000"))
    for least in (1, 0.3):  # a share of 0.3 of 3 weights is 1 weight
        keep = sc.select(scores, sc.element, sc.model, sc.sparsity(0.5), min_keep=least)
        assert (keep["strong"].tolist(), keep["weak"].tolist()) == (rows("110"), rows("001"))
    keep = sc.select(scores, sc.element, sc.model, sc.threshold(7.5), min_keep=1)
    assert (keep["strong"].tolist(), keep["weak"].tolist()) == (rows("110"), rows("001"))


@pytest.mark.parametrize(("n", "n_pruned"), [(1, 0), (3, 2), (5, 2), (7, 4), (9, 4), (11, 6)])
def test_half_of_an_odd_number_goes_to_the_even_neighbour(n, n_pruned):
    """round(0.5) = 0, round(1.5) = 2, round(2.5) = 2, round(3.5) = 4: Python's round."""
    keep = sc.select(torch.ones(1, n), sc.element, sc.layer, sc.sparsity(0.5))
    assert int((~keep).sum()) == n_pruned


def test_erk_on_lenet_300_100_at_90_percent():
    """266,200 weights, 26,620 to keep.

    sums of dimensions    1084, 400, 110
    epsilon               26620 / 1594 = 16.7: the last layer would keep 1837 of 1000, so it stays dense
    epsilon again         (26620 - 1000) / 1484 = 17.26415
    kept                  1084 * 17.26415 = 18714.34, 400 * 17.26415 = 6905.66, 1000
    """
    scores = {"fc1": torch.rand(300, 784), "fc2": torch.rand(100, 300), "fc3": torch.rand(10, 100)}
    keep = sc.select(scores, sc.element, sc.layer, sc.erk(0.9))
    assert {name: int(alive.sum()) for name, alive in keep.items()} == {"fc1": 18714, "fc2": 6906, "fc3": 1000}


def test_the_first_pattern_that_matches_gives_a_layer_its_budget():
    scores = {name: torch.tensor([[4.0, 3.0, 2.0, 1.0]]) for name in ("ffn.0", "ffn.1", "head")}
    budget = sc.per_layer({"ffn.1": sc.top(1), "ffn.*": sc.sparsity(0.5), "*": sc.threshold(1.5)})
    keep = sc.select(scores, sc.element, sc.layer, budget)
    assert {name: alive.tolist() for name, alive in keep.items()} == {
        "ffn.0": rows("1100"),
        "ffn.1": rows("1000"),
        "head": rows("1110"),
    }
