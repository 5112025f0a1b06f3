"""How a network is trained, as one frozen value."""

import math

import pytest
import torch
from torch import nn

from secateurs.errors import RecipeError
from secateurs.train.training import Training


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"learning_rate": -1.0}, r"learning_rate must be a finite number of at least 0\.0; got -1\.0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number .*; got nan"),
        ({"epochs": math.inf}, "epochs must be a finite number .*; got inf"),
        ({"epochs": -0.5}, "epochs must be a finite number"),
        ({"clip": -1.0}, "clip must be a finite number"),
        ({"weight_decay": -1e-3}, "weight_decay must be a finite number"),
        ({"momentum": 1.0}, r"momentum must be below 1; got 1\.0"),
        ({"warmup": 1.5}, r"warmup must be below 1; got 1\.5"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"optimizer": "lion"}, "'optimizer': .*'sgd', 'adam' or 'adamw'; got 'lion'"),
        ({"rate": "linear"}, "Unknown rate 'linear'. Known: constant, cosine, restarts, step"),
        ({"rate": "cosin"}, "Did you mean 'cosine'"),
        ({"rate": 0.5}, "A rate is a word such as 'cosine'; got 0.5"),
        ({"rate": "cosine(2)"}, r"The rate 'cosine\(2\)' has too many numbers"),
        ({"rate": "restarts(2, 3)"}, "too many numbers"),
        ({"rate": "restarts(0)"}, "The number of restarts must be a whole number of at least 1; got 0"),
        ({"rate": "restarts(n=2)"}, "has named numbers"),
        ({"rate": "step"}, r"takes rising moments, as in step\(0.5, 0.75\); got step"),
        ({"rate": "step(0.75, 0.5)"}, "takes rising moments"),
        ({"rate": "step(1.5)"}, "A moment of the rate 'step' must be a number from 0.0 to 1.0; got 1.5"),
        ({"rate": "step(soon)"}, "A moment of the rate 'step' must be a number .* got 'soon'"),
        ({"rate_from": 1.0}, r"rate_from must be below 1; got 1\.0"),
        ({"rate_from": -0.1}, "rate_from must be a finite number"),
        ({"precision": "float16"}, "'precision': .*'float32', 'bfloat16' or 'auto'; got 'float16'"),
        ({"distill": {"hardness": 1.5}}, "The hardness of a distillation must be a number from 0.0 to 1.0; got 1.5"),
        ({"distill": {"temperature": 0.0}}, "The temperature of a distillation must be a number"),
        ({"distill": {"hidden": -1.0}}, "The weight of the hidden states must be a number"),
        ({"distill": {"hard": 1.0}}, "Distillation: unknown key 'hard'. Did you mean 'hardness'"),
        ({"revive": "always"}, "'revive': .*'never', 'dense' or 'forget'; got 'always'"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(field: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Training(**field)


@pytest.mark.parametrize(
    ("n_examples", "batch_size", "epochs", "per_epoch", "n_steps"),
    [(100, 10, 3.0, 10, 30), (101, 10, 1.0, 11, 11), (5, 10, 2.0, 1, 2), (100, 10, 0.5, 10, 5), (100, 10, 0.0, 10, 0)],
)
def test_steps_by_hand(n_examples: int, batch_size: int, epochs: float, per_epoch: int, n_steps: int) -> None:
    training = Training(batch_size=batch_size, epochs=epochs)
    assert training.steps_per_epoch(n_examples) == per_epoch
    assert training.n_steps(n_examples) == n_steps


def test_the_rate_rises_from_zero_and_falls_as_a_cosine_to_zero() -> None:
    rate = Training(warmup=0.2, rate="cosine").rate_at
    assert rate(0.0) == 0.0
    assert rate(0.1) == pytest.approx(0.5)
    assert rate(0.2) == pytest.approx(1.0)
    assert rate(0.4) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert rate(0.6) == pytest.approx(0.5)
    assert rate(1.0) == pytest.approx(0.0, abs=1e-15)
    after = [rate(0.2 + 0.8 * i / 50) for i in range(51)]
    assert after == sorted(after, reverse=True)


def test_a_constant_rate_stays_and_without_warm_up_it_starts_at_once() -> None:
    assert [Training(rate="constant", warmup=0.5).rate_at(p) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert Training(warmup=0.0).rate_at(0.0) == 1.0


def test_a_step_rate_falls_to_a_tenth_at_each_moment_and_restarts_begin_anew() -> None:
    rate = Training(warmup=0.0, rate="step(0.5, 0.75)").rate_at
    assert [round(rate(p), 9) for p in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)] == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    rate = Training(warmup=0.0, rate="restarts(2)").rate_at
    assert [round(rate(p), 9) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 0.5, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("rate", ["constant", "cosine", "step(0.5, 0.75)", "restarts(3)"])
def test_a_rewound_rate_replays_the_end_of_the_curve(rate: str) -> None:
    whole = Training(epochs=10.0, batch_size=10, rate=rate)
    tail = Training(epochs=4.0, batch_size=10, rate=rate, rate_from=0.6)
    assert (whole.n_steps(100), tail.n_steps(100)) == (100, 40)
    rates = [whole.rate_at((step - 0.5) / 100) for step in range(1, 101)]
    assert [tail.rate_at((step - 0.5) / 40) for step in range(1, 41)] == pytest.approx(rates[60:])


def test_the_rate_and_the_teacher_are_written_and_read_back() -> None:
    training = Training(rate="step(0.5, 0.75)", distill={"hardness": 1.0, "temperature": 4.0})
    assert Training.from_yaml(training.to_yaml()) == Training(**training.values()) == training
    assert training.values()["rate"] == "step(0.5, 0.75)"
    assert len({training.hash, Training().hash, Training(rate="step(0.5)").hash}) == 3


@pytest.mark.parametrize(
    ("word", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_weight_decay_falls_on_weights_and_not_on_biases_and_norms(word: str, kind: type) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    module[2].bias.requires_grad_(False)
    optimizer = Training(optimizer=word, learning_rate=0.1, weight_decay=0.5).make_optimizer(module)
    assert type(optimizer) is kind
    decayed, plain = optimizer.param_groups
    assert [id(p) for p in decayed["params"]] == [id(module[0].weight), id(module[2].weight)]
    assert [id(p) for p in plain["params"]] == [id(module[0].bias), id(module[1].weight), id(module[1].bias)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert decayed["lr"] == plain["lr"] == 0.1


def test_momentum_is_nesterovs_and_may_be_off() -> None:
    module = nn.Linear(2, 2)
    assert Training(optimizer="sgd", momentum=0.8).make_optimizer(module).param_groups[0]["momentum"] == 0.8
    assert Training(optimizer="sgd", momentum=0.8).make_optimizer(module).param_groups[0]["nesterov"]
    assert not Training(optimizer="sgd", momentum=0.0).make_optimizer(module).param_groups[0]["nesterov"]
