"""Products on AMX's registers are those of AVX-512: of integers to the bit, of floats within float32's roundings."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateurs.running import curves, products
from secateurs.running.features import has_amx
from secateurs.running.packed_linear import PackedLinear

pytestmark = pytest.mark.skipif(not has_amx(), reason="this CPU has no AMX")
SHAPES = [(1, 16), (70, 77), (64, 192), (96, 1120)]
TOKENS = [4, 7, 16, 17, 33, 40, 70]
BLOCKS = [(32, 16), (32, 32), (32, 48), (32, 96)]


@pytest.fixture(autouse=True)
def _from_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are slower."""
    monkeypatch.setattr(products, "SQUARES_FROM", dict.fromkeys(products.SQUARES_FROM, 4))
    monkeypatch.setattr(products, "GROUPS_FROM", 4)
    monkeypatch.setattr(products, "GROUP_STEPS", 1)


def layer(rows: int, columns: int, values: str, block: tuple[int, int] = (1, 1)) -> tuple[PackedLinear, Tensor]:
    """A packed layer and the weight that it stands for, but for what integers round."""
    draw = torch.Generator().manual_seed(rows + columns)
    keep = torch.rand(-(-rows // block[0]), -(-columns // block[1]), generator=draw) < 0.4
    keep = keep.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    dense = nn.Linear(columns, rows)
    weight = torch.randn(rows, columns, generator=draw) * keep[:rows, :columns]
    dense.weight.data = weight.bfloat16().float() if values == "bf16" else weight
    sizes = dict(zip("hw", block, strict=True)) if block != (1, 1) else {}
    return PackedLinear.from_linear(dense, "blocks" if sizes else "bitmask", values, **sizes), dense.weight.detach()


def without(monkeypatch: pytest.MonkeyPatch, call: Any) -> Tensor:
    """What the call gives on a CPU that has no AMX."""
    with monkeypatch.context() as patch:
        patch.setattr(products, "has_amx", lambda: False)
        found: Tensor = call()
        return found


def squared(monkeypatch: pytest.MonkeyPatch, call: Any) -> Tensor:
    """What it gives here; the loops of squares must have run."""
    kinds = []
    loops = products._squares_for

    def seen(*given: Any) -> Any:
        kinds.append(given)
        return loops(*given)

    with monkeypatch.context() as patch:
        patch.setattr(products, "_squares_for", seen)
        found: Tensor = call()
    assert kinds
    return found


@pytest.mark.parametrize("values", ["int8", "w8a8", "int4", "w4a8", "int8/32", "int8/96", "int4/64", "w4a8/64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_integers_give_the_same_bits(values: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = layer(*shape, values)
    for n in TOKENS:
        x = torch.randn(n, shape[1], generator=torch.Generator().manual_seed(n))
        found = squared(monkeypatch, lambda x=x: packed(x))
        assert torch.equal(found, without(monkeypatch, lambda x=x: packed(x)))


@pytest.mark.parametrize("values", ["fp32", "bf16"])
@pytest.mark.parametrize("block", [(1, 1), *BLOCKS])
@pytest.mark.parametrize("shape", [*SHAPES, (64, 96)])
def test_floats_are_as_exact_as_float32(
    values: str, block: tuple[int, int], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if shape[0] % block[0] or shape[1] % block[1]:
        pytest.skip("blocks that do not divide the weight do not run")
    packed, weight = layer(*shape, values, block)
    for n in TOKENS:
        x = torch.randn(n, shape[1], generator=torch.Generator().manual_seed(n)) * torch.logspace(-20, 20, n)[:, None]
        found = squared(monkeypatch, lambda x=x: packed(x)).double()
        assert packed.bias is not None
        exact = x.double() @ weight.double().T + packed.bias
        size = x.double().abs() @ weight.double().abs().T + packed.bias.abs()
        assert bool(((found - exact).abs() <= (shape[1] + 8) * 2.0**-24 * size + 1e-37).all())


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("values", ["int8", "w8a8", "int4"])
def test_blocks_of_integers_give_the_same_bits(
    values: str, block: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, _ = layer(96, 192, values, block)
    for n in TOKENS:
        x = torch.randn(n, 192, generator=torch.Generator().manual_seed(n))
        found = squared(monkeypatch, lambda x=x: packed(x))
        assert torch.equal(found, without(monkeypatch, lambda x=x: packed(x)))


@pytest.mark.parametrize("values", ["w8a8", "int8", "fp32"])
@pytest.mark.parametrize("is_team", [True, False])
def test_threads_give_the_same_bits(values: str, is_team: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = layer(300, 500, values)
    x = torch.randn(70, 500)
    alone = squared(monkeypatch, lambda: packed(x))
    monkeypatch.setattr(products, "n_threads", lambda: 2)
    monkeypatch.setattr(products, "ALONE_PANELS", 0)
    if not is_team:
        monkeypatch.setattr(products, "address", lambda: 0)
    assert torch.equal(squared(monkeypatch, lambda: packed(x)), alone)


def test_inputs_that_do_not_fit_the_cache_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = layer(64, 20_000, "w8a8")
    x = torch.randn(130, 20_000)
    found = squared(monkeypatch, lambda: packed(x))
    assert torch.equal(found, without(monkeypatch, lambda: packed(x)))


@pytest.mark.parametrize("odd", [1e-30, 1e30, float("inf"), float("nan"), 0.0])
def test_floats_that_would_lose_something_run_without(odd: float, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = nn.Linear(64, 32)
    dense.weight.data[3, 5] = odd
    packed = PackedLinear.from_linear(dense, "bitmask", "fp32")
    assert bool(packed.ready().n_planes) == (odd == 0.0)  # type: ignore[attr-defined]
    x = torch.randn(20, 64)
    assert torch.allclose(packed(x), dense(x), equal_nan=True, atol=1e-5)


@pytest.mark.parametrize("values", ["w8a8", "int8", "bf16", "fp32"])
def test_a_token_that_is_not_finite_becomes_nan_and_no_other(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = layer(70, 77, values)
    x = torch.randn(20, 77)
    x[3, 5], x[7, 0] = float("inf"), float("nan")
    found = squared(monkeypatch, lambda: packed(x))
    assert found.isnan().all(1).nonzero()[:, 0].tolist() == [3, 7]
    assert not found[[0, 1, 2, 4, 5, 6, 8]].isnan().any()


@pytest.mark.parametrize("curve", [curves.RELU, curves.GELU, curves.GELU_TANH])
@pytest.mark.parametrize("values", ["w8a8", "int8/32", "fp32"])
def test_the_activation_that_follows(curve: int, values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = layer(96, 192, values)
    x, bias = torch.randn(20, 192), torch.randn(96).numpy()

    def call(kind: int) -> Tensor:
        return torch.from_numpy(products.multiplied(packed.ready(), x.numpy(), bias, kind))

    found = squared(monkeypatch, lambda: call(curve))
    plain = call(curves.NONE).double()
    exact = {
        curves.RELU: torch.relu(plain),
        curves.GELU: nn.functional.gelu(plain),
        curves.GELU_TANH: nn.functional.gelu(plain, approximate="tanh"),
    }[curve]
    assert bool(((found - exact).abs() <= 5e-7 * plain.abs() + 1e-37).all())
