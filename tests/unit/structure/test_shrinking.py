"""Recipes that remove units: what is asked is what goes, and it is said beside; what cannot go is an error."""

from itertools import pairwise

import pytest
import torch
import torch.nn.utils.prune
from architectures import ALL, STOCK, depthwise, perceptron, reference, settle
from torch import Tensor, nn

from secateurs.budgets import Budget
from secateurs.errors import InputError, PatternError, RecipeError, RequestWarning
from secateurs.groups.finding import find_groups
from secateurs.groups.tracing import call
from secateurs.pruning import prune
from secateurs.recipe import Recipe
from secateurs.structure.repairing import repair
from secateurs.structure.shrinking import Shrunk, shrink
from secateurs.structure.unit_scores import UNIT_SCORES


def recipe(text: str) -> Recipe:
    return Recipe.parse(text)


def hidden(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    torch.manual_seed(0)
    return nn.Sequential(*layers[:-1])


def removed(small: Shrunk) -> dict[str, int]:
    return {group.name: group.n_removed for group in small.groups}


def test_a_share_of_each_layer_by_hand() -> None:
    """Unit 1 of 4 has the smallest weights in and out, unit 3 the next."""
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[3.0, 3.0], [1.0, 0.0], [2.0, 2.0], [1.0, 1.0]]))
        module[2].weight.copy_(torch.tensor([[1.0, 0.5, 1.0, -1.0]]))
    small = shrink(module, recipe("magnitude row layer sparsity(0.5)"), torch.randn(3, 2))
    assert small.module[0].weight.tolist() == [[3.0, 3.0], [2.0, 2.0]]
    assert small.module[2].weight.tolist() == [[1.0, 1.0]]
    assert (small.module[0].out_features, small.module[2].in_features) == (2, 2)
    assert [(line.name, line.before, line.after, line.outcome) for line in small.report] == [
        ("0.weight", (4, 2), (2, 2), "shrunk"),
        ("2.weight", (1, 4), (1, 2), "shrunk"),
    ]
    assert small.n_parameters == (17, 9)
    assert small.macs == (3 * 12, 3 * 6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("unit", ["row", "head"])
def test_a_share_of_every_architecture_goes(name: str, unit: str) -> None:
    if name in STOCK:
        pytest.importorskip("transformers")
    module, inputs = ALL[name]()
    settle(module)
    there = [group for group in find_groups(module, inputs).groups if (group.kind == "head") == (unit == "head")]
    if not there:
        with pytest.raises(RecipeError, match=f"This network has no '{unit}'"):
            shrink(module, recipe(f"l2 {unit} layer sparsity(0.5)"), inputs)
        return
    small = shrink(module, recipe(f"l2 {unit} layer sparsity(0.5)"), inputs)
    assert small.difference < 1e-4
    assert small.n_parameters[1] == sum(p.numel() for p in small.module.parameters()) < small.n_parameters[0]
    for group in small.groups:
        if (group.kind == "head") == (unit == "head") and "pooler" not in group.name:
            assert group.n_removed == round(0.5 * group.n_units)
        else:
            assert group.n_removed == 0


@pytest.mark.parametrize("pool", ["layer", "model"])
@pytest.mark.parametrize("target", ["params", "macs"])
def test_the_ratio_asked_for_is_met_with_the_fewest_units(target: str, pool: str) -> None:
    module, inputs = reference("lenet-5", 1, 28, 28)
    small = shrink(module, recipe(f"magnitude row {pool} {target}(0.5)"), inputs)
    before, after = small.n_parameters if target == "params" else small.macs
    assert 0.45 < after / before <= 0.5  # a channel of the first convolution is 4 % of the multiply-adds
    assert small.n_parameters[1] == sum(p.numel() for p in small.module.parameters())
    assert not any(removed(shrink(module, recipe(f"magnitude row {pool} {target}(1.0)"), inputs)).values())


def test_a_ratio_out_of_reach_says_how_far_it_goes() -> None:
    with pytest.raises(RecipeError, match=r"'macs\(0.01\)' is out of reach: .* macs is still 0\.\d+\. Ask for less"):
        shrink(hidden(20, 5, 20), recipe("magnitude row layer macs(0.01)"), torch.randn(2, 20))


def test_a_latency_is_measured_on_the_smaller_network() -> None:
    module = hidden(8, 64, 64, 8)
    small = shrink(module, recipe("magnitude row layer latency(10s)"), torch.randn(2, 8))
    assert not any(removed(small).values())
    with pytest.raises(RecipeError, match=r"'latency\(1e-06ms\)' is out of reach: .* latency is still .* ms"):
        shrink(module, recipe("magnitude row layer latency(0.000001ms)"), torch.randn(2, 8))


def test_groups_compete_in_the_pool_of_the_model() -> None:
    """Scores are compared with those of their group: 8 times larger weights do not protect a layer."""
    module = hidden(6, 10, 10, 3)
    small = shrink(module, recipe("magnitude row model sparsity(0.5)"), torch.randn(2, 6))
    with torch.no_grad():
        module[0].weight.mul_(8.0)
        module[0].bias.mul_(8.0)
    assert sum(removed(small).values()) == 10
    small = shrink(module, recipe("l2 row model sparsity(0.5)"), torch.randn(2, 6))
    assert all(0 < n < 10 for n in removed(small).values())


def test_at_least_one_unit_of_every_group_stays() -> None:
    with pytest.raises(RecipeError, match=r"leaves 0 of the 10 units of '0\.weight'; at least 1 must stay"):
        shrink(hidden(6, 10, 3), recipe("magnitude row layer sparsity(1.0)"), torch.randn(2, 6))
    small = shrink(hidden(6, 10, 10, 3), recipe("magnitude row model sparsity(0.8) min_keep=2"), torch.randn(2, 6))
    assert sorted(removed(small).values()) == [8, 8]


@pytest.mark.parametrize("score", [*UNIT_SCORES, "random(3)"])
def test_every_score_removes_what_is_asked(score: str) -> None:
    module, inputs = depthwise()
    settle(module)
    batches = [(inputs, torch.tensor([0, 1, 2]))]

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(network(batch[0]), batch[1])

    small = shrink(
        module,
        recipe(f"{score} channel layer sparsity(0.25)"),
        inputs,
        calibration=batches if score == "taylor" else [inputs],
        loss=loss,
    )
    assert set(removed(small).values()) == {2, 6, 3}
    assert small.module[2][0].groups == 18


def test_scores_by_hand() -> None:
    module = nn.Sequential(nn.Linear(1, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0], [4.0], [2.0]]))
        module[2].weight.copy_(torch.tensor([[5.0, 1.0, 2.0]]))
    x = torch.tensor([[1.0], [1.0]])

    def kept(score: str, **more: object) -> list[float]:
        small = shrink(module, recipe(f"{score} row layer sparsity(0.6)"), x, **more)
        return small.module[0].weight.flatten().tolist()

    assert kept("magnitude") == [1.0]  # 1 + 5 > 4 + 1 > 2 + 2
    assert kept("l2") == [1.0]  # 26 > 17 > 8
    assert kept("activation", calibration=[x]) == [1.0]  # 5 x 1 > 1 x 4 = 2 x 2
    # The output is 5 + 4 + 4, and a unit's weight times its gradient is its part of it: 5 > 4, 4 (the earlier stays).
    assert kept("taylor", calibration=[x], loss=lambda network, batch: network(batch).sum()) == [1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lamp row layer sparsity(0.5)", r"The score 'lamp' is not one of whole units: use magnitude, l2"),
        ("magnitude element layer sparsity(0.5)", r"The unit 'element' cannot be removed from a network"),
        ("magnitude row layer top(2)", r"The budget 'top\(2\)' does not say how many units go"),
        ("magnitude row layer sparsity(0.5) cubic", r"Units are removed at once, not by a schedule 'cubic'"),
        ("batch_norm row layer sparsity(0.5)", r"needs a BatchNorm behind the units; '0\.weight' has none"),
        ("activation row layer sparsity(0.5)", r"The score activation needs calibration batches"),
        ("taylor row layer sparsity(0.5)", r"The score taylor needs loss=function"),
        ("magnitude row layer sparsity(0.5) only=4.weight", r"Nothing that 4\.weight names can be cut: the network's"),
        ("magnitude head layer sparsity(0.5)", r"This network has no 'head' that can be removed; it has row"),
    ],
)
def test_what_cannot_be_removed_is_an_error_before_any_work(text: str, message: str) -> None:
    module, inputs = perceptron()
    with pytest.raises(RecipeError, match=message):
        shrink(module, recipe(text), inputs)


def test_words_of_networks_do_not_choose_single_weights() -> None:
    module, _ = perceptron()
    with pytest.raises(RecipeError, match=r"A head is more than one weight: `shrink` finds and removes it"):
        prune(module, recipe("magnitude head layer sparsity(0.5)"))
    with pytest.raises(RecipeError, match=r"'macs\(0.5\)' speaks of a whole network"):
        prune(module, recipe("magnitude row layer macs(0.5)"))
    with pytest.raises(RecipeError, match=r"Score 'l2' needs evidence .* \(use shrink\)"):
        prune(module, recipe("l2 row layer sparsity(0.5)"))
    assert str(Budget.parse("latency(8ms)")) == "latency(8ms)"
    assert str(Budget.parse("params(0.5)")) == "params(0.5)"
    with pytest.raises(RecipeError, match="A latency is a time with its unit, such as 8ms"):
        Budget.parse("latency(soon)")
    assert issubclass(PatternError, RecipeError)


def test_one_layer_of_a_stock_network_is_cut_when_it_is_named() -> None:
    pytest.importorskip("transformers")
    module, inputs = ALL["bert"]()
    small = shrink(module, recipe("magnitude row layer sparsity(0.5)"), inputs)
    assert small.why_not_stock == ""
    assert removed(small)["bert.pooler.dense.weight"] == 0
    small = shrink(module, recipe("magnitude row layer sparsity(0.5) only=*pooler*"), inputs)
    assert removed(small)["bert.pooler.dense.weight"] == 12
    assert small.why_not_stock == "the configuration has no size for 'bert.pooler.dense.weight'"
    assert call(small.module, inputs).logits.shape == (3, 2)


def test_what_is_left_out_by_name_is_said_to_be() -> None:
    small = shrink(hidden(6, 10, 10, 3), "l2 row layer sparsity(0.5) skip=0.weight", torch.randn(2, 6))
    assert {line.name: (line.outcome, line.reason) for line in small.report}["0.weight"] == (
        "skipped",
        "left out by name",
    )
    with pytest.raises(RecipeError, match="takes 20 of 20 units; 18 can go, 2 must stay in the 2 groups"):
        shrink(hidden(6, 10, 10, 3), "l2 row model sparsity(1.0)", torch.randn(2, 6))


class Helped(nn.Module):
    """A second head that only training sees, as Inception's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.head, self.helper = nn.Linear(16, 3), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> object:
        h = self.drop(torch.relu(self.norm(self.first(x))))
        return (self.head(h), self.helper(h)) if self.training else self.head(h)


def test_a_branch_that_only_training_sees_is_found_out() -> None:
    """Bug: the smaller network ran, and could not be trained."""
    module, x = Helped(), torch.randn(4, 6)
    before, random = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    with pytest.raises(InputError, match="runs without the units, but no more in training"):
        shrink(module, "l2 row layer sparsity(0.5)", x)
    small = shrink(module, "l2 row layer sparsity(0.0)", x)
    outcomes = {line.name: line.reason for line in small.report}
    assert outcomes["helper.weight"] == "the example inputs do not reach it"
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


class Either(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.other = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor, is_other: bool = False) -> Tensor:
        h = torch.relu(self.first(x))
        return self.other(h) if is_other else self.one(h)


def test_layers_that_the_example_does_not_reach_are_named() -> None:
    module, x = Either(), torch.randn(4, 6)
    masks = prune(module, "magnitude row layer sparsity(0.5) only=first.weight")
    with torch.no_grad():
        module.first.bias[~masks["first.weight"][:, 0]] = 1.0  # constants, which their readers' biases take
    with pytest.warns(RequestWarning, match=r"do not reach other\.weight\. Should it read what is gone"):
        small = shrink(module, masks, x)
    assert removed(small) == {"first.weight": 8}


def test_what_cannot_be_copied_or_has_no_weights_is_told() -> None:
    module = hidden(6, 10, 3)
    torch.nn.utils.prune.l1_unstructured(module[0], "weight", 0.5)
    with pytest.raises(InputError, match=r"torch\.nn\.utils\.prune\.remove\(layer, 'weight'\)"):
        shrink(module, "l2 row layer sparsity(0.5)", torch.randn(2, 6))
    with pytest.raises(InputError, match="on the meta device: it has no weights"):
        shrink(hidden(6, 10, 3).to("meta"), "l2 row layer sparsity(0.5)", torch.randn(2, 6, device="meta"))


def test_the_activation_of_transposed_convolutions_by_hand() -> None:
    """Bug: what they read was averaged by column, not by channel."""
    module = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.ConvTranspose2d(3, 1, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, 4.0, 2.0]).view(3, 1, 1, 1))
        module[2].weight.copy_(torch.tensor([5.0, 1.0, 1.9]).view(3, 1, 1, 1))
    x = torch.ones(2, 1, 3, 3)
    small = shrink(module, recipe("activation channel layer sparsity(0.34)"), x, calibration=[x])
    assert small.module[0].weight.flatten().tolist() == [1.0, 4.0]  # 1 * 5, 4 * 1 and 2 * 1.9


def test_taylor_asks_frozen_weights_too_and_leaves_them_frozen() -> None:
    module = hidden(4, 6, 3)
    module[0].requires_grad_(False)
    x = torch.randn(5, 4)
    how = recipe("taylor row layer sparsity(0.5)")
    small = shrink(module, how, x, calibration=[x], loss=lambda network, batch: network(batch).square().sum()).module
    assert small[0].weight.shape == (3, 4)
    assert [p.requires_grad for p in small.parameters()] == [False, False, True, True]


class ByName(nn.Module):
    """Calls its layers with names."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen, _ = self.attention(query=x, key=x, value=x)
        return self.down(input=torch.relu(self.up(input=seen)))


def test_layers_that_are_called_by_name_are_scored_and_repaired() -> None:
    module, x = ByName().eval(), torch.randn(5, 8, 4)
    small = shrink(module, recipe("activation row layer sparsity(0.5) only=[up.weight]"), x, calibration=[x])
    assert small.module.up.weight.shape == (3, 4)
    assert repair(module, small, [x]) == ("down",)
