"""ResNet-20 for small images: three stages of three residual blocks, shortcuts without weights."""

from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.data.shape import InputShape
from secateurs.errors import RecipeError
from secateurs.models.network import Network, image_size


@final
class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; where the shape changes, the shortcut subsamples and pads zeros."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.zero_channels = ((n_out - n_in) // 2,) * 2  # before and after; `shrink` changes it with the channels
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride > 1:
            # Option A of the paper: the new channels are zeros, half of them on each side of the old ones.
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.zero_channels))
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return F.relu(x + shortcut)


@final
class ResNet20(Network):
    """conv, 3 x (3 blocks of 16, 32, 64 channels), global average, linear; 269,722 parameters on CIFAR-10.

    Any number of channels, any size of at least 4x4. He et al. 2015, arXiv:1512.03385, section 4.2; the
    parameter names are those of the widespread weights by Idelbayev.
    """

    tracked: ClassVar[dict[str, str]] = {"cls-head": "linear.weight", "ffnn": "layer3.2.conv2.weight"}
    initialiser = (
        "Kaiming normal (fan in, ReLU gain) for every convolution and the linear head: "
        "a bell with sigma sqrt(2 / fan in)"
    )

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        channels, height, width = image_size(shape, "resnet-20")
        if min(height, width) < 4:
            raise RecipeError(f"The network 'resnet-20' needs images of at least 4x4; the data are {shape}.")
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 16, 1), BasicBlock(16, 16, 1))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32, 1), BasicBlock(32, 32, 1))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.linear = nn.Linear(64, shape.n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_classes) of images (batch, channels, height, width)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.linear(x.mean((2, 3)))
        return out
