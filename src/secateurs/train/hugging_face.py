"""Hugging Face: the pruner as a callback of transformers' Trainer, for people who keep their loop (extra `hf`).

Trainer(model, args, ..., callbacks=[pruning_callback(recipe)]).train()
"""

import warnings
from pathlib import Path
from typing import Any

from secateurs.checks import extra
from secateurs.errors import InputError, RequestWarning
from secateurs.masks import Masks
from secateurs.recipe import Recipe
from secateurs.train.pruner import Pruner, Revive
from secateurs.train.state import load_state, save_state

STATE = "pruner.safetensors"


def pruning_callback(recipe: Recipe, revive: Revive = "never") -> Any:
    """A TrainerCallback that prunes by `recipe`, its schedule spread over the Trainer's steps.

    callback.pruner         the Pruner, from the beginning of the training on
    checkpoint-N/           the pruner's state lies beside what the Trainer saves; resuming goes on from it
    masks.safetensors       the final masks, in the Trainer's output_dir

    Where the Trainer loads its best model at the end, the masks are that checkpoint's; a warning says if fewer weights
    were pruned there. Accumulated gradients, mixed precision and skipped steps are the Pruner's; the logs gain
    `sparsity`. Under several processes every rank chooses for itself, and the run ends where they do not agree.
    """
    transformers = extra("transformers", "hf")

    class PruningCallback(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        """Made here, because its base is an extra's."""

        def __init__(self) -> None:
            self.pruner: Pruner | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            self.pruner = Pruner(
                parts["model"], recipe, parts["optimizer"], state.max_steps, revive, is_shared=args.world_size > 1
            )
            if not state.global_step:
                self.pruner.start()
                return
            path = _checkpoint(args, state) / STATE
            saved = load_state(path, {})
            if saved is None:
                raise InputError(
                    f"The Trainer resumes at step {state.global_step}, but there is no {path}. Resume with the "
                    "output_dir that the checkpoint lies in."
                )
            self.pruner.load_state_dict(saved)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            assert self.pruner is not None
            self.pruner.step()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **parts: Any) -> None:
            if self.pruner is not None:
                for each in (logs or {}, state.log_history[-1]):  # what is shown, and what is kept
                    each["sparsity"] = round(self.pruner.sparsity, 6)

        def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            assert self.pruner is not None
            if state.is_world_process_zero:
                save_state(_checkpoint(args, state) / STATE, {}, self.pruner.state_dict())

        def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            assert self.pruner is not None
            if args.load_best_model_at_end and state.best_model_checkpoint is not None:
                self._go_back_to(Path(state.best_model_checkpoint))
            masks: Masks | None = self.pruner.masks
            if masks is not None and state.is_world_process_zero:
                masks.save(Path(args.output_dir) / "masks.safetensors")

        def _go_back_to(self, best: Path) -> None:
            """The Trainer loaded this checkpoint's weights: its masks are theirs."""
            assert self.pruner is not None
            last, saved = self.pruner.sparsity, load_state(best / STATE, {})
            if saved is None:
                raise InputError(f"The Trainer went back to its best checkpoint, but there is no {best / STATE}.")
            self.pruner.load_state_dict(saved)
            if self.pruner.sparsity < last:
                warnings.warn(
                    f"load_best_model_at_end went back to {best.name}, where {self.pruner.sparsity:.1%} of the weights "
                    f"were pruned; at the end {last:.1%} were. The least pruned network is often the best: let the "
                    "schedule end earlier and compare checkpoints after it only, or leave that setting out.",
                    RequestWarning,
                    stacklevel=2,
                )

    return PruningCallback()


def _checkpoint(args: Any, state: Any) -> Path:
    """Where the Trainer keeps what belongs to this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
