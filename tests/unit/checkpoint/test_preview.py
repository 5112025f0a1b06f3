"""A preview says what a run then does, and writes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import ones, write_f32

import secateurs as sc
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.preview import preview
from secateurs.checkpoint.streamed import prune_checkpoint
from secateurs.errors import CollapseWarning

RECIPES: list[dict[str, Any]] = [
    {"budget": "sparsity(0.7)"},
    {"budget": "sparsity(0.7)", "score": "lamp", "min_keep": 2},
    {"budget": "sparsity(0.5)", "unit": "row"},
    {"budget": "top(1)", "pool": 2},
    {"budget": "threshold(0.7sigma)", "pool": "layer"},
    {"budget": "erk(0.5)", "pool": "layer", "skip": ["b*"]},
    {"budget": "sparsity(0.3)", "score": "random", "pool": "row"},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    shapes = {"b.weight": (8, 12), "a.weight": (6, 4, 3, 3), "odd.weight": (5, 7), "embed.weight": (9, 4)}
    weights = {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return write_f32(tmp_path / "model.safetensors", weights | {"a.bias": ones(6)})


@pytest.mark.parametrize("words", RECIPES, ids=str)
def test_a_preview_is_what_the_run_does(words: dict[str, Any], source: Path, tmp_path: Path) -> None:
    recipe = sc.Recipe(**words)
    with open_checkpoint(source) as checkpoint:
        found = preview(checkpoint, recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    manifest = prune_checkpoint(source, recipe, tmp_path / "out")
    for told, done in zip(found.layers, manifest["layers"], strict=True):
        assert told == {key: done[key] for key in told}
    assert found.size_bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert found.recipe == str(recipe)
    assert found.memory_bytes > 0
    assert found.seconds > 0


def test_a_preview_warns_of_a_layer_that_would_be_emptied(source: Path) -> None:
    recipe = sc.Recipe(budget={"odd*": "sparsity(1.0)"}, pool="layer")
    with open_checkpoint(source) as checkpoint, pytest.warns(CollapseWarning, match=r"'odd.weight' \(5, 7\) loses all"):
        preview(checkpoint, recipe)


def test_the_memory_of_a_preview_follows_what_the_recipe_needs(source: Path) -> None:
    """Scores that torch computes, and layers whose rows are stored as columns, take more."""
    with open_checkpoint(source) as checkpoint:
        plain, torch = (preview(checkpoint, sc.Recipe(**words)).memory_bytes for words in (RECIPES[0], RECIPES[6]))
    assert 50_000_000 < plain < 200_000_000
    assert torch > plain + 100_000_000
