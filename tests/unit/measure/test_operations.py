"""Theoretical multiply-adds, counted by hand."""

import torch
from torch import nn

from secateurs.measure.operations import multiply_adds, uses


def test_a_convolution_uses_its_weights_at_every_place_and_a_plain_layer_once() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    assert uses(module, torch.zeros(1, 1, 8, 8)) == {"0.weight": 36, "3.weight": 1}
    assert multiply_adds({"0.weight": 5, "3.weight": 7}, {"0.weight": 36, "3.weight": 1}) == 5 * 36 + 7


def test_tokens_and_layers_that_are_called_twice_count_each_time() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.up(self.up(x))

    assert uses(Twice(), torch.zeros(1, 5, 3)) == {"up.weight": 10}


def test_modes_and_hooks_are_as_before() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    uses(module, torch.zeros(1, 2))
    assert all(part.training and not part._forward_hooks for part in module.modules())
