"""The picture of a block: rectangles to scale."""

import re
from xml.dom.minidom import parseString

import pytest

from secateurs.errors import RecipeError
from secateurs.see.block_picture import LARGEST, block_picture
from secateurs.see.style import PRINT
from secateurs.structure.shrinking import WeightReport

LINES = [
    WeightReport("blocks.0.up.weight", (200, 100), (100, 100), "shrunk"),
    WeightReport("blocks.0.<down>.weight", (100, 200), (100, 100), "shrunk"),
    WeightReport("blocks.1.up.weight", (200, 100), (200, 100), "skipped", "nothing of it was to go"),
]


def test_rectangles_are_as_large_as_the_weights() -> None:
    svg = block_picture(LINES, "blocks.0")
    parseString(svg)
    boxes = [tuple(map(float, box)) for box in re.findall(r'width="([\d.]+)" height="([\d.]+)" fill="#', svg)]
    full, half = LARGEST, LARGEST / 2
    assert boxes == [(half, full), (half, half), (full, half), (half, half)]
    assert "200 × 100 → 100 × 100" in svg
    assert "&lt;down&gt;" in svg
    assert "blocks.1" not in svg


def test_a_prefix_of_nothing_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"No weight's name begins with 'x'; there are blocks\.0\.up\.weight"):
        block_picture(LINES, "x")


def test_a_layer_that_is_gone_has_no_box_of_what_is_left_and_no_prefix_leaves_no_colon() -> None:
    svg = block_picture([WeightReport("up.weight", (20, 10), (0, 0), "shrunk", "'up' is gone")])
    assert re.findall(r'width="[\d.]+" height="[\d.]+" fill="(#\w+)"', svg) == [PRINT.removed]
    assert ">outputs down, inputs across" in svg
