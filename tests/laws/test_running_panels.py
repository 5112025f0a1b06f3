"""Weights in panels, as CPUs with AVX-512 run them, are the same weights; here on any CPU, if need be slowly."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateurs.errors import InputError
from secateurs.formats import bitmask, blocks
from secateurs.running import products, ready
from secateurs.running.packed_linear import PackedLinear
from secateurs.running.products import product
from secateurs.running.ready import RUNNING, Bits, Panels, Ready, Slabs, Tiled

VALUES = ["exact", "bf16", "int8", "int4", "int8/32", "int4/64"]


@pytest.fixture(autouse=True)
def _with_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "ways", lambda: "avx512")


def sparse(rows: int, columns: int, density: float = 0.4) -> Tensor:
    draw = torch.Generator().manual_seed(rows)
    return torch.randn(rows, columns, generator=draw) * (torch.rand(rows, columns, generator=draw) < density)


def in_blocks(rows: int, columns: int, w: int) -> Tensor:
    draw = torch.Generator().manual_seed(rows)
    keep = torch.rand(rows // 32, columns // w, generator=draw) < 0.4
    return torch.randn(rows, columns, generator=draw) * keep.repeat_interleave(32, 0).repeat_interleave(w, 1)


def of_rows(packed: Any, monkeypatch: pytest.MonkeyPatch) -> Ready:
    """As a CPU without AVX-512 has it."""
    with monkeypatch.context() as patch:
        patch.setattr(ready, "ways", lambda: "avx2")
        return ready.ready(packed)


def assert_equal(found: Ready, right: Ready) -> None:
    assert type(found) is type(right)
    for name, value in vars(right).items():
        assert np.array_equal(getattr(found, name), value), name


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (9, 77), (64, 128), (37, 160), (70, 5)])
def test_panels_become_the_rows_that_they_were(
    rows: int, columns: int, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = sparse(rows, columns)
    packed = bitmask.pack(
        weight.bfloat16() if values == "bf16" else weight, None, "exact" if values == "bf16" else values
    )
    found, right = ready.ready(packed), of_rows(packed, monkeypatch)
    assert isinstance(found, Panels)
    assert isinstance(right, Bits)
    assert_equal(found.portable(), right)


@pytest.mark.parametrize("values", ["exact", "bf16", "int8", "int4"])
@pytest.mark.parametrize(("rows", "columns", "w"), [(32, 16, 16), (64, 128, 32), (96, 96, 48)])
@pytest.mark.parametrize("n_tokens", [1, 5, 17])
def test_blocks_of_32_rows_become_slabs_and_blocks_again(
    rows: int, columns: int, w: int, values: str, n_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = in_blocks(rows, columns, w)
    packed = blocks.pack(
        weight.bfloat16() if values == "bf16" else weight, None, "exact" if values == "bf16" else values, h=32, w=w
    )
    found, right = ready.ready(packed), of_rows(packed, monkeypatch)
    assert isinstance(found, Slabs)
    assert isinstance(right, Tiled)
    assert_equal(found.portable(), right)
    x = torch.randn(n_tokens, columns, generator=torch.Generator().manual_seed(1))
    dense, bias = blocks.unpack(packed).double(), torch.arange(float(rows))
    sizes = x.double().abs() @ dense.abs().T + x.double().abs().amax(1, keepdim=True) * dense.abs().sum(1) + bias
    error = (product(found, x, bias).double() - (x.double() @ dense.T + bias)).abs()
    assert bool((error <= (columns + 8) * 2.0**-24 * sizes).all())


@pytest.mark.parametrize(("saved_by", "loaded_by"), [("avx512", "avx2"), ("avx2", "avx512"), ("avx512", "avx512")])
@pytest.mark.parametrize(("format", "values"), [("bitmask", "fp32"), ("bitmask", "int4/32"), ("blocks", "int8")])
def test_what_one_cpu_saved_loads_on_another(
    saved_by: str, loaded_by: str, format: str, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, other = nn.Linear(96, 64), nn.Linear(96, 64)
    linear.weight.data = in_blocks(64, 96, 32)
    other.weight.data = linear.weight.data.flip(0)
    options = {"h": 32, "w": 32} if format == "blocks" else {}
    x = torch.randn(3, 96)

    def made(way: str, of: nn.Linear) -> PackedLinear:
        monkeypatch.setattr(ready, "ways", lambda: way)
        return PackedLinear.from_linear(of, format, values, **options)

    right = made(loaded_by, linear)(x)
    state = made(saved_by, linear).state_dict()
    layer = made(loaded_by, other)
    assert not torch.allclose(layer(x), right)
    layer.load_state_dict(state)
    assert torch.equal(layer(x), right)


def test_a_state_of_another_shape_is_refused() -> None:
    layer = PackedLinear.from_linear(nn.Linear(96, 64), values="int8")
    state = PackedLinear.from_linear(nn.Linear(64, 64), values="int8").state_dict()
    with pytest.raises(RuntimeError, match="not a weight of 64 x 96 packed as bitmask int8"):
        layer.load_state_dict(state)
    del state["kept"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"kept"'):
        layer.load_state_dict(state)


WRONG = {
    "too few": lambda array: array[: array.size // 2],
    "others": lambda array: array ^ 0x409 if array.dtype.kind in "iu" else array[:-20],
    "of another kind": lambda array: array.astype(np.float64),
    "in two dimensions": lambda array: array[None],
}


@pytest.mark.parametrize("way", ["avx512", "avx2"])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("key", ["starts", "kept", "mask", "places", "scales"])
@pytest.mark.parametrize("format", RUNNING)
def test_a_state_that_contradicts_itself_is_refused(
    format: str, key: str, wrong: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "ways", lambda: way)
    options = {"blocks": {"h": 32, "w": 32}, "nm": {"n": 2, "m": 4}}.get(format, {})
    linear = nn.Linear(90 if format == "bitmask" else 96, 64)
    linear.weight.data = in_blocks(64, 96, 32)[:, : linear.in_features]
    if format == "nm":
        linear.weight.data = torch.tensor([0.0, 0.0, 1.0, 2.0]).repeat(64, 24)
    layer = PackedLinear.from_linear(linear, format, **options)
    state = layer.state_dict()
    if key not in state or (key, wrong) == ("scales", "others"):
        pytest.skip("a format has a mask or places; scales may be any numbers")
    state[key] = torch.from_numpy(WRONG[wrong](state[key].numpy()))
    x = torch.randn(2, linear.in_features)
    before = layer(x)
    with pytest.raises(RuntimeError, match=f"not a weight of 64 x {linear.in_features} packed as {format} fp32"):
        layer.load_state_dict(state)
    assert torch.equal(layer(x), before)


def test_bits_beyond_the_last_column_are_refused() -> None:
    layer = PackedLinear.from_linear(nn.Linear(70, 8))
    state = layer.state_dict()
    words = state["mask"].numpy().reshape(8, 3).copy()
    words[:, 2] = 0xFC0 | words[:, 2] & 0  # as many bits as before, behind column 70
    state["mask"] = torch.from_numpy(words.reshape(-1))
    with pytest.raises(RuntimeError, match="not a weight of 8 x 70"):
        layer.load_state_dict(state)


def test_a_bias_of_another_length_is_refused() -> None:
    of = ready.ready(bitmask.pack(sparse(40, 64)))
    with pytest.raises(InputError, match=r"40 rows; the bias is \(39,\)"):
        product(of, torch.ones(1, 64), torch.ones(39))


@pytest.mark.parametrize("n_tokens", [1, 3, 30])
@pytest.mark.parametrize("values", ["w8a8", "w4a8/32"])
def test_inputs_of_8_bits_are_off_by_half_a_step_at_most(values: str, n_tokens: int) -> None:
    linear = nn.Linear(160, 37, bias=False).requires_grad_(False)
    linear.weight.copy_(sparse(37, 160))
    layer = PackedLinear.from_linear(linear, values=values)
    assert layer.name == f"bitmask {values}"
    exact = PackedLinear.from_linear(linear, values=f"int{values[1]}{values[4:]}")
    x = torch.randn(n_tokens, 160, generator=torch.Generator().manual_seed(2))
    dense = bitmask.unpack(bitmask.pack(linear.weight, linear.weight != 0, f"int{values[1]}{values[4:]}")).double()
    error = (layer(x).double() - x.double() @ dense.T).abs()
    step = x.double().abs().amax(1, keepdim=True) / 127
    assert bool((error <= (step / 2 + 1e-5) * dense.abs().sum(1)).all())
    assert not torch.equal(layer(x), exact(x))


def test_whole_numbers_are_multiplied_exactly() -> None:
    weight = torch.randint(-127, 128, (33, 96)).float()
    weight[:, 0] = 127.0  # so that the scale is one
    x = torch.randint(-(2**12), 2**12, (7, 96)).float()
    found = product(ready.ready(bitmask.pack(weight, weight != 0, "int8")), x)
    assert torch.equal(found.double(), x.double() @ weight.double().T)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("values", ["int8", "w8a8"])
def test_a_token_that_is_not_finite_becomes_nan_and_no_other(values: str, wrong: float) -> None:
    linear = nn.Linear(64, 40)
    layer = PackedLinear.from_linear(linear, values=values)
    x = torch.randn(3, 64)
    right = layer(x)
    x[1, 5] = wrong
    found = layer(x)
    assert bool(found[1].isnan().all())
    assert torch.equal(found[[0, 2]], right[[0, 2]])


@pytest.mark.parametrize("values", ["int8", "w8a8"])
@pytest.mark.parametrize("size", [0.0, 1e-38, 2.0**-100, 2.0**-50, 2.0**100])
def test_inputs_of_any_size(size: float, values: str) -> None:
    layer = PackedLinear.from_linear(nn.Linear(64, 40, bias=False), values=values)
    x = torch.randn(2, 64)
    found, right = layer(x * size).double(), layer(x).double() * size
    of_unit = 2.0**-126 * 64  # of the smallest unit an input is rounded to, times the weights of a row
    assert float((found - right).abs().max()) <= 1e-6 * size * float(right.abs().max() / (size or 1.0)) + of_unit


def test_sums_of_many_columns_do_not_overflow() -> None:
    weight = torch.ones(2, 70_000)
    weight[1, ::2] = -1.0
    of = ready.ready(bitmask.pack(weight, None, "int8"))
    found = product(of, torch.full((1, 70_000), 3.0))
    scale = float(bitmask.unpack(bitmask.pack(weight, None, "int8"))[0, 0])
    assert found[0].tolist() == pytest.approx([210_000.0 * scale, 0.0], rel=1e-6)


@pytest.mark.parametrize("format", ["bitmask", "blocks"])
@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_whoever_takes_the_parts_the_bits_are_the_same(
    format: str, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = nn.Linear(96, 320)
    linear.weight.data = in_blocks(320, 96, 32)
    layer = PackedLinear.from_linear(linear, format, values, **({"h": 32, "w": 32} if format == "blocks" else {}))
    x = torch.randn(9, 96)
    alone = layer(x)
    monkeypatch.setattr(products, "ALONE_PANELS", 0)
    monkeypatch.setattr(products, "n_threads", lambda: 3)
    on_team = layer(x)
    monkeypatch.setattr(products, "address", lambda: 0)
    assert torch.equal(on_team, alone)
    assert torch.equal(layer(x), alone)
