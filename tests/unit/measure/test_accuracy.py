"""How many are right of how many, and Wilson's interval."""

import pytest
import torch
from torch import Tensor, nn

from secateurs.measure.accuracy import Accuracy, accuracy


class Says(nn.Module):
    """Answers with its input's only number as the class; remembers the batches it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Dropout(0.5)
        self.unused = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((len(x), self.training, torch.is_grad_enabled()))
        return nn.functional.one_hot(x[:, 0].long(), 3).float()


def test_right_answers_are_counted_in_batches_without_dropout_and_gradients() -> None:
    x, y = torch.tensor([[0.0], [1.0], [2.0], [2.0], [1.0]]), torch.tensor([0, 1, 2, 1, 0])
    module = Says()
    found = accuracy(module, x, y, batch_size=2)
    assert (found.n_correct, found.n) == (3, 5)
    assert found.loss == pytest.approx(nn.functional.cross_entropy(Says()(x), y).item())
    assert module.seen == [(2, False, False), (2, False, False), (1, False, False)]


@pytest.mark.parametrize("is_training", [True, False])
def test_the_mode_of_the_network_stays(is_training: bool) -> None:
    module = Says().train(is_training)
    accuracy(module, torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    assert module.training is is_training
    assert module.inner.training is is_training


def test_a_part_that_was_frozen_stays_frozen() -> None:
    module = Says().train()
    module.inner.eval()
    accuracy(module, torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    assert not module.inner.training


def test_a_tie_of_all_classes_is_the_first_class() -> None:
    flat = nn.Linear(1, 3)
    nn.init.zeros_(flat.weight)
    nn.init.zeros_(flat.bias)
    assert accuracy(flat, torch.ones(4, 1), torch.tensor([0, 0, 1, 2])).value == 0.5


@pytest.mark.parametrize(
    ("n_correct", "n", "low", "high"),
    # z = 1.959964, z^2 = 3.841459.  Worked by hand: centre = (p + z^2/2n) / (1 + z^2/n), and so on.
    [
        (0, 10, 0.0, 0.277533),  # high = z^2 / (n + z^2) = 3.841459 / 13.841459
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),  # 0.5 -+ z / (2 sqrt(n + z^2)) = 0.5 -+ 1.959964 / (2 * 3.720411)
        (1, 1, 0.206549, 1.0),  # low = 1 / (1 + 3.841459)
        (50, 100, 0.403832, 0.596168),  # 0.5 -+ 1.959964 / (2 * 10.190260)
    ],
)
def test_wilson_by_hand(n_correct: int, n: int, low: float, high: float) -> None:
    assert Accuracy(n_correct, n).interval == pytest.approx((low, high), abs=2e-6)


def test_values_are_for_json() -> None:
    found = Accuracy(50, 100).values()
    assert list(found) == ["value", "n", "low", "high"]
    assert found["value"] == 0.5
    assert found["n"] == 100
    assert found["low"] < 0.5 < found["high"]
