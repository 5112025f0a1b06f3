"""The page in a real Chromium: its numbers equal the weights', and it is closed, usable and quiet."""

import re
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import TRACKED, make_results

from secateurs.see import report, style

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>window.hacked=1</script>"


def expect(locator):
    """Playwright's own waiting assertion; imported late, so that a missing browser is told by the fixture."""
    from playwright.sync_api import expect as expected

    return expected(locator)


def at(page, name):
    return page.get_by_test_id(name)


def chosen(page):
    """(stage, layer name, unit, edge, exact tau of this layer) that the page says it shows."""
    names = page.evaluate("JSON.parse(document.getElementById('results').textContent).layers.map(l => l.name)")
    out = at(page, "tau-value")
    return (
        at(page, "stage-select").input_value(),
        names[int(at(page, "layer-select").input_value())],
        at(page, "tau-unit").input_value(),
        int(out.get_attribute("data-edge")),
        float(out.get_attribute("data-exact")),
    )


def assert_shows_a_recount(page, run, suffix="", stage=None):
    """The shares on the page are those that numpy counts on the weights."""
    results, weights = run
    shown, name, unit, edge, tau = chosen(page)
    stage = stage or shown
    layers = next(s for s in results["stages"] if s["id"] == stage)["layers"]
    taus = {layer: np.float64(found[f"{unit}_grid"]["step"]) * edge for layer, found in layers.items()}
    counts = {layer: int((np.abs(w.astype(np.float64)) <= taus[layer]).sum()) for layer, w in weights[stage].items()}
    if not suffix:
        assert taus[name] == tau
    prunable = [layer["name"] for layer in results["layers"] if layer.get("prunable", True)]
    n, total = weights[stage][name].size, sum(weights[stage][layer].size for layer in prunable)
    all_gone = sum(counts[layer] for layer in prunable)
    for testid, count, of in (("removed-layer", counts[name], n), ("removed-total", all_gone, total)):
        cell = at(page, testid + suffix)
        assert (int(cell.get_attribute("data-count")), int(cell.get_attribute("data-n"))) == (count, of)
        assert f"{count:,} of {of:,}" in cell.inner_text()
    if not suffix:
        table = page.locator("#layers td[data-count]").evaluate_all("cells => cells.map(c => Number(c.dataset.count))")
        assert table == [counts[layer["name"]] for layer in results["layers"]]
        assert f"{all_gone:,} · " in page.locator("#layers-total").inner_text()


def test_it_opens_with_the_story(open_page, run):
    page = open_page()
    assert page.locator("h1").inner_text() == run[0]["headline"]
    assert page.locator("#glance article").count() == 4
    assert page.locator("#glance svg").count() == 8
    assert "n = 360" in page.locator("#figures").inner_text()
    box = page.locator("#glance").bounding_box()
    assert box["y"] + box["height"] <= 800, "the four stages do not fit on the first screen"
    assert_shows_a_recount(page, run)


def test_slider_number_and_keys_move_tau(open_page, run):
    page = open_page()
    slider, number = at(page, "tau-slider"), at(page, "tau-number")
    seen = set()
    for edge in ("3", "40", "77"):
        slider.fill(edge)
        assert chosen(page)[3] == int(edge)
        assert_shows_a_recount(page, run)
        seen.add(at(page, "removed-layer").inner_text())
    assert len(seen) == 3
    number.fill("0.62")  # snaps to the nearest edge
    number.press("Enter")
    assert (chosen(page)[3], number.input_value()) == (12, "0.6")
    assert_shows_a_recount(page, run)
    slider.focus()
    for key, edge in (
        ("ArrowRight", 13),
        ("ArrowUp", 14),
        ("ArrowLeft", 13),
        ("PageUp", 23),
        ("Home", 0),
        ("End", 100),
    ):
        slider.press(key)
        assert chosen(page)[3] == edge
        assert_shows_a_recount(page, run)
    for text in ("", "-4", "1e9"):
        number.fill(text)
        number.press("Enter")
        assert_shows_a_recount(page, run)


def test_every_stage_layer_and_unit_is_exact(open_page, run):
    page = open_page()
    for unit in ("sigma", "absolute"):
        at(page, "tau-unit").select_option(unit)
        for stage in ("initialised", "in-loop", "absolute"):
            at(page, "stage-select").select_option(stage)
            for layer in ("0", "3", "5"):
                at(page, "layer-select").select_option(layer)
                at(page, "tau-slider").fill("30")
                assert_shows_a_recount(page, run)


def test_changing_the_unit_keeps_the_threshold(open_page):
    page = open_page()
    before = chosen(page)[4]
    at(page, "tau-unit").select_option("absolute")
    assert abs(chosen(page)[4] - before) <= 0.002


def test_the_drawn_bars_are_the_counted_ones(open_page, run):
    page = open_page()
    page.wait_for_timeout(300)
    labels = page.locator("#panels .chart").first.get_attribute("aria-label")
    assert "removes" in labels
    removed = page.locator('#panels svg path[fill="var(--removed)"]').count()
    kept = page.locator('#panels svg path[fill="var(--kept)"]').count()
    assert removed > 5
    assert kept > 5
    at(page, "tau-slider").fill("0")
    page.wait_for_timeout(300)
    assert page.locator('#panels svg path[fill="var(--removed)"]').count() == 0


def test_accuracy_is_shown_only_where_it_was_measured(open_page, run):
    page = open_page()
    accuracy = at(page, "accuracy")
    trained = next(s for s in run[0]["stages"] if s["id"] == "trained")
    point = next(p for p in trained["sweep"]["sigma"] if p["edge"] == 10)
    at(page, "tau-slider").fill("10")
    assert accuracy.get_attribute("data-measured") == "true"
    assert f"{100 * point['accuracy']:.1f} %" in accuracy.inner_text()
    assert "n = 287" in accuracy.inner_text()
    at(page, "tau-slider").fill("11")
    assert accuracy.get_attribute("data-measured") == "false"
    assert accuracy.inner_text().startswith("not measured at this tau")
    assert "nearest measured: 0.50σ" in accuracy.inner_text()
    accuracy.get_by_role("button").click()
    assert chosen(page)[3] == 10


def test_two_stages_side_by_side(open_page, run):
    page = open_page()
    at(page, "compare-stage").select_option("in-loop")
    at(page, "tau-slider").fill("25")
    page.wait_for_timeout(400)
    assert_shows_a_recount(page, run)
    assert_shows_a_recount(page, run, suffix="-compare", stage="in-loop")
    axes = page.locator("#panels .chart.tall").evaluate_all(
        "hosts => hosts.map(h => [...h.querySelectorAll('.role-axis-label text')].map(t => t.textContent).join())"
    )
    assert axes[0] == axes[1]
    at(page, "compare-stage").select_option("")
    assert page.locator("#panels article").count() == 1


def test_log_counts(open_page, run):
    page = open_page()
    page.wait_for_timeout(300)
    before = page.locator("#panels .chart.tall").inner_text()
    at(page, "scale-toggle").click()
    page.wait_for_selector("#panels .chart.tall svg .mark-rect path")
    page.wait_for_timeout(300)
    assert at(page, "scale-toggle").get_attribute("aria-pressed") == "true"
    assert page.locator("#panels .chart.tall").inner_text() != before
    assert_shows_a_recount(page, run)


def test_films_scrub_and_play(open_page, run):
    page = open_page()
    at(page, "film-select").select_option("in-loop")
    slider = at(page, "film-slider")
    slider.fill("9")
    assert at(page, "film-value").inner_text().startswith("step 360, epoch 18")
    assert "accuracy not measured at this frame" in at(page, "film-value").inner_text()
    frame = run[0]["films"]["in-loop"][9]["layers"][HOSTILE]
    n = frame["n_zero"] + sum(frame["positive"]) + sum(frame["negative"])
    assert f"{100 * frame['n_zero'] / n:.1f} % of this layer exactly zero" in page.locator("#film-note").inner_text()
    at(page, "film-play").click()
    expect(at(page, "film-play")).to_have_text("Pause")
    expect(slider).to_have_value("11")
    expect(at(page, "film-play")).to_have_text("Play")


def test_less_motion_is_respected(open_page):
    page = open_page(reduced_motion="reduce")
    assert not at(page, "film-play").is_visible()
    assert at(page, "film-slider").is_visible()


def test_hostile_names_stay_text(open_page):
    page = open_page()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#layers button").nth(3).inner_text() == HOSTILE
    assert page.locator("#layers button").nth(0).inner_text() == "__proto__"
    assert page.locator("img[src=x]").count() == 0
    page.locator("#layers button").nth(0).click()
    assert at(page, "layer-select").input_value() == "0"
    assert page.evaluate("({}).n_zero === undefined")


def test_the_policy_stops_the_network(browser, file):
    context = browser.new_context()
    page = context.new_page()
    page.goto(file.as_uri())
    said = page.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'stopped')")
    assert said == "stopped"
    inserted = "(code) => { const s = document.createElement('script'); s.textContent = code; document.body.append(s) }"
    page.evaluate(inserted, "window.ran = 1")
    assert page.evaluate("window.ran") is None
    context.close()


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_does_not_scroll_sideways(open_page, run, width):
    page = open_page(width=width, height=844)
    at(page, "compare-stage").select_option("in-loop")
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert_shows_a_recount(page, run)
    sticking_out = page.evaluate(
        """[...document.querySelectorAll('main *, footer *')].filter(e => !e.closest('.scroll, svg, .sr')
           && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert sticking_out == []


def test_dark_and_light(open_page):
    page = open_page(color_scheme="dark")
    color = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(color)
    bar = "getComputedStyle(document.querySelector('#panels svg path[fill=\"var(--kept)\"]')).fill"
    dark_bar = page.evaluate(bar)
    at(page, "theme-toggle").click()
    assert page.evaluate(color) != dark
    assert page.evaluate(bar) != dark_bar
    at(page, "theme-toggle").click()
    assert page.evaluate(color) == dark


def luminance(css):
    channels = [int(part) / 255 for part in re.findall(r"\d+", css)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_page, scheme):
    page = open_page(color_scheme=scheme)
    for ink in ("--ink", "--muted", "--accent", "--zero", "--good", "--bad", "--open"):
        for paper in ("--paper", "--page", "--tint"):
            pair = page.evaluate(
                """([ink, paper]) => { const e = document.createElement('p'); document.body.append(e);
                   e.style.color = `var(${ink})`; e.style.backgroundColor = `var(${paper})`;
                   const s = getComputedStyle(e), found = [s.color, s.backgroundColor]; e.remove(); return found; }""",
                [ink, paper],
            )
            light, dark = sorted((luminance(css) for css in pair), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper, pair)


def test_the_keyboard_reaches_every_control(open_page):
    page = open_page()
    wanted = {"theme-toggle", "stage-select", "compare-stage", "layer-select", "tau-unit", "scale-toggle", "tau-slider"}
    wanted |= {"tau-number", "film-select", "film-slider", "film-play", "component-select", "copy-yaml", "copy-command"}
    reached = set()
    for _ in range(70):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.testid"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if wanted <= reached:
            break
    assert wanted <= reached


def test_a_screen_reader_finds_names(open_page):
    page = open_page()
    unnamed = page.evaluate(
        """[...document.querySelectorAll('input, select, button')].filter(e =>
           !e.labels?.length && !e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.evaluate("[...document.querySelectorAll('img, [role=img]')].every(e => e.alt || e.ariaLabel)")
    assert page.locator("main").count() == page.locator("h1").count() == 1
    at(page, "tau-slider").fill("20")
    expect(page.locator("#live")).to_have_text(re.compile(r"^Threshold 1\.00σ\. .* removed, accuracy "))


def test_copy_says_what_it_did(open_page, run):
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for testid, text in (("copy-yaml", run[0]["recipe_yaml"]), ("copy-command", run[0]["command"])):
        at(page, testid).click()
        expect(page.locator("#copied")).to_have_text(re.compile("copied"))
        assert page.evaluate("navigator.clipboard.readText()") == text


def test_copy_works_without_the_clipboard_interface(open_page):
    page = open_page()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    at(page, "copy-yaml").click()
    expect(page.locator("#copied")).to_have_text("Recipe copied.")


def test_tables_hold_every_claim_and_point(open_page, run):
    page, results = open_page(), run[0]
    assert page.locator("#claims-table tbody tr").count() == len(results["claims"])
    assert page.locator("#tradeoff-table tbody tr").count() == len(results["tradeoff"]) + 1
    assert "no difference" in page.locator("#zeros-table").inner_text()
    assert page.locator("#maps img").count() == 6
    assert "head.bias" in page.locator("#not-pruned-table").text_content()


def made(tmp_path, results):
    path = tmp_path / "other.html"
    path.write_text(report.report_page(results), encoding="utf-8")
    return path


def test_a_layer_that_is_not_pruned_is_shown_but_not_counted(open_page, tmp_path):
    results, weights = make_results()
    head = len(results["layers"]) - 1
    assert results["layers"][head]["name"] == TRACKED["cls-head"]
    results["layers"][head]["prunable"] = False
    results["stages"][-1]["picture"] = None
    for frame in results["films"]["in-loop"]:
        del frame["layers"][TRACKED["cls-head"]]
    results["tradeoff"][6]["n_collapsed"] = 2
    page, run = open_page(file=made(tmp_path, results)), (results, weights)
    for stage in ("trained", "one-shot", "absolute"):
        at(page, "stage-select").select_option(stage)
        for layer in ("3", str(head)):
            at(page, "layer-select").select_option(layer)
            for unit in ("sigma", "absolute"):
                at(page, "tau-unit").select_option(unit)
                assert_shows_a_recount(page, run)
    assert page.locator("#layers small").all_inner_texts() == [
        "not pruned by the recipe: what τ would take, not in the total"
    ]
    assert "not pruned by the recipe" in page.locator("#layers tr").nth(head).inner_text()
    assert "not pruned" in page.locator("#panels article").inner_text()
    note = page.locator("#film-note")
    assert "exactly zero" in note.inner_text()
    at(page, "film-select").select_option("in-loop")
    assert note.inner_text() == "This layer is not recorded in this film."
    at(page, "film-slider").fill("4")
    at(page, "film-layer").select_option("3")
    assert "exactly zero" in note.inner_text()
    assert page.locator("#tradeoff-table").text_content().count("2 layers emptied") == 1


def test_a_run_without_films_or_positions_works(open_page, tmp_path):
    results, weights = make_results()
    results |= {"films": {"trained": [], "in-loop": []}, "positions": {}}
    page = open_page(file=made(tmp_path, results))
    for section in ("films", "positions"):
        assert page.locator(f"#{section}").count() == page.locator(f'nav a[href="#{section}"]').count() == 0
    at(page, "layer-select").select_option("2")
    at(page, "tau-slider").fill("33")
    assert_shows_a_recount(page, (results, weights))
    at(page, "scale-toggle").click()
    page.wait_for_selector("#panels .chart.tall svg .mark-rect path")
    assert page.locator("#claims-table tbody tr").count() == len(results["claims"])
    assert page.locator("#yaml").inner_text().strip() == results["recipe_yaml"].strip()
    assert not page.locator("#left-out").is_visible()


def test_what_was_left_out_is_said(open_page, tmp_path, monkeypatch):
    results, _ = make_results()
    monkeypatch.setattr(report, "LARGEST_PAGE", len(report.report_page(results).encode()) - 1000)
    page = open_page(file=made(tmp_path, results))
    assert page.locator("#left-out").inner_text().startswith("Every 2nd frame of training is shown")


def test_page_and_charts_write_the_same_percentages(browser):
    script = Path(report.__file__).with_name("page").joinpath("page.js").read_text("utf-8")
    twin = re.search(r"function percent\(.*?\n  }\n", script, re.DOTALL)[0]
    shares = [k / n for n in (7, 16, 360, 1000, 2000, 4096) for k in range(n + 1)] + [1e-9, 1 - 1e-9, 1.0004, 3.7]
    context = browser.new_context()
    page = context.new_page()
    for digits in (0, 1, 2):
        told = page.evaluate(
            f"([shares, digits]) => {{ {twin}; return shares.map(s => percent(s, digits)); }}", [shares, digits]
        )
        assert told == [style.percent(share, digits) for share in shares]
    context.close()


def test_page_and_charts_use_the_same_words(open_page):
    page = open_page()
    words = page.locator("#tradeoff-legend li").all_inner_texts()
    assert [word[1:] for word in words] == list(style.STRATEGIES.values())
    labels = page.locator("#component option").all_text_contents()
    assert [label.split(":")[0] for label in labels] == list(style.COMPONENTS.values())
