"""Lottery: iterative magnitude pruning with rewinding, and its two controls, level by level.

    lottery = Lottery(experiment, n_rounds=15, rewind=0)     what is asked, one frozen value
    LotteryPlan(lottery, data_hash, n_train)                 its cells

Every level trains to the end, cuts the recipe's share of what is left, and winds the survivors back to what they were
at step `rewind`: the ticket. The controls have the ticket's masks on other first weights (re-initialised), and as many
survivors of every layer at random places on the ticket's own (random masks).
Frankle & Carbin 2019, arXiv:1803.03635; rewinding to a later step: Frankle et al. 2020, arXiv:1912.05671.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from secateurs.budgets import Budget, PerLayer, Sparsity, per_layer, sparsity
from secateurs.checks import nearest
from secateurs.errors import RecipeError
from secateurs.experiments.cells import Cell
from secateurs.experiments.exploration import Experiment
from secateurs.recipe import Recipe, with_words
from secateurs.schedules import Schedule
from secateurs.settings import Settings
from secateurs.train.training import Training

KINDS = {"ticket": "ticket", "reinit": "re-initialised", "random": "random masks"}
CONTROLS = ("reinit", "random")
OTHER_SEED = 1_000_000  # added to a seed for the weights of the re-initialised


class Lottery(Settings):
    """What the command `lottery` is asked to do.

    experiment  the recipe's budget is what each round cuts of what is left: sparsity(0.2), or a mapping of layers
    n_rounds    levels after the dense one
    rewind      the optimizer step whose weights the survivors go back to; 0 is the first weights
    n_looks     how often a training is looked at: the early stop is one of these moments
    controls    what every ticket is compared with: "reinit", "random", or both
    """

    experiment: Experiment
    n_rounds: int = 15
    rewind: int = 0
    n_looks: int = 100
    controls: tuple[str, ...] = CONTROLS

    def model_post_init(self, context: object) -> None:
        """Counts that can mean something, and a budget that can be repeated."""
        if self.n_rounds < 1 or self.rewind < 0 or self.n_looks < 1:
            raise RecipeError(
                "n_rounds and n_looks must be at least 1 and rewind at least 0; got "
                f"{self.n_rounds}, {self.n_looks} and {self.rewind}."
            )
        deepened(self.experiment.recipe.budget, 1)
        if (schedule := self.experiment.recipe.schedule) != Schedule("one_shot"):
            raise RecipeError(f"Every round of a lottery cuts at once, between two trainings; drop '{schedule}'.")
        if unknown := [each for each in self.controls if each not in CONTROLS]:
            raise RecipeError(f"Unknown control {unknown[0]!r}. {nearest(unknown[0], CONTROLS)}")
        if not self.controls or len(set(self.controls)) < len(self.controls):
            raise RecipeError(f"The controls are one or both of {', '.join(CONTROLS)}; got {list(self.controls)}.")


def deepened(budget: Budget, k: int) -> Budget:
    """What is cut in all after k rounds that each cut this budget's share of what is left.

    >>> str(deepened(sparsity(0.2), 2))
    'sparsity(0.36)'
    """
    if isinstance(budget, PerLayer):
        return per_layer({pattern: deepened(rule, k) for pattern, rule in budget.rules})
    if not isinstance(budget, Sparsity):
        raise RecipeError(f"Every round of a lottery cuts a share of what is left; '{budget}' is none. Use sparsity.")
    # Rounded, so that 0.2 after two rounds is 0.36 and not 0.3599999999999999.
    return sparsity(round(1.0 - (1.0 - budget.s) ** k, 12))


@dataclass(frozen=True)
class LotteryPlan:
    """The cells of a lottery: {(kind, level, seed): cell}; level 0 is the dense network, a ticket of everything.

    n_train  training examples, which make steps of epochs
    """

    lottery: Lottery
    data_hash: str
    n_train: int

    @cached_property
    def cells(self) -> dict[tuple[str, int, int], Cell]:
        """Every cell that is shown; what they need comes with them."""
        return dict(self._all())

    def level(self, k: int) -> Recipe:
        """The recipe that gives the masks of level k, from the weights at the end of level k - 1."""
        recipe = self.lottery.experiment.recipe
        return with_words(recipe, budget=deepened(recipe.budget, k), schedule="one_shot")

    def _all(self) -> Iterator[tuple[tuple[str, int, int], Cell]]:
        training = self.lottery.experiment.training
        steps_per_epoch, n_steps = training.steps_per_epoch(self.n_train), training.n_steps(self.n_train)
        p = self.lottery.rewind / n_steps
        if p >= 1.0:
            raise RecipeError(f"rewind={self.lottery.rewind} is not before the end of {n_steps} steps.")
        rest = _with(training, epochs=(n_steps - self.lottery.rewind) / steps_per_epoch, rate_from=p)
        early = _with(training, epochs=self.lottery.rewind / steps_per_epoch, rate_to=p or 1.0)
        untrained = _with(training, epochs=0.0)
        for seed in self.lottery.experiment.seeds:
            ticket = self._cell(seed, training)
            start = self._cell(seed, early, n_looks=1)
            fresh = self._cell(seed + OTHER_SEED, untrained, n_looks=1)
            yield ("ticket", 0, seed), ticket
            for k in range(1, self.lottery.n_rounds + 1):
                masks, recipe = ticket, self.level(k)
                ticket = self._cell(seed, rest, start=start, masks=masks, recipe=recipe)
                yield ("ticket", k, seed), ticket
                controls = {
                    "reinit": self._cell(seed, training, start=fresh, masks=masks, recipe=recipe),
                    "random": self._cell(seed, rest, start=start, masks=masks, recipe=recipe, is_shuffled=True),
                }
                yield from (((kind, k, seed), controls[kind]) for kind in self.lottery.controls)

    def _cell(
        self,
        seed: int,
        training: Training,
        *,
        start: Cell | None = None,
        masks: Cell | None = None,
        recipe: Recipe | None = None,
        is_shuffled: bool = False,
        n_looks: int | None = None,
    ) -> Cell:
        experiment = self.lottery.experiment
        return Cell(
            model=experiment.model,
            data=experiment.data,
            data_hash=self.data_hash,
            training=training,
            recipe=recipe,
            seed=seed,
            start=start,
            masks=masks,
            is_shuffled=is_shuffled,
            skip=experiment.recipe.skip,
            only=experiment.recipe.only,
            n_looks=self.lottery.n_looks if n_looks is None else n_looks,
        )


def _with(training: Training, **fields: float) -> Training:
    return Training(**{**training.values(), **fields})
