"""A packed convolution is the convolution, whatever its kernel, stride, padding, dilation and batch."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateurs.errors import InputError
from secateurs.running.packed_conv2d import PackedConv2d


def convolution(seed: int, *sizes: int, **options: Any) -> nn.Conv2d:
    """With most weights, and whole rows of them, zero."""
    torch.manual_seed(seed)
    layer = nn.Conv2d(*sizes, **options).requires_grad_(False)
    layer.weight *= torch.rand(layer.weight.shape) < 0.4
    layer.weight *= torch.rand(len(layer.weight), 1, 1, 1) < 0.8
    return layer


@given(
    st.sampled_from(["bitmask", "index", "blocks", "rows"]),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(5, 14),
    st.sampled_from([None, 1, 3]),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_a_packed_convolution_is_the_convolution(
    format: str,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    side: int,
    batch: int | None,
    bias: bool,
    seed: int,
) -> None:
    options = {"stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    layer = convolution(seed, 4, 8, kernel, **options)
    x = torch.randn(*([] if batch is None else [batch]), 4, side, side + 1)
    exact = copy.deepcopy(layer).double()(x.double())
    found = PackedConv2d.from_convolution(layer, format)(x)
    assert found.shape == exact.shape
    assert found.is_contiguous()
    assert torch.allclose(found.double(), exact, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_strides_types_and_compiling(kernel: int) -> None:
    layer = convolution(0, 4, 8, kernel)
    packed = PackedConv2d.from_convolution(layer, values="int8")
    x = torch.randn(2, 9, 9, 4).permute(0, 3, 1, 2)  # strides of no contiguous tensor
    y = packed(x)
    assert torch.allclose(y, layer(x), atol=0.1)
    assert packed(x.bfloat16()).dtype == torch.bfloat16
    assert packed(x[:, :, :kernel, :kernel]).shape == (2, 8, 1, 1)  # few positions
    compiled: Any = torch.compile(packed, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), y, atol=1e-5)
    larger = PackedConv2d.from_convolution(convolution(0, 64, 64, kernel), values="int8")
    assert larger.nbytes < 0.6 * 64 * 64 * kernel**2 + 1024  # 0.32 of the weights in a byte, and one bit for all


def test_what_does_not_run_is_refused() -> None:
    with pytest.raises(InputError, match="does not run packed: it has 2 groups"):
        PackedConv2d.from_convolution(nn.Conv2d(4, 4, 1, groups=2))
    with pytest.raises(InputError, match=r"its padding is .* of reflect"):
        PackedConv2d.from_convolution(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(InputError, match=r"has 4 channels .* x is \(3, 8, 8\)"):
        PackedConv2d.from_convolution(convolution(0, 4, 4, 1))(torch.randn(3, 8, 8))
