"""Directories of transformers whose configuration says sizes elsewhere, or nowhere, and those that cannot be opened."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from secateurs.errors import InputError, RecipeError
from secateurs.recipe import Recipe
from secateurs.structure.opening import Opened, open_network
from secateurs.structure.shrinking import shrink

ROWS = Recipe.parse("l2 row layer sparsity(0.5)")
SMALL = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_a_network_whose_configuration_has_no_size_of_images(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    opened = open_network(tmp_path)
    assert opened.example_inputs["pixel_values"].shape == (2, 3, 224, 224)
    small = shrink(opened.module, ROWS, {"pixel_values": torch.randn(2, 3, 32, 32)}, stock=False)
    assert any(group.n_removed for group in small.groups)


def test_a_network_whose_configuration_has_parts_for_texts_and_images(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(vision_config=vision, text_config={**SMALL, "vocab_size": 20})
    transformers.CLIPForImageClassification(config).save_pretrained(tmp_path)
    opened = open_network(tmp_path)
    inputs = opened.example_inputs
    assert inputs["pixel_values"].shape == (2, 3, 8, 8)
    heads = Recipe.parse("l2 head layer sparsity(0.5)")
    with pytest.raises(RecipeError, match="has no size for any 'head'"):
        shrink(opened.module, heads, inputs)
    small = shrink(opened.module, heads, inputs, stock=False)
    assert "has no size for" in small.why_not_stock


def texts(**config: Any) -> Opened:
    module: Any = SimpleNamespace(main_input_name="input_ids", config=SimpleNamespace(**config))
    return Opened(module, None)


def test_the_number_of_words_may_be_said_in_the_part_for_texts() -> None:
    opened = texts(text_config=SimpleNamespace(vocab_size=2, max_position_embeddings=5))
    assert opened.example_inputs["input_ids"].tolist() == [[1] * 5] * 2
    assert opened.longest == 5
    with pytest.raises(InputError, match="no example can be made here"):
        texts().inputs(2)


def test_a_directory_without_weights_is_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.BertModel(transformers.BertConfig(vocab_size=13, **SMALL)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"transformers cannot open '{tmp_path}': "):
        open_network(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=f"transformers cannot open '{tmp_path}': .*no file named model.safetensors"):
        open_network(tmp_path)
