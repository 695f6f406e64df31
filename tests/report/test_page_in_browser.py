"""The page in headless Chromium, at desktop and phone width: whole, quiet, nothing missing, nothing overlapping."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import chromium, inspect, run_in_page, screenshot
from report_records import fill, make_study

from aqr_bench.report.page import build_report
from aqr_bench.study.load import load_study, load_tier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    study = load_study(make_study(folder, variants=("none", "cross", "a-rather-long-name"), seeds=(0, 1, 2)))
    fill(folder / "results", study.path, fail={("cross", 1)}, scenes=12)
    from PIL import Image

    pictures = folder / "results" / "smoke" / "pictures"
    pictures.mkdir()
    Image.new("RGB", (1700, 560), "grey").save(pictures / "clean.png")
    return build_report(load_tier("smoke"), [study], folder / "results", folder / "out")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_whole_at_any_width(page, width, tmp_path):
    result = inspect(page, width, tmp_path)
    assert result["width"] == width and result["height"] > 3000 and result["images"] >= 1 and result["figures"] >= 10
    assert result["scroll_width"] <= width, "the page itself scrolls sideways"
    assert not result["broken"] and not result["fetched"] and not result["console"]
    assert not result["overlaps"] and not result["cut"]
    from PIL import Image

    with Image.open(screenshot(page, width, 1500, tmp_path / "page.png")) as image:
        shown = image.crop((0, 0, width, 1500)).convert("L")
    assert shown.getextrema()[0] < 64 < 200 < shown.getextrema()[1], "dark text on light ground"


STEPS_OF_FIGURES = """
const seen = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility === 'visible';
const count = (selector) => [...document.querySelectorAll('figure svg')].map(
  (svg) => [...svg.querySelectorAll(selector)].filter(seen).length);
const tick = (button, name) => {
  document.getElementById(`tools-${button}`).click();
  [...document.querySelectorAll('#tools-menu label')].find((l) => l.textContent.trim() === name).firstChild.click();
};
document.querySelectorAll('main details').forEach((details) => { details.open = true; });
result.images = document.querySelectorAll('figure .plot > img').length;
result.before = [count('[data-variant=cross]'), count('[data-variant=none]'), count('[data-condition=no_lidar]')];
tick('variants', 'cross');
result.variants = [count('[data-variant=cross]'), count('[data-variant=none]')];
tick('variants', 'cross');
tick('conditions', 'no_lidar');
result.conditions = [count('[data-variant=cross]'), count('[data-condition=no_lidar]')];
document.getElementById('tools-reset').click();
tick('conditions', 'clean');
const drawn = document.querySelectorAll('figure svg')[0];
result.first = [...drawn.querySelectorAll('text')].filter(seen).map((text) => text.textContent);
document.getElementById('tools-reset').click();
result.after = [count('[data-variant=cross]'), count('[data-variant=none]'), count('[data-condition=no_lidar]')];
"""


def test_a_choice_hides_marks_in_every_figure(page, tmp_path):
    result = run_in_page(page, tmp_path, STEPS_OF_FIGURES)
    cross, none, no_lidar = result["before"]
    assert result["images"] == 0 and len(cross) >= 9 and all(cross), "every figure has marks of the variant"
    assert sum(map(bool, none)) >= 8 and sum(map(bool, no_lidar)) >= 5
    assert result["variants"] == [[0] * len(cross), none], "and none of it when it is off, but all of the others"
    assert sum(result["conditions"][1]) == 0 < sum(result["conditions"][0]) < sum(cross)
    assert "clean" not in result["first"] and {"no_lidar", "cross", "a-rather-long-name"} <= set(result["first"])
    assert result["after"] == result["before"]


def test_what_is_wrong_is_found(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><body><p style='position:absolute;top:9px'>one text here</p>"
        "<p style='position:absolute;top:12px'>another text here</p><img src='gone.png' alt='gone'>"
        "<div style='width:900px;white-space:nowrap'>wide</div><script>console.error('loud')</script>"
    )
    result = inspect(bad, 390, tmp_path)
    assert result["overlaps"] and result["broken"] == ["gone"] and result["fetched"] and result["scroll_width"] > 390
    assert any("loud" in line for line in result["console"])
