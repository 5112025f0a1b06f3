"""Groups: what is coupled, what is refused and why; agreement with an independent library on plain networks."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from secateurs.data import InputShape
from secateurs.errors import InputError, RecipeError
from secateurs.groups.finding import Structure, find_groups
from secateurs.models import ModelSpec, build

RGB = InputShape(kind="image", size=(3, 8, 8), n_classes=5)


def places(structure: Structure, name: str) -> set[tuple[str, int]]:
    group = next(group for group in structure.groups if group.name == name)
    return {(each.tensor, each.dim) for each in group.slices if each.tensor in structure.parameters}


def small(module: nn.Module, *size: int) -> Structure:
    return find_groups(module, torch.randn(2, *size))


def test_a_hidden_layer_is_its_rows_bias_and_columns() -> None:
    structure = small(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 4)
    assert [(group.name, group.kind, group.n_units) for group in structure.groups] == [("0.weight", "row", 6)]
    assert places(structure, "0.weight") == {("0.weight", 0), ("0.bias", 0), ("2.weight", 1)}
    assert structure.refused[("0.weight", 1)] == "the network's input"
    assert structure.refused[("2.weight", 0)] == "the network's output"


def test_a_flattened_channel_is_all_its_positions() -> None:
    structure = small(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(36, 2)), 1, 5, 5)
    (group,) = structure.groups
    (read,) = [each for each in group.slices if each.is_consumed]
    assert (group.kind, read.units.tolist()) == ("channel", [i // 9 for i in range(36)])


def test_option_a_shortcuts_carry_the_channels_to_the_middle_of_the_next_stage() -> None:
    structure = small(build(ModelSpec(name="resnet-20"), RGB, 0), 3, 8, 8)
    group = next(group for group in structure.groups if group.name == "conv1.weight")
    units = {each.tensor: each.units.tolist() for each in group.slices}
    assert units["layer1.2.conv2.weight"] == list(range(16))
    assert units["layer2.0.conv2.weight"] == [-1] * 8 + list(range(16)) + [-1] * 8
    assert units["linear.weight"] == [-1] * 24 + list(range(16)) + [-1] * 24
    stage2 = [group for group in structure.groups if group.name.startswith("layer2.0.conv2.weight")]
    assert [group.n_units for group in stage2] == [8, 8]


def test_zeros_that_a_module_cannot_change_stay() -> None:
    class Lambda(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.pad(x, (0, 0, 0, 0, 2, 2))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.pad = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 1), Lambda()
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.head(self.second(x) + self.pad(x))

    structure = small(Net(), 1, 4, 4)
    assert [(group.name, group.n_units) for group in structure.groups] == [("first.weight", 4)]


def test_an_operation_that_is_not_understood_refuses_what_it_touches_by_name() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.down(self.up(x).sort(1).values)))

    structure = small(Sorted(), 4)
    assert [group.name for group in structure.groups] == ["down.weight"]
    assert structure.refused[("up.weight", 0)] == "'sort' in '' is not understood"
    with pytest.raises(RecipeError, match=r"Nothing that up\.weight names can be cut: .*'sort' in ''"):
        find_groups(Sorted(), torch.randn(2, 4), only=["up.weight"])


def test_patterns_choose_groups_by_the_weights_that_make_them() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    inputs = torch.randn(2, 4)
    assert [group.name for group in find_groups(module, inputs, skip=["0.*"]).groups] == ["2.weight"]
    assert [group.name for group in find_groups(module, inputs, only=["0.weight"]).groups] == ["0.weight"]
    with pytest.raises(RecipeError, match=r"No parameter is called '1\.\*'"):
        find_groups(module, inputs, only=["1.*"])


def test_inputs_that_do_not_fit_are_one_clear_error() -> None:
    with pytest.raises(InputError, match=r"Linear does not run on the example inputs: .*Give a tensor"):
        small(nn.Linear(4, 6), 5)


def test_a_layer_used_twice_ties_its_ends() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.again(self.again(self.first(x))))

    structure = small(Twice(), 4)
    assert len(structure.groups) == 1
    assert {("again.weight", 0), ("again.weight", 1), ("head.weight", 1)} <= places(structure, "first.weight")


def test_fused_and_separate_heads_are_units_and_their_width_is_not() -> None:
    structure = small(build(ModelSpec.parse("cls-transformer(dim=24, heads=4)"), RGB, 0), 3, 8, 8)
    group = next(group for group in structure.groups if group.kind == "head")
    units = {each.tensor.rpartition("attention.")[2]: each.units for each in group.slices}
    assert group.n_units == 4
    assert units["query_key_value.weight"].tolist() == [head for _ in range(3) for head in range(4) for _ in range(6)]
    assert units["output.weight"].tolist() == [head for head in range(4) for _ in range(6)]


def test_stacked_and_concatenated_branches() -> None:
    class Branches(nn.Module):
        def __init__(self, join) -> None:
            super().__init__()
            self.left, self.right, self.join = nn.Linear(4, 6), nn.Linear(4, 6), join
            self.head = nn.LazyLinear(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.join([self.left(x), self.right(x)]))

    def names(join) -> dict[str, list[int]]:
        module = Branches(join)
        module(torch.randn(2, 4))
        structure = small(module, 4)
        return {group.name: next(e.units.tolist() for e in group.slices if e.is_consumed) for group in structure.groups}

    six, none = list(range(6)), [-1] * 6
    assert names(lambda both: torch.cat(both, 1)) == {"left.weight": six + none, "right.weight": none + six}
    assert names(lambda both: torch.stack(both, 1).flatten(1)) == {"left.weight": six + six}
    assert names(lambda both: torch.stack(both, 1).sum(1)) == {"left.weight": six}
    assert names(lambda both: torch.einsum("bi,bi->bi", *both)) == {"left.weight": six}


def test_multiply_adds_are_counted_by_hand() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert small(conv, 3, 4, 4).trace.macs() == 2 * (16 * 8 * 27 + 8 * 16 * 5)


def test_plain_networks_have_the_groups_that_torch_pruning_finds() -> None:
    tp = pytest.importorskip("torch_pruning")
    module = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()),
        *(nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 7), nn.ReLU(), nn.Linear(7, 2)),
    ).eval()
    inputs = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(module, inputs)
        theirs = {
            frozenset(
                (item.dep.target.name.split(" ")[0], "in" not in item.dep.handler.__name__.split("_"))
                for item in group
                if isinstance(item.dep.target.module, nn.Conv2d | nn.Linear)
                and not getattr(item.dep.target.module, "groups", 1) > 1
            )
            for group in graph.get_all_groups()
        }
    ours = {
        frozenset(
            (each.tensor.removesuffix(".weight"), not each.is_consumed)
            for each in group.slices
            if each.tensor.endswith(".weight") and each.tensor not in ("1.weight", "3.weight")
        )
        for group in find_groups(module, inputs).groups
    }
    assert ours == {group for group in theirs if len(group) > 1}
