"""The page in a real browser: nothing fails, every chart is drawn, nothing sticks out of a phone, and the theme follows the reader."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from habitus.report import write

REQUIRED = os.environ.get("HABITUS_REQUIRE_BROWSER") == "1"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SOFTWARE_GL = "GL Driver Message"  # what a browser without a graphics card says of its own slowness

INK = {"light": "rgb(28, 33, 38)", "dark": "rgb(232, 234, 237)"}  # page.css has the same
# Of every chart: is it drawn, does it hold marks, does it end within the screen?
CHARTS = """[...document.querySelectorAll('.chart')].map(chart => [
    chart.id, chart.querySelectorAll('.main-svg').length > 0,
    chart.querySelector('.points path, .js-line, .hm image, .gl-canvas') !== null, chart.getBoundingClientRect().right <= innerWidth
])"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED, reason="Chromium is not installed (HABITUS_REQUIRE_BROWSER=1 fails instead)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "HABITUS_REQUIRE_BROWSER=1 is set, and there is no Chromium on the path"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page(finished: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(finished[0], tmp_path_factory.mktemp("browser") / "report.html")


class Visit:
    """A visit to the page: what the browser complained of, and what it asked of the network."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str) -> None:
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.tab.on("console", lambda message: self._said(message.type, message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(path.as_uri())
        self.drawn(scheme)

    def _said(self, kind: str, text: str) -> None:
        if _SOFTWARE_GL not in text:
            self.complaints.append(f"{kind}: {text}")

    def drawn(self, scheme: str) -> None:
        self.tab.wait_for_function(f"document.documentElement.dataset.drawn === '{scheme}'", timeout=60_000)


@pytest.mark.parametrize(("width", "schemes"), [(360, ("light", "dark")), (1280, ("dark", "light"))])
def test_browser_draws_every_chart_and_complains_of_nothing(browser: Any, page: Path, width: int, schemes: tuple[str, str]) -> None:
    """What a reader with this screen and theme would meet, and when the theme turns at sunset: an empty chart, a scroll bar below,
    an error in the console, light figures on a dark page."""
    visit = Visit(browser, page, width, schemes[0])
    for scheme in schemes:
        visit.tab.emulate_media(color_scheme=scheme)
        visit.drawn(scheme)
        assert visit.tab.evaluate("document.documentElement.scrollWidth") <= width
        charts = visit.tab.evaluate(CHARTS)
        assert len(charts) > 8
        assert [chart for chart in charts if not all(chart[1:])] == []
        assert visit.tab.evaluate("getComputedStyle(document.querySelector('#figure-1 .xtick text')).fill") == INK[scheme]
    assert visit.complaints == []
    assert [url for url in visit.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    visit.tab.close()


def test_browser_map_can_be_colored_by_every_choice(browser: Any, page: Path) -> None:
    """Each choice must draw all users, those of another kind with another symbol."""
    visit = Visit(browser, page, 800, "light")
    titles = visit.tab.eval_on_selector_all("#map-choice option", "found => found.map(e => e.textContent)")
    assert "churn: what came next" in titles
    for number, title in enumerate(titles):
        visit.tab.select_option("#map-choice", str(number))
        visit.tab.wait_for_timeout(50)
        traces = visit.tab.evaluate("document.getElementById('map-chart').data.map(t => [t.x.length, t.marker.symbol ?? 'circle', t.name])")
        assert sum(trace[0] for trace in traces) == 90, title
        assert len({trace[1] for trace in traces}) == len(traces), title
    assert visit.complaints == []
    visit.tab.close()


def test_browser_prints_with_everything_open(browser: Any, page: Path) -> None:
    """On paper nothing can be unfolded."""
    visit = Visit(browser, page, 800, "dark")
    visit.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visit.tab.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    assert visit.tab.evaluate("getComputedStyle(document.body).getPropertyValue('--ink').trim()") == "#1c2126"
    visit.tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert visit.tab.evaluate("document.querySelectorAll('details[open]').length") == 1
    assert visit.complaints == []
    visit.tab.close()
