"""Comparison: strategies side by side at several sparsities and seeds, all with the same training budget.

comparison = Comparison(experiment, fine_tune, ...)     what is asked, one frozen value
ComparisonRun(...).run() -> results                     also results.json, the picture and the page
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

import secateurs
from secateurs.budgets import PerLayer
from secateurs.checkpoint.packing import pack
from secateurs.checks import nearest
from secateurs.data import Dataset
from secateurs.data.shape import as_tuple
from secateurs.durable import write_json, write_text
from secateurs.errors import RecipeError
from secateurs.experiments.cells import Cell
from secateurs.experiments.exploration import Experiment
from secateurs.experiments.facts import (
    about_data,
    about_model,
    common_step,
    found_values,
    latency,
    measured_once,
    paired,
    spread,
    weights_of,
)
from secateurs.experiments.gather import TITLES
from secateurs.experiments.strategies import FROM_FIRST_WEIGHTS, STRATEGIES, Ground, at_sparsity, dense
from secateurs.experiments.work import Work
from secateurs.layers import layers, named_parameters
from secateurs.masks import Masks
from secateurs.measure.accuracy import accuracy
from secateurs.measure.environment import environment
from secateurs.measure.operations import multiply_adds, uses
from secateurs.models import Network, build
from secateurs.see import curves, pictures, stats
from secateurs.see.comparison_page import comparison_page
from secateurs.see.curves import COMPARISON
from secateurs.see.style import percent
from secateurs.settings import Settings
from secateurs.train.training import Training

SCHEMA = "secateurs.comparison/1"
LADDER = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


class Comparison(Settings):
    """What the command `compare` is asked to do.

    experiment    the recipe's budget is replaced by each sparsity, erk by erk; its schedule is that of gradual pruning
    fine_tune     the training after a cut; every strategy has the epochs of both trainings together
    n_rounds      of iterative pruning
    start_sha256  of the weights of a network that is given; then nothing is trained before the cut, the experiment's
                  training does not count, and a fine-tuning that distils learns from that network
    """

    experiment: Experiment
    fine_tune: Training
    sparsities: Annotated[tuple[float, ...], BeforeValidator(as_tuple)] = LADDER
    strategies: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = tuple(STRATEGIES)
    n_rounds: int = 4
    start_sha256: str | None = None

    def model_post_init(self, context: object) -> None:
        """Known strategies, sparsities in (0, 1), and a fine-tuning that fits into the training's rate curve."""
        for name in self.strategies:
            if name not in STRATEGIES:
                raise RecipeError(f"There is no strategy {name!r}. {nearest(name, STRATEGIES)}")
        if not self.strategies or len(set(self.strategies)) != len(self.strategies):
            raise RecipeError(f"strategies must be named, each once; got {list(self.strategies)}.")
        if not self.sparsities or not all(0.0 < s < 1.0 for s in self.sparsities):
            raise RecipeError(f"sparsities must lie between 0 and 1; got {list(self.sparsities)}.")
        if len(set(self.sparsities)) != len(self.sparsities):
            raise RecipeError(f"sparsities must be named, each once; got {list(self.sparsities)}.")
        if isinstance(self.experiment.recipe.budget, PerLayer):
            raise RecipeError(
                "A comparison asks for each of its sparsities, over all layers or by ERK; the recipe's budget "
                f"'{self.experiment.recipe.budget}' names one for each layer. Give sparsity(0.9) or erk(0.9), and skip "
                "or only for layers that stay."
            )
        if n := self.experiment.recipe.pool.n // self.experiment.recipe.unit.w:
            can = [k / n for k in range(1, n)]
            if odd := [s for s in self.sparsities if min((abs(s - each) for each in can), default=1.0) > 1e-9]:
                raise RecipeError(
                    f"Of {n} neighbours {', '.join(f'{s:g}' for s in odd)} cannot go. Sparsities that can be are "
                    f"{', '.join(f'{s:g}' for s in can) or 'none'}."
                )
        if self.n_rounds < 1:
            raise RecipeError(f"n_rounds must be at least 1; got {self.n_rounds}.")
        if self.start_sha256 is not None:
            self._check_given()
        elif self.fine_tune.distill or self.experiment.training.distill:
            raise RecipeError("What distils needs a network that teaches: compare the ways from one that is given.")
        elif not 0.0 < self.fine_tune.epochs <= self.experiment.training.epochs:
            raise RecipeError(
                f"fine_tune needs epochs, at most the {self.experiment.training.epochs:g} of the training, whose end "
                f"it repeats when it is rewound; got {self.fine_tune.epochs:g}."
            )

    def _check_given(self) -> None:
        if self.fine_tune.epochs <= 0.0:
            raise RecipeError(f"fine_tune needs epochs; got {self.fine_tune.epochs:g}.")
        for name in self.strategies:
            if name in FROM_FIRST_WEIGHTS:
                raise RecipeError(
                    f"{name!r} repeats a training from its first weights on, and the network that is given has its "
                    "training behind it. Leave it out, or compare networks that are trained here."
                )


@dataclass(frozen=True)
class ComparisonRun:
    """A comparison in its directory, with the data and the network that the checks loaded."""

    comparison: Comparison
    out: Path
    command: str
    data: Dataset
    network: Network

    def check(self) -> None:
        """Lay every budget on the network; raises what cannot be done."""
        for s in self.comparison.sparsities:
            Masks.make(self.network, at_sparsity(self.comparison.experiment.recipe, s), is_trial=True)

    @property
    def ground(self) -> Ground:
        """What the strategies share."""
        comparison, experiment = self.comparison, self.comparison.experiment

        def cell(seed: int, training: Training, **fields: Any) -> Cell:
            if training.distill is not None:
                fields["teacher"] = self.given
            return Cell(
                model=experiment.model,
                data=experiment.data,
                data_hash=self.data.fingerprint,
                training=training,
                seed=seed,
                skip=experiment.recipe.skip,
                only=experiment.recipe.only,
                **fields,
            )

        words = (experiment.training, comparison.fine_tune, experiment.recipe, comparison.n_rounds)
        return Ground(cell, *words, comparison.start_sha256)

    @property
    def given(self) -> Cell | None:
        """The network that is given, as it is."""
        is_given = self.comparison.start_sha256 is not None
        return self.ground.trained(self.comparison.experiment.seeds[0]) if is_given else None

    def dense(self) -> list[Cell]:
        """The baseline of every seed."""
        return [dense(self.ground, 0.0, seed) for seed in self.comparison.experiment.seeds]

    def points(self) -> Iterator[tuple[str, float, list[Cell]]]:
        """(strategy, sparsity, its cells, one per seed)."""
        ground, seeds = self.ground, self.comparison.experiment.seeds
        for name in self.comparison.strategies:
            for s in self.comparison.sparsities:
                yield name, s, [STRATEGIES[name](ground, s, seed) for seed in seeds]

    def cells(self) -> list[Cell]:
        """Every cell that is shown."""
        given = [] if self.given is None else [self.given]
        return [*given, *self.dense(), *(cell for _, _, cells in self.points() for cell in cells)]

    def run(self, work: Work) -> dict[str, Any]:
        """Run the cells that are missing, gather, draw; returns the results."""
        results = gather(self, work.run(self.cells()))
        write_json(self.out / "results.json", results)
        lines = [(cell.directory(self.out) / "metrics.jsonl").read_text("utf-8") for cell in work.planned]
        write_text(self.out / "metrics.jsonl", "".join(lines))
        pictures.save_picture(curves.comparison_chart(results), self.out / "comparison")
        write_text(self.out / "report.html", comparison_page(results))
        return results


def gather(run: ComparisonRun, done: Mapping[Cell, Mapping[str, Any]]) -> dict[str, Any]:
    """The results of the comparison; `done` is {cell: its result}."""
    seeds, n_test = run.comparison.experiment.seeds, len(run.data.y_test)
    used = uses(run.network, run.data.x_train[:1])
    baseline = [done[cell]["test"]["value"] for cell in run.dense()]
    points = []
    for name, s, cells in run.points():
        accuracies = [done[cell]["test"]["value"] for cell in cells]
        found = [done[cell] for cell in cells]
        points.append(
            {
                "strategy": name,
                "asked": s,
                "sparsity": math.fsum(each["n_zero"] / each["n_prunable"] for each in found) / len(found),
                "n_collapsed": max(len(each["collapsed"]) for each in found),
                **spread(accuracies, n_test),
                "values": found_values(seeds, accuracies),
                "minus_dense": paired(accuracies, baseline, n_test),
                "epochs": epochs_of(cells[0]),
                "mask_epochs": mask_epochs_of(cells[0]),
                **_costs(run, cells, used),
            }
        )
    dense = {
        **spread(baseline, n_test),
        "values": found_values(seeds, baseline),
        "epochs": epochs_of(run.dense()[0]),
        "mask_epochs": 0.0,
        **_costs(run, run.dense(), used),
    }
    return {
        "schema": SCHEMA,
        "version": secateurs.__version__,
        "headline": headline(points, dense),
        "command": run.command,
        "environment": environment(),
        "comparison": run.comparison.values(),
        "data": about_data(run.data),
        "model": about_model(run.comparison.experiment.model, run.network),
        "seeds": list(seeds),
        "interval": "95 % Student t interval over the seeds",
        "given": None if run.given is None else done[run.given]["test"],
        "dense": dense,
        "points": points,
        "stages": _stages(run, done),
        "latency": _latency(run),
    }


def epochs_of(cell: Cell) -> float:
    """Epochs that this network has been trained for, from its first weights on, with finding masks for its own.

    Masks for other weights (another seed's, or shuffled) are found elsewhere and not counted.
    """
    before = epochs_of(cell.start) if cell.start else 0.0
    if cell.masks and _are_its_own(cell):
        before = max(before, epochs_of(cell.masks))
    return cell.training.epochs + before


def mask_epochs_of(cell: Cell) -> float:
    """Epochs of another network that found its masks."""
    return epochs_of(cell.masks) if cell.masks and not _are_its_own(cell) else 0.0


def _are_its_own(cell: Cell) -> bool:
    """Whether the masks were found by training these very weights."""
    return not cell.is_shuffled and _first(cell).seed == cell.seed


def _first(cell: Cell) -> Cell:
    return _first(cell.start) if cell.start else cell


def _costs(run: ComparisonRun, cells: Sequence[Cell], used: dict[str, int]) -> dict[str, float]:
    """Means over the seeds: bytes packed without loss, and theoretical multiply-adds of one example."""
    found = [_cost(run, cell, used) for cell in cells]
    return {key: math.fsum(each[key] for each in found) / len(found) for key in ("packed_bytes", "multiply_adds")}


def _cost(run: ComparisonRun, cell: Cell, used: dict[str, int]) -> dict[str, float]:
    def measure() -> dict[str, float]:
        module = cell.load(run.out)
        by_name = named_parameters(module)
        n_kept = {layer.name: int(by_name[layer.name].count_nonzero()) for layer in layers(module)}
        with tempfile.TemporaryDirectory() as folder:
            receipt = pack(cell.directory(run.out) / "model.safetensors", Path(folder) / "x.packed.safetensors")
        return {"packed_bytes": float(receipt.size_bytes), "multiply_adds": float(multiply_adds(n_kept, used))}

    return measured_once(cell.directory(run.out) / "cost.json", measure)


def _latency(run: ComparisonRun) -> dict[str, Any]:
    """Seconds of the dense network and of the sparsest one of the first strategy; measured once per run and kept."""
    name, s, cells = max(run.points(), key=lambda point: (point[1], point[0] == run.comparison.strategies[0]))

    def measure() -> dict[str, Any]:
        seconds = latency(run.dense()[0].load(run.out), cells[0].load(run.out), run.data.x_test[:64])
        return {"strategy": name, "sparsity": s, **seconds}

    return measured_once(run.out / "latency.json", measure)


def _stages(run: ComparisonRun, done: Mapping[Cell, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The weights of the first seed's networks, at the largest sparsity: what a picture of each stage shows."""
    most, seed = max(run.comparison.sparsities), run.comparison.experiment.seeds[0]
    at = {name: cells[0] for name, s, cells in run.points() if s == most}
    loop = next((name for name in ("in-loop", "gradual") if name in at), None)
    cells = {"trained": run.dense()[0]}
    cells |= {"in-loop": at[loop]} if loop else {}
    cells |= {"one-shot": at["one-shot"]} if "one-shot" in at else {}
    names = list(dict.fromkeys(run.network.tracked.values()))
    networks = {stage: cell.load(run.out) for stage, cell in cells.items()}
    found: dict[str, Any] = {stage: done[cell] for stage, cell in cells.items()}
    if run.given is None:
        first = build(run.comparison.experiment.model, run.data.shape, seed)
        networks = {"initialised": first, **networks}
        found["initialised"] = {"test": accuracy(first, run.data.x_test, run.data.y_test).values(), "taus": {}}
    values = {stage: weights_of(network, names) for stage, network in networks.items()}
    more = "" if run.given is None else " more"
    captions = {
        "initialised": "Freshly drawn weights; nothing is learned yet.",
        "trained": f"After {epochs_of(cells['trained']):g}{more} epochs; nothing is removed.",
        "in-loop": f"From the same weights and for as long: {COMPARISON.get(loop or '', '')}.",
        "one-shot": "The trained network, cut once; no training after it.",
    }
    step = common_step(values)
    return [
        {
            "id": stage,
            "title": TITLES[stage],
            "caption": captions[stage],
            "seed": seed,
            "sparsity": found[stage].get("n_zero", 0) / found[stage].get("n_prunable", 1),
            "accuracy": {"test": found[stage]["test"]},
            "layers": {
                name: stats.describe(weight, absolute_step=step, tau=found[stage]["taus"].get(name))
                for name, weight in weights.items()
            },
        }
        for stage, weights in values.items()
    ]


def headline(points: Sequence[Mapping[str, Any]], dense: Mapping[str, Any]) -> str:
    """One sentence: what became of the network at the largest sparsity."""
    most = max(point["asked"] for point in points)
    told = {
        "one-shot": "cut once",
        "fine-tuned": "fine-tuned after the cut",
        "gradual": "pruned little by little inside the training loop",
        "scratch-e": "trained from scratch with the same zeros",
    }
    at = {point["strategy"]: point["mean"] for point in points if point["asked"] == most}
    parts = [f"{percent(at[name])} {what}" for name, what in told.items() if name in at]
    text = f"Dense, this network gets {percent(dense['mean'])} of the test examples right."
    if parts:
        text += f" With {percent(most, 0)} of its weights gone it gets {', '.join(parts)}."
    return text.replace(" %", "\u00a0%")  # no line ends before a sign
