"""A published encoder as a network: its weights, its padding, its files, its vocabulary; what is wrong is one error."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from secateurs.checkpoint.packing import load, pack
from secateurs.data import Dataset, DataSpec, InputShape, load_data
from secateurs.errors import InputError, RecipeError
from secateurs.layers import layers
from secateurs.models import ModelSpec, Network, build, load_model, save_model, save_stock, trim_vocabulary
from secateurs.models.files import config_of, fill
from secateurs.models.pretrained import Pretrained
from secateurs.recipe import Recipe
from secateurs.structure.files import load_shrunk, save_shrunk
from secateurs.structure.shrinking import shrink

transformers: Any = pytest.importorskip("transformers", reason="needs the extra hf")


@pytest.fixture(scope="module")
def data(tiny_texts: Path, tiny_encoder: Path) -> Dataset:
    return load_data(DataSpec(source=str(tiny_texts), tokenizer=str(tiny_encoder)))


@pytest.fixture(scope="module")
def spec(tiny_encoder: Path) -> ModelSpec:
    return ModelSpec.parse(f"pretrained(directory={tiny_encoder})")


@pytest.fixture
def network(spec: ModelSpec, data: Dataset) -> Network:
    return build(spec, data.shape, seed=3).eval()


def answers(module: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval()(x)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_it_answers_what_the_published_encoder_and_its_head_say(
    tiny_encoder: Path, data: Dataset, pooling: str
) -> None:
    spec = ModelSpec.parse(f"pretrained(directory={tiny_encoder}, pooling={pooling})")
    module = build(spec, data.shape, seed=3)
    published = transformers.AutoModel.from_pretrained(tiny_encoder).eval()
    for ids, logits in zip(data.x_test[:3], answers(module, data.x_test[:3]), strict=True):
        alone = ids[ids != 0][None]  # one text without padding
        states = published(input_ids=alone).last_hidden_state[0]
        wanted = module.head(states[0] if pooling == "first" else states.mean(0))
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_never_changes_a_result(spec: ModelSpec, data: Dataset, pooling: str) -> None:
    module = build(ModelSpec(name="pretrained", args={**spec.args, "pooling": pooling}), data.shape, seed=0)
    x = data.x_test[:4]
    padded = torch.nn.functional.pad(x, (0, 5))
    torch.testing.assert_close(answers(module, padded), answers(module, x))
    assert torch.isfinite(answers(module, torch.zeros(2, 4, dtype=torch.int64))).all()


def test_it_keeps_the_promises_of_a_network(spec: ModelSpec, data: Dataset) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (build(spec, data.shape, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.get_parameter("head.weight"), other.get_parameter("head.weight"))
    ffnn = "encoder.encoder.layer.0.intermediate.dense.weight"
    assert first.tracked == {"cls-head": "head.weight", "ffnn": ffnn}
    assert torch.equal(first.get_parameter(ffnn), other.get_parameter(ffnn))
    assert first.hidden_names == ("encoder.encoder.layer.0", "encoder.encoder.layer.1")
    prunable = {layer.name for layer in layers(first) if layer.is_prunable}
    assert len(prunable) == 2 * 6 + 1
    assert not [name for name in prunable if "embedding" in name]
    assert not [name for name in dict(first.named_parameters()) if "pooler" in name]


def test_other_weights_are_another_network(tiny_encoder: Path, data: Dataset, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "one")
    spec = ModelSpec.parse(f"pretrained(directory={tmp_path / 'one'})")
    assert ModelSpec.parse(str(spec)) == spec
    assert spec.args["weights"] == ModelSpec.parse(f"pretrained(directory={tiny_encoder})").args["weights"]
    module = transformers.AutoModel.from_pretrained(tmp_path / "one")
    with torch.no_grad():
        module.embeddings.word_embeddings.weight[3, 3] += 1
    module.save_pretrained(tmp_path / "one")
    assert ModelSpec.parse(f"pretrained(directory={tmp_path / 'one'})").hash != spec.hash
    with pytest.raises(InputError, match=r"are sha256:\w{16}, not sha256:\w{16}\. Leave weights=\.\.\. out"):
        build(spec, data.shape, seed=0)


def test_a_saved_one_needs_neither_the_directory_nor_the_tokenizer_it_came_from(
    tiny_encoder: Path, tiny_texts: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(tiny_encoder, home)
    data = load_data(DataSpec(source=str(tiny_texts), tokenizer=str(home)))
    spec = ModelSpec.parse(f"pretrained(directory={home}, dropout=0.2)")
    module = build(spec, data.shape, seed=1)
    save_model(module, spec, data.shape, tmp_path / "model", {"data": data.name}, tokenizer=str(home))
    shutil.rmtree(home)
    loaded, config = load_model(tmp_path / "model")
    assert config.model == spec
    assert str(tmp_path) not in json.dumps(config.stock)
    assert torch.equal(answers(loaded, data.x_test), answers(module, data.x_test))
    again = load_data(DataSpec(source=str(tiny_texts), tokenizer=str(tmp_path / "model")))
    assert again.fingerprint == data.fingerprint


def test_a_trimmed_vocabulary_changes_no_answer_and_reads_the_rest_as_unknown(
    network: Network, spec: ModelSpec, data: Dataset, tmp_path: Path
) -> None:
    assert data.vocabulary is not None
    names = list(data.vocabulary)
    known = data.x_train[data.y_train != 0]  # "where", "my" and "card" do not occur, nor does "[MASK]"
    before = copy.deepcopy(network.state_dict())
    small = trim_vocabulary(network, known, names.index("[UNK]"))
    assert small.encoder.get_input_embeddings().num_embeddings == len(names) - 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(answers(small, known), answers(network, known))
    strange = data.x_train[data.y_train == 0][:1]
    gone = torch.isin(strange, torch.tensor([names.index(word) for word in ("where", "my", "card")]))
    as_unknown = strange.masked_fill(gone, names.index("[UNK]"))
    assert gone.any()
    assert torch.equal(answers(small, strange), answers(network, as_unknown))
    save_model(small, spec, data.shape, tmp_path / "small")
    loaded, config = load_model(tmp_path / "small")
    assert config.shape == data.shape
    assert torch.equal(answers(loaded, strange), answers(small, strange))
    pack(tmp_path / "small", tmp_path / "small.packed.safetensors")
    fill(loaded, load(tmp_path / "small.packed.safetensors"), "the packed file")
    assert torch.equal(answers(loaded, strange), answers(small, strange))
    # Once more, by fewer texts: what was gone stays gone.
    fewer = trim_vocabulary(loaded, known[:1], names.index("[UNK]"))
    assert torch.equal(answers(fewer, known[:1]), answers(network, known[:1]))
    assert torch.equal(answers(fewer, strange[:, :1]), answers(small, strange[:, :1]))
    assert "new_ids" in small.state_dict()


@pytest.mark.parametrize("is_trimmed", [False, True])
def test_an_exported_network_reads_texts_of_any_length(network: Network, data: Dataset, is_trimmed: bool) -> None:
    """What it exports cannot cut a batch to its longest text, which changes no answer."""
    module = trim_vocabulary(network, data.x_train[data.y_train != 0], 1) if is_trimmed else network
    free = torch.export.Dim.DYNAMIC
    example = torch.randint(1, 13, (2, 6))
    exported = torch.export.export(module, (example,), dynamic_shapes=({0: free, 1: free},)).module()
    x = torch.nn.functional.pad(data.x_test[:3], (0, 4))
    torch.testing.assert_close(exported(x), answers(module, x))


def test_nothing_to_trim_is_the_same_network(network: Network, data: Dataset) -> None:
    whole = trim_vocabulary(network, torch.arange(13), 1)
    assert whole.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(answers(whole, data.x_test), answers(network, data.x_test))


@pytest.mark.parametrize("is_trimmed", [False, True])
def test_stock_loaders_open_the_encoder(
    network: Network, data: Dataset, tiny_encoder: Path, tmp_path: Path, is_trimmed: bool
) -> None:
    from safetensors import safe_open

    module = trim_vocabulary(network, data.x_train[data.y_train != 0], 1) if is_trimmed else network
    save_stock(module, str(tiny_encoder), tmp_path / "stock")
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "stock").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "stock")
    ids = torch.tensor(tokenizer(["where is my card"])["input_ids"])
    with safe_open(str(tmp_path / "stock" / "head.safetensors"), framework="pt") as file:
        assert file.metadata()["pooling"] == "first"
        weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
    with torch.no_grad():
        logits = encoder(input_ids=ids).last_hidden_state[:, 0] @ weight.T + bias
    torch.testing.assert_close(logits, answers(module, ids), rtol=1e-5, atol=1e-6)


def test_a_shrunk_encoder_that_no_configuration_describes_is_refused(
    network: Network, tiny_encoder: Path, tmp_path: Path
) -> None:
    assert isinstance(network, Pretrained)
    network.encoder.encoder.layer[0].intermediate.dense.weight = torch.nn.Parameter(torch.zeros(7, 16))
    with pytest.raises(RecipeError, match=r"cannot say the size of 'encoder.layer.0.intermediate.dense.weight'"):
        save_stock(network, str(tiny_encoder), tmp_path / "stock")
    with pytest.raises(RecipeError, match="Only the network 'pretrained'"):
        save_stock(build(ModelSpec(name="lenet-300-100"), IMAGES, 0), str(tiny_encoder), tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


IMAGES = InputShape(kind="image", size=(1, 8, 8), n_classes=10)


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({}, IMAGES, "pretrained reads texts; the data are 1x8x8 images"),
        ({"pooling": "last"}, None, "no pooling 'last'. Known: first, mean"),
        ({"dropout": 1.0}, None, r"dropout must be a number in \[0, 1\)"),
        ({}, InputShape(kind="tokens", size=(13, 25), n_classes=3), "reads up to 24 tokens; .* Lower max_length"),
        ({}, InputShape(kind="tokens", size=(14, 8), n_classes=3), "has 13 tokens; .* out of 14.* not its tokenizer's"),
    ],
)
def test_what_does_not_fit(
    spec: ModelSpec, data: Dataset, arguments: dict[str, Any], shape: InputShape | None, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build(ModelSpec(name="pretrained", args={**spec.args, **arguments}), shape or data.shape, seed=0)


def test_unusable_directories(tiny_encoder: Path, data: Dataset, tmp_path: Path, network: Network) -> None:
    with pytest.raises(InputError, match=r"There is no directory '.*nowhere'. Give one that holds a model"):
        ModelSpec.parse(f"pretrained(directory={tmp_path / 'nowhere'})")
    with pytest.raises(InputError, match=r"no network of transformers: it needs config.json and \*.safetensors"):
        ModelSpec.parse(f"pretrained(directory={tmp_path})")
    shutil.copytree(tiny_encoder, tmp_path / "half")
    encoder = transformers.AutoModel.from_pretrained(tiny_encoder)
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if "layer.1" not in name}
    encoder.save_pretrained(tmp_path / "half", state_dict=weights)
    with pytest.raises(InputError, match=r"lacks 16 weights of its BertModel: \['encoder.layer.1"):
        build(ModelSpec.parse(f"pretrained(directory={tmp_path / 'half'})"), data.shape, seed=0)
    with pytest.raises(InputError, match="Sequences of 25 tokens; this network reads up to 24"):
        network(torch.ones(1, 25, dtype=torch.int64))
    with pytest.raises(InputError, match="ids from 0 to 13; the network reads 0 to 12"):
        trim_vocabulary(network, torch.tensor([13]), 1)
    with pytest.raises(RecipeError, match="Only the network 'pretrained' has a vocabulary to trim; got LeNet300100"):
        trim_vocabulary(build(ModelSpec(name="lenet-300-100"), IMAGES, 0), torch.tensor([1]), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("stock"), "'pretrained' lacks 'stock'"),
        (lambda config: config["stock"].update(model_type="nothing"), "cannot build the encoder's configuration"),
        (lambda config: config["stock"].update(hidden_size=1 << 30), "does not hold the weights of this network"),
        (lambda config: config.update(model={"name": "lenet-5", "args": {}}), "'lenet-5' has 'stock'"),
    ],
)
def test_a_config_that_does_not_describe_the_weights(
    network: Network, spec: ModelSpec, data: Dataset, tmp_path: Path, change: Any, message: str
) -> None:
    save_model(network, spec, data.shape, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("is_trimmed", [False, True])
def test_it_shrinks_and_comes_back(
    network: Network, spec: ModelSpec, data: Dataset, tmp_path: Path, is_trimmed: bool
) -> None:
    module = trim_vocabulary(network, data.x_train[data.y_train != 0], 1) if is_trimmed else network
    save_model(module, spec, data.shape, tmp_path / "model")
    small = shrink(shrink(module, ROWS, data.x_test[:2]).module, HEADS, data.x_test[:2])
    save_shrunk(small, tmp_path / "small", config_of(tmp_path / "model"))
    again = load_shrunk(tmp_path / "small")
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in module.parameters())
    assert torch.equal(answers(again, data.x_test), answers(small.module, data.x_test))


ROWS, HEADS = Recipe.parse("l2 row layer sparsity(0.5)"), Recipe.parse("l2 head layer sparsity(0.5)")
