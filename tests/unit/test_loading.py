"""Loading: the network of any directory that is written here, with packed layers that have the same weights."""

from pathlib import Path

import pytest
import torch
from torch import nn

from secateurs import racing
from secateurs.accelerating import accelerate
from secateurs.checkpoint.packing import load, pack
from secateurs.data import InputShape
from secateurs.errors import InputError
from secateurs.loading import accelerate_losslessly, load_network
from secateurs.measure.intervals import Interval
from secateurs.models import ModelSpec, build, save_model
from secateurs.pruning import prune
from secateurs.recipe import Recipe
from secateurs.running.packed_linear import PackedLinear
from secateurs.structure.files import save_shrunk
from secateurs.structure.shrinking import shrink

SHAPE = InputShape(kind="image", size=(1, 4, 4), n_classes=3)
SPEC = ModelSpec.parse("lenet-300-100")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A directory as `compress` writes it, the packed weights int8."""
    module = build(SPEC, SHAPE, seed=0)
    prune(module, Recipe.parse("magnitude element layer sparsity(0.9)"))
    save_model(module, SPEC, SHAPE, tmp_path / "model")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "config.json").write_bytes((tmp_path / "model" / "config.json").read_bytes())
    pack(tmp_path / "model", tmp_path / "packed" / "weights.packed.safetensors", values="int8")
    return tmp_path


@pytest.fixture
def _packed_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says."""
    monkeypatch.setattr(racing, "paired_ratio", lambda dense, best: Interval(2.0, 1.5, 2.5, len(best)))


def test_without_inputs_every_layer_is_dense_and_has_the_packed_weights(out: Path) -> None:
    module = load_network(out)
    assert not module.training
    assert not [part for part in module.modules() if isinstance(part, PackedLinear)]
    stored = load(out / "packed" / "weights.packed.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(load_network(out / "packed" / "weights.packed.safetensors").fc1.weight, module.fc1.weight)


def test_an_example_of_another_shape_is_refused(out: Path) -> None:
    with pytest.raises(InputError, match=r"does not take this example, of shape \(5, 1, 4, 5\).*is called with"):
        load_network(out, torch.randn(5, 1, 4, 5))


def test_a_layer_that_is_called_by_the_name_of_its_input_is_seen() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(input=x)  # type: ignore[no-any-return]

    assert [each.name for each in accelerate(Named(), torch.ones(2, 4)).choices] == ["fc"]


@pytest.mark.usefixtures("_packed_is_faster")
def test_with_inputs_layers_are_packed_and_the_answers_stay(out: Path) -> None:
    x = torch.randn(5, 1, 4, 4)
    dense, fast = load_network(out), load_network(out, x)
    assert sum(isinstance(part, PackedLinear) for part in fast.modules()) == 3
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), dense(x), rtol=1e-4, atol=1e-5)


def test_int8_is_tried_where_it_loses_nothing_alone(out: Path) -> None:
    stored, plain = load_network(out), load_network(out / "model")
    tried = {
        name: {
            layer
            for choice in accelerate_losslessly(module, torch.randn(2, 1, 4, 4)).choices
            for layer in choice.seconds
        }
        for name, module in (("int8", stored), ("plain", plain))
    }
    assert tried["plain"] == {"dense", "bitmask fp32", "index fp32"}
    assert tried["int8"] == tried["plain"] | {"bitmask int8", "index int8"}


def test_lossless_values_are_the_weights_bit_for_bit() -> None:
    linear = torch.nn.Linear(32, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.randint(-7, 8, (4, 32)).float() * 0.25)
        linear.weight[:, 0] = 7 * 0.25
    values = ("fp32", "bf16", "int8", "int4")
    found = accelerate(torch.nn.Sequential(linear), torch.randn(1, 32), values=values, is_lossless=True, rounds=6)
    names = set(found.choices[0].seconds)
    assert {"bitmask fp32", "bitmask bf16", "bitmask int4"} <= names
    assert "bitmask int8" not in names, "its scale would be another one"


def test_shrunk_networks_load_as_well(tmp_path: Path) -> None:
    module, x = build(SPEC, SHAPE, seed=0), torch.randn(2, 1, 4, 4)
    small = shrink(module, Recipe.parse("l2 row layer sparsity(0.5)"), x)
    save_model(module, SPEC, SHAPE, tmp_path / "whole")
    from secateurs.models.files import config_of

    save_shrunk(small, tmp_path / "out" / "model", config_of(tmp_path / "whole"))
    with torch.inference_mode():
        torch.testing.assert_close(load_network(tmp_path / "out")(x), small.module.eval()(x))


def test_what_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file or directory"):
        load_network(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no readable config\.json"):
        load_network(tmp_path)
