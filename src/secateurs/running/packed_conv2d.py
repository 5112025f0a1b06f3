"""PackedConv2d: an nn.Conv2d for inference as the product of a packed weight with what each position sees (im2col)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateurs.errors import InputError
from secateurs.running.packed_linear import PackedLinear
from secateurs.running.products import product_beside


class PackedConv2d(nn.Module):
    """y = W * x + bias for one group and zeros as padding; 1 x 1 convolutions read x where it is.

    It is a `PackedLinear` of the weight as (out, in * height * width), with all that is said of it there.
    """

    def __init__(self, packed: PackedLinear, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.packed, self.in_channels = packed, convolution.in_channels
        stride, kernel = _pair(convolution.stride), _pair(convolution.kernel_size)
        self.stride, self.kernel_size, self.dilation = stride, kernel, _pair(convolution.dilation)
        self.padding = (0, 0) if convolution.padding == "valid" else _pair(convolution.padding)

    @classmethod
    def from_convolution(
        cls, convolution: nn.Conv2d, format: str = "bitmask", values: str = "fp32", **options: Any
    ) -> "PackedConv2d":
        """The layer with the zeros that are there packed away; formats and values as of `PackedLinear`.

        InputError for groups, padding that is not zeros, and padding "same".
        """
        if not isinstance(convolution, nn.Conv2d):
            raise InputError(f"A PackedConv2d is made from an nn.Conv2d; got {type(convolution).__name__}.")
        if why := why_not(convolution):
            raise InputError(f"This convolution does not run packed: {why}.")
        weight = convolution.weight.detach().flatten(1)
        return cls(PackedLinear.from_weight(weight, convolution.bias, format, values, **options), convolution)

    @property
    def name(self) -> str:
        """What it was packed as."""
        return self.packed.name

    @property
    def nbytes(self) -> int:
        """Bytes of all of its arrays."""
        return self.packed.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """x ([batch,] in_channels, height, width)."""
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            raise InputError(f"The convolution has {self.in_channels} channels and reads (batch, channels, height, "
                             f"width); x is {tuple(x.shape)}.")  # fmt: skip
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        size = [(n + 2 * pad - step * (k - 1) - 1) // stride + 1 for n, k, stride, pad, step in sides]
        if self.kernel_size == (1, 1) and self.padding == (0, 0):
            seen = x[..., :: self.stride[0], :: self.stride[1]].flatten(-2)
        else:
            seen = functional.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        if torch.compiler.is_compiling():
            found: Tensor = self.packed(seen.transpose(-1, -2)).transpose(-1, -2)
        else:  # (..., in * height * width, positions)
            found = product_beside(self.packed.ready(), seen, self.packed.bias)
        return found.reshape(*found.shape[:-1], *size)

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"


def why_not(convolution: nn.Conv2d) -> str:
    """Why it cannot be packed; "" where it can."""
    if convolution.groups != 1:
        return f"it has {convolution.groups} groups"
    if convolution.padding_mode != "zeros" or convolution.padding == "same":
        return f"its padding is {convolution.padding} of {convolution.padding_mode}"
    return ""


def _pair(number: Any) -> tuple[int, int]:
    height, width = number
    return int(height), int(width)
