"""Loop: plain training as the textbook has it; yields what happened, prints nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.data import Dataset
from secateurs.data.lengths import drawn, lengths_of
from secateurs.errors import RecipeError
from secateurs.masks import Masks
from secateurs.measure.accuracy import Accuracy, accuracy
from secateurs.measure.environment import environment
from secateurs.recipe import Recipe
from secateurs.train.distillation import loss_with
from secateurs.train.moving import moved
from secateurs.train.parts import Parts
from secateurs.train.precision import computed_in
from secateurs.train.state import load_state, save_state
from secateurs.train.training import Training

CHECKED = 50  # steps after which a loss that is no longer finite is noticed, however rare the looks are


@dataclass(frozen=True)
class Look:
    """One look at a running training; the network can be inspected while the loop waits.

    loss        mean training loss per example since the last look; None at step 0
    validation  accuracy on the validation examples
    masks       what the pruner keeps at this moment; None where nothing is pruned yet
    """

    step: int
    n_steps: int
    epoch: float
    loss: float | None
    validation: Accuracy
    masks: Masks | None
    learning_rate: float

    @property
    def sparsity(self) -> float:
        """Share of the weights in the pruned layers that are zero by the pruner's doing."""
        return 0.0 if self.masks is None else self.masks.sparsity


def train(
    module: nn.Module,
    data: Dataset,
    training: Training,
    *,
    seed: int,
    recipe: Recipe | None = None,
    masks: Masks | None = None,
    teacher: nn.Module | torch.Tensor | None = None,
    n_looks: int = 10,
    validation: tuple[torch.Tensor, torch.Tensor] | None = None,
    state_file: Path | None = None,
) -> Iterator[Look]:
    """Train `module` in place, where it is; yields a Look before the first step and `n_looks` more.

    seed        orders and moves the examples, and seeds dropout; one seed, machine and version give the same bits
    recipe      prunes inside the loop, its schedule spread over the whole training
    masks       with a recipe: held from before the first step in place of its choices
    teacher     what `training.distill` learns from, in evaluation mode; it is left as it is. Or its answers to the
                training examples (n, classes), where nothing else is learned from
    n_looks     evenly spaced, the last after the last step
    validation  examples (x, y) to look at; None means the validation split
    state_file  where the training's state is kept: written when the caller asks for the look after the one it was taken
                at. Where the file is there already, the training goes on from it, to the same bits, and yields the
                looks that follow. Delete it when the result is safe

    Raises RecipeError soon after the loss is no longer finite, InputError where the state is damaged or another's.
    """
    lengths = lengths_of(data.x_train)
    n_examples, device = len(data.y_train), next(module.parameters(), data.x_train).device
    n_steps = training.n_steps(n_examples)
    if masks is not None and recipe is None:
        raise RecipeError("Masks are held by the pruner of a recipe; give the recipe that chose them.")
    if training.is_moving and data.x_train.dim() != 4:
        raise RecipeError("shift and flip move images; the examples of this data are none. Leave both out.")
    loss_of = loss_with(module, training.distill, teacher, data.x_train, training.is_moving)
    parts = Parts.make(module, training, recipe, n_steps, seed)
    machine = {**environment(), "cores": 0}  # the same bits are promised where the rest is the same
    about: dict[str, Any] = {"training": training.hash, "recipe": recipe and recipe.hash, "seed": seed}
    state = None
    if state_file is not None:
        sizes = {name: list(tensor.shape) for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
        about |= {"data": data.fingerprint, "network": sizes, "environment": machine}
        state = load_state(state_file, about)
    if state is not None:
        parts.restore(state)
    else:
        parts.begin(masks)
        if not n_steps:
            parts.end()

    looked_at = validation or (data.x_val, data.y_val)

    def look(step: int, loss: float | None) -> Look:
        found, epoch = accuracy(module, *looked_at), step / training.steps_per_epoch(n_examples)
        return Look(step, n_steps, epoch, loss, found, parts.masks, parts.learning_rate)

    def loss_now(batch: Tensor, x: Tensor, y: Tensor) -> Tensor:
        with computed_in(training.precision, device):
            return loss_of(batch, x, y)

    if state is None:
        yield look(0, None)
    looks = {round(n_steps * (i + 1) / n_looks) for i in range(n_looks)} if n_looks else set()
    left = torch.zeros(0, dtype=torch.long) if state is None else state["left"]  # of this epoch, in their order
    total, seen = torch.zeros((), device=device), 0
    for step in range(1 if state is None else state["step"] + 1, n_steps + 1):
        if not len(left):
            left = drawn(n_examples, lengths, training.batch_size, parts.order)
        batch, left = left[: training.batch_size], left[training.batch_size :]
        module.train()
        x, y = data.x_train[batch], data.y_train[batch].to(device)
        if training.is_moving:
            x = moved(x, training.shift, training.flip, parts.order)
        loss = parts.learn(
            partial(loss_now, batch, x.to(device), y),
            training.learning_rate * training.rate_at((step - 0.5) / n_steps),
            training,
        )
        if step == n_steps:
            parts.end()

        total, seen = total + loss * len(batch), seen + len(batch)
        if step in looks or step % CHECKED == 0:
            mean = float(total) / seen
            if not mean < float("inf"):
                rate = training.learning_rate
                raise RecipeError(
                    f"The training diverged: loss {mean} by step {step} of {n_steps}. Lower the learning rate ({rate})."
                )
        if step in looks:
            yield look(step, mean)
            if state_file is not None and step < n_steps:
                save_state(state_file, about, {"step": step, "left": left, **parts.state()})
            total, seen = torch.zeros((), device=device), 0
