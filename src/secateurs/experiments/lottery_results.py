"""Lottery results: what the cells of a lottery found, level by level, as one value for tables and pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import secateurs
from secateurs.data import Dataset
from secateurs.durable import write_json, write_text
from secateurs.errors import InputError
from secateurs.experiments.cells import Cell
from secateurs.experiments.facts import about_data, about_model, found_values, paired, spread
from secateurs.experiments.lottery import KINDS, Lottery, LotteryPlan
from secateurs.experiments.work import Work
from secateurs.masks import Masks
from secateurs.measure.environment import environment
from secateurs.models import Network
from secateurs.see import curves, pictures

SCHEMA = "secateurs.lottery/1"
Done = Mapping[Cell, Mapping[str, Any]]


@dataclass(frozen=True)
class LotteryRun:
    """A lottery in its directory, with the data and the network that the checks loaded."""

    lottery: Lottery
    plan: LotteryPlan
    out: Path
    command: str
    data: Dataset
    network: Network
    work: Work

    def run(self) -> dict[str, Any]:
        """Run the cells that are missing, gather, draw; returns the results."""
        results = gather(self, self.work.run(self.plan.cells.values()))
        write_json(self.out / "results.json", results)
        cells = self.plan.cells.values()
        lines = [(cell.directory(self.out) / "metrics.jsonl").read_text("utf-8") for cell in cells]
        write_text(self.out / "metrics.jsonl", "".join(lines))
        pictures.save_picture(curves.lottery_chart(results), self.out / "lottery")
        return results


def gather(run: LotteryRun, done: Done) -> dict[str, Any]:
    """The results of the lottery; `done` is {cell: its result}."""
    experiment, cells = run.lottery.experiment, run.plan.cells
    seeds, n_test = experiment.seeds, len(run.data.y_test)
    levels = []
    for k in range(run.lottery.n_rounds + 1):
        kinds = [kind for kind in KINDS if (kind, k, seeds[0]) in cells]
        found = {kind: [done[cells[kind, k, seed]] for seed in seeds] for kind in kinds}
        accuracies = {kind: [result["test"]["value"] for result in each] for kind, each in found.items()}
        stops = {kind: [_early_stop(run.out, cells[kind, k, seed]) for seed in seeds] for kind in kinds}
        dense = [done[cells["ticket", 0, seed]]["test"]["value"] for seed in seeds]
        others = {kind: accuracies[kind] for kind in kinds if kind != "ticket"} | ({"dense": dense} if k else {})
        gaps = {f"ticket-{kind}": paired(accuracies["ticket"], other, n_test) for kind, other in others.items()}
        levels.append(
            {
                "level": k,
                **_counts([result for each in found.values() for result in each]),
                "layers": _layers(run.out, cells["ticket", k, seeds[0]]),
                "kinds": {
                    kind: {
                        **spread(accuracies[kind], n_test),
                        "values": found_values(seeds, accuracies[kind]),
                        "early_stop_step": spread([stop["step"] for stop in stops[kind]]),
                        "early_stop_accuracy": spread([stop["accuracy"] for stop in stops[kind]], stops[kind][0]["n"]),
                        "early_stop_values": stops[kind],
                    }
                    for kind in kinds
                },
                "gaps": gaps,
            }
        )
    return {
        "schema": SCHEMA,
        "version": secateurs.__version__,
        "command": run.command,
        "environment": environment(),
        "lottery": run.lottery.values(),
        "data": about_data(run.data),
        "model": about_model(experiment.model, run.network),
        "n_steps": experiment.training.n_steps(len(run.data.y_train)),
        "seeds": list(seeds),
        "interval": "95 % Student t interval over the seeds",
        "levels": levels,
    }


def _counts(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The exact count of a level, which all its networks share."""
    found = {(result["n_prunable"] - result["n_zero"], result["n_prunable"]) for result in results}
    if len(found) > 1:
        raise InputError(f"The networks of one level keep different numbers of weights: {sorted(found)}.")
    n_kept, n = found.pop()
    return {"n_kept": n_kept, "n_prunable": n, "kept": n_kept / n}


def _layers(out: Path, cell: Cell) -> dict[str, int]:
    """Survivors by layer; nothing where nothing is cut."""
    if cell.masks is None:
        return {}
    masks = Masks.load(cell.directory(out) / "masks.safetensors")
    return {name: int(keep.count_nonzero()) for name, keep in masks.items()}


def _early_stop(out: Path, cell: Cell) -> dict[str, Any]:
    """The look with the least validation loss: its step, validation accuracy and n."""
    lines = (cell.directory(out) / "metrics.jsonl").read_text("utf-8").splitlines()
    looks = [look for look in map(json.loads, lines) if look.get("step")]
    best = min(looks, key=lambda look: float(look["validation_loss"]))
    return {key: best[key] for key in ("step", "accuracy", "validation_loss", "n")}
