"""Plain training: seeded to the bit, every example once per epoch, looks where they were promised."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateurs.data import Dataset
from secateurs.errors import InputError, RecipeError
from secateurs.masks import Masks
from secateurs.recipe import Recipe
from secateurs.train.loop import Look, train
from secateurs.train.training import Training

Make = Callable[..., nn.Sequential]
SHORT = Training(epochs=2.0, batch_size=8, learning_rate=0.01)


def bits(module: nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in module.state_dict().values())


def run(module: nn.Module, data: Dataset, training: Training = SHORT, seed: int = 0, **fields: object) -> list[Look]:
    return list(train(module, data, training, seed=seed, **fields))  # type: ignore[arg-type]


def n_zero(module: nn.Module) -> int:
    return sum(int((parameter == 0).sum()) for parameter in module.parameters() if parameter.dim() > 1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_one_seed_gives_the_same_bits_twice_and_another_seed_others(
    optimizer: str, network: Make, data: Dataset
) -> None:
    training = SHORT.model_copy(update={"optimizer": optimizer})
    first, again, other = (network(dropout=0.3) for _ in range(3))
    looks = run(first, data, training, seed=1)
    torch.rand(7)  # whatever the caller drew in between
    assert run(again, data, training, seed=1) == looks
    assert bits(first) == bits(again)
    run(other, data, training, seed=2)
    assert bits(other) != bits(first)


def test_reading_the_looks_slowly_or_measuring_in_between_changes_no_bit(network: Make, data: Dataset) -> None:
    straight, watched = network(dropout=0.0), network(dropout=0.0)
    run(straight, data)
    for look in train(watched, data, SHORT, seed=0, n_looks=3):
        watched.eval()
        torch.rand(look.step + 1)
    assert bits(watched) == bits(straight)


def test_training_learns(network: Make, data: Dataset) -> None:
    looks = run(network(), data, Training(epochs=20.0, batch_size=8, learning_rate=0.02))
    assert looks[0].validation.value < 0.7
    assert looks[-1].validation.value >= 0.9
    losses = [look.loss for look in looks[1:]]
    assert losses[-1] < 0.5 * losses[0]


def test_every_example_is_seen_once_per_epoch_in_an_order_of_its_own(network: Make, data: Dataset) -> None:
    seen: list[list[int]] = []
    module = network()

    def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            seen.append([round(50 * float(value)) for value in inputs[0][:, 0, 0, 0]])

    module.register_forward_pre_hook(watch)
    run(module, data)
    assert [len(batch) for batch in seen] == [8, 8, 8, 8, 8, 8, 2] * 2
    epochs = [[i for batch in half for i in batch] for half in (seen[:7], seen[7:])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(50))] * 2
    assert epochs[0] != epochs[1] != list(range(50))


@pytest.mark.parametrize(
    ("epochs", "n_looks", "steps"),
    [
        (2.0, 7, [0, 2, 4, 6, 8, 10, 12, 14]),
        (1.0, 2, [0, 4, 7]),  # round(3.5) is 4
        (2.0, 1, [0, 14]),
        (2.0, 0, [0]),
        (0.5, 10, [0, 1, 2, 3, 4]),  # no more looks than steps
        (0.0, 3, [0]),
    ],
)
def test_looks_are_evenly_spaced_and_the_last_is_the_last_step(
    epochs: float, n_looks: int, steps: list[int], network: Make, data: Dataset
) -> None:
    training = SHORT.model_copy(update={"epochs": epochs})
    looks = run(network(), data, training, n_looks=n_looks)
    assert [look.step for look in looks] == steps
    assert {look.n_steps for look in looks} == {training.n_steps(50)}
    assert [look.epoch for look in looks] == [step / 7 for step in steps]


def test_a_look_says_what_happened_since_the_last(network: Make, data: Dataset) -> None:
    first, *others = run(network(), data, SHORT.model_copy(update={"warmup": 0.5}), n_looks=7)
    assert first.loss is None
    assert first.masks is None
    assert first.sparsity == 0.0
    assert all(look.loss is not None and 0 < look.loss < 10 for look in others)
    assert all(look.validation.n == 20 for look in (first, *others))
    rates = [look.learning_rate for look in others]
    assert rates[0] < rates[3]
    assert rates[-1] < rates[3]


def test_the_loss_is_the_mean_per_example_and_not_per_batch(network: Make, data: Dataset) -> None:
    still = SHORT.model_copy(update={"learning_rate": 0.0, "epochs": 1.0})
    module = network()
    last = run(module, data, still, n_looks=1)[-1]
    expected = nn.functional.cross_entropy(module(data.x_train), data.y_train).detach()
    assert last.loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("revive", ["never", "dense", "forget"])
@pytest.mark.parametrize("s", [0.5, 0.77, 0.98])
def test_a_recipe_inside_the_loop_reaches_exactly_the_asked_zeros(
    revive: str, s: float, network: Make, data: Dataset
) -> None:
    module = network()
    recipe = Recipe(budget=f"sparsity({s})", schedule="cubic(0.1, 0.8)", min_keep=1)
    looks = run(module, data, SHORT.model_copy(update={"revive": revive}), recipe=recipe, n_looks=7)
    n = 16 * 8 + 8 * 3
    assert n_zero(module) == round(s * n)
    assert looks[-1].sparsity == pytest.approx(round(s * n) / n)
    assert looks[0].sparsity == 0.0
    shares = [look.sparsity for look in looks]
    assert shares == sorted(shares)


def test_a_one_shot_recipe_is_in_force_before_the_first_step(network: Make, data: Dataset) -> None:
    looks = run(network(), data, recipe=Recipe(budget="sparsity(0.5)"))
    assert [look.sparsity for look in looks] == [0.5] * len(looks)
    assert all(look.masks == looks[0].masks for look in looks)


def test_the_loop_prints_nothing(network: Make, data: Dataset, capfd: pytest.CaptureFixture[str]) -> None:
    run(network(), data, recipe=Recipe(budget="sparsity(0.5)", schedule="cubic"))
    assert capfd.readouterr() == ("", "")


def test_a_diverged_training_is_an_error_that_says_where_and_what_to_do(network: Make, data: Dataset) -> None:
    wild = Training(optimizer="sgd", learning_rate=1e9, epochs=3.0, batch_size=8, warmup=0.0)
    told = r"diverged: loss (nan|inf) by step \d+ of 21\. Lower the learning rate \(1000000000"
    with pytest.raises(RecipeError, match=told):
        run(network(), data, wild)


def test_a_diverged_training_does_not_go_on_to_a_look_that_is_far_away(network: Make, data: Dataset) -> None:
    wild = Training(optimizer="sgd", learning_rate=1e9, epochs=100.0, batch_size=8, warmup=0.0)
    with pytest.raises(RecipeError, match=r"by step 50 of 700\."):
        run(network(), data, wild, n_looks=1)


def test_clipping_bounds_what_one_step_can_do(network: Make, data: Dataset) -> None:
    module, before = network(), network()
    one = Training(
        optimizer="sgd", momentum=0.0, learning_rate=1.0, clip=1e-3, warmup=0.0, rate="constant", epochs=0.14
    )
    run(module, data, one.model_copy(update={"batch_size": 8}))
    moved = [(a - b).detach() for a, b in zip(module.parameters(), before.parameters(), strict=True)]
    assert float(torch.cat([part.flatten() for part in moved]).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_the_data_are_left_as_they_are(network: Make, data: Dataset) -> None:
    copy = dataclasses.replace(data, x_train=data.x_train.clone())
    run(network(), data)
    assert torch.equal(copy.x_train, data.x_train)
    assert copy.fingerprint == data.fingerprint


def test_the_validation_and_test_splits_are_never_trained_on(network: Make, data: Dataset) -> None:
    other = dataclasses.replace(data, x_val=-data.x_val, y_val=data.y_val.flip(0), x_test=-data.x_test)
    first, second = network(), network()
    run(first, data)
    run(second, other)
    assert bits(first) == bits(second)


def test_in_bfloat16_the_weights_stay_float32_and_the_network_learns(network: Make, data: Dataset) -> None:
    seen: set[torch.dtype] = set()
    module, again = network(), network()
    module[1].register_forward_hook(lambda _, inputs, output: seen.add(output.dtype) if module.training else None)
    half = Training(epochs=20.0, batch_size=8, learning_rate=0.02, precision="bfloat16")
    looks = run(module, data, half)
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert looks[-1].validation.value >= 0.9
    assert run(again, data, half) == looks
    assert bits(again) == bits(module)


@pytest.mark.parametrize(("is_quicker", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_the_cpu_multiplies_it(
    is_quicker: bool, precision: str, network: Make, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateurs.train.precision.multiplies_bfloat16", lambda: is_quicker)
    first, second = network(), network()
    run(first, data, SHORT.model_copy(update={"precision": "auto"}))
    run(second, data, SHORT.model_copy(update={"precision": precision}))
    assert bits(first) == bits(second)


def test_a_rewound_training_repeats_the_last_rates(network: Make, data: Dataset) -> None:
    whole = run(network(), data, SHORT, n_looks=14)
    tail = run(network(), data, Training(**{**SHORT.values(), "epochs": 1.0, "rate_from": 0.5}), n_looks=7)
    rates = [look.learning_rate for look in whole]
    assert [look.learning_rate for look in tail[1:]] == pytest.approx(rates[8:])


@pytest.mark.parametrize("revive", ["never", "dense"])
def test_masks_that_are_given_are_held_whatever_the_recipe_would_choose(
    revive: str, network: Make, data: Dataset
) -> None:
    recipe = Recipe(budget="sparsity(0.5)", schedule="cubic(0.1, 0.8)")
    masks = Masks.make(network(1), recipe)
    looks = run(network(0), data, SHORT.model_copy(update={"revive": revive}), recipe=recipe, masks=masks, n_looks=7)
    assert all(look.masks == masks for look in looks)
    assert all(look.sparsity == 0.5 for look in looks)
    assert not any(keep.data_ptr() == masks[name].data_ptr() for name, keep in looks[-1].masks.items())  # type: ignore[union-attr]


def test_masks_that_cannot_be_held_are_refused(network: Make, data: Dataset) -> None:
    recipe = Recipe(budget="sparsity(0.5)")
    masks = Masks.make(network(), recipe)
    with pytest.raises(RecipeError, match="give the recipe that chose them"):
        run(network(), data, masks=masks)
    with pytest.raises(RecipeError, match="revive='forget' chooses anew at every step and holds no masks"):
        run(network(), data, SHORT.model_copy(update={"revive": "forget"}), recipe=recipe, masks=masks)
    other = Masks.make(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), recipe)
    with pytest.raises(
        InputError, match=r"The masks that are given name 1\.weight; here 1\.weight, 4\.weight are pruned"
    ):
        run(network(), data, recipe=recipe, masks=other)


@pytest.mark.parametrize("schedule", ["cubic(0.1, 0.8)", "one_shot(0.5)", "rounds(3)"])
@pytest.mark.parametrize("revive", ["never", "dense", "forget"])
def test_without_a_step_a_recipe_prunes_at_once(revive: str, schedule: str, network: Make, data: Dataset) -> None:
    """Bug: a schedule that does not begin at 0 pruned nothing, though the plan said that it would."""
    module, recipe = network(), Recipe(budget="sparsity(0.5)", schedule=schedule)
    masks = Masks.make(module, recipe)
    (look,) = run(module, data, SHORT.model_copy(update={"epochs": 0.0, "revive": revive}), recipe=recipe)
    assert look.masks == masks
    assert n_zero(module) == masks.n_weights - masks.n_kept
