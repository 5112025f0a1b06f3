"""Whole layers removed: what stays is what the network gives with them passed by, and stock code opens it."""

from pathlib import Path

import pytest
import torch
from architectures import ALL, STOCK, reference, settle
from torch import Tensor, nn

from secateurs.errors import InputError, RecipeError
from secateurs.recipe import Recipe
from secateurs.structure.files import load_shrunk, save_shrunk
from secateurs.structure.shrinking import Shrunk, outputs_of, shrink

WITH_LAYERS = ["resnet-20 (option A)", *STOCK]
DEEP = "cls-transformer(dim=24, heads=4, ffn=32, depth=5)"


class Half(nn.Module):
    """Adds a linear layer times a scale to what passes by."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.inner.weight.copy_(torch.eye(3) * scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x.flip(-1))


def recipe(text: str) -> Recipe:
    return Recipe.parse(text)


def stack(*scales: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.Sequential(*(Half(scale) for scale in scales)), nn.Linear(3, 2))


def scales_left(small: Shrunk) -> list[float]:
    return [each.inner.weight[0, 0].item() for each in small.module[1]]


@pytest.mark.parametrize(("score", "left"), [("magnitude", [4.0, 2.0]), ("l2", [4.0, 2.0]), ("activation", [4.0, 2.0])])
def test_the_layers_that_do_least_go_by_hand(score: str, left: list[float]) -> None:
    module = stack(0.25, 4.0, 2.0, 0.5)
    inputs = torch.tensor([[1.0, 2.0, -3.0], [0.5, -1.0, 2.0]])
    small = shrink(module, recipe(f"{score} layer model sparsity(0.5)"), inputs, calibration=[inputs])
    assert scales_left(small) == left
    assert [(group.name, group.kind, group.n_units, group.n_removed) for group in small.groups] == [
        ("1", "layer", 4, 2)
    ]
    assert small.n_parameters == (12 + 36 + 8, 12 + 18 + 8)
    assert small.macs == (2 * (9 + 36 + 6), 2 * (9 + 18 + 6))
    assert [(line.name, line.after, line.outcome) for line in small.report][:3] == [
        ("0.weight", (3, 3), "skipped"),
        ("1.0.inner.weight", (0, 0), "shrunk"),
        ("1.1.inner.weight", (3, 3), "skipped"),
    ]


def test_taylor_takes_the_layer_that_the_loss_feels_least() -> None:
    module, inputs = stack(1.0, 1.0, 1.0), torch.ones(2, 3)
    with torch.no_grad():
        module[1][1].inner.weight.zero_()

    def loss(network: nn.Module, batch: Tensor) -> Tensor:
        return network(batch).square().sum()

    small = shrink(module, recipe("taylor layer model sparsity(0.34)"), inputs, calibration=[inputs], loss=loss)
    assert scales_left(small) == [1.0, 1.0]


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_a_network_without_layers_is_saved_and_opened(name: str, tmp_path: Path) -> None:
    if name in STOCK:
        pytest.importorskip("transformers")
    module, inputs = ALL[name]()
    small = shrink(settle(module), recipe("l2 layer layer sparsity(0.5)"), inputs)
    assert small.n_parameters[1] == sum(p.numel() for p in small.module.parameters()) < small.n_parameters[0]
    assert small.macs[1] < small.macs[0]
    assert small.why_not_stock == ""
    files = save_shrunk(small, tmp_path)
    if name in STOCK:
        assert "model.safetensors" in files
        assert small.layers == {}
        again: nn.Module = type(module).from_pretrained(tmp_path).eval()
    else:
        again = load_shrunk(tmp_path, into=ALL[name]()[0])
    torch.testing.assert_close(outputs_of(again, inputs)[0], outputs_of(small.module, inputs)[0])


def test_layers_rows_and_heads_one_after_the_other_are_saved_whole(tmp_path: Path) -> None:
    """Numbers of heads are remembered under the names that their layers have in the end."""
    module, inputs = reference(DEEP, 1, 8, 8)
    now = shrink(settle(module), recipe("random(1) head model sparsity(0.3)"), inputs).module
    now = shrink(now, recipe("random(5) layer model sparsity(0.25)"), inputs).module
    now = shrink(now, recipe("l2 row layer sparsity(0.5)"), inputs).module
    small = shrink(now, recipe("random(2) layer model sparsity(0.34)"), inputs)
    assert len(small.module.blocks) == 3
    assert small.layers["blocks"] == sorted(set(small.layers["blocks"]))
    assert small.layers["blocks"][-1] == 4  # the last reads the class token alone
    save_shrunk(small, tmp_path)
    again = load_shrunk(tmp_path, into=reference(DEEP, 1, 8, 8)[0])
    assert torch.equal(outputs_of(again, inputs)[0], outputs_of(small.module, inputs)[0])


@pytest.mark.parametrize("target", ["params", "macs"])
def test_the_share_asked_for_is_met_with_the_fewest_layers(target: str) -> None:
    module, inputs = reference(DEEP, 1, 8, 8)
    small = shrink(module, recipe(f"l2 layer model {target}(0.7)"), inputs)
    before, after = small.n_parameters if target == "params" else small.macs
    assert after / before <= 0.7
    assert len(small.module.blocks) == 3


def test_a_latency_is_measured_without_the_layers() -> None:
    module, inputs = stack(1.0, 2.0, 3.0), torch.randn(2, 3)
    assert not any(group.n_removed for group in shrink(module, recipe("l2 layer model latency(10s)"), inputs).groups)
    with pytest.raises(RecipeError, match="is out of reach: with one layer left in each of 1 groups"):
        shrink(module, recipe("l2 layer model latency(0.000001ms)"), inputs)


def test_only_and_skip_go_by_the_weights_of_a_layer() -> None:
    module, inputs = stack(0.1, 0.2, 0.3, 0.4), torch.randn(2, 3)
    small = shrink(module, recipe("l2 layer model sparsity(0.5) skip=[1.0.*]"), inputs)
    assert scales_left(small) == pytest.approx([0.1, 0.4])
    small = shrink(module, recipe("l2 layer model sparsity(0.5) only=[1.2.*, 1.3.*]"), inputs)
    assert scales_left(small) == pytest.approx([0.1, 0.2, 0.4])


def test_what_is_no_layer_or_cannot_go_is_said() -> None:
    with pytest.raises(RecipeError, match="This network has no 'layer' that can be removed"):
        shrink(*_made("perceptron"))
    with pytest.raises(RecipeError, match="'0': it changes the shape of what it is given"):
        shrink(*_made("depthwise"))
    module, inputs = stack(1.0, 2.0), torch.randn(2, 3)
    with pytest.raises(RecipeError, match="The score 'batch_norm' is not one of layers: use activation"):
        shrink(module, recipe("batch_norm layer model sparsity(0.5)"), inputs)
    with pytest.raises(RecipeError, match="compete in pool=layer or pool=model"):
        shrink(module, recipe("l2 layer 4 sparsity(0.5)"), inputs)
    with pytest.raises(RecipeError, match="leaves 0 of the 2 units of '1'"):
        shrink(module, recipe("l2 layer layer sparsity(1.0)"), inputs)


def _made(name: str) -> tuple[nn.Module, Recipe, object]:
    module, inputs = ALL[name]()
    return module, recipe("l2 layer model sparsity(0.5)"), inputs


def test_a_network_that_counts_its_layers_is_found_out() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Half(1.0), Half(2.0), Half(3.0)])
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            for i in range(3):
                x = self.layers[i](x)
            return self.head(x)

    class Weighing(Counting):
        def forward(self, x: Tensor) -> Tensor:
            for each in self.layers:
                x = each(x) * len(self.layers)
            return self.head(x)

    inputs = torch.randn(2, 3)
    with pytest.raises(InputError, match=r"Counting does not run without layers\.0"):
        shrink(Counting(), recipe("l2 layer model sparsity(0.34)"), inputs)
    with pytest.raises(InputError, match="its code counts its layers"):
        shrink(Weighing(), recipe("l2 layer model sparsity(0.34)"), inputs)


def test_a_description_with_layers_that_are_not_there_is_refused(tmp_path: Path) -> None:
    module = stack(1.0, 2.0, 3.0)
    save_shrunk(shrink(module, recipe("l2 layer model sparsity(0.34)"), torch.randn(2, 3)), tmp_path)
    with pytest.raises(InputError, match=r"keeps the layers \[1, 2\] of '1', which this network does not have"):
        load_shrunk(tmp_path, into=stack(1.0, 2.0))


def test_taylor_counts_a_weight_that_layers_share_in_each_of_them() -> None:
    """Bug: a KeyError, for the gradient is there under the first name alone."""
    module, inputs = stack(1.0, 1.0, 3.0), torch.ones(2, 3)
    module[1][1].inner.weight = module[1][0].inner.weight
    how = recipe("taylor layer model sparsity(0.34)")
    small = shrink(module, how, inputs, calibration=[inputs], loss=lambda network, x: network(x).square().sum())
    assert len(small.module[1]) == 2
