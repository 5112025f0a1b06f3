"""Units that are dead are gone, and every output stays: on every architecture that is supported."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ALL, PLAIN, STOCK, Made, perceptron, projected, settle
from torch import Tensor, nn

from secateurs.errors import InputError
from secateurs.groups.finding import Structure, find_groups
from secateurs.groups.tracing import call
from secateurs.masks import Masks
from secateurs.structure.shrinking import shrink


def made(name: str) -> Made:
    if name in STOCK:
        pytest.importorskip("transformers")
    module, inputs = ALL[name]()
    return settle(module), inputs


def output(module: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        found = call(module, inputs)
    tensor: Tensor = found if isinstance(found, Tensor) else found.logits
    return tensor


def masks_without(module: nn.Module, structure: Structure, share: float, is_consumed: bool) -> Masks:
    """Masks in which the first units of every group have no incoming, or no outgoing, weights."""
    tensors = {name: p for name, p in module.named_parameters() if p.dim() > 1}
    keep = {name: torch.ones_like(p, dtype=torch.bool) for name, p in tensors.items()}
    for group in structure.groups:
        for each in group.slices:
            if each.tensor in tensors and each.is_consumed == is_consumed:
                gone = (each.units >= 0) & (each.units < round(share * group.n_units))
                keep[each.tensor].index_fill_(each.dim, torch.from_numpy(np.flatnonzero(gone)), False)
    return Masks(keep)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("is_consumed", [False, True], ids=["no incoming weights", "no outgoing weights"])
def test_dead_units_are_gone_and_the_outputs_stay(name: str, is_consumed: bool) -> None:
    module, inputs = made(name)
    structure = find_groups(module, inputs)
    masks = masks_without(module, structure, 0.5, is_consumed)
    before = copy.deepcopy(module.state_dict())
    small = shrink(module, masks, inputs)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items()), "the input changed"
    masks.apply(module)
    torch.testing.assert_close(output(small.module, inputs), output(module, inputs), rtol=1e-4, atol=1e-5)
    assert small.n_parameters[1] == sum(p.numel() for p in small.module.parameters()) < small.n_parameters[0]
    assert small.macs[1] < small.macs[0]
    # Where only the incoming weights are gone, a constant may stay: beside zero padding, or in keys and values that
    # all query heads share.
    if is_consumed or not any(word in name for word in ("resnet", "projected", "depthwise", "one key")):
        dead = {group.name: round(0.5 * group.n_units) for group in structure.groups}
        assert {group.name: group.n_dead for group in small.groups} == dead
        # The configuration of BERT has no width of the pooler: its dead units stay, so that stock code loads the rest.
        dead = {group: 0 if "pooler" in group else n for group, n in dead.items()}
        assert {group.name: group.n_removed for group in small.groups} == dead


@pytest.mark.parametrize("name", ALL)
def test_where_nothing_is_dead_nothing_goes(name: str) -> None:
    module, inputs = made(name)
    small = shrink(module, Masks({}), inputs)
    assert small.difference == 0.0
    assert not [group for group in small.groups if group.n_removed]
    assert {line.outcome for line in small.report} <= {"skipped", "impossible"}


@pytest.mark.parametrize("name", ALL)
def test_the_multiply_adds_are_those_of_the_smaller_network(name: str) -> None:
    module, inputs = made(name)
    masks = masks_without(module, find_groups(module, inputs), 0.25, True)
    small = shrink(module, masks, inputs)
    assert find_groups(small.module, inputs).trace.macs() == small.macs[1]


def test_a_constant_goes_into_the_bias_of_the_reader() -> None:
    """sigmoid(bias) of a unit without inputs, times what reads it."""
    module, inputs = settle(perceptron()[0]), perceptron()[1]
    keep = torch.ones(12, 16, dtype=torch.bool)
    keep[3] = False
    small = shrink(module, Masks({"2.weight": keep}), inputs)
    constant = torch.sigmoid(module[2].bias[3]) * module[4].weight[:, 3]
    torch.testing.assert_close(small.module[4].bias, module[4].bias + constant)
    assert small.module[4].weight.shape == (4, 11)


def test_a_constant_that_zero_padding_would_change_at_the_edges_stays() -> None:
    module, inputs = settle(projected()[0]), projected()[1]
    with torch.no_grad():
        module.bn1.bias[:2] = torch.tensor([5.0, -5.0])  # ReLU passes the first on, and stops the second
    keep = torch.ones_like(module.conv1.weight, dtype=torch.bool)
    keep[:2] = False
    small = shrink(module, Masks({"conv1.weight": keep}), inputs)
    assert small.module.conv1.weight.shape[0] == 11
    assert torch.equal(small.module.conv1.weight[0], torch.zeros(8, 3, 3))


def test_a_constant_that_nobody_reads_needs_no_bias() -> None:
    module = settle(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2, bias=False)))
    with torch.no_grad():
        module[0].bias[0] = 1.0
    keep = {"0.weight": torch.ones(6, 4, dtype=torch.bool), "2.weight": torch.ones(2, 6, dtype=torch.bool)}
    keep["0.weight"][0], keep["2.weight"][:, 0] = False, False
    assert shrink(module, Masks(keep), torch.randn(3, 4)).module[0].weight.shape == (5, 4)


def test_what_only_feeds_the_dead_is_dead() -> None:
    module = settle(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    keep = {"2.weight": torch.ones(5, 6, dtype=torch.bool), "4.weight": torch.ones(2, 5, dtype=torch.bool)}
    keep["4.weight"][:, 0] = False  # unit 0 of the second layer is read by nobody,
    keep["2.weight"][1:, 3] = False  # and alone reads unit 3 of the first
    small = shrink(module, Masks(keep), torch.randn(3, 4))
    assert [group.n_removed for group in small.groups] == [1, 1]


def test_a_layer_is_never_emptied() -> None:
    module = settle(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    small = shrink(module, Masks({"0.weight": torch.zeros(6, 4, dtype=torch.bool)}), torch.randn(3, 4))
    assert small.module[0].weight.shape == (1, 4)


def test_a_relu_that_is_silent_on_the_examples_only_is_not_dead() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        module[0].weight[0], module[0].bias[0] = -1.0, 0.0
    small = shrink(module, Masks({}), torch.rand(5, 4))
    assert small.module[0].weight.shape == (3, 4)


def test_a_gate_that_is_zero_closes_its_unit() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(4, 6, bias=False), nn.Linear(4, 6), nn.Linear(6, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))

    keep = torch.ones(6, 4, dtype=torch.bool)
    keep[2] = False
    assert shrink(Gated(), Masks({"gate.weight": keep}), torch.randn(2, 4)).module.up.weight.shape == (5, 4)
    # up gives its bias there, and silu(gate) is not known: the unit lives.
    assert shrink(Gated(), Masks({"up.weight": keep}), torch.randn(2, 4)).module.up.weight.shape == (6, 4)


def test_a_size_in_the_code_is_an_error() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x).view(-1, 6))

    keep = torch.ones(3, 6, dtype=torch.bool)
    keep[:, 0] = False
    with pytest.raises(InputError, match=r"Stubborn keeps a size in its code.*Take sizes from the tensors"):
        shrink(Stubborn(), Masks({"down.weight": keep}), torch.randn(2, 4))


def test_half_precision_rounds_more_and_is_still_cut() -> None:
    module, inputs = made("perceptron")
    module, inputs = module.bfloat16(), inputs.bfloat16()
    masks = masks_without(module, find_groups(module, inputs), 0.5, True)
    assert shrink(module, masks, inputs).module[0].weight.shape == (8, 6)


def test_tied_embeddings_stay_tied() -> None:
    pytest.importorskip("transformers")
    module, inputs = made("gpt2")
    small = shrink(module, masks_without(module, find_groups(module, inputs), 0.5, True), inputs).module
    assert small.lm_head.weight is small.transformer.wte.weight


def test_every_architecture_without_transformers_has_groups() -> None:
    assert all(find_groups(*build()).groups for build in PLAIN.values())


class Shared(nn.Module):
    """Two layers with one weight read the same units, the second one times a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.second.weight = self.first.weight
        self.depends = False

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.up(x))
        return self.first(h) - self.second(h * x[:, :1] if self.depends else h).tanh()


def test_a_constant_goes_into_the_bias_of_every_reader_of_a_shared_weight() -> None:
    """Bug: the first reader alone was looked at, and alone took the constant."""
    module, inputs = settle(Shared()), torch.randn(3, 4)
    keep = torch.ones(6, 4, dtype=torch.bool)
    keep[2] = False
    small = shrink(module, Masks({"up.weight": keep}), inputs).module
    assert small.second.weight is small.first.weight
    assert small.first.weight.shape == (2, 5)
    constant = torch.sigmoid(module.up.bias[2]) * module.first.weight[:, 2]
    for name in ("first", "second"):
        torch.testing.assert_close(getattr(small, name).bias, getattr(module, name).bias + constant)


def test_a_unit_that_is_constant_for_one_reader_of_a_shared_weight_only_stays() -> None:
    module = settle(Shared())
    module.depends = True
    keep = torch.ones(6, 4, dtype=torch.bool)
    keep[2] = False
    assert shrink(module, Masks({"up.weight": keep}), torch.randn(3, 4)).module.first.weight.shape == (2, 6)
