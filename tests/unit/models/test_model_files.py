"""Networks in files: save then load is identity; whatever else stands there is one clear error."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from secateurs.checkpoint.packing import pack
from secateurs.data import DataSpec, InputShape, load_data
from secateurs.errors import InputError, OutputError
from secateurs.models import ModelSpec, build, load_model, load_weights, save_model

DIGITS = InputShape(kind="image", size=(1, 8, 8), n_classes=10)
MNIST = InputShape(kind="image", size=(1, 28, 28), n_classes=10)
CIFAR = InputShape(kind="image", size=(3, 32, 32), n_classes=10)
TEXT = InputShape(kind="tokens", size=(50, 12), n_classes=5)
SPEC = ModelSpec.parse("cls-transformer(dim=16, depth=1, heads=2, patch=2x8)")


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (SPEC, DIGITS),
        (ModelSpec.parse("cls-transformer(dim=8, heads=1)"), TEXT),
        (ModelSpec(name="lenet-300-100"), DIGITS),
        (ModelSpec(name="resnet-20"), CIFAR),
    ],
)
def test_save_then_load_is_identity(tmp_path: Path, spec: ModelSpec, shape: InputShape) -> None:
    module = build(spec, shape, seed=5)
    save_model(module, spec, shape, tmp_path / "model", about={"mean": [0.5]})
    loaded, config = load_model(tmp_path / "model")
    assert_same_weights(module, loaded)
    assert (config.model, config.shape, config.about) == (spec, shape, {"mean": [0.5]})
    assert config.n_parameters == sum(p.numel() for p in module.parameters())
    assert not loaded.training
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_a_seed_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in "ab":
        save_model(build(SPEC, DIGITS, seed=1), SPEC, DIGITS, tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_unwritable_directory_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        save_model(build(SPEC, DIGITS, 0), SPEC, DIGITS, tmp_path / "file" / "model")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(build(SPEC, DIGITS, seed=0), SPEC, DIGITS, tmp_path / "model")
    return tmp_path / "model"


def test_missing_files(saved: Path) -> None:
    with pytest.raises(InputError, match=r"There is no model directory .*nowhere"):
        load_model(saved / "nowhere")
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"There is no file .*model\.safetensors"):
        load_model(saved)
    (saved / "config.json").unlink()
    with pytest.raises(InputError, match=r"Cannot read .*config\.json"):
        load_model(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "does not say schema 'secateurs.model/1'"),
        ('{"architecture": "LeNet"}', "another tool or version wrote it.*load_weights"),
        ('{"schema": "secateurs.model/2"}', "found 'secateurs.model/2'"),
        ('{"schema": "secateurs.model/1"}', "'model' is missing"),
        ("x" * (2 << 20), "is larger than"),
    ],
)
def test_a_foreign_config(saved: Path, text: str, message: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "lenet5", "args": {}}}, "Did you mean 'lenet-5'"),
        ({"model": {"name": "lenet-5", "args": {}}}, "cannot be built: The network 'lenet-5' needs 1x28x28"),
        ({"model": {"name": "cls-transformer", "args": {"dim": 16384, "depth": 4}}}, "does not hold the weights"),
        ({"shape": {"kind": "image", "size": [1, 8], "n_classes": 10}}, "image inputs have 3 sizes"),
        ({"shape": {"kind": "tokens", "size": [10**12, 8], "n_classes": 10}}, "tokens inputs have 2 sizes"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
)
def test_a_config_that_does_not_describe_the_weights(saved: Path, changes: dict[str, object], message: str) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=message):
        load_model(saved)


def test_corrupt_weights(saved: Path) -> None:
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", b"PK\x03\x04", struct.pack("<Q", 1 << 60) + b"{}"):
        file.write_bytes(content)
        with pytest.raises(InputError, match="is not a readable safetensors file"):
            load_model(saved)


def test_the_first_mismatches_are_listed_and_nothing_changes(tmp_path: Path) -> None:
    module = build(ModelSpec(name="lenet-300-100"), DIGITS, seed=0)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    other = dict(build(ModelSpec(name="lenet-5"), MNIST, seed=0).state_dict())
    save_file(other, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"'fc3.weight' is missing.*; and \d+ more\. Build the network"):
        load_weights(module, tmp_path)
    wrong = {name: tensor.clone() for name, tensor in before.items()}
    wrong["fc1.weight"] = torch.zeros(300, 65)
    wrong["fc1.bias"] = torch.zeros(300, dtype=torch.int64)
    save_file(wrong, tmp_path / "model.safetensors")
    with pytest.raises(
        InputError, match=r"'fc1.bias' is I64 .*'fc1.weight' is \(300, 65\) in the file and \(300, 64\) in the network"
    ):
        load_weights(module, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    module = build(ModelSpec(name="lenet-300-100"), DIGITS, seed=0)
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors["fc2.weight"][3, 4:6] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"2 of 30,000 values of 'fc2\.weight' are NaN or infinite"):
        load_weights(module, tmp_path / "model.safetensors")


def test_half_precision_weights_load_into_a_float32_network(tmp_path: Path) -> None:
    module = build(ModelSpec(name="lenet-300-100"), DIGITS, seed=0)
    save_file({n: t.to(torch.bfloat16) for n, t in module.state_dict().items()}, tmp_path / "half.safetensors")
    other = build(ModelSpec(name="lenet-300-100"), DIGITS, seed=1)
    load_weights(other, tmp_path / "half.safetensors")
    assert torch.equal(other.get_parameter("fc1.weight"), module.get_parameter("fc1.weight").bfloat16().float())


def accuracy(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        guesses = torch.cat([module(batch).argmax(1) for batch in x.split(500)])
    return float((guesses == y).double().mean())


def test_published_lenet_5_weights_give_their_accuracy(data_dir: Path) -> None:
    config = json.loads((data_dir / "weights_lenet5_mnist" / "config.json").read_text())["input"]
    spec = DataSpec(
        source="mnist",
        directory=str(data_dir / "mnist"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        limit_train=100,
        limit_validation=100,
    )
    data = load_data(spec)
    module = build(ModelSpec(name="lenet-5"), data.shape, seed=0).eval()
    load_weights(module, data_dir / "weights_lenet5_mnist")
    assert accuracy(module, data.x_test, data.y_test) == pytest.approx(0.9894, abs=1e-9)


def test_published_resnet_20_weights_give_their_accuracy(data_dir: Path) -> None:
    config = json.loads((data_dir / "weights_resnet20_cifar10" / "config.json").read_text())["input"]
    spec = DataSpec(
        source=str(data_dir / "cifar10" / "cifar10.npz"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        limit_train=100,
        limit_validation=100,
        limit_test=500,
    )
    data = load_data(spec)
    module = build(ModelSpec(name="resnet-20"), data.shape, seed=0).eval()
    load_weights(module, data_dir / "weights_resnet20_cifar10")
    # 91.73 % of all 10,000; of a stratified 500, within 2.5 standard errors.
    assert accuracy(module, data.x_test, data.y_test) == pytest.approx(0.9173, abs=0.03)


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    """A directory as `compress` writes it: the network twice, packed and plain."""
    module = build(SPEC, DIGITS, seed=3)
    out = tmp_path / "out"
    save_model(module, SPEC, DIGITS, out / "model", about={"data": "digits"})
    (out / "packed").mkdir()
    (out / "packed" / "config.json").write_bytes((out / "model" / "config.json").read_bytes())
    pack(out / "model", out / "packed" / "weights.packed.safetensors")
    return out


def test_packed_weights_load_bit_for_bit(compressed: Path) -> None:
    for where in (compressed / "packed", compressed / "model", compressed):
        loaded, config = load_model(where)
        assert_same_weights(loaded, build(SPEC, DIGITS, seed=3))
        assert (config.model, config.about, loaded.training) == (SPEC, {"data": "digits"}, False)
    module = build(SPEC, DIGITS, seed=4)
    load_weights(module, compressed / "packed")
    assert_same_weights(module, build(SPEC, DIGITS, seed=3))


def test_the_packed_network_is_preferred_and_the_plain_one_is_enough(compressed: Path) -> None:
    save_model(build(SPEC, DIGITS, seed=9), SPEC, DIGITS, compressed / "model")
    assert_same_weights(load_model(compressed)[0], build(SPEC, DIGITS, seed=3))
    (compressed / "packed" / "config.json").unlink()
    assert_same_weights(load_model(compressed)[0], build(SPEC, DIGITS, seed=9))


def test_a_damaged_packed_file_is_named_and_the_plain_one_is_not_taken_for_it(compressed: Path) -> None:
    file = compressed / "packed" / "weights.packed.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    with pytest.raises(InputError, match=r"packed/weights\.packed\.safetensors' is damaged"):
        load_model(compressed)
    file.write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"weights\.packed\.safetensors"):
        load_model(compressed)


def test_packed_weights_of_another_network(compressed: Path, tmp_path: Path) -> None:
    file = compressed / "packed" / "weights.packed.safetensors"
    pack(build(ModelSpec(name="lenet-300-100"), DIGITS, 0), file)
    with pytest.raises(InputError, match=r"does not hold the weights of this network \(CLSTransformer\)"):
        load_model(compressed)
    (compressed / "packed" / "other.packed.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="has 2 packed files"):
        load_model(compressed)
