"""Work: the cells of one run being performed, and how far they are."""

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import joblib
import torch
from torch import Tensor, nn

from secateurs.data import Dataset
from secateurs.data.lengths import typical
from secateurs.evaluating import threads
from secateurs.experiments import cells
from secateurs.experiments.cells import Cell
from secateurs.experiments.perform import perform
from secateurs.train.precision import computed_in
from secateurs.train.training import Training

TIMED_STEPS, TIMED_SECONDS = 8, 1.0  # at least; so that processes that begin one after the other meet


@dataclass(frozen=True)
class Progress:
    """How far a run is; `latest` is the newest line of metrics of a cell that is training, if any."""

    n_steps_done: int
    n_steps: int
    n_cells_done: int
    n_cells: int
    latest: Mapping[str, Any] | None


class Work:
    """Performs cells in one directory; `progress` may be asked from another thread meanwhile.

    planned  every cell that the run is known to come to, for the progress; what they need is counted in
    """

    def __init__(self, planned: Iterable[Cell], out: Path, n_train: int, *, n_jobs: int) -> None:
        self.planned = cells.with_needs(planned)
        self.out = out
        self.n_train = n_train
        self.n_jobs = n_jobs
        self._under_way: list[Cell] = []
        self._done: set[Cell] = set()

    def run(self, wanted: Iterable[Cell]) -> dict[Cell, dict[str, Any]]:
        """The results of these cells and of those they need; the missing ones are performed, planned or not."""
        self._under_way = cells.with_needs(wanted)
        self.planned = list(dict.fromkeys((*self.planned, *self._under_way)))
        return cells.run(self._under_way, self.out, perform, n_jobs=self.n_jobs, listen=self._done.add)

    @property
    def n_steps(self) -> int:
        """Training steps of everything that is planned."""
        return sum(cell.training.n_steps(self.n_train) for cell in self.planned)

    def progress(self) -> Progress:
        """How far the run is, the steps of the cells under way included."""
        done = set(self._done)
        n_done = sum(cell.training.n_steps(self.n_train) for cell in done)
        latest = None
        for cell, line in cells.latest([cell for cell in self._under_way if cell not in done], self.out):
            n_done += min(line["step"], cell.training.n_steps(self.n_train))
            latest = line if line["loss"] is not None else latest
        return Progress(min(n_done, self.n_steps), self.n_steps, len(done), len(self.planned), latest)


def seconds_per_step(network: nn.Module, data: Dataset, training: Training, n_jobs: int = 1) -> float:
    """Median of a few training steps on one thread, while n_jobs processes take such steps side by side."""
    x, y = typical(data.x_train, training.batch_size).clone(), data.y_train[: training.batch_size].clone()
    jobs = (joblib.delayed(_step_times)(network, training, x, y) for _ in range(n_jobs))
    seconds = sorted(chain.from_iterable(joblib.Parallel(n_jobs=n_jobs)(jobs)))
    return float(seconds[len(seconds) // 2])


def _step_times(network: nn.Module, training: Training, x: Tensor, y: Tensor) -> list[float]:
    with threads(1):
        network = copy.deepcopy(network).train()
        seconds: list[float] = []
        optimizer = training.make_optimizer(network)
        until = time.perf_counter() + TIMED_SECONDS
        while len(seconds) < TIMED_STEPS or time.perf_counter() < until:
            start = time.perf_counter()
            optimizer.zero_grad()
            with computed_in(training.precision, x.device):
                loss = torch.nn.functional.cross_entropy(network(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        return seconds
