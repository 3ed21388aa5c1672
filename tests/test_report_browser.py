"""The page as a browser shows it, wide and narrow, with scripts and without."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from supermask.report import write_report
from tests.browser import Browser, find_browser
from tests.test_report import make_document

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="there is no Chromium here (Debian: apt-get install chromium)"
)
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
METHODS = ("dense", "edge-popup", "imp", "reinit")
LONG = "a-method-whose-name-nobody-listed-and-that-goes-on-and-on"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document(methods=(*METHODS, LONG), seeds=(0, 1))


@pytest.fixture(scope="module")
def page(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(document, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module", params=["stability/cifar10-resnet-20", "transfer/conv-4-32", "theory/mnist"])
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    document = json.loads((RESULTS / f"{request.param}.json").read_text(encoding="utf-8"))
    return write_report(document, tmp_path_factory.mktemp("experiment"))


def overhang(browser: Browser) -> int:
    """Pixels by which the page is wider than the window."""
    width: int = browser.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return width


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("width", [400, 1200])
def test_a_page_fits_its_window(browser: Browser, page: Path, width: int, scripts: bool) -> None:
    browser.open(page, width, scripts=scripts)
    assert not browser.errors
    browser.send("Emulation.setScriptExecutionDisabled", value=False)  # or it cannot be asked
    assert overhang(browser) == 0


def test_pages_of_experiments_fit_a_narrow_window(browser: Browser, experiment: Path) -> None:
    browser.open(experiment, 400)
    assert not browser.errors and overhang(browser) == 0
    assert browser.evaluate("document.documentElement.className") == "scripted"


def test_without_scripts_nothing_is_offered_that_needs_them(browser: Browser, page: Path) -> None:
    browser.open(page, 1200, scripts=False)
    browser.send("Emulation.setScriptExecutionDisabled", value=False)
    shown = "[...document.querySelectorAll({!r})].filter(e => e.getClientRects().length).length"
    assert browser.evaluate(shown.format("button, .tools")) == 0
    assert browser.evaluate(shown.format("figure svg")) == 4
    assert browser.evaluate("document.querySelectorAll('svg .says > title').length") > 20


def test_pointing_at_a_mark_shows_its_value(browser: Browser, page: Path, document: dict[str, Any]) -> None:
    browser.open(page, 1200)
    at = browser.evaluate(
        "(() => { const e = [...document.querySelectorAll('#figure-accuracy-density .log .says')]"
        ".find(e => e.dataset.value.startsWith('IMP, density 0.3'));"
        "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    browser.evaluate("new Promise(done => setTimeout(done, 100))")  # scrolling hides values
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
    value = "[...document.querySelectorAll('.value:not([hidden])')].map(v => v.textContent)[0]"
    (entry,) = [e for e in document["summary"] if e["method"] == "imp" and e["density"] == 0.3]
    mean, low, high = (f"{100 * entry[key]:.2f}" for key in ("mean", "min", "max"))
    assert browser.evaluate(value) == f"IMP, density 0.3: {mean} % ({low} to {high}, 2 seeds)"
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=at[1])
    assert browser.evaluate(value) is None


def test_a_series_is_switched_off_and_on_in_its_figure(browser: Browser, page: Path) -> None:
    browser.open(page, 1200)
    shown = (
        "[...document.querySelectorAll('#figure-{} .log [data-series=imp]')]"
        ".filter(e => getComputedStyle(e).display !== 'none').length"
    )
    before = browser.evaluate(shown.format("accuracy-density"))
    box = "document.querySelector('#figure-accuracy-density [data-toggle=imp]').click()"
    assert before > 5
    browser.evaluate(box)
    assert browser.evaluate(shown.format("accuracy-density")) == 0
    assert browser.evaluate(shown.format("learning-curves")) > 0
    browser.evaluate(box)
    assert browser.evaluate(shown.format("accuracy-density")) == before
    browser.evaluate("document.querySelector('#figure-accuracy-density [data-all=off]').click()")
    visible = shown.format("accuracy-density").replace("=imp", "")
    assert browser.evaluate(visible) == 0


def test_the_scale_is_switched_without_scripts(browser: Browser, page: Path) -> None:
    browser.open(page, 1200, scripts=False)
    browser.send("Emulation.setScriptExecutionDisabled", value=False)
    shown = (
        "[...document.querySelectorAll('#figure-ticket-size .drawing')].map(e => e.getClientRects().length)"
    )
    assert browser.evaluate(shown) == [1, 0]
    browser.evaluate("document.querySelector('#figure-ticket-size input.linear').click()")
    assert browser.evaluate(shown) == [0, 1]


def test_csv_and_png_are_downloaded(
    browser: Browser, page: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    browser.open(page, 1200)
    browser.evaluate(
        "window.kept = []; const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { kept.push(blob); return make(blob); }"
    )
    browser.evaluate("document.querySelector('[data-csv=runs]').click()")
    browser.evaluate("document.querySelector('[data-csv=results]').click()")
    runs, results = (
        list(csv.DictReader(io.StringIO(browser.evaluate(f"kept[{index}].text()")))) for index in range(2)
    )
    assert [float(run["test_accuracy"]) for run in runs] == [row["test_accuracy"] for row in document["rows"]]
    assert {(row["method"], float(row["density"])): float(row["test_accuracy"]) for row in results} == {
        (entry["method"], entry["density"]): entry["mean"] for entry in document["summary"]
    }
    browser.evaluate("document.querySelector('#figure-accuracy-density [data-png]').click()")
    numbers = browser.evaluate(
        "new Promise(done => { const look = () => { const blob = kept.find(b => b.type === 'image/png');"
        "if (!blob) return setTimeout(look, 20);"
        "blob.arrayBuffer().then(bytes => done([...new Uint8Array(bytes)])); }; look(); })"
    )
    with Image.open(io.BytesIO(bytes(numbers))) as image:
        assert image.format == "PNG" and image.width > 1500
        darkest, brightest = image.convert("L").getextrema()
        assert darkest < 60 and brightest == 255
    assert not browser.errors
