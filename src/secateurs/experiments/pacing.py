"""Pacing: how much training a compression's candidates get in the time that there is; decided once, and kept.

Rungs: every candidate is trained for 1/9 of the epochs of the last rung, the promising for 1/3, the last for all; what
is to come is planned anew when a rung has shown what it takes. Candidates are so many that no core waits.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from secateurs.data.shape import as_tuple
from secateurs.durable import write_json
from secateurs.errors import RecipeError
from secateurs.experiments.aiming import LONGER
from secateurs.experiments.candidates import TUNED, VALUES
from secateurs.experiments.cells import read
from secateurs.experiments.compression import Compression
from secateurs.settings import Settings

KEPT = (4, 2)  # candidates of the second rung, and of the third, at least
MOST = 8  # and at most, on as many cores
LEAST = 0.25  # of the planned epochs, however late it is: then fewer candidates are trained
STEPS = 9  # of the receipt
CONTROLS = 2  # as long as the last rung: the dense network trained on, and pruning without a teacher
SLOWER = 1.4  # a step with a teacher, a pruner and the looks, against a plain one
ANEW = 0.4  # and so much more where images move: then the teacher answers every batch anew
SEARCHED = 0.8  # of the time goes into training; the rest into measuring
PLANNED = 0.9  # of the time is given away when a rung begins; other work may slow it down


class Pace(Settings):
    """How long candidates are trained.

    rungs      epochs of the pruning in each rung
    kept       candidates in each rung; the first has them all
    epoch_s    of a candidate's epoch, from a few plain steps
    n_steps    of training, all together
    n_jobs     processes that it is planned for; when it goes on with more or fewer, the plan stays
    seconds    that this is expected to take
    """

    rungs: Annotated[tuple[float, ...], BeforeValidator(as_tuple)]
    kept: Annotated[tuple[int, ...], BeforeValidator(as_tuple)]
    epoch_s: float
    n_steps: int
    n_jobs: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What a turn takes, in which as many candidates as there are cores are trained and measured side by side.

    epoch_s  seconds of each epoch
    turn_s   and of everything else: loading, looking, measuring in all ways to store it
    """

    epoch_s: float
    turn_s: float

    @classmethod
    def of(cls, seen: Sequence[tuple[float, float]], planned_s: float) -> "Cost":
        """Of what (epochs, seconds) the turns of each rung had; planned_s: of an epoch, from a few steps."""
        (first_epochs, first_s), (epochs, seconds) = seen[0], seen[-1]
        slope = (seconds - first_s) / (epochs - first_epochs) if epochs > first_epochs else planned_s
        # Noise can make it negative, or more than all that was seen.
        epoch_s = min(slope if slope > 0 else planned_s, seconds / epochs)
        return cls(max(1e-9, epoch_s), max(0.0, seconds - epoch_s * epochs))

    def turn(self, epochs: float) -> float:
        """Seconds of one turn with so many epochs."""
        return self.epoch_s * epochs + self.turn_s


def pace_of(asked: Compression, n_shapes: int, n_train: int, step_s: float, n_jobs: int) -> Pace:
    """The pace for this many first candidates.

    step_s  seconds of a plain training step on one thread

    RecipeError where the time is too short to train anything.
    """
    kept = (n_shapes, *(min(MOST, n_jobs * -(-n // n_jobs)) for n in KEPT))
    shares = [LONGER ** (rung + 1 - len(kept)) for rung in range(len(kept))]
    steps = asked.training.steps_per_epoch(n_train)
    first = 0.0 if asked.start_sha256 else asked.training.epochs
    rungs = [(n, share * (1 + TUNED * (k > 0))) for k, (n, share) in enumerate(zip(kept, shares, strict=True))]
    # Epochs of everything for one epoch of the last rung, one after the other and side by side.
    each = CONTROLS + sum(n * share for n, share in rungs)
    beside = n_turns(CONTROLS, n_jobs) + sum(n_turns(n, n_jobs) * share for n, share in rungs)
    a_step = (SLOWER + ANEW * asked.recovery.is_moving) * step_s
    least = beside / shares[0] * a_step + first * steps * step_s  # one step in the first rung
    allowed = (SEARCHED * asked.max_time_s - first * steps * step_s) / (beside * steps * a_step)
    if asked.epochs is None and allowed * shares[0] * steps < 1:
        raise RecipeError(
            f"{asked.max_time_s:.0f} s are too short to try {n_shapes} candidates: on this machine it takes "
            f"{least / SEARCHED:.0f} s at the very least. Give a larger --max-time."
        )
    epochs = float(f"{asked.epochs or min(2.0 * asked.training.epochs, allowed):.3g}")
    n_steps = round((first + each * epochs) * steps)
    seconds = first * steps * step_s + beside * epochs * steps * a_step
    return Pace(
        rungs=tuple(epochs * share for share in shares),
        kept=kept,
        epoch_s=steps * a_step,
        n_steps=n_steps,
        n_jobs=n_jobs,
        seconds=seconds / SEARCHED,
    )


def replanned(
    asked: Compression, pace: Pace, rung: int, left_s: float, cost: Cost, sizes: tuple[int, int, int]
) -> Pace:
    """The pace with as many epochs in this rung and those after it as the time that is left allows.

    left_s  of the time that was asked for
    sizes   training, validation and test examples
    """
    n_train, n_validation, n_test = sizes
    shares, kept, planned = [each / pace.rungs[-1] for each in pace.rungs[rung:]], pace.kept[rung:], pace.rungs[-1]
    n_jobs = pace.n_jobs
    turns, controls = [n_turns(n, n_jobs) for n in kept], n_turns(CONTROLS, n_jobs)
    # A turn answers the validation examples in every way to store it, a step of the receipt the test examples in one.
    told = n_turns(STEPS, n_jobs) * n_test / n_validation / len(VALUES)
    spare_s = left_s - (1 - PLANNED) * asked.max_time_s - cost.turn_s * (sum(turns) + controls + told)
    beside = controls + sum(n * share * (1 + TUNED) for n, share in zip(turns, shares, strict=True))
    epochs = float(f"{min(2.0 * asked.training.epochs, max(LEAST * planned, spare_s / (cost.epoch_s * beside))):.3g}")
    each = CONTROLS + sum(n * share * (1 + TUNED) for n, share in zip(kept, shares, strict=True))
    n_steps = pace.n_steps + round(each * (epochs - planned) * asked.training.steps_per_epoch(n_train))
    rungs = (*pace.rungs[:rung], *(epochs * share for share in shares))
    return Pace(**{**pace.values(), "rungs": rungs, "n_steps": n_steps})


def n_turns(n: int, n_jobs: int) -> int:
    """How often all cores begin anew until n candidates are done."""
    return -(-n // n_jobs)


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
