"""The page of `compress` in a real Chromium: quiet, closed, readable at any width."""

from pathlib import Path

import pytest
from synthetic_compression import make_compression

from secateurs.see.compression_page import compression_page

pytestmark = pytest.mark.browser

HOSTILE = "</title><script>document.title='hacked'</script><img src=x onerror=document.title='hacked'>"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of made-up results, under a hostile name."""
    results = make_compression(data={"name": HOSTILE, "source": HOSTILE})
    results["layers"][0]["name"] = HOSTILE
    path = tmp_path_factory.mktemp("compress") / "report.html"
    path.write_text(compression_page(results), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1280, "light")])
def test_it_opens_quietly_and_fits(browser, page_file: Path, width: int, theme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url))
    page.goto(page_file.as_uri())
    assert page.title().startswith("cls-transformer on </title><script>")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#tried svg").count() == 1
    assert page.evaluate("document.querySelector('#tried .scroll').scrollWidth") >= 560, "the chart was cut off"
    assert page.locator("#weights svg").count() == 2
    assert page.locator("#all tbody tr").count() == 3
    assert page.locator("#steps tbody tr").count() == 3
    assert complaints == []
    context.close()
