"""In rounds: units removed a few at a time, with training in between, which loses less than all at once.

    shrink_in_rounds(module, recipe, example_inputs, data, training, seed=0) -> Round after Round

Each round removes the same share of what is left, as the schedule `rounds(n)` does with single weights: after k rounds
density ** (k / n) is left.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateurs.budgets import Budget, Sparsity, Target
from secateurs.data import Dataset
from secateurs.durable import make_directory
from secateurs.errors import RecipeError
from secateurs.recipe import Recipe, with_words
from secateurs.schedules import Schedule
from secateurs.structure.repairing import re_estimate
from secateurs.structure.shrinking import Shrunk, shrink
from secateurs.structure.unit_scores import Loss
from secateurs.train.loop import Look, train
from secateurs.train.state import checksum, load_state, save_state
from secateurs.train.training import Training

BATCHES, BATCH = 8, 128  # of training examples, for BatchNorm's statistics after a cut


@dataclass(frozen=True, eq=False)
class Round:
    """What is left after round `k` of `n`, trained; `shrunk` counts from the round before, `left` from the beginning.

    left  the share of parameters and of multiply-adds that is left of the network that was given
    look  the last of the round's training; None where the round was done by a run that was killed
    """

    k: int
    n: int
    shrunk: Shrunk
    left: tuple[float, float]
    look: Look | None


def shrink_in_rounds(
    module: nn.Module,
    recipe: Recipe,
    example_inputs: Any,
    data: Dataset,
    training: Training,
    *,
    seed: int,
    calibration: Iterable[Any] = (),
    loss: Loss | None = None,
    work: Path | None = None,
) -> Iterator[Round]:
    """Shrink and train, so many times as the recipe's schedule `rounds(n)` says; yields each Round when it is trained.

    recipe    with budget params(p), macs(p) or sparsity(s); of a sparsity each round takes its share of the units left
    training  of one round; where it distils, the given network, which is not changed, is the teacher
    calibration, loss  for the scores that need them, as of `shrink`
    work      a directory for what is done: a run that was killed goes on from there, to the same bits.
              InputError where it is another's: of another network, data, recipe, training or seed
    """
    budget, n = recipe.budget, recipe.schedule.n
    if recipe.schedule.name != "rounds" or not isinstance(budget, Sparsity | Target) or _is_latency(budget):
        raise RecipeError(
            f"'{recipe}' is not one of rounds of shares: it needs a schedule such as rounds(3), and params(p), macs(p) "
            "or sparsity(s)."
        )
    calibration = list(calibration)
    about: dict[str, Any] = {"recipe": recipe.hash, "training": training.hash, "seed": seed}
    if work is not None:
        make_directory(work)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        about |= {"data": data.fingerprint, "network": checksum(", ".join(tensors), tensors)}
        if load_state(work / "begun", about) is None:
            save_state(work / "begun", about, {})
    teacher = module if training.distill is not None else None
    now, left = module, (1.0, 1.0)
    for k in range(1, n + 1):
        words = with_words(recipe, budget=_of_round(budget, k, n, left), schedule=Schedule("one_shot"))
        small = shrink(now, words, example_inputs, calibration=calibration, loss=loss)
        now = small.module
        left = left[0] * _share(small.n_parameters), left[1] * _share(small.macs)
        tensors = {**dict(now.named_parameters()), **dict(now.named_buffers())}
        done = work / f"round-{k}" if work is not None else None
        state = load_state(done, {**about, "round": k}) if done is not None else None
        look = None
        if state is not None:
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(state[name])
        else:
            order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(seed))
            re_estimate(now, torch.split(data.x_train[order[: BATCHES * BATCH]], BATCH))
            state_file = work / f"training-{k}" if work is not None else None
            n_looks = max(1, round(training.epochs))
            looks = train(now, data, training, seed=seed + k, teacher=teacher, n_looks=n_looks, state_file=state_file)
            look = list(looks)[-1]
            if done is not None and state_file is not None:
                save_state(done, {**about, "round": k}, {name: tensor.detach() for name, tensor in tensors.items()})
                state_file.unlink(missing_ok=True)
        yield Round(k, n, small, left, look)


def _is_latency(budget: Budget) -> bool:
    return isinstance(budget, Target) and budget.of == "latency"


def _share(sizes: tuple[int, int]) -> float:
    return sizes[1] / sizes[0]


def _of_round(budget: Sparsity | Target, k: int, n: int, left: tuple[float, float]) -> Budget:
    """The budget of round k, of the network that the round before left."""
    if isinstance(budget, Sparsity):
        return Sparsity(1.0 - (1.0 - budget.s) ** (1.0 / n))
    is_reached = left[0] if budget.of == "params" else left[1]
    return Target(budget.of, min(1.0, budget.most ** (k / n) / is_reached))
