"""Constants: what is known of a layer's inputs when nothing is known of the network's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.groups.constants import inputs_that_are_known


class Around(nn.Module):
    """Some function between two layers."""

    def __init__(self, function) -> None:
        super().__init__()
        self.up, self.down, self.function = nn.Linear(4, 3), nn.Linear(3, 2), function
        with torch.no_grad():
            self.up.weight[1] = 0.0
            self.up.bias[1] = -0.75

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.up(x)))


def known(function) -> list[float]:
    values = inputs_that_are_known(Around(function), torch.randn(2, 4), ["down"])["down"]
    return [round(float(value), 4) for value in values]


@pytest.mark.parametrize(
    ("function", "constant"),
    [
        (torch.relu, 0.0),
        (F.relu6, 0.0),
        (F.hardtanh, -0.75),
        (F.leaky_relu, -0.0075),
        (lambda x: F.threshold(x, 0.0, 2.0), 2.0),
        (lambda x: x.clamp(-0.5, 0.5), -0.5),
        (lambda x: x.clamp(min=0), 0.0),
        (lambda x: x.maximum(torch.tensor(-0.5)), -0.5),
        (lambda x: F.max_pool1d(x.unsqueeze(2), 1).squeeze(2), -0.75),
        (lambda x: x + 1, 0.25),
        (lambda x: x.abs(), 0.75),
    ],
)
def test_a_row_of_zeros_gives_its_bias_through_the_function(function, constant) -> None:
    unknown, value, other = known(function)
    assert (unknown != unknown, value, other != other) == (True, constant, True)


def test_what_compares_unknowns_is_unknown() -> None:
    assert all(value != value for value in known(lambda x: x * (x > 0)))
    assert all(value != value for value in known(lambda x: torch.where(x > 0, x, 0.0)))


def test_what_mixes_in_unknowns_is_unknown() -> None:
    assert all(value != value for value in known(lambda x: F.layer_norm(x, (3,))))
    assert all(value != value for value in known(lambda x: x - x.mean(1, keepdim=True)))


def test_a_mask_that_comes_with_the_input_may_hide_a_constant() -> None:
    class Masked(Around):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.down(self.up(x) * mask)

    inputs = torch.randn(2, 4), torch.ones(2, 1, dtype=torch.int64)
    assert inputs_that_are_known(Masked(None), inputs, ["down"])["down"].isnan().all()


def test_a_transposed_convolution_reads_channels_and_a_layer_may_be_called_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv1d(2, 3, 1), nn.ConvTranspose1d(3, 2, 2)
            with torch.no_grad():
                self.up.weight[1], self.up.bias[1] = 0.0, 0.5

        def forward(self, x: Tensor) -> Tensor:
            return self.down(input=self.up(input=x))

    values = inputs_that_are_known(Named(), torch.randn(2, 2, 5), ["down"])["down"].tolist()
    assert [value for value in values if value == value] == [0.5]
    assert len(values) == 3
