"""Candidates: what `compress` tries: how many units go, how many weights, how the rest is stored; as chains of cells.

    chains = Chains(cell, dense, ...)
    chains.finished(Candidate(student=0.5, sparsity=0.95, values="codebook:4"), epochs)  ->  Cell

Every chain goes the same way: dense, units removed for real, weights pruned little by little while the dense network
teaches, and only then quantized, with the zeros held. To add a kind of candidate: a field here and its step in Chains.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from secateurs.budgets import sparsity
from secateurs.experiments.cells import Cell
from secateurs.recipe import Recipe, with_words
from secateurs.train.distillation import Distillation
from secateurs.train.training import Training

EXACT = "exact"
VALUES = (EXACT, "int8", "int4/32", "codebook:4", "codebook:3", "codebook:2")
# With embeddings, after the +, which bear fewer bits. MiniLM on banking77, nothing trained, points lost on validation
# data of seeds 0, 1, 2: int4/32 for both -0.2, -0.3, 0.2 (8.3 times smaller); int4/32+codebook:2 0.6, -0.1, 0.6 (11.4);
# codebook:4+codebook:2 0.4, -0.2, 0.2 (12.5); codebook:3+codebook:2 1.4, 1.2, 0.8 (14.9); codebook:2 for both 6 to 8.
VALUES_EMBEDDED = (
    EXACT,
    "int8",
    "int4/32",
    "int4/32+codebook:3",
    "int4/32+codebook:2",
    "codebook:4+codebook:2",
    "codebook:3+codebook:2",
    "codebook:2",
)
REST = "int8"  # what is never pruned, where the weights are not exact: norms, biases
COARSE = "int4/32"  # and biases and position tables, where the weights have four bits or fewer
TUNED = 0.25  # epochs of a quantized network's training, as a share of those it was pruned in, if it was
SCHEDULE = "cubic(begin=0.0, end=0.6, every=20)"
STUDENT = Recipe(score="l2", unit="row", pool="layer", budget="sparsity(0.5)")


@dataclass(frozen=True)
class Candidate:
    """One way to a smaller network.

    student   share of the units (neurons, filters) that are removed for real; 0 leaves all
    sparsity  share of the prunable weights that are zeroed; 0 prunes nothing
    pattern   n:m that the zeros keep to, such as "2:4"; "" leaves them anywhere
    values    how the weights are stored, as `pack` takes it; "int4/32+codebook:2": and embeddings, after the +
    """

    student: float
    sparsity: float
    values: str = EXACT
    pattern: str = ""

    def __str__(self) -> str:
        return f"{self.cut}, {in_words(self.values)}"

    @property
    def cut(self) -> str:
        """What is removed and zeroed, in words."""
        zeros = f"{100 * self.sparsity:.4g} % zeros" if self.sparsity else "no zeros"
        units = [f"{100 * self.student:.4g} % of units gone"] if self.student else []
        return ", ".join([*units, self.pattern or zeros])

    @property
    def is_cut(self) -> bool:
        """Whether anything is removed or zeroed."""
        return bool(self.student or self.sparsity)

    @property
    def shape(self) -> "Candidate":
        """The same with exact values: what is trained once for all of them."""
        return Candidate(self.student, self.sparsity, EXACT, self.pattern)

    def stored(self, values: str) -> "Candidate":
        """The same, stored in another way."""
        return Candidate(self.student, self.sparsity, values, self.pattern)


@dataclass(frozen=True)
class Chains:
    """What all candidates share.

    cell         makes a cell: cell(training, **fields)
    dense        the network as it is, which teaches
    first        the network that everything begins with: dense, or with its vocabulary trimmed
    training     of a network after a cut; its epochs are replaced
    spread       the recipe, at once, that zeroes a share of the weights; its schedule becomes SCHEDULE
    coarse       names of what is never pruned and needs no eight bits: position tables, biases
    embedded     names of embeddings: never pruned, stored as the weights are or in fewer bits
    exact        names of tensors that stay exact whatever the values: statistics that no training can mend
    rates        (sparsity, learning rate) where the training's own does not suit all; see Compression
    tuned_rates  learning rates of networks that learn with a codebook, and with int8 or int4; see Compression
    distill      how the dense network teaches
    """

    cell: Callable[..., Cell]
    dense: Cell
    first: Cell
    training: Training
    spread: Callable[[float], Recipe]
    coarse: tuple[str, ...] = ()
    embedded: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    rates: tuple[tuple[float, float], ...] = ()
    tuned_rates: tuple[float, float] = (2e-4, 2e-4)
    distill: Distillation = field(default_factory=Distillation)

    @property
    def values(self) -> tuple[str, ...]:
        """The ways to store a candidate that are tried."""
        return VALUES_EMBEDDED if self.embedded else VALUES

    def stored(self, values: str) -> dict[str, str]:
        """{pattern of names: values} as `pack` and Training take it."""
        if values == EXACT:
            return {"": EXACT}
        weights, _, tables = values.partition("+")
        coarse = dict.fromkeys(self.coarse, REST if values == "int8" else COARSE)
        embedded, exact = dict.fromkeys(self.embedded, tables or weights), dict.fromkeys(self.exact, EXACT)
        return {"*": REST, **coarse, **embedded, **exact, "": weights}

    def begun(self, candidate: Candidate) -> Cell:
        """Units removed, nothing trained."""
        if not candidate.student:
            return self.first
        how = with_words(STUDENT, budget=sparsity(candidate.student))
        return self.cell(self._for(0.0), start=self.first, shrink=(how,))

    def pruned(self, candidate: Candidate, epochs: float, is_taught: bool = True) -> Cell:
        """Pruned while it learns from the dense network (or from labels alone); as it is where nothing is cut."""
        if not candidate.is_cut:
            return self.first
        taught = {"distill": self.distill} if is_taught else {}
        training = self._for(epochs, learning_rate=self.rate_of(candidate), **taught)
        recipe, teacher = self.recipe_of(candidate, SCHEDULE), self.dense if is_taught else None
        return self.cell(training, start=self.begun(candidate), recipe=recipe, teacher=teacher)

    def longer(self, candidate: Candidate, epochs: float) -> Cell:
        """The control: the dense network trained on, as long as the candidate, at a rate that suits it.

        It is its own teacher, and hears the labels, too: from itself alone it would learn nothing.
        """
        rate = self.training.learning_rate if candidate.is_cut else self.tuned_rate_of(candidate)
        training = self._for(epochs, learning_rate=rate, distill=Distillation())
        return self.cell(training, start=self.first, teacher=self.dense)

    def finished(self, candidate: Candidate, epochs: float) -> Cell:
        """Pruned, then trained on with the values it is stored in; where nothing is cut, only that, for all epochs."""
        start = self.pruned(candidate, epochs)
        if candidate.values == EXACT:
            return start
        training = self._for(
            TUNED * epochs if candidate.is_cut else epochs,
            learning_rate=self.tuned_rate_of(candidate),
            quantize=self.stored(candidate.values),
            distill=self.distill,
        )
        return self.cell(training, start=start, teacher=self.dense)

    def cut_once(self, candidate: Candidate) -> Cell:
        """Pruned at once, nothing trained."""
        return self.cell(self._for(0.0), start=self.begun(candidate), recipe=self.recipe_of(candidate, "one_shot"))

    def rate_of(self, candidate: Candidate) -> float:
        """The learning rate of a training that zeroes so much; the training's own where nothing is zeroed."""
        if not self.rates or not candidate.sparsity:
            return self.training.learning_rate
        at, rates = zip(*sorted((-math.log(1.0 - s), math.log(rate)) for s, rate in self.rates), strict=True)
        return float(f"{math.exp(np.interp(-math.log(1.0 - candidate.sparsity), at, rates)):.3g}")

    def tuned_rate_of(self, candidate: Candidate) -> float:
        """The learning rate of a training with the candidate's values."""
        return self.tuned_rates[not candidate.values.startswith("codebook")]

    def recipe_of(self, candidate: Candidate, schedule: str) -> Recipe | None:
        """Which weights go; None where none do."""
        if candidate.pattern:
            return with_words(Recipe.parse(candidate.pattern), schedule=schedule)
        return with_words(self.spread(candidate.sparsity), schedule=schedule) if candidate.sparsity else None

    def _for(self, epochs: float, **fields: object) -> Training:
        return Training(**{**self.training.values(), "epochs": epochs, **fields})


def in_words(values: str) -> str:
    """A way to store a network, for people."""
    return values.replace("+", ", embeddings ")
