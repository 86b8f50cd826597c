"""The page as a reader meets it, in a real browser: drawn, quiet, offline, and it answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from tests.report import browser as chromium
from tests.report import scenes
from tests.report.browser import Browser
from yolo_gradsafe.report.compare import compare, gather
from yolo_gradsafe.report.page import write_page
from yolo_gradsafe.report.page.comparison import write_comparison
from yolo_gradsafe.report.summarize import summarize

pytestmark = pytest.mark.skipif(bool(chromium.MISSING), reason=chromium.MISSING)

RANGE = "return document.querySelector(arguments[0]).layout.xaxis.range"
LEGEND = "#panel-{} .legend b"
CLOSED = "return !document.getElementById(arguments[0]).closest('details').open"
SEEN = """
const element = document.getElementById(arguments[0]), box = element.getBoundingClientRect();
return element.checkVisibility() && 0 <= box.top && box.top < innerHeight / 2
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of all scenes, and of a comparison."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {name: getattr(scenes, name)(folder / name) for name in ("healthy", "sick", "crashed", "empty")}
    found = {name: write_page(run, summarize(run)) for name, run in runs.items()}
    members = gather([runs["healthy"], runs["sick"], runs["crashed"]])
    found["compare"] = write_comparison(folder / "compare.html", members, compare(members))
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each opens its page anew."""
    window = Browser()
    yield window
    window.close()


@pytest.fixture
def sick(browser: Browser, pages: dict[str, Path]) -> Browser:
    """The browser, with the page of the sick run as it is at first."""
    if browser.driver.current_url != pages["sick"].as_uri():
        browser.resize(1280, 900)
        browser.open(pages["sick"])
    browser.js(
        "document.querySelector('[data-zoom=all]').click(); document.querySelector('[data-kind-filter]').click()"
    )
    browser.hover("h1", 0.5)
    assert browser.until(lambda: not browser.text("#cursor"))
    return browser


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [
        *((name, "light", 1280) for name in ("healthy", "crashed", "empty", "compare")),
        ("compare", "light", 390),
        ("sick", "dark", 1280),
        ("sick", "light", 390),
        ("sick", "light", 1280),
    ],
)
def test_every_page_draws_quietly_and_offline(browser, pages, name, scheme, width):
    browser.resize(width, 900)
    browser.prefer(scheme)
    if name == "empty":  # nothing to draw
        browser.driver.get(pages[name].as_uri())
    else:
        browser.open(pages[name])
        drawn = browser.js("return document.querySelectorAll('.panel .plot .trace.scatter').length")
        assert drawn >= 3
    assert browser.errors() == []
    assert browser.requests() == []
    assert browser.js("return document.documentElement.dataset.theme") == scheme
    assert browser.js("return document.documentElement.scrollWidth") <= width


def test_curves_and_heat_map_are_drawn(sick):
    panels = sick.js("return [...document.querySelectorAll('.panel .plot')].map((p) => p.data.length)")
    assert len(panels) == 6
    assert min(panels) >= 1
    assert sick.js("return document.querySelector('#heat .heatmaplayer image').outerHTML.length") > 100
    assert sick.js("return document.querySelectorAll('#panel-norm .scatterlayer .trace').length") >= 5


def test_hover_shows_the_values_of_a_step_in_all_panels(sick):
    sick.hover("#panel-norm .plot", 0.5)
    assert sick.until(lambda: re.fullmatch(r"step [\d,]+, epoch \d+", sick.text("#cursor")))
    for panel in ("norm", "loss", "rate", "amp", "stages"):
        assert sick.text(LEGEND.format(panel)), panel
    assert sick.js("return document.querySelector('#panel-loss .cross').style.display") == "block"
    sick.hover("#heat", 0.5)
    label = "return document.querySelector('#heat .hoverlayer').textContent"
    assert sick.until(lambda: re.search(r"model\.\d+ .*epoch \d+: norm", sick.js(label)))


def test_zoom_is_shared_by_all_panels(sick):
    whole = sick.js(RANGE, "#panel-norm .plot")
    sick.drag("#panel-norm .plot", 0.4, 0.5)
    for panel in ("norm", "loss", "rate", "amp", "stages"):
        plot = f"#panel-{panel} .plot"
        assert sick.until(lambda plot=plot: 700 < sick.js(RANGE, plot)[0] < sick.js(RANGE, plot)[1] < 1000)
    sick.js("document.querySelector('[data-zoom=all]').click()")
    assert sick.until(lambda: sick.js(RANGE, "#panel-loss .plot") == whole)


def test_keyboard(sick):
    from selenium.webdriver.common.keys import Keys

    sick.js("document.querySelector('#panel-loss').focus()")
    whole = sick.js(RANGE, "#panel-loss .plot")
    sick.driver.switch_to.active_element.send_keys("+")
    half = pytest.approx((whole[1] - whole[0]) / 2, rel=0.01)
    assert sick.until(lambda: -np.subtract(*sick.js(RANGE, "#panel-norm .plot")) == half)
    sick.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert sick.until(lambda: sick.text("#cursor").startswith("step "))
    sick.driver.switch_to.active_element.send_keys("0")
    assert sick.until(lambda: sick.js(RANGE, "#panel-norm .plot") == whole)
    sick.driver.switch_to.active_element.send_keys(Keys.ESCAPE)


def test_a_curve_can_be_hidden(sick):
    button = sick.find("#panel-loss .legend button")[0]
    sick.js("arguments[0].click()", button)
    assert button.get_attribute("aria-pressed") == "false"
    assert sick.js("return document.querySelector('#panel-loss .plot').data.filter((t) => t.visible === false).length")


@pytest.mark.parametrize("way", ["mouse", "keyboard", "touch"])
def test_a_figure_says_what_it_means(sick, way):
    tip = "return getComputedStyle(document.querySelector('#tip-clipped')).visibility"
    assert sick.js(tip) == "hidden"
    if way == "mouse":
        sick.hover(".figures > div:nth-child(3)", 0.5)
        assert sick.until(lambda: sick.js(tip) == "visible")
    elif way == "keyboard":
        sick.js("document.querySelector('[href=\"#about-clipped\"]').focus()")
        assert sick.until(lambda: sick.js(tip) == "visible")
        sick.js("document.activeElement.blur()")
    else:
        sick.js("document.querySelector('[href=\"#about-clipped\"]').click(); document.activeElement.blur()")
        assert sick.until(lambda: sick.js("return document.querySelector('#about-clipped').checkVisibility()"))
        sick.js("document.querySelector('#about-clipped').closest('details').open = false; location.hash = ''")


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_figure_leads_to_its_page_of_the_documentation(browser, pages, scripts, width):
    browser.resize(width, 900)
    with nullcontext() if scripts else browser.without_scripts():
        browser.driver.get(pages["healthy"].as_uri())
        assert browser.js(CLOSED, "docs-verdicts")
        browser.click("[href='#about-steps']")
        assert browser.until(lambda: browser.js(SEEN, "about-steps"))
        assert browser.text("#about-steps + dd a") == "Verdicts and the ladder"
        browser.click("#about-steps + dd a")
        assert browser.until(lambda: browser.js(SEEN, "docs-verdicts"))
        assert browser.js(CLOSED, "docs-read-the-report")
        assert browser.js("return document.documentElement.scrollWidth") <= width
        assert scripts or not browser.js("return document.documentElement.dataset.drawn")


def test_pages_of_the_documentation_lead_to_each_other(browser, pages):
    browser.resize(1280, 900)
    browser.driver.get("about:blank")
    browser.driver.get(f"{pages['healthy'].as_uri()}#docs-read-the-report")
    assert browser.until(lambda: browser.js(SEEN, "docs-read-the-report"))
    browser.click("[href='#docs-verdicts-did-the-model-learn']")
    assert browser.until(lambda: browser.js(SEEN, "docs-verdicts-did-the-model-learn"))
    browser.js("document.querySelectorAll('.manual').forEach((page) => { page.open = false; }); history.back()")
    assert browser.until(lambda: browser.js(SEEN, "docs-read-the-report"))


def test_the_documentation_is_not_printed(browser, pages):
    browser.open(pages["healthy"])
    shown = "return document.getElementById(arguments[0]).checkVisibility()"
    with browser.on_paper():
        assert browser.js(shown, "about-steps")
        assert not browser.js(shown, "documentation")
        assert not browser.js(shown, "docs-verdicts")


def test_paper_is_unfolded_and_the_screen_is_as_before(sick):
    closed = "return document.querySelectorAll('details:not([open])').length"
    before = sick.js(closed)
    sick.js("dispatchEvent(new Event('beforeprint'))")
    assert sick.js(closed) == 0
    sick.js("dispatchEvent(new Event('afterprint'))")
    assert sick.js(closed) == before > 0


def test_an_incident_shows_its_picture(sick):
    size = sick.js("const i = document.querySelector('.card[open] img'); return [i.naturalWidth, i.clientWidth]")
    assert size[0] == 900
    assert size[1] > 200
    sick.js("document.querySelector('[data-show]').click()")
    assert sick.until(lambda: sick.js(RANGE, "#panel-norm .plot")[1] < 300)
    assert sick.text("#cursor") == "step 60, epoch 2"


def test_incidents_can_be_filtered(sick):
    seen = "return [...document.querySelectorAll('.card')].filter((c) => !c.hidden).length"
    assert sick.js(seen) == scenes.INCIDENTS
    sick.js("document.querySelector('[data-kind-filter=poisoned]').click()")
    assert 0 < sick.js(seen) < scenes.INCIDENTS


def test_a_hostile_file_name_stays_text(sick):
    assert sick.driver.title == "sick: stability"
    assert (
        sick.js("return document.querySelectorAll('img:not([src^=\"data:image/jpeg\"]):not(.manual img)').length") == 0
    )
    assert scenes.HOSTILE in sick.text(".card .body")


def test_the_theme_can_be_chosen(browser, pages):
    browser.prefer("light")
    browser.open(pages["sick"])
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.js(paper)
    browser.js("document.querySelector('.theme').click()")
    assert browser.until(lambda: browser.js(paper) != light)
    browser.js("document.querySelector('.theme').click()")


def test_it_prints(sick):
    found = sick.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(found["data"]) > 100_000
    assert sick.errors() == []


def test_a_browser_that_cannot_unpack_is_told_so(browser, pages):
    script = {"source": "delete window.DecompressionStream"}
    found = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    browser.open(pages["healthy"])
    browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", found)
    assert "stability.png" in browser.text(".plot")
    assert "Healthy: 300 steps" in browser.text("h1")
