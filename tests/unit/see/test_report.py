"""Report: one file, small, closed to the network, and deaf to hostile text."""

import json
import re

import pytest
from synthetic_run import TRACKED, make_results

from secateurs.errors import OutputError
from secateurs.see import report

HOSTILE = "</script><script>window.hacked=1</script>"


def without_vega(page):
    return page.replace(report._vega(), "")


@pytest.fixture(scope="module")
def page(run):
    return report.report_page(run[0])


def test_the_page_is_small_and_names_no_address(page):
    assert len(page.encode()) < 5_000_000
    addresses = set(re.findall(r"https?://[^\"'\s<>\\]+", without_vega(page)))
    assert all(url.startswith(("https://vega.github.io/schema", "http://www.w3.org")) for url in addresses), addresses
    assert not re.search(r"<(link|img|iframe|script)[^>]+(src|href)=\"(?!data:)", without_vega(page))


def test_the_policy_allows_our_two_scripts_alone(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "unsafe-eval" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert [report._hash(code) for code in scripts] == re.findall(r"'sha256-[^']+'", policy)


def test_hostile_names_stay_inside_the_data():
    results, _ = make_results({TRACKED["ffnn"]: HOSTILE, TRACKED["cls-head"]: "__proto__"})
    results["headline"] = results["recipe_yaml"] = HOSTILE + "{{vega}} <!-- &amp; \u2028"
    page = report.report_page(results)
    assert HOSTILE not in page
    assert page.count("</script>") == 4
    data = json.loads(re.search(r'id="results">(.*?)</script>', page, re.DOTALL)[1])
    assert data["headline"] == results["headline"]
    assert {layer["name"] for layer in data["layers"]} >= {HOSTILE, "__proto__"}


def test_embedded_json_reads_back_and_closes_nothing():
    value = {"a": ["</script>", "<!--", "&lt;", "é\u2028", "\ud800"]}
    text = report.embedded_json(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        report.embedded_json(float("nan"))


def test_long_films_are_thinned_and_the_page_says_so(run, monkeypatch):
    results, _ = make_results()
    whole = len(report.report_page(results).encode())
    monkeypatch.setattr(report, "LARGEST_PAGE", whole - 1000)
    page = report.report_page(results)
    assert "Every 2nd frame" in page
    data = json.loads(re.search(r'id="results">(.*?)</script>', page, re.DOTALL)[1])
    assert [f["step"] for f in data["films"]["trained"]] == [0, 80, 160, 240, 320, 400, 440]
    assert len(results["films"]["trained"]) == 12


def test_a_page_too_large_drops_films_then_positions_and_only_then_gives_up(monkeypatch):
    results, _ = make_results()
    bare = {**results, "films": {}}
    sizes = [len(report.report_page(r).encode()) for r in (bare, {**bare, "positions": {}})]
    for size, said, left in (
        (sizes[0], "The films of training are left out, so that", True),
        (sizes[1], "The films of training and the pictures of weights by position are left out", False),
    ):
        monkeypatch.setattr(report, "LARGEST_PAGE", size + 150)
        page = report.report_page(results)
        data = json.loads(re.search(r'id="results">(.*?)</script>', page, re.DOTALL)[1])
        assert said in page
        assert data["films"] == {}
        assert bool(data["positions"]) == left
        assert data["stages"] == report._with_intervals(results)["stages"]
    page = report.report_page(bare)
    assert "The pictures of weights by position are left out" in page
    monkeypatch.setattr(report, "LARGEST_PAGE", sizes[1] - 1)
    with pytest.raises(OutputError, match="fewer layers"):
        report.report_page(results)
