"""Pages of reports in Chromium: nothing runs off the page, tables sort, pictures enlarge, and the dark is dark."""

import itertools
import json

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from matplotlib.figure import Figure
from PIL import Image
from planted import plant

from cnnlab.reports.comparison import study
from cnnlab.reports.comparison_report import write_comparison
from cnnlab.reports.comparison_sections import sections
from cnnlab.reports.pages import figure_png, html_gallery, html_page, html_picture, html_section, html_table, html_tiles
from cnnlab.runs.results import find_results

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

HEAD = ["name", "metric/of/runs", "count"]
ROWS = [
    ["run 10", "0.5000 ± 0.1 (0.4 to 0.6)", 3],
    ["run 9", "1.2e-3", None],
    ["Run 2", "-7.5", 12_000],
    ["class (a)", "0.61", 40],
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    figure = Figure(figsize=(9, 5))
    figure.add_subplot().plot([0, 1], [1, 0])
    images = [Image.new("RGB", (300, 200), colour) for colour in ("red", "blue")]
    path = tmp_path_factory.mktemp("page") / "page.html"
    parts = (
        html_section("", html_tiles([("accuracy", 0.5, "95 % interval"), ("images", 7, "")])),
        html_section("Table", html_table(ROWS, HEAD)),
        html_picture("Curve", figure_png(figure)),
        html_section("Gallery", html_gallery([(images, ["first", "more"]), (images[::-1], ["second"])])),
    )
    path.write_text(html_page("Title", *parts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Three factors with long names, and all the metrics of a usual run."""
    folder = tmp_path_factory.mktemp("comparison")
    values = (["default", "orthogonal"], ["none", "[l2,dropout,stochastic_depth]"], ["0.001", "0.01"])
    for init, regularization, lr in itertools.product(*values):
        for seed in range(2):
            place = folder / "runs" / f"{init}-{regularization}-{lr}-with-a-long-name-{seed}"
            options = [f"init={init}", f"regularization={regularization}", f"optimizer.lr={lr}"]
            scores = [0.5 + len(init) / 50, 0.7 + seed / 50]
            plant(place, options, seed, scores, test={"test/acc": 0.7 + seed / 99, "test/loss": 0.3, "test/f1": 0.6})
    given = study(find_results([folder / "runs"]))
    write_comparison(folder, "Comparison of runs", given, sections(given))
    return folder / "comparison.html"


def show(browser, path, width: int = 1400, theme: str = "light") -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    browser.open(path.as_uri())
    browser.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(path.as_uri())}")


def column(browser, number: int) -> list[str]:
    cells = f"[...document.querySelectorAll('tbody tr')].map(row => row.cells[{number}].textContent)"
    return json.loads(browser.evaluate(f"JSON.stringify({cells})"))


def click(browser, selector: str) -> None:
    browser.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


@pytest.mark.parametrize("width", [400, 1200, 1400])
def test_nothing_runs_off_the_page(browser, page, comparison, width):
    for path in (page, comparison):
        show(browser, path, width)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        outside = "[...document.querySelectorAll('section, header, nav a, p, dt')].filter(each => each.offsetWidth"
        outside += f" && each.getBoundingClientRect().right > {width}).map(each => each.textContent)"
        assert browser.evaluate(outside) == []


def test_table_of_settings_fits_a_page_of_1200_pixels(browser, comparison):
    show(browser, comparison, 1200)
    boxes = "JSON.stringify([...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth]))"
    settings, *_ = json.loads(browser.evaluate(boxes))
    assert settings[0] <= settings[1]
    words = "[...document.querySelectorAll('td')].filter(cell => cell.textContent === 'orthogonal')"
    heights = json.loads(browser.evaluate(f"JSON.stringify({words}.map(cell => cell.getClientRects()[0].height))"))
    assert len(set(heights[:2])) == 1  # no word is broken: cells of one word have one line


def test_columns_sort_by_number_or_word_and_missing_values_come_last(browser, page):
    show(browser, page)
    click(browser, "th:nth-child(2) button")
    assert column(browser, 0) == ["class (a)", "run 10", "run 9", "Run 2"]  # the largest number first
    click(browser, "th:nth-child(2) button")
    assert column(browser, 0) == ["Run 2", "run 9", "run 10", "class (a)"]
    click(browser, "th:nth-child(3) button")
    assert column(browser, 2) == ["12000", "40", "3", ""]
    click(browser, "th:nth-child(3) button")
    assert column(browser, 2) == ["3", "40", "12000", ""]
    click(browser, "th:nth-child(1) button")
    assert column(browser, 0) == ["class (a)", "Run 2", "run 9", "run 10"]
    heads = "JSON.stringify([...document.querySelectorAll('th')].map(head => head.getAttribute('aria-sort')))"
    assert json.loads(browser.evaluate(heads)) == ["ascending", None, None]


def test_pictures_enlarge_with_what_is_beside_and_below_them(browser, page):
    show(browser, page)
    click(browser, ".gallery .enlarge")
    assert browser.evaluate("document.getElementById('viewer').open")
    assert browser.evaluate("document.querySelectorAll('#viewer img').length") == 2
    assert "first" in browser.evaluate("document.querySelector('#viewer .caption').textContent")
    small = browser.evaluate("document.querySelector('.gallery img').getBoundingClientRect().width")
    assert browser.evaluate("document.querySelector('#viewer img').getBoundingClientRect().width") > 2 * small
    click(browser, "#viewer .next")
    assert browser.evaluate("document.querySelector('#viewer .caption').textContent") == "second"
    click(browser, "#viewer .next")  # around, to the plot
    assert browser.evaluate("document.querySelectorAll('#viewer img').length") == 1
    click(browser, "#viewer .close")
    assert not browser.evaluate("document.getElementById('viewer').open")


def brightness(browser, path) -> float:
    browser.picture(path)
    return float(np.asarray(Image.open(path).convert("L")).mean())


def test_page_is_dark_where_that_is_preferred_or_chosen(browser, page, tmp_path):
    show(browser, page, theme="light")
    light = brightness(browser, tmp_path / "light.png")
    click(browser, "#theme")
    chosen = brightness(browser, tmp_path / "chosen.png")
    show(browser, page, theme="dark")
    preferred = brightness(browser, tmp_path / "preferred.png")
    assert light > 200
    assert chosen == pytest.approx(preferred, abs=1)
    assert preferred < 70
    assert browser.evaluate("document.getElementById('theme').textContent") == "Light"


def test_sections_are_linked(browser, page):
    show(browser, page)
    links = "JSON.stringify([...document.querySelectorAll('nav a')].map(link => link.textContent))"
    assert json.loads(browser.evaluate(links)) == ["Table", "Curve", "Gallery"]
    click(browser, "nav a:last-child")
    assert browser.evaluate("document.querySelector(location.hash).querySelector('h2').textContent") == "Gallery"
