"""Quantizing: numbers by hand, the lines of the report, long rows, and refusals."""

from pathlib import Path

import pytest
import torch
from torch import nn

import secateurs as sc
from secateurs.errors import InputError, RecipeError
from secateurs.formats import pieces
from secateurs.formats.values import Values
from secateurs.quantizing import Quantized, rounded


def linear(rows: list[list[float]]) -> nn.Linear:
    module = nn.Linear(len(rows[0]), len(rows), bias=False)
    module.weight.data = torch.tensor(rows)
    return module


def test_a_row_by_hand_and_its_line() -> None:
    module = linear([[7.0, 2.4, -0.5, 0.0], [-14.0, 0.9, 3.0, 1.0]])
    (line,) = sc.quantize(module, "int4")
    # Scales of 1 and 2; half-way goes to even.
    assert module.weight.tolist() == [[7.0, 2.0, 0.0, 0.0], [-14.0, 0.0, 4.0, 0.0]]
    assert line == Quantized("weight", "int4", 8, 1, 4, 1.0)


def test_the_largest_weight_has_the_largest_code() -> None:
    # 126.3 / 127 is above a bfloat16's half way: with the scale above, 1, the code would be 126.
    module = linear([[126.3, 1.0]])
    sc.quantize(module, "int8")
    assert module.weight.tolist() == [[127 * 0.99609375, 0.99609375]]


def test_a_scale_for_every_group() -> None:
    module = linear([[70.0, 14.0, 7.0, 1.4, 0.7]])
    sc.quantize(module, "int4/2")
    assert module.weight[0].tolist() == pytest.approx([70.0, 10.0, 7.0, 1.0, 0.7], rel=2**-8)


def test_patterns_and_what_is_left_alone() -> None:
    module = nn.Sequential(nn.Linear(9, 9), nn.BatchNorm1d(9), nn.Linear(9, 4))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert sc.quantize(module, "exact") == ()
    lines = sc.quantize(module, {"": "int8", "2.*": "codebook:2", "1.running_mean": "int8"})
    assert {line.name: line.values for line in lines} == {
        "0.weight": "int8",
        "2.weight": "codebook:2",
        "2.bias": "codebook:2",
        "1.running_mean": "int8",
    }
    assert len(module[2].weight.unique()) == 4
    untouched = before.keys() - {line.name for line in lines}
    assert untouched >= {"0.bias", "1.weight"}
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in untouched)


def test_rows_longer_than_a_piece_have_a_scale_for_each_piece(tmp_path: Path) -> None:
    n = pieces.SIZE + 5
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(2, n))
    module.weight.data.view(-1)[::999] = torch.randn(len(range(0, 2 * n, 999)))
    sc.pack(module, tmp_path / "a.packed.safetensors", values="int4")
    sc.quantize(module, "int4")
    assert torch.equal(sc.load(tmp_path / "a.packed.safetensors")["weight"], module.weight)


def test_memory_in_another_order_is_written_in_place() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    module = nn.Conv2d(3, 4, 3, bias=False)
    module.weight.data = weight.clone().contiguous(memory_format=torch.channels_last)
    parameter, place = module.weight, module.weight.data_ptr()
    sc.quantize(module, "int8")
    assert module.weight is parameter
    assert module.weight.data_ptr() == place
    assert torch.equal(module.weight, rounded(weight, Values.parse("int8")))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name_before_anything_changes(wrong: float) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight.data[2, 1] = wrong
    before = module[0].weight.clone()
    with pytest.raises(InputError, match=r"'1\.weight' holds 1 NaN or infinite weights"):
        sc.quantize(module, "int8")
    assert torch.equal(module[0].weight, before)


def test_values_that_mean_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"Values are exact, int8, int4, .*; got 'int3'"):
        sc.quantize(nn.Linear(2, 2), "int3")
    with pytest.raises(RecipeError, match=r"No tensor is called 'wieght'\. Did you mean 'weight'\?"):
        sc.quantize(nn.Linear(2, 2), {"wieght": "int8"})
