"""A product with a packed weight is the product with the unpacked one, whatever the format, values, tokens, threads."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from secateurs.errors import InputError, PatternError
from secateurs.formats.packed import Packed
from secateurs.formats.table import FORMATS
from secateurs.running.packed_linear import PackedLinear, packed_product
from secateurs.running.products import product
from secateurs.running.ready import RUNNING, ready

VALUES = ["exact", "bf16", "int8", "int4", "int8/32", "int4/64"]


def weight_of(rows: int, columns: int, density: float, format: str, seed: int) -> tuple[Tensor, dict[str, int]]:
    """A weight with zeros, and the options that its format needs."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw)
    keep = torch.rand(rows, columns, generator=draw) < density
    options: dict[str, int] = {}
    if format == "nm":
        keep = torch.zeros(rows, columns, dtype=torch.bool)
        keep[:, ::4] = keep[:, 3::4] = True
        options = {"n": 2, "m": 4}
    if format == "blocks":
        h, w = (2 if rows % 2 == 0 else 1), (3 if columns % 3 == 0 else 1)
        keep = torch.rand(rows // h, columns // w, generator=draw) < density
        keep = keep.repeat_interleave(h, 0).repeat_interleave(w, 1)
        options = {"h": h, "w": w}
    if format == "rows":
        keep = (torch.rand(rows, 1, generator=draw) < density**0.5) & (
            torch.rand(columns, generator=draw) < density**0.5
        )
    return torch.where(keep, weight, 0.0), options


def packed_of(weight: Tensor, format: str, values: str, options: dict[str, int]) -> Packed:
    """The weight packed; "bf16" is exact values of a bfloat16 weight."""
    found: Packed = FORMATS[format].pack(
        weight.bfloat16() if values == "bf16" else weight, None, "exact" if values == "bf16" else values, **options
    )
    return found


def assert_is_product(y: Tensor, dense: Tensor, x: Tensor, bias: Tensor | None) -> None:
    """Within (n + 8) roundings of float32 of the sum of sizes: each of n products and sums rounds once, at most.

    Where integers are multiplied an input is rounded once, too, to 24 bits of the largest of its token.
    """
    exact = x.double() @ dense.double().T + (0.0 if bias is None else bias.double())
    sizes = x.double().abs() @ dense.double().abs().T + (0.0 if bias is None else bias.double().abs())
    assert y.shape == exact.shape
    largest = x.double().abs().amax(-1, keepdim=True) if x.shape[-1] else 0.0
    bound = (dense.shape[1] + 8) * 2.0**-24 * sizes + 2.0**-23 * largest * dense.double().abs().sum(1)
    if y.dtype == torch.bfloat16:
        bound = bound + 2.0**-8 * exact.abs() + 1e-30
    assert bool(((y.double() - exact).abs() <= bound + 1e-37).all()), float(((y.double() - exact).abs() - bound).max())


@given(
    st.sampled_from(sorted(RUNNING)),
    st.sampled_from(VALUES),
    st.integers(1, 80),
    st.integers(1, 200),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 140),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_a_packed_product_is_the_unpacked_one(
    format: str, values: str, rows: int, columns: int, density: float, n_tokens: int, has_bias: bool, seed: int
) -> None:
    columns += -columns % 4 if format == "nm" else 0
    weight, options = weight_of(rows, columns, density, format, seed)
    packed = packed_of(weight, format, values, options)
    if format in ("index", "blocks", "rows") and "/" in values and packed.scales.size != rows:
        with pytest.raises(PatternError, match="one scale per row"):
            ready(packed)
        return
    draw = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(n_tokens, columns, generator=draw)
    bias = torch.randn(rows, generator=draw) if has_bias else None
    dense = FORMATS[format].unpack(packed).float()
    assert_is_product(product(ready(packed), x, bias), dense, x, bias)


@pytest.mark.parametrize("n_tokens", [1, 4, 5, 70])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("format", sorted(set(RUNNING) - {"nm"}))  # n of every m are always left
def test_a_weight_of_which_nothing_is_left_gives_its_bias(format: str, values: str, n_tokens: int) -> None:
    packed = packed_of(torch.zeros(12, 96), format, values, weight_of(12, 96, 0.0, format, 0)[1])
    if format in ("index", "blocks", "rows") and "/" in values and packed.scales.size != 12:
        pytest.skip("refused; the law above says so")
    bias = torch.arange(12.0)
    assert torch.equal(product(ready(packed), torch.randn(n_tokens, 96), bias), bias.expand(n_tokens, 12))


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("format", RUNNING)
def test_inputs_of_any_shape_strides_and_type(format: str, values: str) -> None:
    if format in ("index", "blocks", "rows") and "/" in values:
        pytest.skip("refused; the law above says so")
    weight, options = weight_of(12, 96, 0.4, format, 0)
    packed = packed_of(weight, format, values, options)
    dense, layer = FORMATS[format].unpack(packed).float(), PackedLinear.from_packed(packed)
    whole = torch.randn(96, 3, 7).permute(2, 1, 0)  # strides of no contiguous tensor
    assert_is_product(layer(whole), dense, whole, None)
    assert_is_product(layer(whole[0, 0]), dense, whole[0, 0], None)
    half = whole.bfloat16()
    assert layer(half).dtype == torch.bfloat16
    assert_is_product(layer(half), dense, half, None)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("n_tokens", [1, 3, 70])
@pytest.mark.parametrize("format", ["bitmask", "index", "rows"])
def test_threads_change_no_bit(format: str, values: str, n_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import secateurs.running.products as products

    if format != "bitmask" and "/" in values:
        pytest.skip("refused")
    weight, _ = weight_of(37, 160, 0.3, format, 1)
    of = ready(packed_of(weight, format, values, {}))
    x = torch.randn(n_tokens, 160)
    alone = product(of, x)
    monkeypatch.setattr(products, "ALONE", 0)
    monkeypatch.setattr(products, "ALONE_PANELS", 0)
    for n in (2, 3, 64):
        monkeypatch.setattr(products, "n_threads", lambda n=n: n)
        assert torch.equal(product(of, x), alone)


@pytest.mark.parametrize(
    ("format", "values", "rows", "columns", "n_tokens"),
    [
        ("bitmask", "exact", 1100, 300, 70),  # several blocks of rows
        ("bitmask", "int8", 1100, 300, 5),
        ("bitmask", "int8", 40, 64, 4096),
        ("bitmask", "exact", 40, 64, 4096),
        ("index", "exact", 40, 3000, 9),  # several blocks of columns
        ("index", "int8", 6, 70_000, 9),  # places of 32 bits
        ("index", "exact", 6, 70_000, 1),
        ("rows", "int8", 700, 600, 70),
        ("blocks", "int8", 640, 330, 9),
    ],
)
def test_large_products_are_right_too(format: str, values: str, rows: int, columns: int, n_tokens: int) -> None:
    weight, options = weight_of(rows, columns, 0.2, format, 3)
    packed = packed_of(weight, format, values, options)
    x, bias = torch.randn(n_tokens, columns), torch.randn(rows)
    y = product(ready(packed), x, bias)
    assert y.is_contiguous()
    assert_is_product(y, FORMATS[format].unpack(packed).float(), x, bias)


@pytest.mark.parametrize("rows", [10, 32])
@pytest.mark.parametrize("format", RUNNING)
def test_the_answer_is_contiguous_as_the_compiler_is_told(format: str, rows: int) -> None:
    weight, options = weight_of(rows, 96, 0.4, format, 0)
    layer = PackedLinear.from_packed(packed_of(weight, format, "exact", options), torch.ones(rows))
    for x in (torch.randn(3, 96), torch.randn(2, 5, 96), torch.randn(96)):
        assert layer(x).is_contiguous()
        assert layer(x).view(-1).numel() == x.numel() // 96 * rows
        arrays, sizes = [getattr(layer, key) for key in layer._arrays], list(layer._sizes.values())
        given = x, arrays, layer.bias, layer._kind.__name__, sizes
        torch.library.opcheck(packed_product, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("format", ["bitmask", "index", "rows"])
@pytest.mark.parametrize(("rows", "columns", "n_tokens"), [(0, 8, 2), (8, 0, 2), (8, 8, 0)])
def test_what_is_empty_gives_what_a_linear_layer_gives(format: str, rows: int, columns: int, n_tokens: int) -> None:
    of, bias = ready(FORMATS[format].pack(torch.ones(rows, columns))), torch.arange(float(rows))
    for x in (torch.ones(n_tokens, columns), torch.ones(2, n_tokens, columns)):
        assert torch.equal(product(of, x, bias), nn.functional.linear(x, torch.ones(rows, columns), bias))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_a_bias_of_any_type_is_added(kind: torch.dtype) -> None:
    of, x = ready(FORMATS["bitmask"].pack(torch.eye(40))), torch.randn(3, 40)
    assert torch.equal(product(of, x, torch.ones(40, dtype=kind)), x + 1)


def test_a_layer_copies_saves_loads_and_stays_itself_when_the_model_is_halved() -> None:
    linear = nn.Linear(70, 9)
    linear.weight.data *= torch.rand(9, 70) < 0.3
    layer = PackedLinear.from_linear(linear, values="int8")
    x = torch.randn(5, 70)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(layer.half()(x), y)
    other = PackedLinear.from_linear(linear, values="int8")
    for each in other.buffers():
        each.zero_()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), y)
    compiled: Any = torch.compile(nn.Sequential(layer, nn.ReLU()), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), torch.relu(y))
    assert layer.nbytes < 9 * 70 * 4


@pytest.mark.parametrize("values", ["exact", "bf16", "int8", "int4", "int4/64"])
@pytest.mark.parametrize("format", RUNNING)
def test_what_runs_takes_hardly_more_than_what_is_packed(format: str, values: str) -> None:
    if format in ("index", "blocks", "rows") and "/" in values:
        pytest.skip("refused")
    weight, options = weight_of(256, 512, 0.1 if format == "index" else 0.3, format, 0)
    if format == "blocks":
        keep = torch.rand(16, 32) < 0.3
        weight = torch.randn(256, 512) * keep.repeat_interleave(16, 0).repeat_interleave(16, 1)
        options = {"h": 16, "w": 16}
    packed = packed_of(weight, format, values, options)
    extra = 0.125 / 8 * 256 * 512 if format == "nm" else 0  # 4 bits of a group instead of 3
    assert PackedLinear.from_packed(packed).nbytes <= 1.1 * packed.nbytes + 8 * 257 + 2 * 256 + extra


def test_what_does_not_run_is_refused() -> None:
    linear = nn.Linear(8, 4)
    with pytest.raises(InputError, match="Formats that run are bitmask, index, nm, blocks, rows; got 'csr'"):
        PackedLinear.from_linear(linear, "csr")
    with pytest.raises(InputError, match="Values that run are fp32, bf16, int8, int4, w8a8, w4a8, and int4/64"):
        PackedLinear.from_linear(linear, values="codebook:4")
    with pytest.raises(InputError, match="multiples of 32 columns; these have 4"):
        PackedLinear.from_linear(linear, values="int8/4")
    with pytest.raises(InputError, match="codebook:4 values do not run"):
        ready(FORMATS["bitmask"].pack(linear.weight, None, "codebook:4"))
    with pytest.raises(InputError, match="run as F32 or BF16; these are F16"):
        ready(FORMATS["bitmask"].pack(linear.weight.half()))
    with pytest.raises(InputError, match=r"\(out, in\); this one is \(4,\)"):
        ready(FORMATS["bitmask"].pack(linear.bias))
    with pytest.raises(InputError, match="they divide the weight"):
        PackedLinear.from_linear(linear, "blocks", h=3, w=3)
    layer = PackedLinear.from_linear(linear)
    with pytest.raises(InputError, match=r"8 columns; x is \(2, 7\)"):
        layer(torch.randn(2, 7))
    with pytest.raises(InputError, match=r"floating inputs; x is torch.int64 on cpu"):
        layer(torch.ones(2, 8, dtype=torch.int64))


def test_no_weight_beyond_a_row_is_felt() -> None:
    """Kept weights of the next row, and the room behind the last, are read and must not be used."""
    weight = torch.zeros(2, 64)
    weight[0, 5], weight[1] = 2.0, float("inf")
    for format in ("bitmask", "rows"):
        of = ready(FORMATS[format].pack(weight))
        for n in (1, 4, 9):
            y = product(of, torch.ones(n, 64))
            assert torch.equal(y[:, 0], torch.full((n,), 2.0))
            assert bool(torch.isinf(y[:, 1]).all())
        assert isinstance(of.starts, np.ndarray)
