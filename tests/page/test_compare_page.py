"""The page of `compare` in a real Chromium: quiet, closed, readable at any width; its switch needs no script."""

import json
from pathlib import Path

import pytest

from secateurs.see.comparison_page import comparison_page
from secateurs.see.curves import FAMILIES

pytestmark = pytest.mark.browser

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "compare_digits.json"
HOSTILE = "</title><script>document.title='hacked'</script><img src=x onerror=document.title='hacked'>"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the committed result, under a hostile name."""
    results = json.loads(RESULT.read_text("utf-8"))
    results["data"]["name"] = results["headline"] = HOSTILE
    path = tmp_path_factory.mktemp("compare") / "report.html"
    path.write_text(comparison_page(results), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1280, "light")])
def test_it_opens_quietly_fits_and_switches(browser, file: Path, width: int, theme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url))
    page.goto(file.as_uri())
    assert page.title().startswith("lenet-300-100 on </title><script>")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for view in ("packed_bytes", "multiply_adds", "kept"):
        page.check(f"#by-{view}")
        shown = page.evaluate(
            "[...document.querySelectorAll('.view')].filter(v => v.offsetHeight).map(v => v.classList[1])"
        )
        assert shown == [view]
        assert page.locator(f".{view} svg").count() == len(FAMILIES)
    assert page.locator(".stages svg").count() == 8
    assert complaints == []
    context.close()
