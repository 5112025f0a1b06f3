"""A real Chromium, and the page of the made-up run opened in it from a file."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "see"))

from synthetic_run import TRACKED, make_results

from secateurs.see import report

HOSTILE = "</script><script>window.hacked=1</script>"
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def _missing(why: str) -> None:
    if os.environ.get("SECATEURS_REQUIRE_BROWSER"):
        pytest.fail(f"The page must be tested in a browser here, but {why}.")
    pytest.skip(f"The page was NOT tested: {why}. Install Chromium, or set SECATEURS_CHROMIUM to its path.")


@pytest.fixture(scope="session")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    path = os.environ.get("SECATEURS_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        _missing("there is no Chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="session")
def run():
    """(results, weights) whose FFN layer bears a hostile name, and one layer is called __proto__."""
    renamed = {
        TRACKED["ffnn"]: HOSTILE,
        "embed.weight": "__proto__",
        "blocks.0.attention.out.weight": '<img src=x onerror="window.hacked=1">',
    }
    return make_results(renamed)


@pytest.fixture(scope="session")
def file(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.report_page(run[0]), encoding="utf-8")
    return path


@pytest.fixture
def open_page(browser, file):
    """Opens the page; at the end of the test there was no foreign request, no error and no warning."""
    contexts, complaints = [], []

    def open_it(width=1280, height=800, file=file, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(f"request: {r.url}"),
        )
        page.goto(file.as_uri())
        page.wait_for_selector("#tradeoff-chart svg")
        page.wait_for_selector("#panels .chart svg .mark-rect path")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []
