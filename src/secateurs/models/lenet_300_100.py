"""LeNet-300-100: two hidden layers and a head, the smallest network that the pruning papers share."""

from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.data.shape import InputShape
from secateurs.models.network import TORCH_DEFAULT, Network, image_size


@final
class LeNet300100(Network):
    """pixels -> 300 -> 100 -> classes, ReLU between; 266,610 parameters on 28x28 digits.

    LeCun et al. 1998; the network of Han et al. 2015, arXiv:1506.02626.
    """

    tracked: ClassVar[dict[str, str]] = {"cls-head": "fc3.weight", "ffnn": "fc1.weight"}
    initialiser: ClassVar[str] = TORCH_DEFAULT

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        channels, height, width = image_size(shape, "lenet-300-100")
        self.fc1 = nn.Linear(channels * height * width, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, shape.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_classes) of images (batch, channels, height, width)."""
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        out: Tensor = self.fc3(x)
        return out
