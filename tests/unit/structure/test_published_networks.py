"""ResNet-20 as it was published: half of its multiply-adds, and the dead channels of a sparse one, on real images."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateurs.data import InputShape
from secateurs.models import ModelSpec, build, load_weights
from secateurs.pruning import prune
from secateurs.recipe import Recipe
from secateurs.structure.repairing import re_estimate
from secateurs.structure.shrinking import shrink


@pytest.fixture(scope="module")
def published(data_dir: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and 500 test images of all classes."""
    module = build(ModelSpec(name="resnet-20"), InputShape(kind="image", size=(3, 32, 32), n_classes=10), 0)
    load_weights(module, data_dir / "weights_resnet20_cifar10")
    with np.load(data_dir / "cifar10" / "cifar10.npz") as file:
        pixels, y = torch.from_numpy(file["x_test"][::20]), torch.from_numpy(file["y_test"][::20]).long()
    pixels = pixels.permute(0, 3, 1, 2) if pixels.shape[-1] == 3 else pixels
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return module.eval(), (pixels / 255 - mean) / std, y


def correct(module: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((module(x).argmax(1) == y).double().mean())


def test_dead_channels_of_a_sparse_network_change_nothing(published) -> None:
    module, x, _ = published
    sparse = copy.deepcopy(module)
    masks = prune(sparse, Recipe(budget="sparsity(0.97)"))
    small = shrink(module, masks, x[:2])
    assert sum(group.n_removed for group in small.groups) > 20
    with torch.no_grad():
        torch.testing.assert_close(small.module(x), sparse(x), rtol=1e-3, atol=1e-3)


def test_a_tenth_fewer_multiply_adds_is_still_the_network(published) -> None:
    module, x, y = published
    small = shrink(module, Recipe.parse("l2 channel model macs(0.9)"), x[:2])
    assert 0.89 < small.macs[1] / small.macs[0] <= 0.9
    assert correct(module, x, y) > 0.9
    assert correct(small.module, x, y) > 0.75
    re_estimate(small.module, x.split(125))
    assert correct(small.module, x, y) > 0.85
