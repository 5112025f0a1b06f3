"""A teacher's answers and hidden states as a loss: by hand, never negative, and the teacher left as it is."""

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from secateurs.data import Dataset, InputShape
from secateurs.errors import RecipeError
from secateurs.models import ModelSpec, build
from secateurs.train.distillation import Distillation, answer_loss, answers_of, loss_with, state_loss
from secateurs.train.loop import train
from secateurs.train.training import Training

Make = Callable[..., nn.Sequential]
SHORT = Training(epochs=2.0, batch_size=8, learning_rate=0.01)


def taught(**fields: float) -> Training:
    return Training(**{**SHORT.values(), "distill": fields})


def bits(module: nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in module.state_dict().values())


def test_the_loss_of_answers_by_hand() -> None:
    # At T = 2 the logits (2 ln 3, 0) are the shares (3/4, 1/4); the network's (0, 0) are (1/2, 1/2).
    answers, logits = torch.tensor([[2 * math.log(3.0), 0.0]]), torch.zeros(1, 2)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(answer_loss(logits, answers, 2.0)) == pytest.approx(4 * kl, rel=1e-6)
    both = answer_loss(torch.cat([logits, answers]), torch.cat([answers, answers]), 2.0)
    assert float(both) == pytest.approx(2 * kl, rel=1e-6), "the mean over examples"


def test_the_loss_of_hidden_states_by_hand() -> None:
    mine, theirs = [torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])], [torch.tensor([[1.0, 3.0]]), torch.tensor([1.0])]
    assert float(state_loss(mine, theirs, ["a", "b"])) == pytest.approx((1 / 10 + 4 / 1) / 2)


@given(seed=st.integers(0, 1000), scale=st.floats(0.0, 60.0), temperature=st.floats(0.5, 10.0))
def test_the_loss_of_answers_is_never_negative_and_zero_for_equal_answers(
    seed: int, scale: float, temperature: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, answers = (scale * torch.randn(5, 7, generator=random) for _ in range(2))
    assert float(answer_loss(logits, answers, temperature)) >= 0.0
    assert 0.0 <= float(answer_loss(answers, answers, temperature)) < 1e-3
    assert 0.0 <= float(answer_loss(answers + 3.0, answers, temperature)) < 1e-3, "a shift changes no answer"


def test_hardness_divides_the_loss_between_labels_and_teacher(network: Make, data: Dataset) -> None:
    module, teacher = network(0), network(1)
    batch = torch.tensor([3, 1, 20])
    x, y = data.x_train[batch], data.y_train[batch]

    def loss(hardness: float) -> float:
        return loss_with(module, Distillation(hardness=hardness), teacher, data.x_train)(batch, x, y).item()

    assert loss(0.0) == pytest.approx(nn.functional.cross_entropy(module(x), y).item())
    assert loss(1.0) == pytest.approx(answer_loss(module(x), teacher(x), 2.0).item(), rel=1e-5)
    assert loss(0.25) == pytest.approx(0.75 * loss(0.0) + 0.25 * loss(1.0), rel=1e-5)


def test_a_taught_network_comes_to_answer_as_its_teacher(network: Make, data: Dataset) -> None:
    teacher = network(1)
    list(train(teacher, data, Training(epochs=20.0, batch_size=8, learning_rate=0.02), seed=0))
    module = network(0)
    labels = torch.randint(0, 3, data.y_train.shape)  # what is heard at hardness 1 does not matter
    heard = dataclasses.replace(data, y_train=labels)
    only = Training(epochs=30.0, batch_size=8, learning_rate=0.02, distill={"hardness": 1.0})
    looks = list(train(module, heard, only, seed=0, teacher=teacher))
    agreement = (module(data.x_train).argmax(1) == teacher(data.x_train).argmax(1)).float().mean()
    assert float(agreement) >= 0.9
    assert looks[-1].loss is not None
    assert looks[1].loss is not None
    assert looks[-1].loss < 0.2 * looks[1].loss


def test_the_teacher_is_left_as_it_is_and_one_seed_gives_the_same_bits(network: Make, data: Dataset) -> None:
    teacher = network(1, dropout=0.5)
    teacher[3].eval()
    before, modes = bits(teacher), [part.training for part in teacher.modules()]
    first, again = network(0, dropout=0.3), network(0, dropout=0.3)
    for module in (first, again):
        list(train(module, data, taught(hardness=0.5), seed=3, teacher=teacher))
    assert bits(first) == bits(again)
    assert bits(teacher) == before
    assert [part.training for part in teacher.modules()] == modes
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_answers_teach_as_the_network_that_gave_them(network: Make, data: Dataset) -> None:
    teacher, modules = network(1), [network(0), network(0)]
    for module, master in zip(modules, (teacher, answers_of(teacher, data.x_train)), strict=True):
        list(train(module, data, taught(), seed=0, teacher=master))
    assert bits(modules[0]) == bits(modules[1])


def test_answers_cannot_teach_what_needs_the_network(network: Make, data: Dataset) -> None:
    answers = answers_of(network(1), data.x_train)
    for fields, asked in (({"attention": 1.0}, answers), ({"hidden": 1.0}, answers), ({}, answers[1:])):
        with pytest.raises(RecipeError, match=r"Answers alone.*Give the network that teaches"):
            loss_with(network(0), Distillation(**fields), asked, data.x_train)


def test_hidden_states_pull_the_network_to_its_teacher() -> None:
    shape = InputShape(kind="image", size=(1, 8, 8), n_classes=3)
    spec = ModelSpec.parse("cls-transformer(dim=8, depth=2, heads=2, patch=4)")
    teacher, x, y = build(spec, shape, 1), torch.randn(40, 1, 8, 8), torch.arange(40) % 3
    data = Dataset("made", "made here", shape, ("a", "b", "c"), x, y, x, y, x, y)

    def distance(module: nn.Module) -> float:
        found: list[Tensor] = []
        for part in (module, teacher):
            for block in part.blocks:
                block.register_forward_hook(lambda _, inputs, output: found.append(output.detach()))
            part(x)
        return float(sum((a - b).square().sum() for a, b in zip(found[:2], found[2:4], strict=True)))

    plain, guided = build(spec, shape, 0), build(spec, shape, 0)
    training = Training(epochs=20.0, batch_size=20, learning_rate=0.01)
    list(train(plain, data, Training(**{**training.values(), "distill": {}}), seed=0, teacher=teacher))
    deep = Training(**{**training.values(), "distill": {"hidden": 10.0}})
    list(train(guided, data, deep, seed=0, teacher=teacher))
    assert distance(guided) < 0.5 * distance(plain)


def test_what_cannot_be_taught_is_refused_before_the_first_step(network: Make, data: Dataset) -> None:
    module = network()
    before = bits(module)

    def refused(training: Training, teacher: nn.Module | None, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            list(train(module, data, training, seed=0, teacher=teacher))

    refused(taught(hardness=0.5), None, "A teacher and the training's 'distill' go together")
    refused(SHORT, network(1), "go together; found one without the other")
    refused(taught(hardness=0.5), module, "The teacher is the network that is trained")
    refused(taught(hidden=1.0), network(1), "the network has none, the teacher none. Use hidden=0")
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    refused(taught(hardness=0.5), wide, "The teacher knows 4 classes, the network 3")
    assert bits(module) == before


def test_hidden_states_of_another_shape_are_refused() -> None:
    shape = InputShape(kind="image", size=(1, 8, 8), n_classes=3)
    narrow, wide = (build(ModelSpec.parse(f"cls-transformer(dim={dim}, depth=1)"), shape, 0) for dim in (8, 16))
    x = torch.randn(4, 1, 8, 8)
    with pytest.raises(RecipeError, match=r"hidden state 'blocks.0' is \(4, 1, 8\), the teacher's \(4, 1, 16\)"):
        loss_with(narrow, Distillation(hidden=1.0), wide, x)(torch.arange(4), x, torch.zeros(4, dtype=torch.long))
    deep = build(ModelSpec.parse("cls-transformer(dim=8, depth=2)"), shape, 0)
    with pytest.raises(RecipeError, match=r"the network has blocks.0, the teacher blocks.0, blocks.1"):
        loss_with(narrow, Distillation(hidden=1.0), deep, x)


def test_a_copy_of_the_network_may_teach_it(network: Make, data: Dataset) -> None:
    module = network()
    looks = list(train(module, data, taught(hardness=1.0), seed=0, teacher=copy.deepcopy(module), n_looks=14))
    assert looks[1].loss == pytest.approx(0.0, abs=1e-6), "it already answers as its teacher"
