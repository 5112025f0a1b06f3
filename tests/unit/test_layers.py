"""Which parameters can be pruned, by which name, and why the others are left alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

import secateurs as sc
from secateurs.errors import InputError, RecipeError
from secateurs.layers import layers, named_parameters, unwrap
from secateurs.layout import PLAIN, Layout, layout_of


class Classifier(nn.Module):
    """One of everything a transformer classifier has."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.words = nn.Embedding(5, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False))
        self.head = nn.Linear(4, 5)


def compiled(module: nn.Module) -> nn.Module:
    """Wrapped as torch.compile does, without loading a compiler."""
    return torch.compile(module, backend="eager")


def reasons(module: nn.Module, **where: list[str]) -> dict[str, str]:
    return {layer.name: layer.reason for layer in layers(module, **where)}


def prunable(module: nn.Module, **where: list[str]) -> list[str]:
    return [layer.name for layer in layers(module, **where) if layer.is_prunable]


def test_every_parameter_is_listed_once_in_order_with_its_reason() -> None:
    table, single = "embedding, class token or position table", "one dimension (bias, norm or scalar)"
    assert reasons(Classifier()) == {
        "cls_token": table,
        "pos_embed": table,
        "embedding.weight": table,
        "words.weight": table,
        "body.0.weight": "",
        "body.0.bias": single,
        "body.1.weight": single,
        "body.1.bias": single,
        "body.2.weight": "",
        "head.weight": "",
        "head.bias": single,
    }
    assert [layer.name for layer in layers(Classifier())] == [name for name, _ in Classifier().named_parameters()]


@pytest.mark.parametrize(
    "name",
    [
        "wte",
        "wpe",
        "embed_tokens",
        "class_embedding",
        "position_embeddings",
        "relative_position_bias_table",
        "positions",
    ],
)
def test_tables_of_well_known_networks_are_left_alone(name: str) -> None:
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.ones(3, 4)))
    assert prunable(module) == []


@pytest.mark.parametrize("name", ["wten", "embedder", "tokens_mixer", "head", "my_positions_net"])
def test_a_name_that_only_resembles_one_is_pruned(name: str) -> None:
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.ones(3, 4)))
    assert prunable(module) == [name]


def test_what_has_no_order_to_prune_by_is_left_alone() -> None:
    module = nn.Module()
    module.whole = nn.Parameter(torch.ones(2, 2, dtype=torch.int64), requires_grad=False)
    module.empty = nn.Parameter(torch.empty(2, 2, device="meta"))
    module.sparse = nn.Parameter(torch.eye(2).to_sparse(), requires_grad=False)
    found = reasons(module)
    assert found["whole"] == "not floating point (torch.int64)"
    assert found["empty"] == "no values (meta device)"
    assert found["sparse"].startswith("not a strided tensor")


def test_skip_leaves_alone_and_says_which_pattern() -> None:
    found = reasons(Classifier(), skip=["body.?.weight"])
    assert found["body.0.weight"] == found["body.2.weight"] == "skip=body.?.weight"
    assert found["head.weight"] == ""


def test_only_overrides_the_tables_but_not_skip_or_the_dimensions() -> None:
    assert prunable(Classifier(), only=["embedding*", "head*"]) == ["embedding.weight", "head.weight"]
    assert prunable(Classifier(), only=["head*"], skip=["head.weight"]) == []
    assert reasons(Classifier(), only=["head.weight"])["body.0.weight"] == "not in only"
    assert "cls_token" in prunable(Classifier(), only=["*"])


@pytest.mark.parametrize("where", ["skip", "only"])
def test_a_pattern_that_names_nothing_is_an_error_that_suggests(where: str) -> None:
    with pytest.raises(RecipeError, match=r"No parameter is called 'haed\.weight'\. Did you mean 'head\.weight'\?"):
        layers(Classifier(), **{where: ["haed.weight"]})


def test_a_tied_weight_is_one_layer_with_its_other_names() -> None:
    module = Classifier()
    module.body[2].weight = module.body[0].weight
    found = {layer.name: layer for layer in layers(module)}
    assert found["body.0.weight"].aliases == ("body.2.weight",)
    assert found["body.0.weight"].is_prunable
    assert "body.2.weight" not in found
    assert set(named_parameters(module)) >= {"body.0.weight", "body.2.weight"}


def test_a_tied_weight_is_left_alone_if_any_of_its_names_is() -> None:
    module = Classifier()
    module.head.weight = module.embedding.weight
    assert reasons(module)["embedding.weight"] == "embedding, class token or position table (tied)"
    module = Classifier()
    module.body[2].weight = module.body[0].weight
    assert reasons(module, skip=["body.2*"])["body.0.weight"] == "skip=body.2* (tied)"


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda module: module, id="plain"),
        pytest.param(compiled, id="compiled"),
        pytest.param(nn.DataParallel, id="data-parallel"),
        pytest.param(AveragedModel, id="averaged"),
        pytest.param(lambda module: compiled(AveragedModel(compiled(module))), id="all of them"),
    ],
)
def test_wrappers_change_no_name_and_no_reason(wrap: object) -> None:
    module = Classifier()
    wrapped = wrap(module)  # type: ignore[operator]
    assert reasons(wrapped, skip=["head*"]) == reasons(module, skip=["head*"])
    assert list(named_parameters(wrapped)) == list(named_parameters(module))
    assert type(unwrap(wrapped)) is Classifier


def test_a_part_that_is_compiled_alone_keeps_its_name_too() -> None:
    module = Classifier()
    expected = reasons(module)
    module.body = compiled(module.body)
    assert reasons(module) == expected


def test_a_network_of_ones_own_with_an_attribute_module_is_not_a_wrapper() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    assert prunable(Mine()) == ["module.weight"]


def test_copies_have_layers_of_their_own() -> None:
    module = Classifier()
    twin = copy.deepcopy(module)
    assert reasons(twin) == reasons(module)
    assert layers(twin)[0].parameter is not layers(module)[0].parameter


@pytest.mark.parametrize(("groups", "kernel"), [(1, ()), (1, (3, 3)), (2, (3,)), (4, (1, 2))])
def test_a_turned_weight_shows_out_first_and_turns_back(groups: int, kernel: tuple[int, ...]) -> None:
    stored = torch.arange(8 * 3 * torch.Size(kernel).numel(), dtype=torch.float32).reshape(8, 3, *kernel)
    layout = Layout(is_turned=True, groups=groups)
    turned = layout.turn(stored)
    assert turned.shape == (3 * groups, 8 // groups, *kernel)
    assert torch.equal(layout.back(turned), stored)
    i, o = 5, 2  # the input channel 5 belongs to group 5 // (8 / groups)
    group, place = divmod(i, 8 // groups)
    assert torch.equal(turned[group * 3 + o, place], stored[i, o])
    assert PLAIN.turn(stored) is stored
    assert PLAIN.back(stored) is stored


def test_transposed_convolutions_and_conv1d_are_stored_turned() -> None:
    class Conv1D(nn.Module):
        nf = 3

    assert layout_of(nn.ConvTranspose2d(4, 6, 3, groups=2), "weight") == Layout(is_turned=True, groups=2)
    assert layout_of(nn.ConvTranspose2d(4, 6, 3), "bias") == PLAIN
    assert layout_of(Conv1D(), "weight") == Layout(is_turned=True)
    assert layout_of(nn.Conv2d(4, 6, 3), "weight") == PLAIN
    assert layers(nn.Sequential(nn.ConvTranspose1d(4, 6, 3)))[0].layout == Layout(is_turned=True, groups=1)


def test_only_may_not_mean_what_cannot_be_pruned() -> None:
    module = nn.Module()
    module.body = nn.Linear(4, 4)
    module.body.whole = nn.Parameter(torch.ones(2, 2, dtype=torch.int64), requires_grad=False)
    for pattern in ("body.*", "body.whole"):
        with pytest.raises(RecipeError, match=r"'body\.whole', which cannot be pruned: not floating point"):
            layers(module, only=[pattern])
    with pytest.raises(RecipeError, match=r"'body\.bias', which cannot be pruned: one dimension"):
        layers(module, only=["body.bias"])
    with pytest.raises(RecipeError, match="no values yet"):
        layers(nn.Sequential(nn.LazyLinear(3)), only=["0.*"])
    assert prunable(module, only=["*"]) == prunable(module, only=["body.[wb]*t"]) == ["body.weight"]
    assert prunable(module, only=["body.*"], skip=["*whole"]) == ["body.weight"], "skip wins"
    assert prunable(Classifier(), only=["head*"]) == ["head.weight"]


def test_two_parameters_in_the_same_memory_are_tied() -> None:
    """Bug: they were two layers, and the masks of the one destroyed the weights of the other."""
    module = Classifier()
    module.body[2].weight = nn.Parameter(module.body[0].weight.data)
    found = {layer.name: layer for layer in layers(module)}
    assert found["body.0.weight"].aliases == ("body.2.weight",)
    assert "body.2.weight" not in found


def test_parameters_that_share_part_of_their_memory_are_left_alone() -> None:
    module, whole = nn.Module(), torch.ones(6, 4)
    module.whole, module.part = nn.Parameter(whole), nn.Parameter(whole[2:4])
    module.turned = nn.Parameter(whole.t())
    module.apart = nn.Parameter(torch.ones(4, 4))
    found = reasons(module)
    assert [name for name in found if "shares part of its memory with" in found[name]] == ["whole", "part", "turned"]
    assert found["apart"] == ""
    halves = nn.Module()
    halves.a, halves.b = nn.Parameter(whole[:3]), nn.Parameter(whole[3:])
    assert prunable(halves) == ["a", "b"], "neighbours in one buffer share nothing"


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("made_by", "names", "why"),
    [
        (
            parametrizations.weight_norm,
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
            "row",
        ),
        (nn.utils.weight_norm, ("weight_g", "weight_v"), "row"),
        (parametrizations.orthogonal, ("parametrizations.weight.original",), "without zeros"),
    ],
)
def test_weights_that_are_computed_from_others_are_left_alone(made_by, names, why) -> None:
    """Bug: an empty row under a weight norm is 0 / 0, and zeros under an orthogonal weight are none."""
    found = reasons(nn.Sequential(made_by(nn.Linear(8, 8)), nn.Linear(8, 8)))
    assert all(why in found[f"0.{name}"] and "undo that first" in found[f"0.{name}"] for name in names)
    assert found["1.weight"] == ""


@pytest.mark.parametrize("made_by", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_zeros_under_a_spectral_norm_are_zeros_of_the_weight(made_by) -> None:
    module = nn.Sequential(made_by(nn.Linear(8, 8)))
    masks = sc.prune(module, "magnitude element layer sparsity(0.5)")
    module(torch.randn(2, 8))
    assert masks.n_weights == 64
    assert int((module[0].weight == 0).sum()) == 32


def test_what_is_no_network_is_told() -> None:
    with pytest.raises(InputError, match=r"Expected a network, a torch\.nn\.Module; got dict"):
        layers({"weight": torch.ones(2, 2)})
