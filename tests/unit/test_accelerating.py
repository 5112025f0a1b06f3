"""Layers are swapped only where that is faster, every layer is told of, and all of it can be undone."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import secateurs as sc
from secateurs import accelerating, racing
from secateurs.accelerating import time_layer
from secateurs.errors import InputError, RecipeError
from secateurs.measure.intervals import Interval
from secateurs.racing import Choice


class Net(nn.Module):
    """Layers of every kind that is told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.sparse, self.full = nn.Linear(256, 256), nn.Linear(256, 256)
        self.first, self.second, self.unused = nn.Linear(256, 64), nn.Linear(256, 64), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        with torch.no_grad():
            for each in (self.sparse, self.first, self.unused):
                each.weight[torch.rand(each.weight.shape) < 0.97] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.full(torch.relu(self.sparse(x)))
        return self.first(x) + self.second(x)


def assert_swapped(model: nn.Module, choices: list[Choice]) -> None:
    """Exactly the layers whose choice says so are packed."""
    for each in choices:
        is_packed = isinstance(model.get_submodule(each.name), sc.PackedLinear)
        assert is_packed == (each.chosen not in ("", "dense")), each.name


def test_what_is_measured_decides_and_all_of_it_can_be_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(3, 256)
    y, before = model(x), dict(model.named_modules())
    found = sc.accelerate(model, x, rounds=6)
    reasons = {each.name: each.reason for each in found.choices}
    assert list(reasons) == ["sparse", "full", "first", "second", "unused"]
    assert reasons["full"] == "nothing in it is zero"
    assert reasons["first"] == reasons["second"] == "its weight is another layer's too"
    assert reasons["unused"] == "not reached by the example"
    sparse = found.choices[0]
    assert set(sparse.seconds) == {"dense", "bitmask fp32", "index fp32"}
    assert sparse.n_tokens == 3
    assert sparse.n_bytes["index fp32"] < sparse.n_bytes["bitmask fp32"] < sparse.n_bytes["dense"]
    assert_swapped(model, found.choices)
    assert torch.allclose(model(x), y, atol=1e-5)
    found.restore()
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize("is_faster", [True, False])
def test_a_layer_is_swapped_where_the_whole_interval_says_so(is_faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**9))
    cost = {"PackedLinear": 1.0 if is_faster else 3.0, "Linear": 2.0}
    now = [0.0]

    def spend(part: nn.Module, _: object) -> None:
        now[0] += cost.get(type(part).__name__, 0.0) + 1e-9 * next(clock)

    monkeypatch.setattr(racing.time, "perf_counter", lambda: now[0])
    handle = nn.modules.module.register_module_forward_pre_hook(spend)
    try:
        model, x = Net(), torch.randn(3, 256)
        found = sc.accelerate(model, x, values=("fp32", "int8"), rounds=6, is_reversible=False)
    finally:
        handle.remove()
    assert_swapped(model, found.choices)
    sparse = found.choices[0]
    assert (sparse.chosen != "dense") == is_faster
    assert sparse.speed_up is not None
    assert sparse.speed_up.mean == pytest.approx(2.0 if is_faster else 2 / 3, rel=1e-3)
    if is_faster:
        with pytest.raises(InputError, match="The dense layers were not kept"):
            found.restore()
    else:
        assert "no packed format is faster beyond doubt" in sparse.reason


@pytest.fixture
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed counts for nothing: packed is said to be faster, always."""
    monkeypatch.setattr(racing, "paired_ratio", lambda *_: Interval(2.0, 2.0, 2.0, 6))


def pruned(*sizes: int) -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(m, n) for m, n in pairwise(sizes)))
    sc.prune(model, "magnitude element layer sparsity(0.9)")
    return model


def test_the_best_of_many_is_timed_again_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """One candidate is lucky in the first rounds, and slower than dense in the new ones."""
    asked: list[set[str]] = []

    def seconds(contenders: racing.Contenders, _: object, rounds: int) -> racing.Seconds:
        asked.append(set(contenders["0"]))
        lucky = 1.0 if len(asked) == 1 else 3.0
        return {"0": {kind: [2.0 if kind == "dense" else lucky] * rounds for kind in contenders["0"]}}

    monkeypatch.setattr(racing, "seconds_of", seconds)
    (found,) = sc.accelerate(pruned(32, 32), torch.randn(2, 32), values=("fp32", "int8")).choices
    assert len(asked[0]) > 2 == len(asked[1])
    assert found.chosen == "dense"
    assert found.speed_up is not None
    assert found.speed_up.mean == pytest.approx(2 / 3)


@pytest.mark.usefixtures("_always")
def test_a_layer_with_hooks_stays_and_one_that_torch_prunes_does_not() -> None:
    model, seen = pruned(32, 32, 32), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    prune.l1_unstructured(model[1], "weight", 0.5)
    x = torch.randn(2, 32)
    y = model(x)
    found = sc.accelerate(model, x, is_reversible=False)
    assert [each.reason for each in found.choices] == ["it has hooks, which a packed layer would not call", ""]
    assert isinstance(model[1], sc.PackedLinear)
    seen.clear()
    assert torch.allclose(model(x), y, atol=1e-5)
    assert seen == [1]


class Remembering(nn.Module):
    """Adds to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = pruned(32, 32)

    def forward(self, x: Tensor, before: list[Tensor]) -> Tensor:
        before.append(self.inside(x))
        return torch.stack(before).sum(0)


@pytest.mark.usefixtures("_always")
def test_what_the_model_would_change_is_not_changed() -> None:
    model, before = Remembering(), [torch.ones(2, 32)]
    sc.accelerate(model, torch.randn(2, 32), before=before)
    assert len(before) == 1
    sc.accelerate(Remembering(), torch.randn(2, 32), before)
    assert len(before) == 1


@pytest.mark.usefixtures("_always")
def test_after_an_error_everything_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, timed = pruned(32, 32, 32), accelerating._timed
    before = dict(model.named_modules())

    def once(candidates: dict[str, accelerating.Candidate], rounds: int) -> list[Choice]:
        if "1" in candidates:
            assert isinstance(model[0], sc.PackedLinear)
            raise MemoryError
        return timed(candidates, rounds)

    monkeypatch.setattr(accelerating, "GROUP", 1)
    monkeypatch.setattr(accelerating, "_timed", once)
    with pytest.raises(MemoryError):
        sc.accelerate(model, torch.randn(2, 32))
    assert dict(model.named_modules()) == before


@pytest.mark.usefixtures("_always")
def test_one_format_or_value_that_does_not_fit_stops_no_other() -> None:
    model = pruned(32, 30)  # which blocks of 4 rows do not divide
    (found,) = sc.accelerate(model, torch.randn(2, 32), formats=("blocks", "bitmask")).choices
    assert found.chosen == "bitmask fp32"
    model = pruned(32, 32)
    with torch.no_grad():
        model[0].weight[3, 3] = float("nan")
    (found,) = sc.accelerate(model, torch.randn(2, 32), values=("fp32", "int8"), is_lossless=True).choices
    assert found.chosen in ("bitmask fp32", "index fp32")


@pytest.mark.usefixtures("_always")
def test_a_layer_with_two_names_is_left_alone() -> None:
    model = pruned(32, 32, 32)
    model[1] = model[0]
    choices = sc.accelerate(model, torch.randn(2, 32)).choices
    assert {each.reason for each in choices} == {"its weight is another layer's too"}


def test_so_few_rounds_that_nothing_is_sure_are_refused() -> None:
    with pytest.raises(InputError, match="Of fewer than 6 rounds nothing can be sure; got 5"):
        sc.accelerate(pruned(32, 32), torch.randn(2, 32), rounds=5)


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(InputError, match="No linear layer or convolution was reached"):
        sc.accelerate(nn.ReLU(), torch.randn(2))


class Turned(nn.Module):
    """Convolutions, and what transformers calls Conv1D."""

    def __init__(self) -> None:
        super().__init__()
        conv1d = pytest.importorskip("transformers").pytorch_utils.Conv1D
        self.point, self.wide = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.grouped, self.same = nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 16, 3, padding="same")
        self.turned, self.transposed = conv1d(24, 16), nn.ConvTranspose2d(16, 16, 1)
        with torch.no_grad():
            for each in (self.point, self.wide, self.grouped, self.same, self.turned, self.transposed):
                each.weight[torch.rand(each.weight.shape) < 0.9] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.transposed(self.same(self.grouped(self.wide(self.point(x)))))
        return self.turned(x.flatten(2).transpose(1, 2).contiguous())


def test_convolutions_and_turned_layers_are_swapped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    # What is timed counts for nothing here: packed is said to be faster, always.
    monkeypatch.setattr(racing, "paired_ratio", lambda *_: Interval(2.0, 2.0, 2.0, 1))
    model, x = Turned(), torch.randn(2, 8, 9, 9)
    y, before = model(x), dict(model.named_modules())
    found = sc.accelerate(model, x, rounds=6)
    assert {each.name: (each.shape, each.n_tokens, each.reason) for each in found.choices} == {
        "point": ((16, 8), 162, ""),
        "wide": ((16, 144), 162, ""),
        "grouped": ((16, 36), 0, "it has 4 groups"),
        "same": ((16, 144), 0, "its padding is same of zeros"),
        "turned": ((24, 16), 98, ""),
    }
    assert isinstance(model.point, sc.PackedConv2d)
    assert isinstance(model.turned, sc.PackedLinear)
    assert torch.allclose(model(x), y, atol=1e-5)
    found.restore()
    assert dict(model.named_modules()) == before


def test_one_layer_can_be_timed_before_anything_is_pruned() -> None:
    found = time_layer(64, 128, 2, 0.9, values="int8", rounds=6)
    assert found.shape == (64, 128)
    assert found.n_tokens == 2
    assert 0.85 < found.sparsity < 0.95
    assert found.speed_up is not None
    assert "bitmask int8" in str(found)


class Outside(nn.Module):
    """One layer is called, of the other the weight is read by the module around it."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read = nn.Linear(32, 32), nn.Linear(32, 32)
        sc.prune(self, "magnitude element layer sparsity(0.9)")

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.called(x)) + self.read.weight.sum()


def test_layers_whose_weight_others_read_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's TransformerEncoderLayer reads weights only when no hook is on them: when it is used."""
    monkeypatch.setattr(racing, "paired_ratio", lambda *_: Interval(2.0, 2.0, 2.0, 1))
    model, x = Outside(), torch.randn(2, 32)
    reasons = {each.name: each.reason for each in sc.accelerate(model, x, rounds=6).choices}
    assert reasons == {"called": "", "read": "the module around it reads its weight"}
    assert isinstance(model.called, sc.PackedLinear)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    sc.prune(layer, "magnitude element layer sparsity(0.9)")
    tokens = torch.randn(1, 3, 32)
    with torch.inference_mode():
        before = layer(tokens)
        choices = sc.accelerate(layer, tokens, rounds=6).choices
        assert torch.equal(layer(tokens), before)
    assert {each.reason for each in choices} == {"the module around it reads its weight"}


def test_what_no_packed_layer_can_stand_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "paired_ratio", lambda *_: Interval(2.0, 2.0, 2.0, 1))
    alone = nn.Linear(32, 32)
    double = nn.Sequential(nn.Linear(32, 32)).double()
    for each in (alone, double):
        sc.prune(each, "sparsity(0.9)")
    assert "it is the model itself" in sc.accelerate(alone, torch.randn(2, 32), rounds=6).choices[0].reason
    found = sc.accelerate(double, torch.randn(2, 32, dtype=torch.float64), rounds=6, is_lossless=True)
    assert found.choices[0].reason == "its weights are float64, which no packed format computes in"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"values": "int9"}, "int9"),
        ({"values": ["fp32", "half"]}, "Values that run are .* got 'half'"),
        ({"formats": ["bitmsk"]}, "Formats that run are .* got 'bitmsk'"),
        ({"formats": ["blocks 4by4"]}, "got 'blocks 4by4'"),
    ],
)
def test_words_that_mean_nothing_are_told_though_no_layer_has_a_zero(words: dict[str, object], message: str) -> None:
    with pytest.raises((InputError, RecipeError), match=message):
        sc.accelerate(nn.Sequential(nn.Linear(8, 8)), torch.randn(2, 8), **words)


def test_a_model_without_values_and_layers_of_another_kind_are_told() -> None:
    with pytest.raises(InputError, match="on the meta device"):
        sc.accelerate(nn.Sequential(nn.Linear(8, 8)).to("meta"), torch.randn(2, 8, device="meta"))
    with pytest.raises(InputError, match=r"made from an nn\.Conv2d; got Conv1d"):
        sc.PackedConv2d.from_convolution(nn.Conv1d(4, 4, 3))
    with pytest.raises(InputError, match="'bitmask' takes no sizes; got n"):
        sc.PackedLinear.from_linear(nn.Linear(8, 8), "bitmask", n=2)
