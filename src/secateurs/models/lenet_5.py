"""LeNet-5 as Caffe has it: 431,080 parameters, nearly all of them in `fc1`."""

from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.data.shape import InputShape
from secateurs.models.network import TORCH_DEFAULT, Network, need_size


@final
class LeNet5(Network):
    """Two convolutions with pooling, one hidden layer, one head; for 1x28x28 images.

    The network of Han et al. 2015, arXiv:1506.02626, table 1.
    """

    tracked: ClassVar[dict[str, str]] = {"cls-head": "fc2.weight", "ffnn": "fc1.weight"}
    initialiser = TORCH_DEFAULT

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        need_size(shape, "lenet-5", (1, 28, 28))
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, shape.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_classes) of images (batch, 1, 28, 28)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (batch, 20, 12, 12)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (batch, 50, 4, 4)
        x = F.relu(self.fc1(x.flatten(1)))
        out: Tensor = self.fc2(x)
        return out
