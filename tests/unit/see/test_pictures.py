"""Pictures: one pixel per weight, exact zeros alone white, files written whole."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from secateurs.errors import OutputError
from secateurs.see import charts, pictures


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def test_exactly_the_zeros_are_white():
    w = np.array([[0.0, -0.0, 1e-30], [-1.0, 1.0, 50.0]])
    white = (decoded(pictures.position_png(w)) == 255).all(axis=2)
    assert white.tolist() == [[True, True, False], [False, False, False]]


def test_the_ramp_rises_in_lightness_and_never_reaches_white():
    lightness = pictures.ramp(255) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -0.5).all()
    assert lightness[-1] < 200


def test_large_matrices_are_sampled_and_say_so():
    w = np.zeros((10, 2000))
    w[3] = 1.0
    found = pictures.position(w)
    assert (found["rows"], found["columns"], found["every"]) == (10, 2000, [1, 3])
    assert decoded(found["png"]).shape == (10, 667, 3)
    assert pictures.sampling_note(found["every"]) == "every 3rd column shown, one pixel per weight"
    assert pictures.sampling_note((1, 1)) == "one pixel per weight"


def test_convolutions_and_dead_layers_have_pictures():
    assert decoded(pictures.position_png(np.ones((4, 3, 5, 5)))).shape == (4, 75, 3)
    assert (decoded(pictures.position_png(np.zeros((4, 3)))) == 255).all()


def test_files_appear_whole_under_names_with_dots(run, tmp_path):
    written = pictures.save_picture(charts.tradeoff_chart(run[0]), tmp_path / "at-prune-0.4-ffnn")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at-prune-0.4-ffnn.png", "at-prune-0.4-ffnn.svg"]
    with Image.open(written[0]) as image:
        assert image.width > 1200
    assert written[1].read_text().startswith("<svg")


def test_a_missing_folder_is_an_error(run, tmp_path):
    with pytest.raises(OutputError, match=r"Cannot write .*missing"):
        pictures.save_picture(charts.tradeoff_chart(run[0]), tmp_path / "missing" / "picture")


def test_the_same_chart_is_the_same_text_however_many_were_drawn_before() -> None:
    chart = pictures.extra("altair", "explore").Chart.from_dict(
        {
            "data": {"values": [{"x": 1}]},
            "vconcat": [{"mark": {"type": "point", "clip": True}, "encoding": {"x": {"field": "x"}}}] * 2,
        }
    )
    first, second = pictures.svg_of(chart), pictures.svg_of(chart)
    assert first == second
    assert 'id="clip0"' in first
    assert 'id="clip1"' in first
    assert "url(#clip1)" in first
