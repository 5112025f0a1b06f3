"""`secateurs shrink`: what it prints and writes, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch

from secateurs.data import InputShape
from secateurs.models import ModelSpec, build, save_model
from secateurs.structure.files import load_shrunk

SHAPE = InputShape(kind="image", size=(1, 8, 8), n_classes=5)


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


def test_what_it_refuses(secateurs, source, tmp_path):
    for arguments, code, message in [
        (["--sparsity", "0.5"], 2, "Say where to write"),
        (["-o", "x"], 2, "Say how much is to go"),
        (["-o", "x", "--sparsity", "0.5", "--dead"], 2, "Say how much is to go"),
        (["-o", str(source), "--sparsity", "0.5"], 4, "is not empty"),
        (["-o", str(tmp_path / "x"), "--sparsity", "0.5", "--unit", "channel"], 2, "This network has no 'channel'"),
    ]:
        said = secateurs("shrink", str(source), *arguments)
        assert said.code == code, (arguments, said)
        assert message in said.err
    (tmp_path / "empty").mkdir()
    said = secateurs("shrink", str(tmp_path / "empty"), "--dead", "--dry-run")
    assert said.code == 3
    assert "has no readable config.json" in said.err
    assert not (tmp_path / "x").exists()
