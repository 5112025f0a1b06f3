"""`secateurs shrink`: what it prints and writes, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch

import secateurs as sc
from secateurs.checkpoint.packing import pack
from secateurs.data import Dataset, DataSpec, InputShape, load_data
from secateurs.data.splits import in_proportion
from secateurs.measure.accuracy import accuracy
from secateurs.models import ModelSpec, build, load_model, save_model
from secateurs.structure.files import load_shrunk
from secateurs.train.loop import train
from secateurs.train.training import Training

SHAPE = InputShape(kind="image", size=(1, 8, 8), n_classes=5)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(DataSpec())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A reference network in its directory."""
    spec = ModelSpec.parse("cls-transformer(dim=24, heads=4, ffn=32)")
    save_model(build(spec, SHAPE, 0), spec, SHAPE, tmp_path / "model")
    return tmp_path / "model"


def test_a_reference_network_is_shrunk_and_opened(secateurs, source, tmp_path):
    out = tmp_path / "small"
    said = secateurs("shrink", str(source), "-o", str(out), "--macs", "0.8", "--unit", "row")
    assert said.code == 0, said.err
    assert "blocks.0.ffn.up.weight" in said.out
    assert "impossible: normalised across" in said.out
    assert "multiply-adds" in said.out
    assert f"{out}: open it with secateurs.load_shrunk." in said.out
    small = load_shrunk(out)
    assert small.blocks[0].ffn.up.weight.shape[0] < 32
    assert small(torch.randn(2, 1, 8, 8)).shape == (2, 5)


def test_recipes_in_turn_and_json(secateurs, source, tmp_path):
    said = secateurs(
        *("shrink", str(source), "-o", str(tmp_path / "small"), "--json"),
        *("--recipe", "l2 row layer sparsity(0.5)", "--recipe", "l2 head layer sparsity(0.25)"),
    )
    rows, heads = json.loads(said.out)
    assert rows["n_parameters"][1] == heads["n_parameters"][0]
    assert {group["n_removed"] for group in heads["groups"] if group["kind"] == "head"} == {1}
    assert load_shrunk(tmp_path / "small").blocks[0].attention.heads == 3


def test_a_network_of_transformers_keeps_its_tokenizer_and_opens_with_stock_code(secateurs, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("a\nb\n")
    out = tmp_path / "small"
    said = secateurs("shrink", str(tmp_path / "bert"), "-o", str(out), "--sparsity", "0.5")
    assert said.code == 0, said.err
    assert "open it with from_pretrained" in said.out
    assert transformers.BertForSequenceClassification.from_pretrained(out).config.intermediate_size == 16
    assert (out / "vocab.txt").read_text() == "a\nb\n"


def test_dead_units_alone(secateurs, source):
    said = secateurs("shrink", str(source), "--dead", "--dry-run")
    assert said.code == 0, said.err
    assert "0 of 72 units are gone" in said.out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """A network that knows digits a little."""
    spec = ModelSpec.parse("lenet-300-100")
    module = build(spec, digits.shape, 0)
    for _ in train(module, digits, Training(epochs=1.0), seed=0):
        pass
    place = tmp_path_factory.mktemp("trained") / "model"
    save_model(module, spec, digits.shape, place, digits.about)
    return place


@pytest.mark.parametrize("score", ["activation", "taylor"])
def test_scores_that_look_at_examples(secateurs, trained, digits, tmp_path, score):
    words = ("shrink", str(trained), "-o", str(tmp_path / "small"), "--score", score, "--sparsity", "0.5")
    said = secateurs(*words, "--data", "digits", "--examples", "200", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)[0]["validation"]
    before, after = (
        accuracy(each, digits.x_val, digits.y_val) for each in (load_model(trained)[0], load_shrunk(tmp_path / "small"))
    )
    assert found["before"] == before.values()
    assert found["after"] == after.values()
    python = sc.shrink(
        load_model(trained)[0],
        sc.Recipe.parse(f"{score} row layer sparsity(0.5)"),
        digits.x_train[:2],
        calibration=calibration_of(digits, score),
        loss=loss,
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(python.module.parameters(), load_shrunk(tmp_path / "small").parameters(), strict=True)
    )


def calibration_of(digits, score):
    pairs = [(digits.x_train[each], digits.y_train[each]) for each in in_proportion(digits.y_train, 200).split(100)]
    return pairs if score == "taylor" else [x for x, _ in pairs]


def loss(network, batch):
    return torch.nn.functional.cross_entropy(network(batch[0]), batch[1])


def test_repair_wins_back_what_a_cut_cost(secateurs, trained, tmp_path):
    found = {}
    for more in ((), ("--repair",)):
        out = tmp_path / f"small{len(more)}"
        said = secateurs(
            "shrink", str(trained), "-o", str(out), "--sparsity", "0.8", "--data", "digits", "--json", *more
        )
        assert said.code == 0, said.err
        found[more] = json.loads(said.out)[0]["validation"]["after"]["value"]
    assert found["--repair",] > found[()]
    told = secateurs("shrink", str(trained), "--dry-run", "--sparsity", "0.8", "--data", "digits")
    assert "validation examples: " in told.out
    assert "points lost" in told.out


def test_what_looks_at_examples_needs_some(secateurs, trained, tmp_path):
    for more, message in (
        (("--repair",), "--repair looks at examples"),
        (("--score", "taylor"), "The score taylor looks at examples"),
        (("--data", "digitz"), "digitz"),
    ):
        said = secateurs("shrink", str(trained), "-o", str(tmp_path / "x"), "--sparsity", "0.5", *more)
        assert said.code in (2, 3), said
        assert message in said.err
    assert not (tmp_path / "x").exists()


def test_what_it_refuses(secateurs, source, tmp_path):
    for arguments, code, message in [
        (["--sparsity", "0.5"], 2, "Say where to write"),
        (["-o", "x"], 2, "Say how much is to go"),
        (["-o", "x", "--sparsity", "0.5", "--dead"], 2, "Say how much is to go"),
        (["-o", str(source), "--sparsity", "0.5"], 4, "is not empty"),
        (["-o", str(tmp_path / "x"), "--sparsity", "0.1", "--unit", "head"], 2, "takes nothing: of every group"),
        (["-o", str(tmp_path / "x"), "--latency", "8"], 2, "a time with its unit, such as 8ms"),
        (["--dead", "--dry-run", "--score", "random"], 2, "With --dead, --score would mean nothing"),
        (["--recipe", "l2 row layer sparsity(0.5)", "--dry-run", "--unit", "head"], 2, "With --recipe, --unit would"),
        (["--dead", "--dry-run", "--block", "fc1"], 2, "With no --picture, --block"),
        (["--dead", "--dry-run", "--examples", "5"], 2, "With no --data, --examples"),
        (["--dead", "--dry-run", "--data-dir", "x"], 2, "With no --data, --data-dir"),
        (["--dead", "--dry-run", "--picture", "x.svg"], 2, "writes nothing, and no --picture"),
        (["--dead", "-o", str(tmp_path / "x"), "--picture", str(tmp_path / "no" / "x.svg")], 4, "its directory is not"),
        (["-o", str(tmp_path / "x"), "--sparsity", "0.5", "--unit", "channel"], 2, "This network has no 'channel'"),
        (
            ["-o", str(tmp_path / "x"), "--dead", "--picture", str(tmp_path / "x.svg"), "--block", "blokcs"],
            2,
            "No weight's name begins with 'blokcs'",
        ),
    ]:
        said = secateurs("shrink", str(source), *arguments)
        assert said.code == code, (arguments, said)
        assert message in said.err
    (tmp_path / "empty").mkdir()
    said = secateurs("shrink", str(tmp_path / "empty"), "--dead", "--dry-run")
    assert said.code == 3
    assert "has no readable config.json" in said.err
    assert not (tmp_path / "x").exists()


def test_what_lies_beside_the_network_is_carried_over_not_what_lies_around_it(secateurs, source, tmp_path):
    (source / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "README.md").write_text("of the run")
    packed = source / "weights.packed.safetensors"
    pack(source, packed)
    for k, place in enumerate((tmp_path, packed)):
        said = secateurs("shrink", str(place), "-o", str(tmp_path / f"out{k}" / "small"), "--sparsity", "0.5")
        assert said.code == 0, said.err
        names = sorted(path.name for path in (tmp_path / f"out{k}" / "small").iterdir())
        assert names == ["shrunk.json", "vocab.txt", "weights.shrunk.safetensors"]


def test_multiply_adds_are_of_one_example(secateurs, source):
    words = ("shrink", str(source), "--sparsity", "0.5", "--dry-run")
    found = json.loads(secateurs(*words, "--json").out)[0]["macs"]
    recipe = sc.Recipe.parse("l2 row layer sparsity(0.5)")
    assert found == [n // 4 for n in sc.shrink(load_model(source)[0], recipe, torch.randn(4, 1, 8, 8)).macs]
    assert f"multiply-adds of one example  {found[0]:,} → {found[1]:,}" in secateurs(*words).out


def test_a_picture_shows_weights_of_conv1d_outputs_down(secateurs, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    words = ("--sparsity", "0.5", "--picture", str(tmp_path / "x.svg"), "--block", "transformer.h.0.mlp.c_fc")
    said = secateurs("shrink", str(tmp_path / "gpt2"), "-o", str(tmp_path / "small"), *words)
    assert said.code == 0, said.err
    assert "32 × 8 → 16 × 8" in (tmp_path / "x.svg").read_text()


def test_a_directory_of_transformers_without_weights_is_exit_3(secateurs, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    said = secateurs("shrink", str(tmp_path), "--dead", "--dry-run")
    assert said.code == 3, said.err
    assert "transformers cannot open" in said.err
