"""The small MNIST network of the original weight-pruning story: two convolutions, `ffnn1` and `cls_head`."""

from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.data.shape import InputShape
from secateurs.models.network import TORCH_DEFAULT, Network, need_size


@final
class SeedCNN(Network):
    """conv 1->32 k7, pool, conv 32->48 k3, pool, 768->256, LeakyReLU, LayerNorm, 256->classes.

    For 1x28x28 images. Between the convolutions only the pooling is not linear, as in the original.
    """

    tracked: ClassVar[dict[str, str]] = {"cls-head": "cls_head.weight", "ffnn": "ffnn1.weight"}
    initialiser = TORCH_DEFAULT

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        need_size(shape, "seed-cnn", (1, 28, 28))
        self.conv1 = nn.Conv2d(1, 32, 7)
        self.conv2 = nn.Conv2d(32, 48, 3)
        self.ffnn1 = nn.Linear(48 * 4 * 4, 256)
        self.norm = nn.LayerNorm(256)
        self.cls_head = nn.Linear(256, shape.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_classes) of images (batch, 1, 28, 28)."""
        x = F.max_pool2d(self.conv1(x), 2)  # (batch, 32, 11, 11)
        x = F.max_pool2d(self.conv2(x), 2)  # (batch, 48, 4, 4)
        x = self.norm(F.leaky_relu(self.ffnn1(x.flatten(1))))
        out: Tensor = self.cls_head(x)
        return out
