"""Cells: the smallest piece of an experiment, one network trained or pruned once; a run is made of cells.

    run(cells, directory, perform)  ->  {cell: its result}

A cell is deterministic and named by the hash of what it is, never by a time. Its result is written last, after its
weights are durable, so a cell that has a result is complete and is never run twice; a killed run goes on where it was.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib

from secateurs.data import Dataset, DataSpec, load_data
from secateurs.errors import InputError
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, Network, build, load_weights
from secateurs.recipe import Patterns, Recipe
from secateurs.settings import Settings
from secateurs.train.training import Training


class Cell(Settings):
    """One network, from its first weights or from another cell's last, trained by one recipe with one seed.

    data_hash   fingerprint of the data, so that other data under the same name is another cell
    start       the cell whose final weights this one begins with; None begins with fresh ones
    skip, only  which layers count as prunable, whether or not this cell prunes
    n_looks     how often the training is looked at
    is_story    also records the film of the weights and the accuracy at many taus
    """

    model: ModelSpec
    data: DataSpec
    data_hash: str
    training: Training
    recipe: Recipe | None = None
    seed: int
    start: "Cell | None" = None
    skip: Patterns = ()
    only: Patterns = ()
    n_looks: int = 2
    is_story: bool = False

    def __hash__(self) -> int:
        return hash(self.hash)

    def directory(self, run: Path) -> Path:
        """Where everything about this cell lies."""
        return run / "cells" / self.hash

    def result(self, run: Path) -> dict[str, Any] | None:
        """What `perform` wrote, or None where it is not complete or was made by other versions or another CPU."""
        path = self.directory(run) / "result.json"
        try:
            result: dict[str, Any] = json.loads(path.read_text("utf-8"))
            there = result["environment"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}). Delete it, and the cell runs again.") from error
        return result if same_environment(there, environment()) else None

    def load(self, run: Path) -> Network:
        """The network as this cell left it."""
        module = build(self.model, data_of(self).shape, self.seed)
        load_weights(module, self.directory(run) / "model.safetensors")
        return module


def run(
    cells: Iterable[Cell],
    directory: Path,
    perform: Callable[[Cell, Path], Cell],
    *,
    n_jobs: int,
    listen: Callable[[Cell], None] = lambda cell: None,
) -> dict[Cell, dict[str, Any]]:
    """Perform the cells that have no result yet, each after the one it starts from; all their results.

    n_jobs  processes at a time
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
        jobs = (joblib.delayed(perform)(cell, directory) for cell in ready)
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
    """The last look at every cell that has begun."""
    for cell in cells:
        try:
            lines = (cell.directory(directory) / "metrics.jsonl").read_text("utf-8").splitlines()
            yield cell, next(line for line in map(json.loads, reversed(lines)) if "step" in line)
        except (OSError, StopIteration, ValueError):
            continue  # not begun, or its line is being written


def same_environment(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two environments give the same bits; how many cores there are does not matter to one thread."""
    return {**there, "cores": 0} == {**here, "cores": 0}


def data_of(cell: Cell) -> Dataset:
    """The cell's data, kept in memory; InputError if they are no longer what the run began with."""
    data = _load(json.dumps(cell.data.values()))
    if data.fingerprint != cell.data_hash:
        raise InputError(f"The data of {cell.data.source!r} changed under way. Start again in a new directory.")
    return data


@lru_cache(maxsize=2)
def _load(text: str) -> Dataset:
    return load_data(DataSpec(**json.loads(text)))


def _with_starts(cells: Iterable[Cell]) -> Iterator[Cell]:
    for cell in cells:
        if cell.start is not None:
            yield from _with_starts([cell.start])
        yield cell
