"""Laws of n:m and blocks: every group is exact, live and in files; an order of columns never keeps less."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import secateurs as sc
from laws.networks import Conv1D
from laws.strategies import weights
from secateurs import column_order, permuting
from secateurs.column_order import _assign, kept
from secateurs.errors import InputError, PatternError, RecipeError

pytestmark = pytest.mark.filterwarnings("ignore::secateurs.errors.CollapseWarning")

N_OF_M = ["2:4", "4:8", "1:4"]
BLOCKS = ["block(2, 4)", "block(16, 1)", "block(1, 4)", "block(4, 4)", "block(32, 32)"]


class Network(nn.Module):
    """Every layout: linear, Conv1D, convolutions, grouped and transposed ones; and shapes that fit no pattern."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 32)
        self.turned = Conv1D(32, 64)
        self.conv = nn.Conv2d(32, 64, 3)
        self.grouped = nn.Conv2d(64, 32, 3, groups=2)
        self.odd = nn.Linear(30, 10)
        self.h = nn.Module()
        self.h.attn = nn.Module()
        self.h.attn.c_attn = Conv1D(64, 64)


def as_rows(weight, name):
    """(out, in / groups, kernel positions) as a plain loop would see it."""
    if name in ("turned.weight", "h.attn.c_attn.weight"):
        weight = weight.T
    return weight.detach().reshape(weight.shape[0], weight.shape[1], -1)


def recipe_of(pattern):
    return sc.Recipe.parse(pattern) if ":" in pattern else sc.Recipe(unit=pattern, pool="layer", budget="sparsity(0.5)")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


@pytest.mark.parametrize("pattern", N_OF_M)
def test_every_group_keeps_exactly_n_live(pattern, network):
    n, m = map(int, pattern.split(":"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = sc.prune(network, sc.Recipe.parse(pattern))
    assert {line.name for line in masks.report if line.status == "impossible"} == {"odd.weight"}
    for name in masks:
        groups = as_rows(masks[name], name).unfold(1, m, m)  # (out, groups, kernel, m)
        assert (groups.sum(-1) == n).all(), name
        live = as_rows(network.get_parameter(name), name).unfold(1, m, m)
        assert ((live != 0).sum(-1) == n).all(), name
        # The n largest of each group, whatever their places.
        assert live.abs().sort(-1).values[..., : m - n].max() == 0


@pytest.mark.parametrize("pattern", [*N_OF_M, *BLOCKS])
def test_a_pruned_network_and_its_file_comply(pattern, network, tmp_path):
    assert not sc.compliance(network, "2:4").holds
    with torch.no_grad():
        for parameter in network.parameters():  # no zeros by chance
            parameter.copy_(torch.where(parameter == 0, torch.ones_like(parameter), parameter))
    source = tmp_path / "model.safetensors"
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items() if name != "turned.weight"}
    save_file(state, source, {"format": "pt"})  # `turned` stands where a file alone does not say that it is
    recipe = recipe_of(pattern)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.prune_checkpoint(source, recipe, tmp_path / "pruned")
        masks = sc.prune(network, recipe)
    found = sc.compliance(network, pattern)
    assert found.holds
    assert {each.name for each in found.tensors if not each.reason} == set(masks)
    assert {each.name for each in found.tensors if each.reason} >= {"odd.weight"} - set(masks)
    on_disk = sc.compliance(tmp_path / "pruned", pattern)
    assert on_disk.holds
    by_name = {each.name: each for each in found.tensors}
    for each in on_disk.tensors:
        assert each == by_name[each.name]
    if "block" in pattern:
        assert all(each.n_dead == round(0.5 * each.n_groups) for each in found.tensors if not each.reason)


@pytest.mark.parametrize("pattern", [*N_OF_M, *BLOCKS])
def test_one_weight_too_many_is_found(pattern, network):
    network = nn.ModuleDict({"linear": nn.Linear(64, 32)})
    sc.prune(network, recipe_of(pattern))
    place = tuple((network.linear.weight == 0).nonzero()[-1])
    with torch.no_grad():
        network.linear.weight[place] = 1.0
    found = sc.compliance(network, pattern)
    # A block of one weight cannot be broken.
    assert not found.holds
    (held,) = found.tensors
    assert held.n_held == held.n_groups - 1


def test_what_does_not_fit_is_said_and_does_not_count(network):
    found = sc.compliance(network, "2:4", only=["odd.weight"])
    assert not found.holds
    assert found.tensors[0].reason == "30 inputs, which groups of 4 do not divide"
    reason = sc.compliance(network, "block(32, 32)", only=["odd.weight"]).tensors[0].reason
    assert reason.startswith("block(32, 32) needs outputs divisible by 32")


@pytest.mark.parametrize("pattern", ["5:4", "0:4", "2:", "row", "a:b", "block(4)"])
def test_what_is_no_pattern_is_refused(pattern, network):
    with pytest.raises(RecipeError):
        sc.compliance(network, pattern)


def test_n_of_m_is_a_recipe():
    assert sc.Recipe.parse("2:4") == sc.Recipe(pool=4, budget=sc.top(2))
    assert sc.Recipe.parse("1:4 skip=[head*]") == sc.Recipe(pool=4, budget=sc.top(1), skip=["head*"])
    with pytest.raises(RecipeError, match="'5:4' is not n:m"):
        sc.Recipe.parse("5:4")


# ------------------------------------------------------------------------------------------------- the order of columns


def keeps(weight, n, m):
    """By a plain loop: the sum of the n largest of every m neighbours."""
    rows = np.moveaxis(np.abs(np.asarray(weight, np.float64)), 1, -1).reshape(-1, weight.shape[1])
    return sum(sum(sorted(row[i : i + m])[m - n :]) for row in rows for i in range(0, len(row), m))


GROUPED = st.tuples(st.integers(1, 6), st.integers(1, 5), st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (4, 4)]))


@settings(max_examples=30)
@given(shape=GROUPED, data=st.data())
def test_an_order_never_keeps_less_and_loses_no_column(shape, data):
    rows, groups, (n, m) = shape
    weight = data.draw(weights(st.just((rows, groups * m))))
    order = sc.permutation(weight, n, m, seed=data.draw(st.integers(0, 3)))
    assert sorted(order) == list(range(groups * m))
    assert keeps(weight.double().numpy()[:, order], n, m) >= keeps(weight.double().numpy(), n, m)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_the_same_order_from_tensors_arrays_threads_and_scales(kernel, monkeypatch):
    monkeypatch.setattr(column_order, "MOST_GROUPS", 5)
    weight = torch.randn(4, 64, *kernel, generator=torch.Generator().manual_seed(0))
    order = sc.permutation(weight, 2, 4)
    assert keeps(weight.numpy()[:, order], 2, 4) > keeps(weight.numpy(), 2, 4)
    monkeypatch.setenv("SECATEURS_THREADS", "3")
    assert (sc.permutation(weight.numpy(), 2, 4) == order).all()
    for scale in (-4.0, 2.0**-1040, 2.0**1000):
        assert (sc.permutation(scale * weight.double(), 2, 4) == order).all()
    assert (sc.permutation(weight, 2, 4, seed=1) != order).any()


def test_the_best_order_of_few_columns_is_found():
    """Against all 35 ways to share 8 columns out to two groups."""
    random, n_best = np.random.default_rng(0), 0
    for _ in range(10):
        weight = random.standard_normal((5, 8))
        best = max(
            keeps(weight[:, [0, *some, *(i for i in range(1, 8) if i not in some)]], 2, 4)
            for some in itertools.combinations(range(1, 8), 3)
        )
        n_best += keeps(weight[:, sc.permutation(weight, 2, 4)], 2, 4) == pytest.approx(best)
    assert n_best >= 8


def test_large_columns_are_spread_over_the_groups():
    """By hand: two large columns a group keep everything that is large."""
    weight = torch.tensor([[9.0, 9.0, 9.0, 9.0, 1.0, 1.0, 1.0, 1.0]])
    assert keeps(weight.numpy(), 2, 4) == 20
    assert keeps(weight.numpy()[:, sc.permutation(weight, 2, 4)], 2, 4) == 36


@given(st.integers(1, 6), st.data())
def test_columns_are_assigned_as_well_as_can_be(n, data):
    table = data.draw(st.lists(st.lists(st.integers(0, 9), min_size=n, max_size=n), min_size=n, max_size=n))
    keep, taken = np.array(table, np.int32), np.empty(n, np.int64)
    _assign(keep, taken)
    assert sorted(taken) == list(range(n))
    best = max(sum(keep[g, c] for g, c in enumerate(way)) for way in itertools.permutations(range(n)))
    assert keep[np.arange(n), taken].sum() == best


@pytest.mark.parametrize(("shape", "n", "m"), [((2, 6), 2, 4), ((2, 8), 0, 4), ((2, 8), 5, 4), ((8,), 2, 4)])
def test_what_has_no_groups_is_refused(shape, n, m):
    with pytest.raises(PatternError):
        sc.permutation(torch.zeros(shape), n, m)


@pytest.mark.parametrize("shape", [(3, 0), (0, 8), (3, 4), (2, 8)])
def test_where_there_is_nothing_to_choose_the_order_stays(shape):
    assert (sc.permutation(torch.zeros(shape), 2, 4) == np.arange(shape[1])).all()


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not a number"):
        sc.permutation(torch.full((2, 8), torch.nan), 2, 4)


def test_kept_is_the_plain_sum():
    weight = np.random.default_rng(0).standard_normal((3, 8))
    assert kept(np.abs(weight.T), 2, 4) == pytest.approx(keeps(weight, 2, 4))


# ------------------------------------------------------------------------------------------------------ whole networks


def mixed():
    """A network with hidden units, channels and BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 32),
        nn.GELU(),
        nn.Linear(32, 5),
    )


@settings(max_examples=2)
@given(st.integers(0, 99))
def test_outputs_stay_and_no_weight_is_lost(seed):
    torch.manual_seed(seed)
    network, x = mixed().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        network[1].running_mean.uniform_(-1, 1)
        network[1].running_var.uniform_(0.5, 2)
        network[1].weight.uniform_(0.5, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    y = network(x)
    report = {line.name: line for line in sc.permute(network, "2:4", x)}
    assert torch.allclose(network(x), y, rtol=1e-4, atol=1e-5)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor.flatten().sort().values, before[name].flatten().sort().values), name
    # The groups were reordered: what is kept rises in all that read them, together.
    assert [name for name, line in report.items() if not line.reason] == ["3.weight", "7.weight", "9.weight"]
    assert report["0.weight"].reason == "4 does not divide its inputs"
    for line in report.values():
        if not line.reason:
            assert line.before <= line.after <= line.most
            assert 0 <= line.closed <= 1
    kept_before = keeps(before["9.weight"].numpy(), 2, 4)
    assert keeps(network[9].weight.detach().numpy(), 2, 4) > kept_before


def test_outputs_that_would_change_are_refused_and_everything_is_put_back(monkeypatch):
    """A makers' slice that is missed would make another network; it is noticed on the example inputs."""
    exchangeable = permuting._exchangeable
    monkeypatch.setattr(
        permuting,
        "_exchangeable",
        lambda found: ([each for each in s if each.is_consumed] for s in exchangeable(found)),
    )
    network, x = mixed().eval(), torch.randn(2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match="Nothing was changed"):
        sc.permute(network, "2:4", x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    network, x = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)).to(dtype), torch.randn(4, 8, dtype=dtype)
    before = keeps(network[2].weight.detach().double().numpy(), 2, 4)
    sc.permute(network, "2:4", x)
    assert keeps(network[2].weight.detach().double().numpy(), 2, 4) > before


def test_units_that_the_code_tells_apart_keep_their_places():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(4, 32), nn.Linear(32, 4)

        def forward(self, x):
            return self.down(self.up(x) * torch.linspace(0, 1, 32))

    network, x = Odd(), torch.randn(2, 4)
    before = network.down.weight.detach().clone()
    report = {line.name: line.reason for line in sc.permute(network, "2:4", x)}
    assert "linspace" in report["down.weight"]
    assert torch.equal(network.down.weight, before)


def test_what_is_not_n_of_m_is_refused():
    with pytest.raises(RecipeError, match="something else"):
        sc.permute(mixed(), sc.Recipe(budget="sparsity(0.5)"), torch.randn(2, 3, 8, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")
def test_torch_takes_what_was_pruned():
    torch.manual_seed(0)
    layer = nn.Linear(256, 128).half().cuda()
    sc.prune(layer, sc.Recipe.parse("2:4"))
    x = torch.randn(64, 256, device="cuda", dtype=torch.float16)
    y = layer(x)
    layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(layer.weight.detach()))
    assert torch.allclose(layer(x), y, rtol=1e-2, atol=1e-2)
