"""Prune, shrink, save, load with stock code where a stock configuration can say the sizes: the outputs are equal."""

import json
from pathlib import Path

import pytest
import torch
from architectures import ALL, PLAIN, STOCK, perceptron, settle
from safetensors.torch import load_file
from test_dead_units import made, masks_without, output

from secateurs.errors import InputError
from secateurs.groups.finding import find_groups
from secateurs.masks import Masks
from secateurs.recipe import Recipe
from secateurs.structure.files import load_shrunk, save_shrunk
from secateurs.structure.shrinking import Shrunk, shrink

ROWS = Recipe.parse("l2 row layer sparsity(0.5)")
HEADS = Recipe.parse("l2 head layer sparsity(0.5)")
# Heads of these are not as wide as the residual stream over their number once some are gone, and nothing says so.
HEADS_NOT_SAID = ["bert", "gpt2"]


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", PLAIN)
def test_any_network_comes_back_into_a_fresh_one(name: str, tmp_path: Path) -> None:
    module, inputs = made(name)
    masks = masks_without(module, find_groups(module, inputs), 0.5, True)
    small = shrink(module, masks, inputs)
    assert save_shrunk(small, tmp_path) == ["shrunk.json", "weights.shrunk.safetensors"]
    fresh = load_shrunk(tmp_path, into=ALL[name]()[0])
    assert shapes(fresh) == shapes(small.module)
    assert torch.equal(output(fresh, inputs), output(small.module, inputs))
    masks.apply(module)
    torch.testing.assert_close(output(fresh, inputs), output(module, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STOCK)
def test_stock_code_loads_a_shrunk_network_of_transformers(name: str, tmp_path: Path) -> None:
    """Masks leave half of the heads and of the FFN units without readers; what stock code loads gives the same."""
    module, inputs = made(name)
    masks = masks_without(module, find_groups(module, inputs), 0.5, True)
    if name in HEADS_NOT_SAID:
        masks = type(masks)({key: keep for key, keep in masks.items() if "attn" not in key and "attention" not in key})
    small = shrink(module, masks, inputs)
    assert small.why_not_stock == ""
    files = save_shrunk(small, tmp_path)
    assert "model.safetensors" in files
    stock, info = type(module).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert shapes(stock) == shapes(small.module)
    assert sum(p.numel() for p in stock.parameters()) < sum(p.numel() for p in module.parameters())
    masks.apply(module)
    torch.testing.assert_close(output(stock.eval(), inputs), output(module, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STOCK)
def test_what_a_stock_configuration_cannot_say_is_loaded_by_us(name: str, tmp_path: Path) -> None:
    module, inputs = made(name)
    small = shrink(shrink(module, ROWS, inputs).module, HEADS, inputs)
    assert bool(small.why_not_stock) == (name in HEADS_NOT_SAID), small.why_not_stock
    save_shrunk(small, tmp_path)
    if name in HEADS_NOT_SAID:
        assert not (tmp_path / "model.safetensors").exists()
        again = load_shrunk(tmp_path)
    else:
        again = type(module).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(output(again, inputs), output(small.module, inputs))


def test_layers_lose_equally_many_dead_units_so_that_stock_code_loads_them() -> None:
    module, inputs = made("vit")
    masks = masks_without(module, find_groups(module, inputs), 0.5, True)
    masks["vit.layers.0.mlp.fc2.weight"][:, 10] = True
    small = shrink(module, masks, inputs)
    rows = [(group.n_dead, group.n_removed) for group in small.groups if group.kind == "row"]
    assert rows == [(15, 15), (16, 15)]
    assert small.module.config.intermediate_size == 17
    small = shrink(module, masks, inputs, stock=False)
    assert [group.n_removed for group in small.groups if group.kind == "row"] == [15, 16]
    assert small.why_not_stock == "layers differ in intermediate_size: 16, 17"


def saved(path: Path) -> Shrunk:
    module, inputs = perceptron()
    small = shrink(settle(module), ROWS, inputs)
    save_shrunk(small, path)
    return small


def test_weights_are_never_called_what_stock_loaders_look_for(tmp_path: Path) -> None:
    small = saved(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shrunk.json", "weights.shrunk.safetensors"]
    weights = load_file(tmp_path / "weights.shrunk.safetensors")
    assert torch.equal(weights["0.weight"], small.module[0].weight)


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(InputError, match="give load_shrunk a freshly built network"):
        load_shrunk(tmp_path)
    with pytest.raises(InputError, match=r"is not of this network \(Linear\)"):
        load_shrunk(tmp_path, into=torch.nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"holds no shrunk\.json"):
        load_shrunk(tmp_path / "elsewhere")
    about = json.loads((tmp_path / "shrunk.json").read_text())
    for change, message in [
        ({"shapes": {**about["shapes"], "0.weight": [10**9, 10**9]}}, "would have to grow"),
        ({"attributes": {"0": {"nothing": 3}}}, "sets 'nothing' of '0', which this network does not have"),
        ({"schema": "secateurs.shrunk/9"}, "does not describe a shrunk network"),
        ({"shapes": {**about["shapes"], "0.weight": [7, 6]}}, "cannot be loaded"),
    ]:
        (tmp_path / "shrunk.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(InputError, match=message):
            load_shrunk(tmp_path, into=perceptron()[0])


def test_what_is_shrunk_twice_is_saved_whole(tmp_path: Path) -> None:
    module, inputs = made("cls-transformer, images")
    small = shrink(shrink(module, HEADS, inputs).module, ROWS, inputs)
    save_shrunk(small, tmp_path)
    again = load_shrunk(tmp_path, into=ALL["cls-transformer, images"]()[0])
    assert torch.equal(output(again, inputs), output(small.module, inputs))


def test_a_bert_made_without_its_pooling_layer_comes_back(tmp_path: Path) -> None:
    """Its configuration does not say that it has none."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    module = transformers.BertModel(transformers.BertConfig(vocab_size=13, **sizes), add_pooling_layer=False).eval()
    inputs = {"input_ids": torch.ones(2, 4, dtype=torch.int64)}
    small = shrink(module, ROWS, inputs)
    save_shrunk(small, tmp_path)
    again = load_shrunk(tmp_path)
    assert shapes(again) == shapes(small.module)
    assert not [name for name in shapes(again) if "pooler" in name]
    with torch.no_grad():
        states = [each(**inputs).last_hidden_state for each in (again, small.module)]
    assert torch.equal(*states)


class Scaled(torch.nn.Module):
    """A buffer for each unit that `state_dict` leaves out, and one for none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
        self.register_buffer("scale", torch.rand(8), persistent=False)
        self.register_buffer("other", torch.rand(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x + self.other * 0)) * self.scale)


def test_buffers_that_no_state_dict_has_are_saved_once_they_were_cut(tmp_path: Path) -> None:
    """Bug: the file lacked them, and what was loaded did not run."""
    inputs = torch.randn(3, 4)
    small = shrink(Scaled(), ROWS, inputs)
    save_shrunk(small, tmp_path)
    assert set(load_file(tmp_path / "weights.shrunk.safetensors")) == {
        *("first.weight", "first.bias", "last.weight", "last.bias", "scale")
    }
    assert torch.equal(output(load_shrunk(tmp_path, into=Scaled()), inputs), output(small.module, inputs))


def test_what_an_earlier_step_cut_is_not_forgotten_by_the_next(tmp_path: Path) -> None:
    """Bug: heads gone unevenly, then a layer: a stock directory, whose configuration said other shapes."""
    module, inputs = made("vit")
    with torch.no_grad():
        for p in module.vit.layers[0].parameters():
            p.mul_(0.1)  # so that this layer goes
    small = shrink(module, Recipe.parse("l2 head layer sparsity(0.5) only=[vit.layers.1.*]"), inputs)
    assert small.why_not_stock
    for how in (Recipe.parse("l2 layer layer sparsity(0.5)"), Masks({})):
        small = shrink(small.module, how, inputs)
        assert small.why_not_stock.endswith("of ViTForImageClassification has another shape")
    assert "shrunk.json" in save_shrunk(small, tmp_path)
    assert torch.equal(output(load_shrunk(tmp_path), inputs), output(small.module, inputs))


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    module, inputs = perceptron()
    small = shrink(settle(module).bfloat16(), ROWS, inputs.bfloat16())
    save_shrunk(small, tmp_path)
    again = load_shrunk(tmp_path, into=perceptron()[0])
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert torch.equal(output(again, inputs.bfloat16()), output(small.module, inputs.bfloat16()))
