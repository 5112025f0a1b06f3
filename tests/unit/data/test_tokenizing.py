"""Texts as the ids of a published tokenizer: the tokenizer's own, padded with 0, as wide as training; clear errors."""

import json
import shutil
from pathlib import Path

import pytest

from secateurs.data import DataSpec, load_data
from secateurs.errors import InputError, RecipeError

pytest.importorskip("transformers", reason="needs the extra hf")


def test_ids_are_the_tokenizers(tiny_encoder: Path, tiny_texts: Path) -> None:
    data = load_data(DataSpec(source=str(tiny_texts), tokenizer=str(tiny_encoder)))
    assert data.shape.size == (13, 6)
    assert data.x_test[:3].tolist() == [[2, 5, 6, 7, 8, 3], [2, 9, 10, 11, 3, 0], [2, 12, 6, 10, 3, 0]]
    assert data.vocabulary is not None
    assert (data.vocabulary[5], data.unknown) == ("where", 1)
    assert data.y_test[:3].tolist() == [0, 1, 2]


def test_long_texts_are_cut_before_the_last_special_token(tiny_encoder: Path, tmp_path: Path) -> None:
    for split, text in (("train", "top up"), ("validation", "top up"), ("test", "where is my strange card up")):
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{text},0\n{text},1\n")
    spec = DataSpec(source=str(tmp_path), tokenizer=str(tiny_encoder))
    assert load_data(spec).x_test[0].tolist() == [2, 5, 6, 3]  # as wide as the longest training text
    assert load_data(DataSpec(**{**spec.values(), "max_length": 3})).x_test[0].tolist() == [2, 5, 3]


def test_errors(tiny_encoder: Path, tiny_texts: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"tokenizer is for texts; .* holds images"):
        load_data(DataSpec(tokenizer=str(tiny_encoder)))
    with pytest.raises(InputError, match="There is no directory"):
        load_data(DataSpec(source=str(tiny_texts), tokenizer=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="holds no tokenizer that transformers can open"):
        load_data(DataSpec(source=str(tiny_texts), tokenizer=str(tmp_path)))
    shutil.copytree(tiny_encoder, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "tokenizer_config.json").read_text())
    (tmp_path / "odd" / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "[MASK]"}))
    with pytest.raises(InputError, match="pads with the id 4; only tokenizers that pad with 0"):
        load_data(DataSpec(source=str(tiny_texts), tokenizer=str(tmp_path / "odd")))
