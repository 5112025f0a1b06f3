"""Laws of masks: saved and loaded the same, exact zeros, nothing renamed, tied stays tied."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save
from torch import nn

import secateurs as sc
from laws.networks import LEFT, PRUNED, Conv1D, Everything, LanguageModel, Tied, small, weights_of
from laws.strategies import fractions, mappings, weights
from secateurs.errors import CollapseWarning, InputError, PatternError, RecipeError, SecateursError
from secateurs.masks import _checksum

pytestmark = pytest.mark.filterwarnings("ignore::secateurs.errors.CollapseWarning")

HALF = sc.Recipe(budget=sc.sparsity(0.5))


def holding(**named):
    """A module with these weights as its parameters."""
    module = nn.Module()
    for name, weight in named.items():
        module.register_parameter(name, nn.Parameter(weight.clone()))
    return module


def status_of(masks):
    return {line.name: line.status for line in masks.report}


@given(weight=weights(), s=fractions())
def test_prune_makes_exact_zeros_and_changes_nothing_else(weight, s):
    module = holding(w=weight)
    masks = sc.prune(module, sc.Recipe(budget=sc.sparsity(s)))
    assert torch.equal(module.w.detach(), torch.where(masks["w"], weight, torch.zeros_like(weight)))
    assert module.w.dtype == weight.dtype
    assert int((~masks["w"]).sum()) == round(s * weight.numel())
    assert not module.w.detach()[~masks["w"]].signbit().any()


@given(mappings(), fractions())
def test_masks_are_what_select_says_of_the_scores(arrays, s):
    arrays = {name.replace(".", "_"): array for name, array in arrays.items()}
    module = holding(**arrays)
    masks = sc.Masks.make(module, sc.Recipe(budget=sc.sparsity(s)))
    keep = sc.select(arrays, sc.element, sc.model, sc.sparsity(s))
    assert all(torch.equal(masks[name], keep[name]) for name in arrays)
    assert masks.n_weights == sum(array.numel() for array in arrays.values())
    assert masks.n_weights - masks.n_kept == round(s * masks.n_weights)
    assert masks.sparsity == pytest.approx(1 - masks.n_kept / masks.n_weights)


@given(keeps=mappings(), s=fractions())
def test_save_then_load_is_the_same(keeps, s, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "masks.safetensors"
    module = holding(**{name.replace(".", "_"): score for name, score in keeps.items()})
    masks = sc.Masks.make(module, sc.Recipe(budget=sc.sparsity(s)))
    masks.save(path)
    loaded = sc.Masks.load(path)
    assert list(loaded) == list(masks)
    assert all(torch.equal(loaded[name], masks[name]) and loaded[name].dtype == torch.bool for name in masks)
    assert (loaded.n_kept, loaded.n_weights, loaded.report) == (masks.n_kept, masks.n_weights, masks.report)


def test_masks_compare_by_what_they_keep():
    module = small()
    masks, same, other = (sc.Masks.make(module, sc.Recipe(budget=sc.sparsity(s))) for s in (0.5, 0.5, 0.6))
    assert masks == same
    assert masks != other


def test_a_saved_file_is_small_and_the_same_twice(tmp_path):
    masks = sc.Masks.make(nn.Linear(100, 100), HALF)
    masks.save(tmp_path / "a")
    masks.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 100 * 100 / 2


@pytest.mark.parametrize("content", [b"", b"not masks at all", b"\xff" * 64])
def test_a_foreign_file_is_an_input_error(content, tmp_path):
    (tmp_path / "masks").write_bytes(content)
    with pytest.raises(InputError):
        sc.Masks.load(tmp_path / "masks")
    with pytest.raises(InputError):
        sc.Masks.load(tmp_path / "missing")


def test_a_truncated_file_is_an_input_error(tmp_path):
    sc.Masks.make(small(), HALF).save(tmp_path / "masks")
    whole = (tmp_path / "masks").read_bytes()
    for size in range(0, len(whole), 37):
        (tmp_path / "part").write_bytes(whole[:size])
        with pytest.raises(InputError):
            sc.Masks.load(tmp_path / "part")


def test_a_damaged_file_is_an_input_error(tmp_path):
    """One flipped bit anywhere: never another error, and never other masks."""
    masks = sc.Masks.make(nn.Linear(6, 6), HALF)
    masks.save(tmp_path / "masks")
    whole = (tmp_path / "masks").read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(InputError):
            sc.Masks.load(tmp_path / "damaged")


@given(fractions(), fractions())
def test_more_sparsity_is_nested_in_less(s, t):
    module = small()
    less, more = (sc.Masks.make(module, sc.Recipe(budget=sc.sparsity(x))) for x in sorted((s, t)))
    assert more.nested_in(less)
    assert less.nested_in(less)
    assert less.nested_in(more) == (less.n_kept == more.n_kept)


def test_making_masks_changes_nothing():
    module = Everything()
    before = copy.deepcopy(module.state_dict())
    sc.Masks.make(module, HALF)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_every_parameter_is_reported_once_and_only_weights_are_pruned():
    module = Everything()
    before = weights_of(module)
    masks = sc.prune(module, HALF)
    status = status_of(masks)
    assert list(status) == list(before)
    assert sorted(masks) == sorted(PRUNED) == sorted(name for name in status if status[name] == "pruned")
    for line in masks.report:
        assert line.n == before[line.name].numel()
        assert line.shape == tuple(before[line.name].shape)
        if line.name in masks:
            assert line.n_pruned == int((~masks[line.name]).sum())
        else:
            assert line.reason
            assert line.n_pruned == 0
            assert torch.equal(module.get_parameter(line.name), before[line.name])
    assert {status[name] for name in LEFT} == {"skipped"}
    assert (module.counts == 1).all()
    assert (module.running == 1).all()


def test_only_star_takes_every_floating_weight_of_two_dimensions():
    masks = sc.Masks.make(Everything(), sc.Recipe(budget=sc.sparsity(0.5), only=["*"]))
    assert sorted(masks) == sorted([*PRUNED, "embed.weight", "cls_token", "pos_embed"])


def test_skip_wins_over_only():
    masks = sc.Masks.make(Everything(), sc.Recipe(budget=sc.sparsity(0.5), only=["*"], skip=["head*", "conv.*"]))
    assert sorted(masks) == sorted({*PRUNED, "embed.weight", "cls_token", "pos_embed"} - {"head.weight", "conv.weight"})
    assert next(line.reason for line in masks.report if line.name == "head.weight")


@pytest.mark.parametrize("where", [{"skip": ["heed.weight"]}, {"only": ["heed.weight"]}])
def test_a_pattern_without_a_match_suggests_the_nearest(where):
    with pytest.raises(RecipeError, match=r"head\.weight"):
        sc.Masks.make(Everything(), sc.Recipe(budget=sc.sparsity(0.5), **where))


def test_an_impossible_layer_is_reported_and_left_but_an_error_if_named():
    module = nn.Sequential(nn.Linear(8, 4), nn.Linear(6, 4))
    recipe = sc.Recipe(pool=4, budget=sc.top(2))
    masks = sc.Masks.make(module, recipe)
    assert list(masks) == ["0.weight"]
    assert status_of(masks)["1.weight"] == "impossible"
    assert "4" in next(line.reason for line in masks.report if line.name == "1.weight")
    with pytest.raises(PatternError, match=r"1\.weight"):
        sc.prune(module, sc.Recipe(pool=4, budget=sc.top(2), only=["1.weight"]))
    assert (module[0].weight != 0).all()


@pytest.mark.parametrize("score", ["magnitude", "lamp", "random"])
def test_nan_weights_are_an_error_that_names_the_layer(score):
    module = small()
    before = weights_of(module)
    with torch.no_grad():
        module[2].weight[1, 1] = float("nan")
    with pytest.raises(SecateursError, match=r"2\.weight"):
        sc.prune(module, sc.Recipe(score=score, budget=sc.sparsity(0.5)))
    assert torch.equal(module[0].weight, before["0.weight"])


def test_an_emptied_layer_is_warned_of_before_it_happens():
    module = small()
    with pytest.warns(CollapseWarning, match=r"2\.weight"):
        sc.Masks.make(module, sc.Recipe(budget={"2.weight": sc.threshold(1e9)}, pool="layer"))
    assert (module[2].weight != 0).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LazyLinear(3),
        lambda: nn.Linear(4, 3, device="meta"),
        lambda: nn.Linear(4, 3, dtype=torch.complex64),
    ],
    ids=["lazy", "meta", "complex"],
)
def test_a_weight_that_cannot_be_judged_is_left_with_a_reason(make):
    masks = sc.prune(nn.Sequential(make(), nn.Linear(4, 3)), HALF)
    assert list(masks) == ["1.weight"]
    assert masks.report[0].status == "skipped"
    assert masks.report[0].reason


def test_float8_is_pruned_exactly_or_left_with_a_reason():
    module = holding(linear=torch.ones(4, 3))
    module.w = nn.Parameter(torch.ones(4, 3).to(torch.float8_e4m3fn), requires_grad=False)
    masks = sc.prune(module, sc.Recipe(pool="layer", budget=sc.sparsity(0.5)))
    n_zeros = int((module.w.float() == 0).sum())
    assert (status_of(masks)["w"], n_zeros) in {("pruned", 6), ("skipped", 0), ("impossible", 0)}
    assert int((module.linear == 0).sum()) == 6


def test_nothing_to_prune_is_an_error():
    with pytest.raises(RecipeError):
        sc.prune(nn.LayerNorm(4), HALF)


@given(st.sampled_from(["0.5sigma", "1.2sigma", "0sigma"]))
def test_a_threshold_in_sigmas_is_of_each_layers_own_weights(tau):
    module = small()
    masks = sc.Masks.make(module, sc.Recipe(budget=sc.threshold(tau)))
    for line in masks.report:
        if line.status == "pruned":
            weight = module.get_parameter(line.name).detach()
            expected = float(tau.removesuffix("sigma")) * float(weight.double().std(correction=0))
            assert line.tau == pytest.approx(expected, rel=1e-12)
            assert torch.equal(masks[line.name], weight.abs() > line.tau)


def test_tied_weights_are_counted_once_and_stay_tied():
    module = Tied()
    masks = sc.prune(module, HALF)
    assert module.first.weight is module.second.weight
    assert len(masks) == 2
    assert masks.n_weights == 36 + 18
    assert masks.n_weights - masks.n_kept == 27
    n_zeros = int((module.first.weight == 0).sum()) + int((module.head.weight == 0).sum())
    assert n_zeros == 27


def test_a_tied_weight_is_skipped_if_any_of_its_names_is():
    assert list(sc.Masks.make(LanguageModel(), HALF)) == ["ffn.weight"]
    assert list(sc.Masks.make(Tied(), sc.Recipe(budget=sc.sparsity(0.5), skip=["second.*"]))) == ["head.weight"]


def test_no_parameter_is_renamed_or_replaced():
    module = Everything()
    keys, owners = list(module.state_dict()), {name: id(p) for name, p in module.named_parameters()}
    sc.prune(module, HALF)
    assert list(module.state_dict()) == keys
    assert {name: id(p) for name, p in module.named_parameters()} == owners
    assert not any(m._forward_pre_hooks or hasattr(m, "parametrizations") for m in module.modules())


def test_deepcopy_state_dict_and_compile_of_a_masked_model_keep_working():
    module = Everything().eval()
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    sc.prune(module, HALF)
    answer = module(tokens)
    twin = copy.deepcopy(module)
    fresh = Everything().eval()
    fresh.load_state_dict(module.state_dict())
    compiled = torch.compile(module, backend="eager")
    for other in (twin, fresh, compiled):
        torch.testing.assert_close(other(tokens), answer)


def test_masks_fit_a_compiled_an_averaged_and_a_copied_network():
    module = small()
    masks = sc.Masks.make(module, HALF)
    compiled = torch.compile(small(), backend="eager")
    averaged = torch.optim.swa_utils.AveragedModel(small())
    for other in (compiled, averaged, copy.deepcopy(module)):
        masks.apply(other)
        zeros = [p.detach() == 0 for p in other.parameters() if p.dim() == 2]
        assert all(torch.equal(zero, ~keep) for zero, keep in zip(zeros, masks.values(), strict=True))
    assert list(sc.Masks.make(compiled, HALF)) == list(masks)


def test_a_child_called_module_keeps_its_name():
    network = nn.Module()
    network.module = nn.Linear(4, 3)
    assert list(sc.prune(network, HALF)) == ["module.weight"]
    assert int((network.module.weight == 0).sum()) == 6


def test_masks_do_not_fit_another_network():
    masks = sc.Masks.make(small(), HALF)
    with pytest.raises(InputError, match=r"2\.weight"):
        masks.apply(nn.Sequential(nn.Linear(5, 8)))
    with pytest.raises(InputError, match=r"0\.weight"):
        masks.apply(nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3)))


@pytest.mark.parametrize("words", [{"unit": "row"}, {"unit": "column"}, {"pool": "row"}, {"pool": 2}])
def test_conv1d_of_gpt2_is_pruned_as_the_linear_layer_it_is(words):
    linear, turned = nn.Linear(6, 4), Conv1D(4, 6)
    with torch.no_grad():
        turned.weight.copy_(linear.weight.t())
    recipe = sc.Recipe(**{"pool": "layer", "budget": sc.sparsity(0.5), **words})
    keep, kept = sc.prune(linear, recipe)["weight"], sc.prune(turned, recipe)["weight"]
    assert kept.shape == turned.weight.shape
    assert torch.equal(kept.t(), keep)
    assert torch.equal(turned.weight.t(), linear.weight)


@pytest.mark.parametrize("words", [{"unit": "row"}, {"unit": "column"}, {"pool": "row"}, {"pool": 2}])
def test_a_transposed_convolution_is_pruned_as_the_convolution_it_mirrors(words):
    conv, turned = nn.Conv2d(6, 4, 3), nn.ConvTranspose2d(6, 4, 3)
    with torch.no_grad():
        turned.weight.copy_(conv.weight.transpose(0, 1))
    recipe = sc.Recipe(**{"pool": "layer", "budget": sc.sparsity(0.5), **words})
    keep, kept = sc.prune(conv, recipe)["weight"], sc.prune(turned, recipe)["weight"]
    assert torch.equal(kept.transpose(0, 1), keep)


def test_a_row_of_a_grouped_transposed_convolution_is_one_output_channel():
    module = nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.arange(1.0, 13.0).reshape(4, 3, 1, 1))
    sc.prune(module, sc.Recipe(unit="row", pool="layer", budget=sc.sparsity(0.5)))
    answer = module(torch.ones(1, 4, 1, 1)).flatten()
    # Output g * 3 + j sums weight[2g, j] and weight[2g + 1, j]; the second group is the larger.
    assert answer.tolist() == [0.0, 0.0, 0.0, 17.0, 19.0, 21.0]


def test_sparsity_is_the_exact_share():
    """Bug: 1 - 7/10 is 0.30000000000000004."""
    assert sc.Masks.make(nn.Linear(10, 1), sc.Recipe(budget=sc.sparsity(0.3))).sparsity == 0.3


def test_an_impossible_layer_is_an_error_if_a_pattern_of_only_means_it_but_not_under_a_star():
    module = nn.Sequential(nn.Linear(8, 4), nn.Linear(6, 4))
    with pytest.raises(PatternError, match=r"1\.weight"):
        sc.Masks.make(module, sc.Recipe(pool=4, budget=sc.top(2), only=["1.*"]))
    masks = sc.Masks.make(module, sc.Recipe(pool=4, budget=sc.top(2), only=["*"]))
    assert (list(masks), status_of(masks)["1.weight"]) == (["0.weight"], "impossible")
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(8, 4))
    module[0].other = module[0].weight
    with pytest.raises(PatternError, match=r"0\.weight"):
        sc.Masks.make(module, sc.Recipe(pool=4, budget=sc.top(2), only=["0.other", "1.weight"]))


def test_masks_of_a_tied_network_zero_every_name_of_an_untied_one(tmp_path):
    """Bug: in a copy whose weights were not tied, only the first of them was zeroed."""
    sc.Masks.make(Tied(), HALF).save(tmp_path / "masks")
    masks, untied = sc.Masks.load(tmp_path / "masks"), Tied()
    untied.second.weight = nn.Parameter(torch.ones(6, 6))
    masks.apply(untied)
    assert torch.equal(untied.second.weight.detach(), masks["first.weight"].float())
    untied.second = nn.Identity()
    masks.apply(untied)


def saved_with(path, change, form="secateurs.masks/1"):
    """A masks file whose checksum is right and whose contents are changed."""
    sc.Masks.make(nn.Linear(4, 3), HALF).save(path)
    with safe_open(path, framework="numpy") as file:
        header, bits = json.loads(file.metadata()["secateurs"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about = change(json.loads(header["about"]))
    text = json.dumps(about)
    header = {"format": form, "about": text, "sha256": _checksum(text, bits)}
    path.write_bytes(save(bits, {"secateurs": json.dumps(header)}))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda about: [],
        lambda about: None,
        lambda about: {},
        lambda about: {**about, "later": 1},
        lambda about: {**about, "shapes": {}},
        lambda about: {**about, "shapes": {"weight": [-3, -4]}},
        lambda about: {**about, "shapes": {"weight": [3.0, 4]}},
        lambda about: {**about, "shapes": {"weight": "34"}},
        lambda about: {**about, "shapes": {"weight": [10**30, 10**30]}},
        lambda about: {**about, "shapes": {"weight": [3, 4], "other": [3, 4]}},
        lambda about: {**about, "shapes": [["weight", [3, 4]]]},
        lambda about: {**about, "report": None},
        lambda about: {**about, "report": [1]},
        lambda about: {**about, "report": [{**about["report"][0], "later": 1}]},
        lambda about: {**about, "report": [{**about["report"][0], "n": "many"}]},
        lambda about: {**about, "report": [{**about["report"][0], "status": "gone"}]},
        lambda about: {**about, "recipe": {"budget": "nonsense"}},
        lambda about: {**about, "recipe": 7},
    ],
)
def test_a_malformed_masks_file_is_one_input_error(change, tmp_path):
    with pytest.raises(InputError, match="does not hold masks"):
        sc.Masks.load(saved_with(tmp_path / "masks", change))


def test_a_masks_file_of_a_newer_version_says_so(tmp_path):
    assert sc.Masks.load(saved_with(tmp_path / "masks", dict)).n_weights == 12
    with pytest.raises(InputError, match="another version: update secateurs"):
        sc.Masks.load(saved_with(tmp_path / "masks", dict, "secateurs.masks/2"))
