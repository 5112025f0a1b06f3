"""A training that was stopped goes on from its file to the same bits; a damaged or foreign file is refused."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from secateurs.data import Dataset
from secateurs.errors import InputError
from secateurs.recipe import Recipe
from secateurs.train.loop import train
from secateurs.train.state import load_state, save_state
from secateurs.train.training import Training

Make = Callable[..., nn.Sequential]
SHORT = Training(epochs=2.0, batch_size=8, learning_rate=0.01)
RECIPE = Recipe(budget="sparsity(0.7)", schedule="cubic(0.1, 0.8)")


def bits(module: nn.Module) -> bytes:
    return b"".join(tensor.contiguous().numpy().tobytes() for tensor in module.state_dict().values())


def convolutions(seed: int) -> nn.Sequential:
    """With convolutions stored as the cells store them, a normalisation with statistics, and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(16, 3))
    module[0].weight.data = module[0].weight.data.contiguous(memory_format=torch.channels_last)
    return module


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("revive", ["never", "dense", "forget", None])
@pytest.mark.parametrize("n", [1, 3])
def test_a_stopped_training_goes_on_to_the_same_bits(
    optimizer: str, revive: str | None, n: int, network: Make, data: Dataset, tmp_path: Path
) -> None:
    training = Training(**{**SHORT.values(), "optimizer": optimizer, "revive": revive or "never"})
    options = {"seed": 5, "recipe": RECIPE if revive else None, "n_looks": 5}
    for make in (lambda seed: network(seed, dropout=0.3), convolutions):
        straight, stopped, resumed = make(0), make(0), make(9)
        looks = list(train(straight, data, training, **options))
        path = tmp_path / f"{make(0)[0]}.state"
        # The state of look n is written when the look after it is asked for.
        begun = list(itertools.islice(train(stopped, data, training, state_file=path, **options), n + 2))
        torch.rand(7)
        rest = list(train(resumed, data, training, state_file=path, **options))
        assert begun[: n + 1] + rest == looks
        assert rest[0].step == looks[n + 1].step
        assert bits(resumed) == bits(straight)


def test_it_goes_on_in_the_middle_of_an_epoch_and_with_its_teacher(
    network: Make, data: Dataset, tmp_path: Path
) -> None:
    training = Training(**{**SHORT.values(), "distill": {"hardness": 0.5}})
    straight, stopped, resumed = network(0), network(0), network(1)
    options = {"seed": 1, "teacher": network(2), "n_looks": 14}
    list(train(straight, data, training, **options))
    path = tmp_path / "state"
    steps = [look.step for look in itertools.islice(train(stopped, data, training, state_file=path, **options), 5)]
    assert steps == [0, 1, 2, 3, 4]
    rest = [look.step for look in train(resumed, data, training, state_file=path, **options)]
    assert rest == list(range(4, 15))
    assert bits(resumed) == bits(straight)


def test_a_training_that_is_killed_at_its_end_repeats_the_last_looks_work(
    network: Make, data: Dataset, tmp_path: Path
) -> None:
    straight, again = network(0), network(0)
    path = tmp_path / "state"
    looks = list(train(straight, data, SHORT, seed=0, n_looks=3, state_file=path))
    assert list(train(again, data, SHORT, seed=0, n_looks=3, state_file=path)) == looks[-1:]
    assert bits(again) == bits(straight)


def test_keeping_the_state_changes_no_bit(network: Make, data: Dataset, tmp_path: Path) -> None:
    plain, kept = network(0, dropout=0.3), network(0, dropout=0.3)
    list(train(plain, data, SHORT, seed=0, recipe=RECIPE))
    list(train(kept, data, SHORT, seed=0, recipe=RECIPE, state_file=tmp_path / "state"))
    assert bits(plain) == bits(kept)


def test_the_state_of_another_training_is_refused(network: Make, data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "state"
    list(train(network(), data, SHORT, seed=0, recipe=RECIPE, state_file=path))

    def refused(message: str, data: Dataset = data, training: Training = SHORT, **options: object) -> None:
        with pytest.raises(InputError, match=rf"state is the state of another training \({message} differ\). Delete"):
            list(train(network(), data, training, state_file=path, **{"seed": 0, "recipe": RECIPE, **options}))

    refused("seed", seed=1)
    refused("recipe", recipe=None)
    refused("training", training=Training(**{**SHORT.values(), "clip": 1.0}))
    fewer = dataclasses.replace(data, x_train=data.x_train[:40], y_train=data.y_train[:40])
    refused("data", data=fewer)
    refused("data", data=dataclasses.replace(data, y_train=data.y_train.flip(0)))
    with pytest.raises(InputError, match=r"state is the state of another training \(network differ\)"):
        list(train(convolutions(0), data, SHORT, seed=0, recipe=RECIPE, state_file=path))


def test_data_are_read_through_only_where_a_state_is_kept(
    network: Make, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "fingerprint", property(lambda _: 1 / 0))
    list(train(network(), data, SHORT, seed=0))
    with pytest.raises(ZeroDivisionError):
        list(train(network(), data, SHORT, seed=0, state_file=tmp_path / "state"))


def test_a_state_is_read_back_as_it_was(tmp_path: Path) -> None:
    tied = torch.randn(3, 2)
    state = {
        "numbers": [1, 2.5, None, True, "text", float("inf")],
        3: {
            "a": tied,
            "b": tied,
            "bits": torch.tensor([True, False]),
            "none": torch.zeros(0, 4),
            "one": torch.tensor(5),
        },
        "half": torch.randn(2, 3, 4, 5).bfloat16().contiguous(memory_format=torch.channels_last),
    }
    assert load_state(tmp_path / "s", {}) is None
    save_state(tmp_path / "s", {"seed": 1}, state)
    found = load_state(tmp_path / "s", {"seed": 1})
    assert list(found) == list(state)
    assert found["numbers"] == state["numbers"]
    assert torch.equal(found["half"], state["half"])
    assert all(torch.equal(found[3][key], value) for key, value in state[3].items())


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign", "newer"])
def test_a_damaged_state_is_one_error_that_names_it(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "training.state"
    save_state(path, {}, {"weights": torch.arange(100.0)})
    whole = path.read_bytes()
    changed = {
        "cut": whole[:-9],
        "empty": b"",
        "flipped": whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:],
        "foreign": b"\x02\0\0\0\0\0\0\0{}",
        "newer": whole.replace(b"secateurs.state/1", b"secateurs.state/2"),
    }
    path.write_bytes(changed[damage])
    with pytest.raises(InputError, match=r"training.state is no state of a training \(.*\). Delete it") as told:
        load_state(path, {})
    assert "\n" not in str(told.value)
