"""Chains of cells: every candidate goes dense, smaller, pruned, quantized, and shares what it can."""

from dataclasses import replace
from typing import Any

from secateurs.data import DataSpec
from secateurs.experiments.candidates import TUNED, Candidate, Chains
from secateurs.experiments.cells import Cell
from secateurs.models import ModelSpec
from secateurs.recipe import Recipe, with_words
from secateurs.train.distillation import Distillation
from secateurs.train.training import Training

TRAINING = Training(epochs=4.0, learning_rate=1e-3)


def cell(training: Training, **fields: Any) -> Cell:
    return Cell(
        model=ModelSpec.parse("lenet-300-100"), data=DataSpec(), data_hash="0", training=training, seed=0, **fields
    )


def spread(s: float) -> Recipe:
    return with_words(Recipe.parse("lamp element model sparsity(0.5)"), budget=f"sparsity({s})")


CHAINS = Chains(cell, cell(TRAINING), cell(TRAINING), TRAINING, spread, exact=("norm.running_mean",))


def test_a_candidate_is_quantized_last_with_the_zeros_of_its_pruning() -> None:
    asked = Candidate(0.5, 0.9, "codebook:4")
    last = CHAINS.finished(asked, 6.0)
    assert last.recipe is None  # zeros are held because they are zero
    assert last.training.epochs == TUNED * 6.0
    assert last.training.quantize == {"*": "int8", "norm.running_mean": "exact", "": "codebook:4"}
    pruned = last.start
    assert pruned is not None
    assert pruned == CHAINS.pruned(asked, 6.0)
    assert str(pruned.recipe).startswith("lamp element model sparsity(0.9) cubic(")
    small = pruned.start
    assert small is not None
    assert [str(how) for how in small.shrink] == ["l2 row layer sparsity(0.5) one_shot"]
    assert small.start == CHAINS.dense
    assert {each.teacher for each in (last, pruned)} == {CHAINS.dense}


def test_all_ways_to_store_a_shape_share_its_pruning() -> None:
    shape = Candidate(0.0, 0.9)
    for chains in (CHAINS, replace(CHAINS, embedded=("words",))):
        ways = chains.values
        assert {chains.pruned(shape.stored(values), 3.0) for values in ways} == {chains.pruned(shape, 3.0)}
        assert chains.finished(shape, 3.0) == chains.pruned(shape, 3.0)
        assert len({chains.finished(shape.stored(values), 3.0) for values in ways}) == len(ways)


def test_where_nothing_is_cut_it_is_the_dense_network_until_it_learns_with_its_values() -> None:
    uncut = Candidate(0.0, 0.0)
    assert CHAINS.pruned(uncut, 6.0) == CHAINS.first
    tuned = CHAINS.finished(uncut.stored("int8"), 6.0)
    assert tuned.start == CHAINS.first
    assert tuned.training.epochs == 6.0


def test_the_control_is_the_dense_network_trained_on() -> None:
    longer = CHAINS.longer(Candidate(0.0, 0.9), 6.0)
    assert longer.recipe is None
    assert longer.start == CHAINS.dense == longer.teacher
    assert longer.training.epochs == 6.0


def test_all_are_taught_as_the_compression_says() -> None:
    how = Distillation(hardness=1.0, temperature=4.0)
    chains, it = replace(CHAINS, distill=how), Candidate(0.0, 0.9, "int8")
    assert [each.training.distill for each in (chains.finished(it, 6.0), chains.pruned(it, 6.0))] == [how] * 2
    assert chains.longer(it, 6.0).training.distill == Distillation()  # which hears the labels, too
    assert chains.pruned(it, 6.0, is_taught=False).training.distill is None


def test_the_rate_of_a_recovery_follows_what_is_zeroed() -> None:
    def rate(s: float) -> float:
        # What suits a network of which much is gone does not suit the dense one.
        assert chains.longer(Candidate(0.0, s), 6.0).training.learning_rate == 1e-3
        return chains.pruned(Candidate(0.0, s), 6.0).training.learning_rate

    chains = replace(CHAINS, rates=((0.75, 4e-4), (0.5, 1e-4)), tuned_rates=(2e-4, 5e-5))
    assert [rate(s) for s in (0.3, 0.5, 0.75, 0.9)] == [1e-4, 1e-4, 4e-4, 4e-4]
    assert rate(1.0 - 0.125**0.5) == 2e-4  # half-way in the logarithm of the density
    for values, expected in (("int8", 5e-5), ("int4/32+codebook:2", 5e-5), ("codebook:3", 2e-4)):
        tuned = [chains.finished(Candidate(0.0, s, values), 6.0).training.learning_rate for s in (0.0, 0.75)]
        assert tuned == [expected] * 2
        assert chains.longer(Candidate(0.0, 0.0, values), 6.0).training.learning_rate == expected
    assert CHAINS.pruned(Candidate(0.0, 0.75), 6.0).training.learning_rate == 1e-3


def test_a_pattern_is_its_own_recipe() -> None:
    recipe = CHAINS.recipe_of(Candidate(0.0, 0.5, pattern="2:4"), "one_shot")
    assert recipe == Recipe.parse("2:4")


def test_a_candidate_says_what_it_is() -> None:
    assert str(Candidate(0.5, 0.9, "int8")) == "50 % of units gone, 90 % zeros, int8"
    assert str(Candidate(0.0, 0.5, "exact", "2:4")) == "2:4, exact"
    assert str(Candidate(0.0, 0.0, "int4/32+codebook:2")) == "no zeros, int4/32, embeddings codebook:2"


def test_tables_have_their_own_bits() -> None:
    chains = replace(CHAINS, coarse=("positions",), embedded=("words",), exact=("norm.running_mean",))
    assert chains.stored("exact") == {"": "exact"}
    rest = {"*": "int8", "positions": "int8", "words": "int8"}
    assert chains.stored("int8") == {**rest, "norm.running_mean": "exact", "": "int8"}
    assert chains.stored("codebook:2")["positions"] == "int4/32"
    assert chains.stored("codebook:2")["words"] == "codebook:2"
    assert chains.stored("codebook:2")["*"] == "int8"
    both = chains.stored("int4/32+codebook:2")
    assert (both[""], both["words"], both["positions"]) == ("int4/32", "codebook:2", "int4/32")
    assert any("+" in each for each in chains.values)
    assert not any("+" in each for each in CHAINS.values)
