"""The page of `inspect` in a real Chromium: quiet, closed, readable at any width and in both themes."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.survey import inspect
from secateurs.see.survey_charts import distributions
from secateurs.see.survey_page import survey_page

pytestmark = pytest.mark.browser

HOSTILE = "</title><script>document.title='hacked'</script><img src=x onerror=document.title='hacked'>.weight"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a checkpoint with zeros, a NaN, long and hostile names."""
    rng = np.random.default_rng(0)
    pruned = rng.normal(0, 0.1, (40, 48)).astype(np.float32)
    pruned[np.abs(pruned) < 0.1] = 0
    names = [f"encoder.layers.{k}.a_long_name_of_a_layer.attention.output.weight" for k in range(5)]
    tensors = {name: rng.normal(0, 0.02, (64, 64)).astype(np.float32) for name in names}
    tensors |= {"pruned.weight": pruned, HOSTILE: pruned * 2, "broken.weight": np.full((2, 2), np.nan, np.float32)}
    place = tmp_path_factory.mktemp("survey")
    save_file(tensors, place / "a.safetensors")
    with open_checkpoint(place / "a.safetensors") as checkpoint:
        survey = inspect(checkpoint)
        (place / "page.html").write_text(survey_page(survey, distributions(checkpoint, survey)), encoding="utf-8")
    return place / "page.html"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_quietly_and_fits(browser, file: Path, width: int, theme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url))
    page.goto(file.as_uri())
    assert complaints == []
    assert page.title() == "a.safetensors: secateurs inspect"
    assert page.locator(".tensors svg").count() == 7
    assert page.locator(".tensors h3", has_text="<script>").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(paper.strip("rgb()").split(",")[0]) < 128) == (theme == "dark")
    bar = page.locator(".tensors svg .mark-rect path").nth(3)
    kept = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--kept').trim()")
    wanted = "rgb({}, {}, {})".format(*bytes.fromhex(kept.lstrip("#")))
    assert bar.evaluate("bar => getComputedStyle(bar).fill") == wanted
    context.close()
