"""Laws of quantized values: what `pack` would give back, once and for all; zeros stay zeros; every step of every
optimizer ends on the values."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import secateurs as sc
from laws.networks import PRUNED, Everything, Tied, small
from laws.test_pruner import OPTIMIZERS, backward
from secateurs.formats.bits import bits_of, grid_of
from secateurs.formats.values import Values
from secateurs.layers import layers
from secateurs.quantizing import _rounded_there, rounded

INTS = ["int8", "int4", "int8/3", "int4/5"]
LOSSY = [*INTS, "codebook:2", "codebook:5"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WIDE = {"": "int4", "*": "int8/3", "embed.weight": "codebook:3", "norm.*": "exact"}
each_values = pytest.mark.parametrize("values", [*LOSSY, WIDE], ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def bits(module):
    """{name: the bits of every tensor}."""
    return {name: value.contiguous().view(torch.uint8) for name, value in module.state_dict().items()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert torch.equal(value, wanted[name]), name


def loaded(module, values, path):
    """The bits of what a packed file gives back."""
    sc.pack(module, path, values=values)
    return {name: value.view(torch.uint8) for name, value in sc.load(path).items()}


def pruned(module, sparsity=0.5):
    sc.prune(module, sc.Recipe(budget=sc.sparsity(sparsity), min_keep=int(sparsity < 1)))
    return module


@st.composite
def weights(draw, dtypes=tuple(DTYPES)):
    """A weight of any size of numbers, zeros of both signs among them."""
    shape = draw(st.sampled_from([(4, 7), (1, 40), (6, 3, 2, 2), (9,), (2, 64)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    weight = torch.randn(shape, generator=generator, dtype=torch.float64) * 2.0 ** draw(st.integers(-9, 9))
    weight[torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.97, 1.0]))] *= 0.0
    return weight.to(draw(st.sampled_from(dtypes)))


@pytest.mark.filterwarnings("ignore::secateurs.errors.CollapseWarning")
@each_dtype
@each_values
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 1.0])
def test_quantize_does_what_packing_does(tmp_path, dtype, values, sparsity):
    torch.manual_seed(0)
    module = pruned(Everything().to(dtype), sparsity)
    wanted = loaded(module, values, tmp_path / "a.packed.safetensors")
    lines = sc.quantize(module, values)
    assert_same(bits(module), wanted)
    assert {line.name for line in lines} >= {*PRUNED}
    if dtype in (torch.float32, torch.float64):
        assert_same(loaded(module, values, tmp_path / "b.packed.safetensors"), wanted)
        assert all(line.largest_error == 0.0 for line in sc.quantize(module, values))


@given(weights(), st.sampled_from(INTS))
def test_any_device_rounds_to_the_same_bits(weight, values):
    values = Values.parse(values)
    found = _rounded_there(weight, values, grid_of(tuple(weight.shape))[1])
    assert np.array_equal(bits_of(found).stored, bits_of(rounded(weight, values)).stored)


@given(weights((torch.float32, torch.float64)), st.sampled_from(LOSSY))
def test_rounding_again_changes_nothing_and_zeros_stay(weight, values):
    values = Values.parse(values)
    once = rounded(weight, values)
    assert np.array_equal(bits_of(rounded(once, values)).stored, bits_of(once).stored)
    assert bool((bits_of(once).stored[(weight == 0).reshape(-1).numpy()] == 0).all())
    if values.name == "int":
        assert bool((once.abs().amax() - weight.abs().amax()).abs() <= weight.abs().amax() / 128)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@settings(max_examples=10)
@given(
    values=st.sampled_from(["int8", "int4", "int4/3", "codebook:2", {"0.weight": "int4", "2.weight": "codebook:3"}]),
    revive=st.sampled_from(["never", "dense", "forget", None]),
    schedule=st.sampled_from(["one_shot(end=0.0)", "cubic(0.1, 0.5)"]),
)
def test_after_every_step_of_every_optimizer_weights_are_their_values(make, values, revive, schedule):
    torch.manual_seed(0)
    module = pruned(small(), 0.4)
    if revive == "forget":
        values = "int4"  # no codebook: its masks are never final
    optimizer = make(module.parameters())
    recipe = sc.Recipe(budget=sc.sparsity(0.6), schedule=schedule)
    pruner = sc.Pruner(module, recipe, optimizer, 8, revive=revive) if revive else None
    if pruner is not None:
        pruner.start()
    quantizer = sc.Quantizer(module, values, optimizer, pruner)
    quantizer.start()
    dead = {layer.name: layer.parameter == 0 for layer in layers(module) if layer.is_prunable}
    begun = bits(copy.deepcopy(module))
    for step in range(8):
        optimizer.zero_grad()
        backward(module, step)
        optimizer.step()
        quantizer.step()
        if pruner is None:
            assert all(bool((module.get_parameter(name)[zero] == 0).all()) for name, zero in dead.items())
        elif pruner.masks is not None:
            assert all(bool((module.get_parameter(name)[~keep] == 0).all()) for name, keep in pruner.masks.items())
        if pruner is None or pruner.is_settled or (isinstance(values, str) and values.startswith("int")):
            assert all(line.largest_error == 0.0 for line in sc.quantize(copy.deepcopy(module), values))
    quantizer.end()
    ended = bits(module)
    assert any(not torch.equal(value, begun[name]) for name, value in ended.items())
    sc.quantize(module, values)
    assert_same(bits(module), ended)


def test_tied_weights_stay_tied():
    torch.manual_seed(0)
    module = Tied()
    lines = sc.quantize(module, {"second.weight": "int4"})
    assert [line.name for line in lines] == ["first.weight"]
    assert module.second.weight is module.first.weight
    assert len(module.first.weight[0].unique()) <= 15
