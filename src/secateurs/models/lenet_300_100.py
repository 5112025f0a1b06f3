"""LeNet-300-100: two hidden layers and a head, the smallest network that the pruning papers share."""

from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.checks import nearest
from secateurs.data.shape import InputShape
from secateurs.errors import RecipeError
from secateurs.models.network import TORCH_DEFAULT, Network, image_size

INITIALISERS = {
    "torch": TORCH_DEFAULT,
    "glorot": "Glorot normal: sigma = sqrt(2 / (fan in + fan out)); biases start at 0",
}


@final
class LeNet300100(Network):
    """pixels -> 300 -> 100 -> classes, ReLU between; 266,610 parameters on 28x28 digits.

    init  "torch", or "glorot": normal weights and biases of zero, as in the lottery ticket papers

    LeCun et al. 1998; the network of Han et al. 2015, arXiv:1506.02626.
    """

    tracked: ClassVar[dict[str, str]] = {"cls-head": "fc3.weight", "ffnn": "fc1.weight"}

    def __init__(self, shape: InputShape, init: str = "torch") -> None:
        super().__init__()
        if init not in INITIALISERS:
            raise RecipeError(f"lenet-300-100 has no init {init!r}. {nearest(str(init), INITIALISERS)}")
        channels, height, width = image_size(shape, "lenet-300-100")
        self.fc1 = nn.Linear(channels * height * width, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, shape.n_classes)
        self.initialiser = INITIALISERS[init]
        if init == "glorot":
            for layer in (self.fc1, self.fc2, self.fc3):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_classes) of images (batch, channels, height, width)."""
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        out: Tensor = self.fc3(x)
        return out
