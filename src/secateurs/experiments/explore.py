"""Explore: the story of one network in stages, as numbers, pictures and a page; the main job.

    explorer = Explorer(exploration, out, n_jobs=2, command="...")
    explorer.check()      everything that can be wrong, before the first batch
    explorer.run()        -> results; also results.json, report.html, the pictures, the models, recipe.yaml

Built of cells: what is done is never done again, so a run that was interrupted goes on where it was.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from secateurs.budgets import Sparsity, sparsity, threshold
from secateurs.checks import extra
from secateurs.data import load_data
from secateurs.durable import make_directory, write_bytes, write_json, write_text
from secateurs.experiments.exploration import Exploration, Rule
from secateurs.experiments.facts import weights_of
from secateurs.experiments.gather import Run, gather
from secateurs.experiments.work import Work
from secateurs.masks import Masks
from secateurs.models import build
from secateurs.recipe import Recipe, with_words
from secateurs.see import charts, pictures, report, stats
from secateurs.see.style import COMPONENTS
from secateurs.units import element


class Explorer:
    """One exploration in one directory; `work.progress` may be asked from another thread while `run` runs."""

    def __init__(self, exploration: Exploration, out: Path, *, n_jobs: int, command: str) -> None:
        self.exploration = exploration
        self.out = out
        self.n_jobs = n_jobs
        self.command = command

    def check(self) -> Run:
        """Load the data, build the network and lay the recipe on it; raises whatever is wrong with them."""
        experiment = self.exploration.experiment
        data = load_data(experiment.data)
        network = build(experiment.model, data.shape, experiment.seeds[0])
        recipe = experiment.recipe
        for module in ("altair", "vl_convert", "PIL"):
            extra(module, "explore")
        absolute = threshold(self.exploration.absolute_tau)
        for budget in (recipe.budget, absolute, *map(sparsity, self.exploration.sparsities)):
            Masks.make(network, with_words(recipe, budget=budget), is_trial=True)
        self.run_value = Run(self.exploration, self.out, self.command, data, network)
        # A tau that is not chosen yet is stood in for by another, which changes no count.
        given = recipe.budget if has_given_rule(recipe) else threshold("1sigma")
        assert isinstance(given, Rule)
        planned, n_train = self.run_value.plan.everything(given), len(data.y_train)
        self.work = Work(planned, self.out, n_train, n_jobs=self.n_jobs)
        return self.run_value

    def run(self) -> dict[str, Any]:
        """Run the cells that are missing, gather, draw; returns the results."""
        run = self.run_value
        self.work.run([run.plan.trained(seed) for seed in run.seeds])
        rule, why = story_rule(run)
        done = self.work.run(run.plan.everything(rule))
        results = gather(run, done, rule, why)
        self._write(results, rule)
        return results

    def _write(self, results: dict[str, Any], rule: Rule) -> None:
        """Results first, so that no trouble with a picture can lose them; then models, metrics, pictures, page."""
        write_json(self.out / "results.json", results)
        plan = self.run_value.plan
        write_text(self.out / "recipe.yaml", results["recipe_yaml"])
        for stage, cell in plan.stages(rule).items():
            target = self.out / "models" / stage
            make_directory(target)
            for name in ("model.safetensors", "config.json"):
                write_bytes(target / name, (cell.directory(self.out) / name).read_bytes())
        lines = [(cell.directory(self.out) / "metrics.jsonl").read_text("utf-8") for cell in plan.everything(rule)]
        write_text(self.out / "metrics.jsonl", "".join(lines))
        models = plan.stages(rule)
        jobs = []
        for stage, part, name in story_pictures(results):
            weight = self.run_value.weights(models[stage])[results["model"]["tracked"][part]]
            jobs.append(joblib.delayed(_draw_story)(results, self.out / name, stage, part, weight))
        jobs += [joblib.delayed(_draw)(results, self.out / name, name) for name in ("overview", "tradeoff")]
        joblib.Parallel(n_jobs=self.n_jobs)(jobs)
        current = {name for _, _, name in story_pictures(results)}
        for old in self.out.glob("at-prune-*.*"):
            if old.name.removesuffix(old.suffix) not in current:
                old.unlink()
        write_text(self.out / "report.html", report.report_page(results))


def has_given_rule(recipe: Recipe) -> bool:
    """Whether the story takes the recipe's budget as it is, rather than choose a tau for its sparsity."""
    is_plain = recipe.score.name == "magnitude" and recipe.unit == element and not recipe.min_keep
    has_large_pools = recipe.pool.kind in ("model", "layer")
    return not (isinstance(recipe.budget, Sparsity) and is_plain and has_large_pools)


def story_rule(run: Run) -> tuple[Rule, str]:
    """The story's budget, and why it is that: the recipe's own, or a threshold where it asks for a sparsity.

    For magnitudes of single weights in pools of a layer or the model, without min_keep, that is the multiple of
    0.05 sigma which takes nearest to the sparsity.
    """
    budget = run.recipe.budget
    if has_given_rule(run.recipe):
        assert isinstance(budget, Rule)
        return budget, "given"
    assert isinstance(budget, Sparsity)
    weights = weights_of(run.plan.trained(run.seeds[0]).load(run.out), run.names)
    n = sum(weight.size for weight in weights.values())
    sigma = {name: float(weight.astype(np.float64).std()) for name, weight in weights.items()}
    share = {
        k: sum(int((np.abs(w) <= k * stats.SIGMA_STEP * sigma[name]).sum()) for name, w in weights.items()) / n
        for k in range(1, 121)
    }
    best = min(share, key=lambda k: abs(share[k] - budget.s))
    why = f"the multiple of 0.05 sigma that takes nearest to {budget.s:.0%} of the trained network: {share[best]:.1%}"
    return threshold(f"{round(best * stats.SIGMA_STEP, 2)}sigma"), why


def story_pictures(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(stage, component, file name without suffix) of every story picture, by the story's own names."""
    for stage in results["stages"]:
        for part in COMPONENTS if stage["picture"] else ():
            suffix = "cls" if stage["id"] == "in-loop" and part == "cls-head" else part
            yield stage["id"], part, f"{stage['picture']}-{suffix}"


def _draw_story(results: dict[str, Any], path: Path, stage: str, part: str, weight: "np.ndarray[Any, Any]") -> None:
    pictures.save_picture(charts.story_chart(results, stage, part, weight), path)


def _draw(results: dict[str, Any], path: Path, name: str) -> None:
    chart = charts.overview_chart(results) if name == "overview" else charts.tradeoff_chart(results)
    pictures.save_picture(chart, path)
