"""Gathering: what the cells of an exploration found, as the one value that pictures, page and claims read.

gather(run, done, tau, why) -> results     plain JSON; `done` is {cell: its result}
"""

import math
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import secateurs
from secateurs.budgets import Sparsity, Threshold, threshold
from secateurs.data import Dataset
from secateurs.experiments.cells import Cell, read
from secateurs.experiments.claims import CLAIMS, Facts
from secateurs.experiments.exploration import Exploration, Plan, Rule
from secateurs.experiments.facts import Weights, about_data, common_step, latency, measured_once, weights_of
from secateurs.layers import layers
from secateurs.measure.environment import environment
from secateurs.measure.intervals import over_seeds
from secateurs.models import Network
from secateurs.recipe import Recipe
from secateurs.scores import Score
from secateurs.see import pictures, stats
from secateurs.see.style import STRATEGIES, percent
from secateurs.units import element

SCHEMA = "secateurs.explore/1"
TITLES = {
    "initialised": "Initialised",
    "trained": "Trained",
    "in-loop": "Pruned inside the training loop",
    "one-shot": "Pruned once after training",
    "fine-tuned": "Pruned once, then fine-tuned",
    "absolute": "Pruned once at an absolute tau",
}

Done = Mapping[Cell, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """An exploration in its directory, with the data and the network that the checks loaded."""

    exploration: Exploration
    out: Path
    command: str
    data: Dataset
    network: Network

    @property
    def plan(self) -> Plan:
        """The cells of this run."""
        return Plan(self.exploration, self.data.fingerprint)

    @property
    def recipe(self) -> Recipe:
        """The recipe as asked; the story's tau may still have to be chosen."""
        return self.exploration.experiment.recipe

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds; the first carries the story."""
        return self.exploration.experiment.seeds

    @property
    def names(self) -> list[str]:
        """The layers that the recipe may prune."""
        found = layers(self.network, self.recipe.skip, self.recipe.only)
        return [layer.name for layer in found if layer.is_prunable]

    @property
    def shown(self) -> list[str]:
        """The same, and the two tracked weights if the recipe leaves them alone."""
        return [*self.names, *(name for name in self.network.tracked.values() if name not in self.names)]

    def weights(self, cell: Cell) -> Weights:
        """{name: float32 values} of the layers shown, as the cell left them."""
        return weights_of(cell.load(self.out), self.shown)


def gather(run: Run, done: Done, rule: Rule, why: str) -> dict[str, Any]:
    """The results of the exploration; `rule` is the story's budget, `why` says how it came about."""
    stage_cells = run.plan.stages(rule)
    values = {stage: run.weights(cell) for stage, cell in stage_cells.items()}
    trained = values["trained"]
    step = common_step(values)
    limits = {name: pictures.color_limit(weight) for name, weight in trained.items()}
    stages = [_stage(run, stage, cell, done[cell], values[stage], step, rule) for stage, cell in stage_cells.items()]
    by_id = {stage["id"]: stage for stage in stages}
    dense = [done[run.plan.dense(seed)]["test"]["value"] for seed in run.seeds]
    tradeoff = [_point(run, done, strategy, s) for s in run.exploration.sparsities for strategy in STRATEGIES]
    alone = zeros_alone(run, stage_cells["trained"], stage_cells["one-shot"])
    facts = _facts(run, by_id, tradeoff, dense, alone)
    recipe, tracked = stage_cells["in-loop"].recipe, run.network.tracked
    assert recipe is not None
    return {
        "schema": SCHEMA,
        "version": secateurs.__version__,
        "headline": headline(by_id),
        "experiment": run.exploration.values(),
        "recipe_yaml": recipe.to_yaml(),
        "command": f"{run.command} --recipe {shlex.quote(str(recipe))}",
        "environment": environment(),
        "data": about_data(run.data),
        "model": {
            "name": str(run.exploration.experiment.model),
            "n_parameters": sum(parameter.numel() for parameter in run.network.parameters()),
            "n_prunable": sum(trained[name].size for name in run.names),
            "initialiser": run.network.initialiser,
            "tracked": dict(tracked),
        },
        "seeds": list(run.seeds),
        "interval": "95 % Student t interval over the seeds",
        "tau": {"text": rule_text(rule), "sigmas": _sigmas(rule), "why": why},
        "layers": [
            {"name": name, "shape": list(trained[name].shape), "n": trained[name].size, "prunable": name in run.names}
            for name in run.shown
        ],
        "not_pruned": [
            {"name": layer.name, "n": layer.n, "reason": layer.reason}
            for layer in layers(run.network, run.recipe.skip, run.recipe.only)
            if not layer.is_prunable
        ],
        "stages": stages,
        "films": {s: read(stage_cells[s].directory(run.out) / "film.json") for s in ("trained", "in-loop")},
        "positions": {
            stage: {part: pictures.position(weights[name], limits[name]) for part, name in tracked.items()}
            for stage, weights in values.items()
        },
        "tradeoff": tradeoff,
        "dense": {
            **over_seeds(dense, 1 / len(run.data.y_test)).within(0.0, 1.0).values(),
            "values": _by_seed(run.seeds, dense),
            "n_test": len(run.data.y_test),
        },
        "claims": [asdict(claim(facts)) for claim in CLAIMS],
        "zeros_alone": alone,
    }


def zeros_alone(run: Run, dense: Cell, zeroed: Cell) -> dict[str, Any]:
    """Bytes and seconds of the dense network and of the same with zeros in it; measured once per run and kept."""

    def measure() -> dict[str, Any]:
        both = {"dense": dense, "zeroed": zeroed}
        files = {name: cell.directory(run.out) / "model.safetensors" for name, cell in both.items()}
        size = {name: path.stat().st_size for name, path in files.items()}
        deflated = {f"{name}_deflate": len(zlib.compress(path.read_bytes(), 6)) for name, path in files.items()}
        seconds = latency(dense.load(run.out), zeroed.load(run.out), run.data.x_test[:64])
        return {"size_bytes": {**size, **deflated}, "latency": seconds}

    return measured_once(zeroed.directory(run.out) / "zeros_alone.json", measure)


def headline(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence: what happened to this network."""
    test = {stage: found["accuracy"]["test"] for stage, found in stages.items()}
    loop, once = stages["in-loop"]["sparsity"], stages["one-shot"]["sparsity"]
    text = (
        f"Trained, this network got {percent(test['trained']['value'])} of {test['trained']['n']:,} test examples "
        f"right. With {percent(once, 0)} of its weights cut once after training it got "
        f"{percent(test['one-shot']['value'])}, and {percent(test['fine-tuned']['value'])} after fine-tuning; with "
        f"{percent(loop, 0)} cut inside the training loop it got {percent(test['in-loop']['value'])}."
    )
    return text.replace(" %", "\u00a0%")  # no line ends before a sign


def rule_text(rule: Rule) -> str:
    """The story's budget as people write it, fit for a file name: 0.95sigma, 0.4, 70-percent."""
    if isinstance(rule, Sparsity):
        return f"{100 * rule.s:g}-percent"
    return f"{rule.tau:g}sigma" if rule.per_sigma else f"{rule.tau:g}"


def _sigmas(rule: Rule) -> float | None:
    return rule.tau if isinstance(rule, Threshold) and rule.per_sigma else None


def _stage(
    run: Run, stage: str, cell: Cell, result: Mapping[str, Any], weights: Weights, step: float, story: Rule
) -> dict[str, Any]:
    absolute = threshold(run.exploration.absolute_tau)
    rules: dict[str, Rule] = {"in-loop": story, "one-shot": story, "fine-tuned": story, "absolute": absolute}
    rule = rules.get(stage)
    sweep = read(cell.directory(run.out) / "sweep.json")
    for unit, width in (("sigma", stats.SIGMA_STEP), ("absolute", step)):
        placed = [{**point, "edge": round(point["tau"] / width)} for point in sweep[unit]]
        sweep[unit] = [point for point in placed if abs(point["edge"] * width - point["tau"]) < 1e-9]
    return {
        "id": stage,
        "title": TITLES[stage],
        "caption": _caption(run, stage, rule, result),
        # The same cut twice has one pair of pictures.
        "picture": None if stage == "absolute" and rule == story else _picture(stage, rule),
        "cell": cell.hash,
        "seed": cell.seed,
        "collapsed": result["collapsed"],
        "sparsity": result["n_zero"] / result["n_prunable"],
        "accuracy": {"test": result["test"], "validation": result["validation"]},
        "tau_text": None if rule is None else rule_text(rule),
        "tau_value": rule.tau if isinstance(rule, Threshold) else None,
        "layers": {
            name: stats.describe(weight, absolute_step=step, tau=result["taus"].get(name))
            for name, weight in weights.items()
        },
        "sweep": sweep,
    }


def _picture(stage: str, rule: Rule | None) -> str | None:
    """The part of the file names that the two components of a stage share; a fine-tuned network has no picture."""
    if stage in ("one-shot", "absolute") and rule is not None:
        return f"at-prune-{rule_text(rule)}"
    names = {
        "initialised": "initialization",
        "trained": "before-pruning-distribution",
        "in-loop": "threshold-inside-the-training-loop",
    }
    return names.get(stage)


def _caption(run: Run, stage: str, rule: Rule | None, result: Mapping[str, Any]) -> str:
    """What was done to get here, in one or two sentences."""
    training, fine_tune, whole = run.exploration.experiment.training, run.exploration.fine_tune, run.plan.whole
    if isinstance(rule, Threshold):
        each, score = (element, Score("magnitude")) if stage == "absolute" else (run.recipe.unit, run.recipe.score)
        what = "everything with" if each == element else f"every {each} with mean"
        worth = "|w|" if score.name == "magnitude" else score
        goes = f"{what} {worth} <= {rule_text(rule).replace('sigma', ' sigma')}"
    else:
        goes = "" if rule is None else f"the least worth {rule.s:.0%} ({run.recipe.score}, {run.recipe.unit})"
    captions = {
        "initialised": "Freshly drawn weights; nothing is learned yet.",
        "trained": f"After {training.epochs:g} epochs of training; nothing is removed.",
        "in-loop": (
            f"From the same first weights, {whole.epochs:g} epochs; after every step {goes} is zeroed again, and may "
            f"grow back (revive=forget; {run.recipe.schedule})."
        ),
        "one-shot": f"The trained network; {goes} zeroed once, no training after it.",
        "fine-tuned": f"The same cut, then {fine_tune.epochs:g} epochs of training with the zeros held.",
        "absolute": f"The trained network; {goes} zeroed once, whatever the sigma of its layer.",
    }
    if result["collapsed"]:
        return f"{captions[stage]} {len(result['collapsed'])} of {len(result['layers'])} layers are empty."
    return captions[stage]


def _point(run: Run, done: Done, strategy: str, s: float) -> dict[str, Any]:
    """One point of the trade-off."""
    found = [done[run.plan.tradeoff(strategy, s, seed)] for seed in run.seeds]
    achieved = [result["n_zero"] / result["n_prunable"] for result in found]
    accuracies = [result["test"]["value"] for result in found]
    values = [{**value, "sparsity": z} for value, z in zip(_by_seed(run.seeds, accuracies), achieved, strict=True)]
    return {
        "strategy": strategy,
        "asked": s,
        "sparsity": sum(achieved) / len(achieved),
        "n_collapsed": max(len(result["collapsed"]) for result in found),
        **over_seeds(accuracies, 1 / len(run.data.y_test)).within(0.0, 1.0).values(),
        "values": values,
    }


def _by_seed(seeds: tuple[int, ...], accuracies: list[float]) -> list[dict[str, float]]:
    return [{"seed": seed, "accuracy": value} for seed, value in zip(seeds, accuracies, strict=True)]


def _facts(
    run: Run,
    stages: Mapping[str, Mapping[str, Any]],
    tradeoff: list[dict[str, Any]],
    dense: list[float],
    alone: Mapping[str, Any],
) -> Facts:
    """What the claims look at, from the weights of every seed."""
    plan, tracked = run.plan, run.network.tracked
    s = min(run.exploration.sparsities, key=lambda known: abs(known - 0.7))
    first = [run.weights(plan.initialised(seed)) for seed in run.seeds]
    trained = [run.weights(plan.trained(seed)) for seed in run.seeds]
    loop = [run.weights(plan.tradeoff("in-loop", s, seed)) for seed in run.seeds]
    once = [run.weights(plan.tradeoff("one-shot", s, seed)) for seed in run.seeds]
    accuracy: dict[str, dict[float, list[float]]] = {strategy: {} for strategy in STRATEGIES}
    for point in tradeoff:
        accuracy[point["strategy"]][point["asked"]] = [value["accuracy"] for value in point["values"]]
    return Facts(
        initialiser=run.network.initialiser,
        tracked=tracked,
        prunable=run.names,
        kurtosis={
            part: [_or_nan(stats.shape_of(w[name])["kurtosis"]) for w in first] for part, name in tracked.items()
        },
        centre={part: [_sized(w[name].mean(), _sigma(w[name])) for w in first] for part, name in tracked.items()},
        sigma={
            part: {"initial": [_sigma(w[name]) for w in first], "trained": [_sigma(w[name]) for w in trained]}
            for part, name in tracked.items()
        },
        mean_size={part: [float(np.abs(w[name]).mean()) for w in trained] for part, name in tracked.items()},
        near_zero=[_share_within(w, run.names, 0.001) for w in trained],
        survivors=[
            _sized(_survivor_size(a, run.names), _survivor_size(b, run.names)) for a, b in zip(loop, once, strict=True)
        ],
        survivors_at=s,
        accuracy=accuracy,
        dense=dense,
        n_test=len(run.data.y_test),
        stages=stages,
        zeros_alone=alone,
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _sized(value: float, unit: float) -> float:
    """value / unit, NaN where there is nothing to measure by."""
    return float(value / unit) if unit else math.nan


def _sigma(weight: "np.ndarray[Any, Any]") -> float:
    return float(weight.astype(np.float64).std())


def _share_within(weights: Weights, names: list[str], limit: float) -> float:
    """Share of the weights of these layers with |w| <= limit."""
    n_near = sum(int((np.abs(weights[name]) <= limit).sum()) for name in names)
    return n_near / sum(weights[name].size for name in names)


def _survivor_size(weights: Weights, names: list[str]) -> float:
    """Mean |w| of the weights that are not zero."""
    alive = np.concatenate([weights[name][weights[name] != 0] for name in names])
    return float(np.abs(alive).mean()) if alive.size else 0.0
