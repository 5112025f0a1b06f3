"""Laws of streamed pruning: a file is pruned to the very bits, counts and refusals of the live network."""

import copy
import json
import math
import os
import warnings
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import product
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import secateurs as sc
from laws.networks import Conv1D
from laws.test_exact import on_ranks
from secateurs.checkpoint import cutting, streamed
from secateurs.checkpoint.cutting import Cutter
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.plan import make_plan
from secateurs.checkpoint.streamed import prune_checkpoint
from secateurs.errors import CollapseWarning, PatternError, SecateursError
from secateurs.exact import parts
from secateurs.exact.ranks import ALONE
from secateurs.scores import SCORES

pytestmark = pytest.mark.filterwarnings("ignore::secateurs.errors.CollapseWarning")

CONTENTS = ("normal", "ties", "sparse", "minus", "denormal", "equal", "permuted")
BROKEN = ("nan", "inf")  # in one weight
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Network(nn.Module):
    """Every layout and floating dtype, tied weights that are cut, and tied ones that are not."""

    def __init__(self, has_more=False):
        super().__init__()
        if has_more:  # layouts of which a file says nothing
            self.up = nn.ConvTranspose2d(6, 8, 3, groups=2)
            self.across = nn.ConvTranspose1d(6, 4, 2, dtype=torch.float64)
        self.embed = nn.Embedding(9, 8, dtype=torch.bfloat16)
        self.attn = nn.Module()
        self.attn.c_attn = Conv1D(12, 8)
        self.mlp = nn.ModuleDict({"c_fc": Conv1D(1, 6), "c_proj": Conv1D(6, 1)})
        self.mlp["c_fc"].to(torch.float16)
        self.mlp["c_proj"].to(torch.bfloat16)
        self.conv = nn.Conv2d(4, 8, 3, dtype=torch.float16)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, dtype=torch.float64)
        self.odd = nn.Linear(5, 7)
        self.fc = nn.Linear(8, 14, dtype=torch.bfloat16)
        self.one = nn.Linear(4, 4, bias=False)
        self.other = nn.Linear(4, 4, bias=False)
        self.other.weight = self.one.weight
        self.head = nn.Linear(8, 9, bias=False, dtype=torch.bfloat16)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(3))


def filled(shape, dtype, how):
    """A weight of this shape."""
    normal = torch.randn(shape, dtype=torch.float64)
    if how == "ties":
        normal = (normal * 2).round() / 2
    if how == "sparse":
        normal = normal * (torch.rand(shape) < 0.3)
    if how == "minus":
        normal = normal.round() * -0.0 - normal.abs() * (torch.rand(shape) < 0.5)
    if how == "denormal":
        normal = (normal * 3).round() * 2.0 ** {torch.float16: -24, torch.bfloat16: -133, torch.float32: -149}.get(
            dtype, 0
        )
        if dtype == torch.float64:
            return (torch.randn(shape) * 3).long().abs().view(torch.float64)
    if how == "equal":
        normal = torch.full(shape, -0.3, dtype=torch.float64)
    if how == "permuted":  # every row has the same mean
        row = torch.randn(math.prod(shape[1:]), dtype=torch.float64)
        normal = torch.stack([row[torch.randperm(len(row))] for _ in range(shape[0])]).view(shape)
    return normal.to(dtype)


def network(how, has_more=False):
    """The network with such weights, the same every time."""
    return copy.deepcopy(_network(how, has_more))


@cache
def _network(how, has_more):
    torch.manual_seed(0)
    made = Network(has_more)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(filled(tuple(parameter.shape), parameter.dtype, how))
        if how in BROKEN:
            made.fc.weight[3, 2] = float(how)
            made.embed.weight[1, 1] = float(how)
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """{content}/{file, shards, torch}: the networks as files; only to be read."""
    place = tmp_path_factory.mktemp("networks")
    for how in (*CONTENTS, *BROKEN):
        state = network(how).state_dict()
        once = {name: value for name, value in state.items() if name not in ("other.weight", "head.weight")}
        for kind in ("file", "shards", "torch"):
            (place / how / kind).mkdir(parents=True)
            (place / how / kind / "config.json").write_text('{"model_type": "gpt2"}')
        save_file(once, place / how / "file" / "model.safetensors")
        torch.save(state, place / how / "torch" / "model.pt")
        homes = {name: f"model-{len(name) % 3 + 1}-of-3.safetensors" for name in once}
        for file in set(homes.values()):
            save_file({n: v for n, v in once.items() if homes[n] == file}, place / how / "shards" / file)
        index = place / how / "shards" / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    return place


@contextmanager
def small_machine(stretch=67, piece=61, sliced=200, threads="1"):
    """So small that every tensor is read and written in many stretches; nothing is waited for."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(cutting, STRETCH=stretch, PIECE=piece))
        stack.enter_context(mock.patch.object(parts, "PIECE", piece))
        stack.enter_context(mock.patch.object(streamed, "_SLICE", sliced))
        stack.enter_context(mock.patch.dict("os.environ", SECATEURS_THREADS=threads))
        stack.enter_context(mock.patch.object(os, "fsync"))
        yield


def live(how, recipe, has_more=False):
    """(state_dict, report, names of the emptied) of the pruned network, or the class of the refusal."""
    made = network(how, has_more)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CollapseWarning)
        try:
            masks = sc.prune(made, recipe)
        except SecateursError as error:
            return type(error)
    return made.state_dict(), masks.report, emptied(caught)


def expected_of(refusal, how):
    """The refusals that may come: where two things are wrong, either is said, as files are planned before read."""
    return (refusal, PatternError) if how in BROKEN else refusal


def emptied(caught):
    return {str(each.message).split("'")[1] for each in caught if each.category is CollapseWarning}


def assert_same_bits(found, expected):
    for name, value in found.items():
        bits = BITS[value.element_size()]
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value.reshape(-1).view(bits), expected[name].reshape(-1).view(bits)), name


def assert_same_report(layers, report, names_of):
    """The manifest's layers say what the live report says; the file may know fewer names of a tied weight."""
    lines = {line.name: line for line in report}
    for layer in layers:
        if layer["name"] not in lines:  # a buffer
            assert (layer["status"], layer["n_pruned"]) == ("skipped", 0)
            continue
        line = lines.pop(layer["name"])
        assert tuple(layer["shape"]) == line.shape
        assert (layer["n"], layer["n_pruned"], layer["status"]) == (line.n, line.n_pruned, line.status), line.name
        tied = " (tied)" if names_of == 1 else ""
        assert layer["reason"] == line.reason.removesuffix(tied)
        assert (layer["tau"], layer["sigma"]) == (line.tau, line.sigma)
    assert not lines


def assert_streamed_is_live(source, how, recipe, out, ranks=ALONE):
    expected = live(how, recipe)
    if isinstance(expected, type):
        with pytest.raises(expected_of(expected, how)):
            prune_checkpoint(source, recipe, out, ranks)
        assert not (out / "secateurs.json").exists()
        assert source.name == "shards" or not out.exists()  # earlier shards may be written before weights are refused
        return
    state, report, empty = expected
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CollapseWarning)
        manifest = prune_checkpoint(source, recipe, out, ranks)
    assert emptied(caught) == empty
    found = {}
    for file in sorted(out.glob("*.safetensors")):
        found |= load_file(file)
    assert set(state) - set(found) == {"other.weight", "head.weight"}
    assert_same_bits(found, state)
    assert_same_report(manifest["layers"], report, 2 if source.name == "torch" else 1)
    assert manifest["totals"]["n_pruned"] == sum(line.n_pruned for line in report)
    assert manifest["totals"]["n_zero"] == sum(
        int((found[line.name] == 0).sum()) for line in report if line.status == "pruned"
    )


# --------------------------------------------------------------------------------------------------- every recipe

UNITS_POOLS = [("element", pool) for pool in ("model", "layer", "row", "4", "2")]
UNITS_POOLS += [(unit, pool) for unit in ("row", "column", "block(2, 2)") for pool in ("model", "layer")]
UNITS_POOLS += [("block(1, 2)", "row"), ("block(1, 2)", "4"), ("block(1, 1)", "layer")]
MAPPING = {"attn*": "sparsity(0.5)", "*conv*": "top(1)", "f*": "threshold(0.4)", "o*": "sparsity(1.0)"}
BUDGETS = ["sparsity(0.0)", "sparsity(0.5)", "sparsity(0.73)", "sparsity(1.0)", "threshold(0.45)"]
BUDGETS += ["threshold(1.1sigma)", "top(2)", "erk(0.7)", MAPPING, {"*": "threshold(0.8sigma)"}]
MIN_KEEPS = (0, 3, 0.1)


def every_recipe():
    """All that go together, each with one min_keep and one content, so that all of those are walked too."""
    found = []
    for i, (score, (unit, pool), budget) in enumerate(product(SCORES, UNITS_POOLS, BUDGETS)):
        words = {"score": score, "unit": unit, "pool": pool, "budget": budget, "min_keep": MIN_KEEPS[i % 3]}
        try:
            recipe = sc.Recipe(**words)
        except SecateursError:
            continue
        how = CONTENTS[(i + i // len(CONTENTS)) % len(CONTENTS)]
        found.append(pytest.param(recipe, how, id=f"{recipe}-{how}".replace(" ", "_")))
    return found


@pytest.mark.parametrize(("recipe", "how"), every_recipe())
def test_streamed_is_live_bit_for_bit(recipe, how, home, tmp_path):
    with small_machine():
        assert_streamed_is_live(home / how / "file", how, recipe, tmp_path / "out")


@st.composite
def recipes(draw):
    """Any that go together, places included."""
    while True:
        unit, pool = draw(st.sampled_from(UNITS_POOLS))
        try:
            return sc.Recipe(
                score=draw(st.sampled_from([*SCORES, "random(7)"])),
                unit=unit,
                pool=pool,
                budget=draw(st.sampled_from(BUDGETS) | st.floats(0, 1).map(lambda s: f"sparsity({s})")),
                min_keep=draw(st.sampled_from(MIN_KEEPS)),
                skip=draw(st.sampled_from([(), ("conv*",), ("one*", "*bias")])),
                only=draw(st.sampled_from([(), ("*",), ("attn*", "fc.weight"), ("embed*",), ("odd*",)])),
            )
        except SecateursError:
            continue


machines = st.fixed_dictionaries(
    {
        "stretch": st.sampled_from([7, 64, 1 << 22]),
        "piece": st.sampled_from([16, 100, 1 << 20]),
        "sliced": st.sampled_from([13, 1 << 22]),
        "threads": st.sampled_from(["1", "2", "3"]),
    }
)


@settings(max_examples=100)
@given(recipes(), st.sampled_from(CONTENTS + BROKEN), st.sampled_from(["file", "shards", "torch"]), machines)
def test_any_recipe_place_source_and_machine(home, tmp_path_factory, recipe, how, kind, sizes):
    with small_machine(**sizes):
        out = tmp_path_factory.mktemp("any") / "out"
        assert_streamed_is_live(home / how / kind, how, recipe, out)


@settings(max_examples=40)
@given(recipes(), st.sampled_from(CONTENTS + BROKEN), machines)
def test_a_live_network_is_a_source_too(tmp_path_factory, recipe, how, sizes):
    expected = live(how, recipe, True)
    source, out = network(how, True), tmp_path_factory.mktemp("module") / "out"
    with small_machine(**sizes):
        if isinstance(expected, type):
            with pytest.raises(expected_of(expected, how)):
                prune_checkpoint(source, recipe, out)
        else:
            manifest = prune_checkpoint(source, recipe, out)
            assert_same_bits(load_file(out / "model.safetensors"), expected[0])
            assert_same_report(manifest["layers"], expected[1], 2)
    assert_same_bits(source.state_dict(), network(how, True).state_dict())


@settings(max_examples=60)
@given(recipes(), st.sampled_from(CONTENTS + BROKEN), machines)
def test_zero_out_is_prune_without_masks(recipe, how, sizes):
    expected, made = live(how, recipe, True), network(how, True)
    with small_machine(**sizes):
        if isinstance(expected, type):
            with pytest.raises(expected_of(expected, how)):
                sc.zero_out(made, recipe)
            assert_same_bits(made.state_dict(), network(how, True).state_dict())
        else:
            report = sc.zero_out(made, recipe)
            assert_same_bits(made.state_dict(), expected[0])
            assert [line for line in report if line.name not in ("steps",)] == list(expected[1])


@settings(max_examples=40)
@given(recipes(), st.sampled_from(CONTENTS + BROKEN), st.sampled_from([2, 3, 5]))
def test_ranks_together_write_what_one_writes(home, tmp_path_factory, recipe, how, n):
    source, place = home / how / "shards", tmp_path_factory.mktemp("ranks")
    with small_machine():
        try:
            one = prune_checkpoint(source, recipe, place / "one")
        except SecateursError as error:
            with pytest.raises(type(error)):
                on_ranks(n, lambda ranks: prune_checkpoint(source, recipe, place / "many", ranks))
            return
        assert on_ranks(n, lambda ranks: prune_checkpoint(source, recipe, place / "many", ranks)) == [one] * n
    written = sorted(path.name for path in (place / "many").iterdir())
    assert written == sorted(path.name for path in (place / "one").iterdir())
    for name in written:
        assert (place / "many" / name).read_bytes() == (place / "one" / name).read_bytes(), name


# ------------------------------------------------------------------------------------------- what a knife says it cuts


@settings(max_examples=60)
@given(recipes(), st.sampled_from(CONTENTS))
def test_a_knife_cuts_as_many_as_it_says_in_any_stretches(home, recipe, how):
    with small_machine(), open_checkpoint(home / how / "file") as checkpoint:
        try:
            plan = make_plan(checkpoint, recipe)
            cutter = Cutter(checkpoint, plan)
            cutter.prepare()
        except SecateursError:
            return
        for each in plan.cut:
            (bits, n_before, n_after), whole = (pruned_in(n, cutter, each) for n in (67, 1 << 22))
            assert (bits, n_before, n_after) == whole
            assert n_before <= n_after <= n_before + cutter.knife(each).n_pruned <= n_before + each.entry.n
            before = checkpoint.stored(each.entry)
            assert n_after == int(((np.frombuffer(bits, before.dtype) & each.kind.mask) == 0).sum())
            assert n_before == int(((before & each.kind.mask) == 0).sum())


def pruned_in(stretch, cutter, each):
    """(bytes, zeros before, zeros after) of one tensor, in stretches of so many weights."""
    with mock.patch.object(cutting, "STRETCH", stretch):
        found = list(cutter.pruned(each, cutter.knife(each)))
    return b"".join(bits.tobytes() for bits, _, _ in found), sum(n for _, n, _ in found), sum(n for _, _, n in found)
