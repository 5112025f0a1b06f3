"""The page and the picture of `inspect`: exact bars, untrusted names as text, limits that are told."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.survey import Survey, inspect
from secateurs.see import stats, survey_charts
from secateurs.see.survey_charts import distributions, page_chart, survey_chart
from secateurs.see.survey_page import survey_page

HOSTILE = '</title><script>alert(1)</script>"><img src=x onerror=alert(2)>.weight'


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Survey, dict[str, stats.Grid], dict[str, np.ndarray]]:
    """A survey, its distributions and the weights."""
    rng = np.random.default_rng(0)
    pruned = rng.normal(0, 0.1, (40, 50)).astype(np.float32)
    pruned[np.abs(pruned) < 0.1] = 0
    tensors = {
        "b.weight": rng.normal(0, 0.05, (30, 40)).astype(np.float16),
        "a.weight": pruned,
        "flat.weight": np.ones((4, 4), np.float32),
        "outlier.weight": np.append(rng.normal(0, 1e-6, 99), 10.0).reshape(10, 10).astype(np.float32),
        HOSTILE: rng.normal(size=(8, 8)).astype(np.float32),
        "broken.weight": np.full((2, 2), np.nan, np.float32),
        "bias": np.ones(3, np.float32),
    }
    path = tmp_path_factory.mktemp("survey") / "a.safetensors"
    save_file(tensors, path)
    with open_checkpoint(path) as checkpoint:
        survey = inspect(checkpoint)
        return survey, distributions(checkpoint, survey), tensors


def test_distributions_are_those_of_the_charts(found) -> None:
    survey, counted, tensors = found
    assert set(counted) == {"a.weight", "b.weight", "outlier.weight", HOSTILE}
    for tensor in survey.tensors:
        if tensor.name in counted:
            assert counted[tensor.name] == stats.grid(tensors[tensor.name], tensor.sigma * stats.SIGMA_STEP)


def _rows(spec: object, key: str) -> list[dict[str, object]]:
    """Every data row of a drawing that has this field."""
    if isinstance(spec, dict):
        own = (
            [row for row in spec.get("values", []) if isinstance(row, dict) and key in row] if "values" in spec else []
        )
        return own + [row for value in spec.values() for row in _rows(value, key)]
    return [row for value in spec for row in _rows(value, key)] if isinstance(spec, list) else []


def test_bars_and_what_lies_beyond_are_all_weights(found) -> None:
    survey, counted, _ = found
    for tensor in survey.tensors:
        if tensor.name in counted:
            drawing, n_beyond = page_chart(tensor, counted[tensor.name])
            bars = [row for row in _rows(drawing.to_dict(), "y1") if "part" in row]
            assert sum(row["y1"] for row in bars) + n_beyond + tensor.n_zero == tensor.n
            assert n_beyond <= 0.005 * tensor.n + 1
            assert "expr" not in str(drawing.to_dict()["layer"])


def test_rules_stand_at_taus(found) -> None:
    survey, counted, _ = found
    (tensor,) = [tensor for tensor in survey.tensors if tensor.name == "b.weight"]
    drawing, _ = page_chart(tensor, counted["b.weight"])
    rules = {abs(row["x"]) for row in _rows(drawing.to_dict(), "x") if "word" not in row}
    values = {removal.tau: removal.value for removal in tensor.removals}
    assert rules <= set(values.values())
    assert {values["0.5sigma"], values["1sigma"], values["1.5sigma"]} <= rules


def test_the_page_shows_everything_and_trusts_nothing(found) -> None:
    survey, counted, _ = found
    page = survey_page(survey, counted)
    assert "<script" not in page
    assert "<img" not in page
    assert "script-src" not in page
    assert "default-src 'none'" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<article") == page.count("<svg") == 4
    assert len(re.findall(r'id="t\d+-clip', page)) == len(set(re.findall(r'id="(t\d+-clip[^"]*)"', page)))
    assert "Not finite:</b> broken.weight holds 4 NaN" in page
    assert "prefers-color-scheme: dark) { :root {" in page
    assert "var(--kept)" in page
    assert "{{" not in page


def test_many_tensors_are_limited_and_it_says_so(found, monkeypatch: pytest.MonkeyPatch) -> None:
    from secateurs.see import survey_page as module

    survey, counted, _ = found
    monkeypatch.setattr(module, "MOST_ROWS", 2)
    page = survey_page(survey, {"a.weight": counted["a.weight"]})
    assert "Only the 1 largest of 4 distributions are drawn" in page
    assert "Only the 2 largest of 7 tensors are listed" in page
    monkeypatch.setattr(survey_charts, "MOST_PRINTED", 2)
    assert "the 2 largest of 4 prunable" in str(survey_chart(survey, counted).to_dict())


def test_the_picture_is_a_valid_chart(found) -> None:
    survey, counted, _ = found
    survey_chart(survey, counted).to_altair()
    assert "No prunable tensor" in str(survey_chart(survey, {}).to_dict())


def test_a_checkpoint_without_anything_to_draw_has_a_page(tmp_path: Path) -> None:
    save_file({"bias": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    page = survey_page(inspect(tmp_path / "a.safetensors"), {})
    assert "<article" not in page
    assert "No prunable tensor has" in page
