"""A small data set whose classes can be told apart, and a network that learns them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from secateurs.data import Dataset, InputShape


@pytest.fixture
def data() -> Dataset:
    """50 training, 20 validation and 20 test images (1, 4, 4) of three classes; pixel 0 holds the example's index."""
    random = torch.Generator().manual_seed(0)
    n = 90
    y = torch.arange(n) % 3
    x = torch.randn(n, 1, 4, 4, generator=random) + y.view(n, 1, 1, 1) * 2.0
    x[:50, 0, 0, 0] = torch.arange(50.0) / 50
    parts = (slice(0, 50), slice(50, 70), slice(70, 90))
    splits = [array[part] for part in parts for array in (x, y)]
    shape = InputShape(kind="image", size=(1, 4, 4), n_classes=3)
    return Dataset("made", "made here", shape, ("a", "b", "c"), *splits)


@pytest.fixture
def network() -> Callable[..., nn.Sequential]:
    """Makes 16 -> 8 -> 3, from a seed."""

    def make(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))

    return make
