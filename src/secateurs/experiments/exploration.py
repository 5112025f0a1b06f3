"""Exploration: what `explore` is asked to do, as one frozen value; and the cells it is made of."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from secateurs.budgets import Sparsity, Threshold, sparsity, threshold
from secateurs.checks import shown
from secateurs.data import DataSpec
from secateurs.errors import RecipeError
from secateurs.experiments.cells import Cell
from secateurs.models import ModelSpec
from secateurs.models.table import PRETRAINED
from secateurs.recipe import Recipe, with_words
from secateurs.see.style import STRATEGIES
from secateurs.settings import Settings
from secateurs.train.training import Training

HELD = "one_shot(end=0.0)"
LARGEST_SEED = 2**63 - 1  # that torch takes for certain
Rule = Sparsity | Threshold
LADDER = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _rising(value: object) -> object:
    """Sparsities in rising order, each once, whatever order they were given in."""
    is_numbers = isinstance(value, list | tuple) and all(isinstance(s, int | float) for s in value)
    return tuple(sorted({float(s) for s in value})) if is_numbers else value  # type: ignore[attr-defined]


class Experiment(Settings):
    """What is trained on what, how, pruned how, and with which seeds."""

    model: ModelSpec
    data: DataSpec
    training: Training
    recipe: Recipe
    seeds: Annotated[tuple[int, ...], BeforeValidator(_as_tuple)] = (0, 1, 2)

    def model_post_init(self, context: Any) -> None:
        """At least one seed, none twice; and data that the network can read."""
        is_odd = not self.seeds or len(set(self.seeds)) != len(self.seeds)
        if is_odd or not all(0 <= seed <= LARGEST_SEED for seed in self.seeds):
            raise RecipeError(
                f"seeds must be different numbers from 0 to {LARGEST_SEED}; got {shown(list(self.seeds))}."
            )
        if self.model.name == PRETRAINED and self.data.tokenizer is None:
            raise RecipeError("A pretrained network reads the ids of its own tokenizer: give data.tokenizer.")


class Exploration(Settings):
    """The story of one network in stages, and its trade-off.

    experiment    the recipe's budget is the story's: a threshold, or a sparsity from which tau is chosen in sigmas
                  (the multiple of 0.05 sigma that takes nearest to that share of the trained network)
    fine_tune     the training after pruning once; pruning inside the loop and the dense baseline (which one-shot
                  cuts) train for the epochs of `experiment.training` and `fine_tune` together
    sparsities    where the trade-off is measured
    absolute_tau  the extra stage, pruned once at this tau whatever the layer
    """

    experiment: Experiment
    fine_tune: Training
    sparsities: Annotated[tuple[float, ...], BeforeValidator(_rising)] = LADDER
    absolute_tau: float = 0.4

    def model_post_init(self, context: Any) -> None:
        """Sparsities in (0, 1), a usable tau, and a story's budget that every layer can share."""
        if not self.sparsities or not all(0.0 < s < 1.0 for s in self.sparsities):
            raise RecipeError(f"sparsities must lie between 0 and 1; got {list(self.sparsities)}.")
        threshold(self.absolute_tau)
        if not isinstance(self.experiment.recipe.budget, Rule):
            raise RecipeError(
                f"explore tells its story with a threshold or a sparsity; the recipe's budget is "
                f"'{self.experiment.recipe.budget}'. Use threshold(1sigma), threshold(0.4) or sparsity(0.7)."
            )


@dataclass(frozen=True)
class Plan:
    """The cells of an exploration: first `trained`, from which tau may be chosen, then everything."""

    exploration: Exploration
    data_hash: str

    @property
    def whole(self) -> Training:
        """The training budget of every strategy: training and fine-tuning together."""
        training, fine_tune = self.exploration.experiment.training, self.exploration.fine_tune
        return training.model_copy(update={"epochs": training.epochs + fine_tune.epochs})

    @property
    def untrained(self) -> Training:
        """No training at all: prune once."""
        return self.exploration.experiment.training.model_copy(update={"epochs": 0.0})

    def cell(self, seed: int, training: Training, **fields: Any) -> Cell:
        """A cell of this experiment; the first seed's carry the story."""
        experiment = self.exploration.experiment
        return Cell(
            model=experiment.model,
            data=experiment.data,
            data_hash=self.data_hash,
            training=training,
            seed=seed,
            skip=experiment.recipe.skip,
            only=experiment.recipe.only,
            **fields,
        )

    def trained(self, seed: int) -> Cell:
        """The dense network that is pruned once afterwards."""
        is_story = seed == self.exploration.experiment.seeds[0]
        n_looks = 24 if is_story else 2
        return self.cell(seed, self.exploration.experiment.training, n_looks=n_looks, is_story=is_story)

    def initialised(self, seed: int) -> Cell:
        """The first weights."""
        return self.cell(seed, self.untrained, is_story=seed == self.exploration.experiment.seeds[0])

    def dense(self, seed: int) -> Cell:
        """The dense baseline, trained exactly as the in-loop networks are, without pruning; cut once for one-shot."""
        return self.cell(seed, self.whole)

    def stages(self, rule: Rule) -> dict[str, Cell]:
        """The story: {stage: cell}, all of the first seed."""
        experiment = self.exploration.experiment
        seed, recipe = experiment.seeds[0], experiment.recipe
        once = with_words(recipe, budget=rule, schedule="one_shot")
        # Chosen before the first step and then held: the zeros stay, and no new ones come.
        held = with_words(recipe, budget=rule, schedule=HELD)
        tau = threshold(self.exploration.absolute_tau)
        absolute = with_words(recipe, budget=tau, schedule="one_shot", score="magnitude", unit="element", pool="model")
        start = self.trained(seed)
        forgetful = self.whole.model_copy(update={"revive": "forget"})
        return {
            "initialised": self.initialised(seed),
            "trained": start,
            "in-loop": self.cell(seed, forgetful, recipe=with_words(recipe, budget=rule), n_looks=24, is_story=True),
            "one-shot": self.cell(seed, self.untrained, recipe=once, start=start, is_story=True),
            "fine-tuned": self.cell(seed, self.exploration.fine_tune, recipe=held, start=start, is_story=True),
            "absolute": self.cell(seed, self.untrained, recipe=absolute, start=start, is_story=True),
        }

    def tradeoff(self, strategy: str, s: float, seed: int) -> Cell:
        """One point of the trade-off: "one-shot", "fine-tuned" or "in-loop" at sparsity s."""
        recipe = with_words(self.exploration.experiment.recipe, budget=sparsity(s))
        if strategy == "in-loop":
            return self.cell(seed, self.whole, recipe=recipe)
        once = with_words(recipe, schedule=HELD)
        if strategy == "one-shot":
            return self.cell(seed, self.untrained, recipe=once, start=self.dense(seed))
        return self.cell(seed, self.exploration.fine_tune, recipe=once, start=self.trained(seed))

    def everything(self, rule: Rule) -> list[Cell]:
        """Every cell of the exploration, in a fixed order."""
        experiment = self.exploration.experiment
        found = [self.trained(seed) for seed in experiment.seeds] + list(self.stages(rule).values())
        for seed in experiment.seeds:
            found.append(self.dense(seed))
            found.append(self.initialised(seed))
            found += [self.tradeoff(strategy, s, seed) for s in self.exploration.sparsities for strategy in STRATEGIES]
        return list(dict.fromkeys(found))
