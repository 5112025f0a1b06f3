"""Stock loaders: our plain weights load with no difference; packed ones raise, and never give random weights."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateurs.checkpoint.packed_directory import PACKED, PLAIN, pack_beside
from secateurs.checkpoint.packing import load, pack
from secateurs.checkpoint.streamed import prune_checkpoint
from secateurs.recipe import Recipe

needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's code


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT with random weights, as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("bert") / "model"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(transformers.BertConfig(vocab_size=99, **sizes)).save_pretrained(place)
    return place


def assert_loads(place, expected):
    """`from_pretrained` finds every weight, none beyond, and each bit of it."""
    import transformers

    network, info = transformers.AutoModel.from_pretrained(place, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"] - {"embeddings.position_ids"}  # a buffer that old files hold
    assert not info["mismatched_keys"]
    found = network.state_dict()
    assert found.keys() == expected.keys() - {"embeddings.position_ids"}
    assert all(torch.equal(found[name], expected[name]) for name in found)


@needs_transformers
def test_transformers_loads_what_prune_wrote(bert, tmp_path):
    prune_checkpoint(bert, Recipe(budget="sparsity(0.7)"), tmp_path / "pruned")
    expected = load_file(tmp_path / "pruned" / PLAIN)
    assert sum(int((weight == 0).sum()) for weight in expected.values()) > 10_000
    assert_loads(tmp_path / "pruned", expected)


@needs_transformers
@pytest.mark.parametrize("values", ["exact", "int8"])
def test_transformers_loads_the_plain_weights_beside_packed_ones(bert, tmp_path, values):
    prune_checkpoint(bert, Recipe(budget="sparsity(0.7)"), tmp_path / "pruned")
    pack_beside(tmp_path / "pruned", tmp_path / "out", values)
    assert_loads(tmp_path / "out", load(tmp_path / "out" / PACKED))


@needs_transformers
@pytest.mark.parametrize("name", [PACKED, "model.packed.safetensors"])
def test_transformers_refuses_a_directory_of_packed_weights_alone(bert, tmp_path, name):
    import transformers

    shutil.copy(bert / "config.json", tmp_path)
    pack(bert, tmp_path / name)
    with pytest.raises(OSError, match=r"model.safetensors|no file named"):
        transformers.AutoModel.from_pretrained(tmp_path)


@needs_transformers
def test_a_packed_file_that_somebody_renames_has_no_weight_for_transformers(bert, tmp_path):
    """It does not raise, which is why a packed file must keep its name; but it reports every weight as missing."""
    import transformers

    shutil.copy(bert / "config.json", tmp_path)
    pack(bert, tmp_path / PACKED)
    os.rename(tmp_path / PACKED, tmp_path / PLAIN)
    network, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == network.state_dict().keys()


def test_safetensors_sees_coded_bytes_and_load_state_dict_raises(tmp_path):
    module = torch.nn.Linear(20, 10)
    save_file(module.state_dict(), tmp_path / PLAIN)
    pack(tmp_path / PLAIN, tmp_path / PACKED)
    found = load_file(tmp_path / PACKED)
    assert {tensor.dtype for tensor in found.values()} == {torch.uint8}
    assert not found.keys() & module.state_dict().keys()
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "weight", "bias"'):
        module.load_state_dict(found, strict=True)


@pytest.mark.slow
@needs_transformers
def test_a_real_encoder_loads_with_no_difference(tmp_path):
    """all-MiniLM-L6-v2, whose directory $SECATEURS_MINILM names."""
    path = os.environ.get("SECATEURS_MINILM")
    if not path:
        pytest.skip("needs a real encoder: set SECATEURS_MINILM to its directory")
    prune_checkpoint(Path(path), Recipe(budget="sparsity(0.7)", only=("encoder.*",)), tmp_path / "pruned")
    assert_loads(tmp_path / "pruned", load_file(tmp_path / "pruned" / PLAIN))
    pack_beside(tmp_path / "pruned", tmp_path / "out", {"": "int8", "*_embeddings.weight": "int4"})
    assert_loads(tmp_path / "out", load(tmp_path / "out" / PACKED))
