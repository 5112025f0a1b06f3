"""The real Trainer with the callback: exact counts, gradient accumulation, resuming, and what is saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secateurs.errors import InputError, MissingExtraError, RequestWarning
from secateurs.masks import Masks
from secateurs.recipe import Recipe
from secateurs.train.hugging_face import pruning_callback

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
pytest.importorskip("accelerate", reason="needs the extra hf")
RECIPE = Recipe(budget="sparsity(0.7)", schedule="cubic(0.1, 0.8)", only=("*encoder*weight",))


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def examples() -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 30, (48, 6), generator=random)
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] % 3} for row in ids]


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Any]:
    def make(recipe: Recipe = RECIPE, revive: str = "never", **settings: Any) -> Any:
        settings = {"max_steps": 10, "per_device_train_batch_size": 8, "learning_rate": 1e-2, **settings}
        settings = {"save_strategy": "no", "logging_steps": 5, **settings}
        arguments = transformers.TrainingArguments(
            str(tmp_path / "out"), report_to=[], use_cpu=True, disable_tqdm=True, seed=1, **settings
        )
        parts = {"train_dataset": examples(), "eval_dataset": examples()[:16]}
        return transformers.Trainer(bert(), arguments, **parts, callbacks=[pruning_callback(recipe, revive)])

    return make


def pruner_of(trainer: Any) -> Any:
    return next(each.pruner for each in trainer.callback_handler.callbacks if hasattr(each, "pruner"))


def bits(module: Any) -> bytes:
    return b"".join(value.detach().numpy().tobytes() for value in module.state_dict().values())


@pytest.mark.parametrize("revive", ["never", "dense"])
def test_the_trainer_ends_with_exactly_the_asked_zeros(
    revive: str, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = trainer(revive=revive)
    run.train()
    masks = Masks.load(tmp_path / "out" / "masks.safetensors")
    assert masks == pruner_of(run).masks
    assert masks.n_weights - masks.n_kept == round(0.7 * masks.n_weights)
    assert all(name.startswith("bert.encoder") for name in masks)
    weights = dict(run.model.named_parameters())
    assert all(not bool(weights[name][~keep].any()) for name, keep in masks.items())
    logged = [line["sparsity"] for line in run.state.log_history if "loss" in line]
    assert len(logged) == 2
    assert 0.0 < logged[0] < logged[1] == round(masks.sparsity, 6)


def test_accumulated_gradients_count_as_the_optimizer_steps(trainer: Callable[..., Any]) -> None:
    run = trainer(gradient_accumulation_steps=3, max_steps=4)
    run.train()
    assert (pruner_of(run).n_steps, pruner_of(run).total_steps) == (4, 4)


def test_one_shot_cuts_before_the_first_step(trainer: Callable[..., Any]) -> None:
    run = trainer(Recipe(budget="sparsity(0.5)", schedule="one_shot(end=0.0)"), learning_rate=0.0, max_steps=1)
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    run.train()
    expected = Masks.make(bert(), Recipe(budget="sparsity(0.5)"))
    assert pruner_of(run).masks == expected
    after = dict(run.model.named_parameters())
    assert all(torch.equal(after[name], torch.where(keep, before[name], 0)) for name, keep in expected.items())


def test_a_resumed_training_ends_with_the_same_bits(trainer: Callable[..., Any], tmp_path: Path) -> None:
    straight = trainer(save_strategy="steps", save_steps=5)
    straight.train()
    resumed = trainer(save_strategy="steps", save_steps=5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    assert bits(resumed.model) == bits(straight.model)
    assert pruner_of(resumed).masks == pruner_of(straight).masks
    (tmp_path / "out" / "checkpoint-5" / "pruner.safetensors").unlink()
    with pytest.raises(InputError, match=r"resumes at step 5, but there is no .*checkpoint-5/pruner.safetensors"):
        trainer().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'secateurs\[hf\]'"):
        pruning_callback(RECIPE)


def test_the_masks_are_those_of_the_best_checkpoint_that_the_trainer_goes_back_to(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = trainer(
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    # The first checkpoint is the best: what is measured only grows.
    found = iter(range(1, 100))
    run.evaluate = lambda *args, **named: _measured(run, float(next(found)))
    with pytest.warns(RequestWarning, match="went back to checkpoint-2, where .* at the end 70.0% were"):
        run.train()
    masks = Masks.load(tmp_path / "out" / "masks.safetensors")
    assert 0 < masks.sparsity < 0.7
    assert masks.sparsity == pruner_of(run).sparsity
    for name, keep in masks.items():
        assert torch.equal(run.model.get_parameter(name) != 0, keep)


def _measured(run: Any, loss: float) -> dict[str, float]:
    metrics = {"eval_loss": loss}
    run.control = run.callback_handler.on_evaluate(run.args, run.state, run.control, metrics)
    return metrics
