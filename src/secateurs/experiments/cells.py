"""Cells: the smallest piece of an experiment, one network trained or pruned once; a run is made of cells.

    run(cells, directory)  ->  {cell: its result}

A cell is deterministic and named by the hash of what it is, never by a time. Its result is written last, after its
weights are durable, so a cell that has a result is complete and is never run twice; a killed run goes on where it was.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import torch
from torch import nn

from secateurs.data import Dataset, DataSpec, load_data
from secateurs.durable import make_directory, sync_directory, write_json
from secateurs.errors import CollapseWarning, InputError
from secateurs.layers import layers, named_parameters
from secateurs.masks import sigma_of
from secateurs.measure.accuracy import accuracy
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, build, load_weights, save_model
from secateurs.pruning import prune
from secateurs.recipe import Recipe
from secateurs.see import stats
from secateurs.settings import Settings
from secateurs.train.loop import Look, train
from secateurs.train.training import Training

# Where a sweep measures: tau in sigmas of each layer, all on edges of its grid, and absolute.
SIGMA_TAUS = tuple(k / 20 for k in (*range(0, 14, 2), *range(14, 26), *range(26, 41, 2), 50, 60))
ABSOLUTE_TAUS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
QUICK_EXAMPLES = 2000  # of the validation split, for looks and sweeps
FILM_STEP = 0.1  # of a layer's sigma before the training


class Cell(Settings):
    """One network, from its first weights or from another cell's last, trained by one recipe with one seed.

    data_hash  fingerprint of the data, so that other data under the same name is another cell
    start      the cell whose final weights this one begins with; None begins with fresh ones
    is_story   also records the film of the weights and the accuracy at many taus
    """

    model: ModelSpec
    data: DataSpec
    data_hash: str
    training: Training
    recipe: Recipe | None = None
    seed: int
    start: "Cell | None" = None
    n_looks: int = 2
    is_story: bool = False

    def __hash__(self) -> int:
        return hash(self.hash)

    def directory(self, run: Path) -> Path:
        """Where everything about this cell lies."""
        return run / "cells" / self.hash

    def result(self, run: Path) -> dict[str, Any] | None:
        """What `run` wrote, or None where it is not complete or was made by other versions or another CPU."""
        try:
            result: dict[str, Any] = json.loads((self.directory(run) / "result.json").read_text())
            there = result["environment"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.directory(run)} holds a damaged result: {error}. Delete it.") from error
        return result if same_environment(there, environment()) else None

    def load(self, run: Path) -> nn.Module:
        """The network as this cell left it."""
        module = build(self.model, _data(self.data, self.data_hash).shape, self.seed)
        load_weights(module, self.directory(run))
        return module


def run(
    cells: Iterable[Cell], directory: Path, *, n_jobs: int, listen: Callable[[Cell], None] = lambda cell: None
) -> dict[Cell, dict[str, Any]]:
    """Run the cells that have no result yet, each after the one it starts from; all their results.

    n_jobs  processes at a time, one torch thread each
    listen  called here, in the caller's process, when a cell is complete
    """
    wanted = list(dict.fromkeys(_with_starts(cells)))
    results = {cell: result for cell in wanted if (result := cell.result(directory)) is not None}
    for cell in results:
        listen(cell)
    while missing := [cell for cell in wanted if cell not in results]:
        ready = [cell for cell in missing if cell.start is None or cell.start in results]
        # The longest first, so that no process waits long at the end.
        ready.sort(key=lambda cell: -cell.training.epochs)
        jobs = (joblib.delayed(_run_in_process)(cell, directory) for cell in ready)
        for cell in joblib.Parallel(n_jobs=min(n_jobs, len(ready)), return_as="generator_unordered")(jobs):
            result = cell.result(directory)
            assert result is not None
            results[cell] = result
            listen(cell)
    return results


def n_steps(cells: Iterable[Cell], n_train: int) -> int:
    """Optimizer steps of all these cells and those they start from."""
    return sum(cell.training.n_steps(n_train) for cell in dict.fromkeys(_with_starts(cells)))


def latest(cells: Iterable[Cell], directory: Path) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """The last line of metrics of every cell that has begun."""
    for cell in cells:
        try:
            lines = (cell.directory(directory) / "metrics.jsonl").read_text().splitlines()
            yield cell, json.loads(lines[-1])
        except (OSError, IndexError, ValueError):
            continue  # not begun, or its line is being written


def run_cell(cell: Cell, directory: Path) -> None:
    """Train, prune, measure; weights, metrics, film and sweep first, the result last."""
    here = cell.directory(directory)
    make_directory(here)
    data = _data(cell.data, cell.data_hash)
    module = cell.start.load(directory) if cell.start else build(cell.model, data.shape, cell.seed)
    skip, only = (cell.recipe.skip, cell.recipe.only) if cell.recipe else ((), ())
    names = [layer.name for layer in layers(module, skip, only) if layer.is_prunable]
    film = []
    steps = {name: FILM_STEP * sigma_of(named_parameters(module)[name]) or 1.0 for name in names}
    with open(here / "metrics.jsonl", "w") as metrics:
        masks = None
        for look in _looks(cell, module, data):
            masks = look.masks
            line = {"cell": cell.hash, **_line(look)}
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            if cell.is_story and look.n_steps:
                grids = {name: stats.grid(_numpy(module, name), steps[name]) for name in names}
                film.append({**line, "layers": grids})
        os.fsync(metrics.fileno())
    save_model(
        module,
        cell.model,
        data.shape,
        here,
        about={"data": data.name, "scaling": asdict(data.scaling) if data.scaling else None},
    )
    if masks is not None:
        masks.save(here / "masks.safetensors")
    if cell.is_story:
        write_json(here / "film.json", film)
        write_json(here / "sweep.json", _sweep(module, data, names))
    weights = [named_parameters(module)[name] for name in names]
    report = () if masks is None else masks.report
    result = {
        "cell": cell.values(),
        "environment": environment(),
        "n_steps": cell.training.n_steps(len(data.y_train)),
        "n_prunable": sum(weight.numel() for weight in weights),
        "n_zero": sum(int((weight == 0).sum()) for weight in weights),
        "validation": accuracy(module, data.x_val, data.y_val).values(),
        "test": accuracy(module, data.x_test, data.y_test).values(),
        "layers": names,
        "collapsed": [line.name for line in report if line.n_pruned == line.n > 0],
        "taus": {line.name: line.tau for line in report if line.tau is not None},
    }
    sync_directory(here)
    write_json(here / "result.json", result)


def same_environment(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two environments give the same bits; how many cores there are does not matter to one thread."""
    return {**there, "cores": 0} == {**here, "cores": 0}


def _run_in_process(cell: Cell, directory: Path) -> Cell:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # the result names the layers, and whoever reads it says so
        run_cell(cell, directory)
    return cell


def _looks(cell: Cell, module: nn.Module, data: Dataset) -> Iterator[Look]:
    """The training; a cell that trains nothing is pruned once and looked at."""
    if cell.training.epochs == 0:
        masks = prune(module, cell.recipe) if cell.recipe else None
        validation = accuracy(module, data.x_val[:QUICK_EXAMPLES], data.y_val[:QUICK_EXAMPLES])
        yield Look(0, 0, 0.0, None, validation, masks, 0.0)
        return
    n_looks, n_quick = cell.n_looks, QUICK_EXAMPLES
    yield from train(
        module, data, cell.training, seed=cell.seed, recipe=cell.recipe, n_looks=n_looks, n_validation=n_quick
    )


def _line(look: Look) -> dict[str, Any]:
    return {
        "step": look.step,
        "n_steps": look.n_steps,
        "epoch": look.epoch,
        "loss": look.loss,
        "accuracy": look.validation.value,
        "n": look.validation.n,
        "sparsity": look.sparsity,
        "learning_rate": look.learning_rate,
    }


def _sweep(module: nn.Module, data: Dataset, names: list[str]) -> dict[str, list[dict[str, float]]]:
    """Validation accuracy when every prunable layer is cut at many taus, each measured on the network as it is."""
    x, y = data.x_val[:QUICK_EXAMPLES], data.y_val[:QUICK_EXAMPLES]
    by_name = named_parameters(module)
    whole = {name: by_name[name].detach().clone() for name in names}
    n = sum(weight.numel() for weight in whole.values())
    points: dict[str, list[dict[str, float]]] = {"sigma": [], "absolute": []}
    for unit, taus in (("sigma", SIGMA_TAUS), ("absolute", ABSOLUTE_TAUS)):
        for tau in taus:
            n_zero = 0
            for name, weight in whole.items():
                cut = tau * sigma_of(weight) if unit == "sigma" else tau
                by_name[name].data.copy_(weight.masked_fill(weight.abs().double() <= cut, 0.0))
                n_zero += int((by_name[name] == 0).sum())
            measured = accuracy(module, x, y)
            points[unit].append({"tau": tau, "sparsity": n_zero / n, "accuracy": measured.value, "n": measured.n})
    for name, weight in whole.items():
        by_name[name].data.copy_(weight)
    return points


def _numpy(module: nn.Module, name: str) -> Any:
    return named_parameters(module)[name].detach().float().cpu().numpy()


def _with_starts(cells: Iterable[Cell]) -> Iterator[Cell]:
    for cell in cells:
        if cell.start is not None:
            yield from _with_starts([cell.start])
        yield cell


@lru_cache(maxsize=2)
def _load(text: str) -> Dataset:
    return load_data(DataSpec(**json.loads(text)))


def _data(spec: DataSpec, fingerprint: str) -> Dataset:
    data = _load(json.dumps(spec.values()))
    if data.fingerprint != fingerprint:
        raise InputError(f"The data of {spec.source!r} changed under way. Start again in a new directory.")
    return data
