"""Accuracy before and after packing: the same examples, paired; networks and data that do not fit are refused."""

import math

import numpy as np
import pytest
import torch

from secateurs.checkpoint.packing import pack
from secateurs.checkpoint.streamed import prune_checkpoint
from secateurs.data import DataSpec, load_data
from secateurs.errors import InputError
from secateurs.measure.accuracy import Accuracy, accuracy
from secateurs.measure.drop import Drop, accuracy_drop
from secateurs.models import ModelSpec, build, load_model, save_model
from secateurs.recipe import Recipe
from secateurs.structure.files import save_shrunk
from secateurs.structure.shrinking import shrink

MODEL = ModelSpec.parse("lenet-300-100")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """120 images of three classes that differ in their brightness."""
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = np.clip(80 * y[:, None, None] + generator.normal(20, 30, (120, 4, 4)), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "three.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return DataSpec(source=str(path))


@pytest.fixture(scope="module")
def saved(spec, tmp_path_factory):
    """A network that was trained a little."""
    data = load_data(spec)
    module = build(MODEL, data.shape, seed=0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(data.x_train), data.y_train).backward()
        optimizer.step()
    place = tmp_path_factory.mktemp("model") / "saved"
    scaling = {"divisor": 255.0, "mean": list(data.scaling.mean), "std": list(data.scaling.std)}
    save_model(module, MODEL, data.shape, place, about={"scaling": scaling})
    return place


def test_exact_values_lose_nothing_and_lossy_ones_what_is_counted(saved, spec, tmp_path):
    data, out = load_data(spec), tmp_path / "a.packed.safetensors"
    pack(saved, out)
    drop = accuracy_drop(saved, out, spec)
    assert (drop.value, drop.n_lost, drop.n_gained) == (0, 0, 0)
    assert drop.before == drop.after
    assert drop.before.value > 0.6
    pack(saved, out, "codebook:2")
    drop = accuracy_drop(saved, out, data)
    assert drop.after.n_correct == drop.before.n_correct - drop.n_lost + drop.n_gained
    assert drop.values()["drop"]["value"] == pytest.approx(drop.before.value - drop.after.value)


def test_a_pruned_directory_keeps_its_config(saved, spec, tmp_path):
    prune_checkpoint(saved, Recipe(pool="layer", budget="sparsity(0.8)"), tmp_path / "pruned")
    pack(tmp_path / "pruned", tmp_path / "a.packed.safetensors")
    drop = accuracy_drop(tmp_path / "pruned", tmp_path / "a.packed.safetensors", spec)
    assert drop.value == 0
    whole = accuracy_drop(saved, tmp_path / "a.packed.safetensors", spec)
    assert whole.after == drop.after


def test_a_live_network_stays_as_it_is(spec, tmp_path):
    data = load_data(spec)
    module = build(MODEL, data.shape, seed=1).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    pack(module, tmp_path / "a.packed.safetensors", "int4")
    drop = accuracy_drop(module, tmp_path / "a.packed.safetensors", spec)
    assert drop.before.n_correct == accuracy(module, data.x_test, data.y_test).n_correct
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training


def test_a_network_without_our_config_is_named(saved, spec, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    pack(tmp_path, tmp_path / "a.packed.safetensors")
    assert accuracy_drop(tmp_path, tmp_path / "a.packed.safetensors", spec, "lenet-300-100").value == 0
    with pytest.raises(InputError, match=r"Which network .* is not known.*--model lenet-5"):
        accuracy_drop(tmp_path, tmp_path / "a.packed.safetensors", spec)
    with pytest.raises(InputError, match="does not hold the weights of this network"):
        accuracy_drop(tmp_path, tmp_path / "a.packed.safetensors", spec, "cls-transformer")


def test_data_that_the_network_does_not_read_are_refused(saved, tmp_path):
    pack(saved, tmp_path / "a.packed.safetensors")
    with pytest.raises(InputError, match="reads 1x4x4 images, 3 classes; the data are 1x8x8"):
        accuracy_drop(saved, tmp_path / "a.packed.safetensors", DataSpec(source="digits", mean=(0.3,), std=(0.4,)))


def test_pixels_scaled_otherwise_are_refused(saved, spec, tmp_path):
    """A network scores a little worse on them, and nobody would notice."""
    pack(saved, tmp_path / "a.packed.safetensors")
    with pytest.raises(InputError, match="its accuracy would mean nothing"):
        accuracy_drop(
            saved, tmp_path / "a.packed.safetensors", DataSpec(**{**spec.values(), "mean": (0.4,), "std": (0.3,)})
        )


def test_the_interval_by_hand():
    """Half an example in each of four cells: (30.5 - 10.5) / 1002, and its standard error."""
    drop = Drop(Accuracy(900, 1000), Accuracy(880, 1000), 30, 10)
    middle, error = 20 / 1002, math.sqrt(41 - 400 / 1002) / 1002
    assert drop.value == pytest.approx(0.02)
    assert drop.interval == pytest.approx((middle - 1.959964 * error, middle + 1.959964 * error))
    same = Drop(Accuracy(900, 1000), Accuracy(900, 1000), 0, 0)
    assert same.interval[0] < 0 < same.interval[1]


@pytest.mark.slow
def test_a_published_network_pruned_and_packed(data_dir, tmp_path):
    """LeNet-5 of somebody else, half of it gone: int8 costs it nothing that could be seen."""
    spec = DataSpec(source="mnist", directory=str(data_dir / "mnist"), mean=(0.1307,), std=(0.3081,))
    prune_checkpoint(data_dir / "weights_lenet5_mnist", Recipe(budget="sparsity(0.5)"), tmp_path / "pruned")
    pack(tmp_path / "pruned", tmp_path / "a.packed.safetensors", "int8")
    drop = accuracy_drop(tmp_path / "pruned", tmp_path / "a.packed.safetensors", spec, "lenet-5")
    assert drop.before.n == 10_000
    assert drop.before.value > 0.985
    assert abs(drop.value) <= 0.001
    whole = accuracy_drop(data_dir / "weights_lenet5_mnist", tmp_path / "a.packed.safetensors", spec, "lenet-5")
    assert whole.before.value == 0.9894


def test_a_network_whose_units_were_removed_is_read_again(saved, spec, tmp_path):
    """Bug: `pack --data` did not know the networks that `compress` and `shrink` make smaller."""
    module, config = load_model(saved)
    data, half = load_data(spec), Recipe.parse("magnitude row layer sparsity(0.5)")
    small = shrink(module, half, data.x_train[:2])
    save_shrunk(small, tmp_path / "small", config)
    out = tmp_path / "a.packed.safetensors"
    pack(tmp_path / "small", out)
    drop = accuracy_drop(tmp_path / "small", out, spec)
    assert drop.before.n_correct == accuracy(small.module.eval(), data.x_test, data.y_test).n_correct
    assert (drop.value, drop.n_lost, drop.n_gained) == (0, 0, 0)
    save_shrunk(small, tmp_path / "nameless")
    with pytest.raises(InputError, match="does not say how its network is built"):
        accuracy_drop(tmp_path / "nameless", out, spec)
