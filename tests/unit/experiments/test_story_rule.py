"""The story's budget: the recipe's own, or the multiple of 0.05 sigma that takes nearest to the share asked for."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from secateurs.budgets import Threshold
from secateurs.experiments import cells
from secateurs.experiments.cells import Cell
from secateurs.experiments.exploration import Experiment, Exploration
from secateurs.experiments.explore import Explorer, story_rule
from secateurs.experiments.gather import Run, _caption
from secateurs.experiments.perform import perform
from secateurs.masks import Masks
from secateurs.recipe import Recipe
from secateurs.train.training import Training


@pytest.fixture
def trained(cell: Callable[..., Cell], tmp_path: Path) -> Callable[[str], Run]:
    """A run by a recipe, whose first network is trained."""

    def make(recipe: str) -> Run:
        one = cell()
        experiment = Experiment(
            model=one.model, data=one.data, training=one.training, recipe=Recipe.parse(recipe), seeds=(0,)
        )
        exploration = Exploration(experiment=experiment, fine_tune=Training(epochs=0.5), sparsities=(0.5,))
        run = Explorer(exploration, tmp_path, n_jobs=1, command="").check()
        cells.run([run.plan.trained(0)], tmp_path, perform, n_jobs=1)
        return run

    return make


def share(run: Run, tau: float) -> float:
    """What pruning the trained network once at tau sigmas takes."""
    words = {name: getattr(run.recipe, name) for name in Recipe.model_fields}
    recipe = Recipe(**{**words, "budget": f"threshold({tau:g}sigma)", "schedule": "one_shot"})
    return Masks.make(run.plan.trained(0).load(run.out), recipe, is_trial=True).sparsity


@pytest.mark.parametrize(
    "recipe",
    [
        "magnitude element model sparsity(0.7) cubic",
        "magnitude element layer sparsity(0.3) cubic",
        "magnitude element model sparsity(0.7) cubic skip=[head*]",
    ],
)
def test_no_other_multiple_takes_nearer_to_the_share_asked_for(trained: Callable[[str], Run], recipe: str) -> None:
    run = trained(recipe)
    tau, why = story_rule(run)
    asked = run.recipe.budget.s  # type: ignore[union-attr]
    assert isinstance(tau, Threshold)
    assert tau.per_sigma
    found = share(run, tau.tau)
    assert why.endswith(f"nearest to {asked:.0%} of the trained network: {found:.1%}")
    for step in (-0.05, 0.05):
        assert abs(found - asked) <= abs(share(run, round(tau.tau + step, 2)) - asked)


@pytest.mark.parametrize(
    ("recipe", "budget"),
    [
        ("magnitude element model threshold(0.9sigma) cubic", "threshold(0.9sigma)"),
        ("magnitude element model threshold(0.03) cubic", "threshold(0.03)"),
        ("magnitude row model sparsity(0.5) cubic", "sparsity(0.5)"),  # a tau in sigmas is about single weights
        ("random element model sparsity(0.5) cubic", "sparsity(0.5)"),  # and about magnitudes
    ],
)
def test_other_budgets_are_taken_as_they_are(trained: Callable[[str], Run], recipe: str, budget: str) -> None:
    rule, why = story_rule(trained(recipe))
    assert (str(rule), why) == (budget, "given")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("magnitude element model threshold(0.4) cubic", "everything with |w| <= 0.4 is"),
        ("lamp element model threshold(0.4) cubic", "everything with lamp <= 0.4 is"),
        ("random row layer threshold(0.4) cubic", "every row with mean random <= 0.4 is"),
    ],
)
def test_a_caption_names_the_score_that_is_compared_with_tau(words: str, told: str) -> None:
    recipe, training = Recipe.parse(words), Training()
    experiment = SimpleNamespace(training=training)
    run: Any = SimpleNamespace(
        recipe=recipe,
        exploration=SimpleNamespace(experiment=experiment, fine_tune=training),
        plan=SimpleNamespace(whole=training),
    )
    assert told in _caption(run, "in-loop", Threshold(0.4), {"collapsed": []})
    assert "everything with |w| <= 0.4 zeroed" in _caption(run, "absolute", Threshold(0.4), {"collapsed": []})
