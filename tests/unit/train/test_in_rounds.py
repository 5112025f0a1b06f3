"""Units removed in rounds: the target is met at the end, and a run that was killed goes on to the same bits."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from secateurs.data import Dataset
from secateurs.errors import InputError, RecipeError
from secateurs.recipe import Recipe
from secateurs.train.distillation import Distillation
from secateurs.train.in_rounds import Round, shrink_in_rounds
from secateurs.train.training import Training

TRAINING = Training(epochs=2.0, batch_size=10)
Networks = Callable[..., nn.Sequential]


def run(module: nn.Module, words: str, data: Dataset, training: Training = TRAINING, work: Path | None = None):
    return shrink_in_rounds(module, Recipe.parse(words), data.x_val[:2], data, training, seed=0, work=work)


def state(each: Round) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in each.shrunk.module.state_dict().values()]


def test_each_round_takes_the_same_share_and_the_last_meets_the_target(data: Dataset, network: Networks) -> None:
    module = network()
    before = [tensor.clone() for tensor in module.state_dict().values()]
    rounds = list(run(module, "l2 row layer params(0.25) rounds(2)", data))
    assert [(each.k, each.n) for each in rounds] == [(1, 2), (2, 2)]
    assert [each.shrunk.module[1].out_features for each in rounds] == [3, 1]
    assert rounds[0].left[0] == pytest.approx(63 / 163)
    assert rounds[1].left[0] == pytest.approx(23 / 163)
    assert rounds[1].look.step == rounds[1].look.n_steps == 10
    assert all(torch.equal(a, b) for a, b in zip(before, module.state_dict().values(), strict=True))
    halves = list(run(module, "l2 row layer sparsity(0.75) rounds(2)", data))
    assert [each.shrunk.module[1].out_features for each in halves] == [4, 2]


def test_a_run_that_was_killed_goes_on_to_the_same_bits(data: Dataset, network: Networks, tmp_path: Path) -> None:
    words = "l2 row layer sparsity(0.875) rounds(3)"
    training = Training(epochs=2.0, batch_size=10, distill=Distillation())
    whole = [state(each) for each in run(network(), words, data, training)]
    begun = run(network(), words, data, training, tmp_path)
    next(begun)
    begun.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "round-1"]
    again = list(run(network(), words, data, training, tmp_path))
    assert again[0].look is None
    assert again[1].look is not None
    for a, b in zip(whole, map(state, again), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("words", ["l2 row layer params(0.5)", "l2 row layer latency(1ms) rounds(2)"])
def test_rounds_need_a_number_and_a_share(data: Dataset, network: Networks, words: str) -> None:
    with pytest.raises(RecipeError, match=r"is not one of rounds of shares: it needs a schedule such as rounds\(3\)"):
        next(run(network(), words, data))


@pytest.mark.parametrize("n_done", [0, 1])
def test_a_directory_of_another_network_or_data_is_refused(
    n_done: int, data: Dataset, network: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: rounds of other weights and data were taken for those of a killed run."""
    words = "l2 row layer sparsity(0.5) rounds(2)"
    begun = run(network(0), words, data, work=tmp_path)
    if n_done:
        next(begun)
    else:
        monkeypatch.setattr("secateurs.train.in_rounds.train", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(begun)
    begun.close()
    with pytest.raises(InputError, match=r"is the state of another training \(network differ\)"):
        next(run(network(1), words, data, work=tmp_path))
    other = dataclasses.replace(data, y_train=data.y_train.flip(0))
    with pytest.raises(InputError, match=r"is the state of another training \(data differ\)"):
        next(run(network(0), words, other, work=tmp_path))
