"""`secateurs run`: what it answers, with which certainty, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from secateurs.checkpoint.packing import pack
from secateurs.data import DataSpec, InputShape, load_data
from secateurs.measure.accuracy import accuracy
from secateurs.measure.answers import answers
from secateurs.models import ModelSpec, build, load_model, save_model

SPEC = ModelSpec.parse("lenet-300-100")
TEXTS = ["the card is lost", "the money is here"] * 10


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a network of digits, which was trained on nothing, packed."""
    pytest.importorskip("sklearn")
    data, place = load_data(DataSpec()), tmp_path_factory.mktemp("digits")
    save_model(build(SPEC, data.shape, 0), SPEC, data.shape, place / "packed", data.about)
    pack(place / "packed", place / "packed" / "weights.packed.safetensors")
    (place / "packed" / "model.safetensors").unlink()
    return place


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A directory of data, texts.csv, and of a network that reads them, net/."""
    rows = "\n".join(f"{text},{'lost' if 'lost' in text else 'found'}" for text in TEXTS)
    (tmp_path / "texts.csv").write_text(f"text,label\n{rows}\n")
    data = load_data(DataSpec(source=str(tmp_path / "texts.csv")))
    spec = ModelSpec.parse("cls-transformer(dim=8, depth=1, heads=1)")
    save_model(build(spec, data.shape, 0), spec, data.shape, tmp_path / "net", data.about)
    return tmp_path


def test_answers_of_data_with_their_accuracy(secateurs, digits):
    said = secateurs("run", str(digits), "--data", "digits", "-n", "3", "--threads", "1")
    assert said.code == 0, said.err
    module, data = load_model(digits)[0], load_data(DataSpec())
    right = accuracy(module, data.x_test, data.y_test)
    assert f"Accuracy: {right.value:.2%}" in said.out
    assert "lenet-300-100: 3 of 360 test examples of digits" in said.out
    assert "ms per example, 64 at once on 1 thread, " in said.out
    found = json.loads(secateurs("run", str(digits), "--data", "digits", "--json", "-n", "360", "--dense").out)
    assert found["accuracy"] == right.values()
    logits = module(data.x_test)
    assert [row["answer"] for row in found["answers"]] == [str(k) for k in logits.argmax(1).tolist()]
    assert [row["label"] for row in found["answers"]] == [str(k) for k in data.y_test.tolist()]
    sure = torch.tensor([row["probability"] for row in found["answers"]])
    torch.testing.assert_close(sure, logits.softmax(1).amax(1).detach())
    assert (found["layers"], found["batch"], found["n"]) == ({}, 64, 360)
    assert found["seconds_per_example"] > 0
    other = secateurs("run", str(digits), "--data", "digits", "--part", "validation", "--json", "--dense")
    assert json.loads(other.out)["n"] == len(data.y_val)


def test_raw_pixels_are_scaled_as_the_network_learned_to_read_them(secateurs, digits, tmp_path):
    data, (_, config) = load_data(DataSpec()), load_model(digits)
    scaling = config.about["scaling"]
    pixels = (data.x_test[:4, 0] * scaling["std"][0] + scaling["mean"][0]) * scaling["divisor"]
    np.save(tmp_path / "x.npy", pixels.round().numpy().astype(np.uint8))
    found = json.loads(secateurs("run", str(digits), "--input", str(tmp_path / "x.npy"), "--json", "--dense").out)
    logits = load_model(digits)[0](data.x_test[:4]).softmax(1)
    assert [row["answer"] for row in found["answers"]] == [str(k) for k in logits.argmax(1).tolist()]
    sure = [row["probability"] for row in found["answers"]]
    assert sure == pytest.approx(logits.amax(1).tolist(), abs=1e-5)
    assert found["accuracy"] is None
    assert "label" not in found["answers"][0]
    np.save(tmp_path / "one.npy", pixels[0].numpy())
    assert "1 of 1 examples of" in secateurs("run", str(digits), "--input", str(tmp_path / "one.npy"), "--dense").out


def test_texts_are_read_with_the_words_that_the_network_knows(secateurs, words):
    net = str(words / "net")
    said = secateurs("run", net, "--text", "the card", "--text", "never seen \x1b[31m", "--dense")
    assert said.code == 0, said.err
    assert "the card" in said.out
    assert "\x1b" not in said.out
    assert any(name in said.out for name in ("lost", "found"))
    found = json.loads(secateurs("run", net, "--data", str(words / "texts.csv"), "--json", "--dense").out)
    assert {row["label"] for row in found["answers"]} == {"lost", "found"}
    np.save(words / "ids.npy", np.array([[1, 2, 3]]))
    assert json.loads(secateurs("run", net, "--input", str(words / "ids.npy"), "--json", "--dense").out)["n"] == 1
    (words / "texts.csv").write_text((words / "texts.csv").read_text().replace("card", "coin"))
    said = secateurs("run", net, "--data", str(words / "texts.csv"))
    assert (said.code, "knows other words than the data have" in said.err) == (3, True)


def test_a_published_tokenizer_is_found_beside_the_network(secateurs, tiny_encoder, tiny_texts, tmp_path):
    data = load_data(DataSpec(source=str(tiny_texts), tokenizer=str(tiny_encoder)))
    spec = ModelSpec.parse("cls-transformer(dim=8, depth=1, heads=1)")
    out = tmp_path / "out"
    save_model(build(spec, data.shape, 0), spec, data.shape, out / "model", data.about, str(tiny_encoder))
    assert "vocabulary" not in data.about
    found = json.loads(secateurs("run", str(out), "--data", str(tiny_texts), "--json", "--dense", "-n", "99").out)
    assert (found["n"], len(found["answers"])) == (len(data.y_test), len(data.y_test))
    module = load_model(out)[0]
    assert found["accuracy"] == accuracy(module, data.x_test, data.y_test).values()
    said = json.loads(secateurs("run", str(out), "--text", "top up failed", "--json", "--dense").out)
    logits = module(torch.tensor([[2, 9, 10, 11, 3]])).detach()  # [CLS] top up failed [SEP]
    assert said["answers"][0]["answer"] == data.class_names[int(logits.argmax())]
    assert said["answers"][0]["probability"] == pytest.approx(float(logits.softmax(1).amax()), abs=1e-6)


def test_what_it_refuses(secateurs, digits, words, tmp_path):
    odd = {
        "odd.npy": np.zeros((2, 7, 7)),
        "nan.npy": np.full((1, 8, 8), np.nan),
        "flat.npy": np.zeros((2, 64, 1, 1, 1)),
        "none.npy": np.zeros((0, 8, 8)),
        "float.npy": np.zeros((1, 3)),
        "large.npy": np.array([[1, 99]]),
        "text.npy": np.array(["a"]),
    }
    for name, array in odd.items():
        np.save(tmp_path / name, array)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "odd.npy").read_bytes()[:200])
    (tmp_path / "objects.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}\n")
    net = str(words / "net")
    for where, more, code, message in [
        (digits, (), 2, "one of --data, --input and --text"),
        (digits, ("--data", "digits", "--text", "a"), 2, "one of --data, --input and --text"),
        (digits, ("--text", "a", "--data-dir", "x"), 2, "--data-dir is for --data mnist"),
        (digits, ("--text", "a"), 3, "reads 1x8x8 images, 10 classes, so it cannot read a text"),
        (net, ("--data", "digits"), 3, "the data are 1x8x8 images, 10 classes. Give the data it was trained on"),
        (digits, ("--input", str(tmp_path / "none")), 3, "Cannot read"),
        (digits, ("--input", str(tmp_path / "cut.npy")), 3, "as an .npy file of numbers"),
        (digits, ("--input", str(tmp_path / "objects.npy")), 3, "as an .npy file of numbers"),
        (digits, ("--input", str(tmp_path / "text.npy")), 3, "holds no array of numbers"),
        (digits, ("--input", str(tmp_path / "odd.npy")), 3, "holds images of 1x7x7; the network reads 1x8x8 images"),
        (digits, ("--input", str(tmp_path / "nan.npy")), 3, "NaN or infinite pixels"),
        (digits, ("--input", str(tmp_path / "flat.npy")), 3, "x has shape (2, 64, 1, 1, 1)"),
        (digits, ("--input", str(tmp_path / "none.npy")), 3, "holds no examples"),
        (net, ("--input", str(tmp_path / "float.npy")), 3, "the network reads token ids (n, length)"),
        (net, ("--input", str(tmp_path / "large.npy")), 3, "holds ids from 1 to 99; the network knows 0 to"),
        (tmp_path / "nowhere", ("--text", "a"), 3, "There is no file or directory"),
        (tmp_path, ("--text", "a"), 3, "has no readable config.json"),
    ]:
        said = secateurs("run", str(where), *more, "--dense")
        assert (said.code, message in said.err) == (code, True), (more, said)


def test_a_network_without_vocabulary_or_names_says_numbers(secateurs, tmp_path):
    shape, spec = (
        InputShape(kind="tokens", size=(9, 4), n_classes=3),
        ModelSpec.parse("cls-transformer(dim=8, heads=1)"),
    )
    save_model(build(spec, shape, 0), spec, shape, tmp_path)
    said = secateurs("run", str(tmp_path), "--text", "a")
    assert (said.code, "The network carries no vocabulary" in said.err) == (3, True)
    np.save(tmp_path / "ids.npy", np.array([1, 2]))
    found = json.loads(secateurs("run", str(tmp_path), "--input", str(tmp_path / "ids.npy"), "--json", "--dense").out)
    assert found["answers"][0]["answer"] in {"0", "1", "2"}


def test_the_last_batch_is_smaller_and_every_example_is_answered_once():
    module, x = torch.nn.Linear(3, 4), torch.randn(7, 3)
    found = answers(module, x, batch_size=3)
    assert found.classes.tolist() == module(x).argmax(1).tolist()
    assert found.probability.shape == (7,)
    assert found.seconds > 0
