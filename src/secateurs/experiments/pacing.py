"""Pacing: how much training a compression's candidates get in the time that there is; decided once, and kept.

Rungs: every candidate is trained for 1/9 of the epochs of the last rung, the promising for 1/3, the last for all.
"""

import time
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from secateurs.data.shape import as_tuple
from secateurs.durable import write_json
from secateurs.errors import RecipeError
from secateurs.experiments.candidates import TUNED
from secateurs.experiments.cells import read
from secateurs.experiments.compression import Compression
from secateurs.settings import Settings

KEPT = (3, 2)  # candidates that the search takes to the second rung, and to the third; one new comes to each
LONGER = 3.0  # times as much training in each rung
CONTROLS = 2  # as long as the last rung: the dense network trained on, and pruning without a teacher
SLOWER = 1.4  # a step with a teacher, a pruner and the looks, against a plain one
SEARCHED = 0.8  # of the time goes into training; the rest into measuring


class Pace(Settings):
    """How long candidates are trained.

    rungs      epochs of the pruning in each rung
    kept       candidates in each rung; the first has them all
    n_steps    of training, all together
    seconds    that this is expected to take
    """

    rungs: Annotated[tuple[float, ...], BeforeValidator(as_tuple)]
    kept: Annotated[tuple[int, ...], BeforeValidator(as_tuple)]
    n_steps: int
    seconds: float


def pace_of(asked: Compression, n_shapes: int, n_train: int, step_s: float, n_jobs: int) -> Pace:
    """The pace for this many first candidates.

    step_s  seconds of a plain training step on one thread

    RecipeError where the time is too short to train anything.
    """
    kept = (n_shapes, *(n + 1 for n in KEPT))
    shares = [LONGER ** (rung + 1 - len(kept)) for rung in range(len(kept))]
    steps = asked.training.steps_per_epoch(n_train)
    first = 0.0 if asked.start_sha256 else asked.training.epochs
    # Epochs of everything for one epoch of the last rung; quantized networks are trained from the second rung on.
    each = CONTROLS + sum(
        n * share * (1 + TUNED * (k > 0)) for k, (n, share) in enumerate(zip(kept, shares, strict=True))
    )
    a_step = SLOWER * step_s / n_jobs
    least = each / shares[0] * a_step + first * steps * step_s  # one step in the first rung
    allowed = (SEARCHED * asked.max_time_s - first * steps * step_s) / (each * steps * a_step)
    if asked.epochs is None and allowed * shares[0] * steps < 1:
        raise RecipeError(
            f"{asked.max_time_s:.0f} s are too short to try {n_shapes} candidates: on this machine it takes "
            f"{least / SEARCHED:.0f} s at the very least. Give a larger --max-time."
        )
    epochs = float(f"{asked.epochs or min(2.0 * asked.training.epochs, allowed):.3g}")
    n_steps = round((first + each * epochs) * steps)
    seconds = first * steps * step_s + each * epochs * steps * a_step
    return Pace(rungs=tuple(epochs * share for share in shares), kept=kept, n_steps=n_steps, seconds=seconds / SEARCHED)


class Clock:
    """Seconds that a run in this file has taken, over all the times it was begun."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun = time.monotonic()
        self._before = float(read(path)["seconds"]) if path.exists() else 0.0

    @property
    def seconds(self) -> float:
        """All together."""
        return self._before + time.monotonic() - self._begun

    def keep(self) -> None:
        """Write it down."""
        write_json(self.path, {"seconds": self.seconds})
