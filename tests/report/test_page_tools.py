"""What the page does with its script, in headless Chromium: sorting, filtering, switching, colours, and a long tail."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from browser import chromium, run_in_page
from PIL import Image
from report_records import WIDE, fill, make_study, wide_studies

from aqr_bench.report import folded
from aqr_bench.report.figures import robustness, style
from aqr_bench.report.figures import study as study_figures
from aqr_bench.report.page import build_report
from aqr_bench.study.load import load_study, load_tier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("blank_figures"),
    pytest.mark.skipif(chromium() is None, reason="no Chromium (Debian: apt-get install chromium)"),
]
VARIANTS = ("none", "cross", "self")

# Names for the steps of a test; a cell is read as a reader sees it: rows and columns that are hidden are not there.
STEPS = """
const table = (name) => document.querySelector(`table[data-csv="made_up_${name}"]`);
const seen = (element) => getComputedStyle(element).display !== 'none';
const read = (row) => [...row.cells].filter(seen).map((cell) => cell.textContent);
const rows = (name) => [...table(name).tBodies[0].rows].filter(seen).map(read);
const heads = (name) => read(table(name).tHead.rows[0]);
const column = (name, head) => rows(name).map((row) => row[heads(name).indexOf(head)]);
const headOf = (name, head) => [...table(name).tHead.rows[0].cells].find((cell) => cell.textContent === head);
const tick = (button, name) => {
  button.click();
  [...document.querySelectorAll('#tools-menu label')].find((l) => l.textContent.trim() === name).firstChild.click();
};
const tool = (name) => document.getElementById(`tools-${name}`);
const type = (text) => { tool('search').value = text; tool('search').dispatchEvent(new Event('input')); };
const columnsOf = (name) => table(name).parentElement.previousElementSibling.querySelector('button');
const ground = () => getComputedStyle(document.body).backgroundColor;
document.querySelectorAll('main details').forEach((details) => { details.open = true; });
"""
# Rows of scores, all of them and those of the baseline.
STEPS_OF_SIZE = """
const rows = () => [...document.querySelectorAll('table[data-csv$=_scores] tbody tr')].filter((row) => !row.hidden);
result.rows = rows().length;
const search = document.getElementById('tools-search');
search.value = 'none';
search.dispatchEvent(new Event('input'));
result.left = rows().length;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, blank_figures) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    study = load_study(make_study(folder, variants=VARIANTS, seeds=(0, 1, 2)))
    fill(folder / "results", study.path, effects={"none": 0.0, "cross": 0.05, "self": -0.3}, fail={("self", 2)})
    return build_report(load_tier("smoke"), [study], folder / "results", folder / "out")


def test_a_click_on_a_column_head_sorts(page, tmp_path):
    result = run_in_page(
        page, tmp_path,
        STEPS + """
        result.before = column('scores', 'Difference');
        for (const step of ['up', 'down', 'as_before']) {
          headOf('scores', 'Difference').click();
          result[step] = column('scores', 'Difference');
        }
        headOf('runs', 'Condition').click();
        result.conditions = column('runs', 'Condition');
        result.state = headOf('runs', 'Condition').getAttribute('aria-sort');
        """,
    )  # fmt: skip
    values = {key: [float(v.replace("−", "-")) for v in result[key] if v != "–"] for key in ("before", "up", "down")}
    assert values["up"] == sorted(values["before"]) and values["down"] == sorted(values["before"], reverse=True)
    assert values["up"] != values["before"] and min(values["up"]) < 0
    assert result["up"][-3:] == result["down"][-3:] == ["–"] * 3, "missing values are last either way"
    assert result["as_before"] == result["before"]
    assert result["conditions"] == sorted(result["conditions"]) and result["state"] == "ascending"


def test_a_search_leaves_the_rows_that_have_all_words(page, tmp_path):
    result = run_in_page(
        page, tmp_path,
        STEPS + """
        type('CROSS no_lidar');
        result.scores = rows('scores').map((row) => row.slice(0, 2));
        result.runs = rows('runs').length;
        result.summary = table('runs').closest('details').querySelector('summary').dataset.rows;
        result.count = tool('count').textContent;
        type('');
        result.all = rows('runs').length;
        result.no_count = tool('count').textContent;
        """,
    )  # fmt: skip
    assert result["scores"] == [["no_lidar", "cross"]] and result["runs"] == 3 and result["all"] == 27
    assert result["summary"] == "3 of 27 rows" and "rows" in result["count"] and result["no_count"] == ""


def test_variants_conditions_and_columns_are_switched_in_all_tables_at_once(page, tmp_path):
    result = run_in_page(
        page, tmp_path,
        STEPS + """
        tick(tool('variants'), 'self');
        tick(tool('conditions'), 'clean');
        result.variants = ['scores', 'runs', 'metrics', 'cost'].map((n) => [...new Set(column(n, 'Variant'))]);
        result.conditions = ['scores', 'runs', 'metrics', 'by_condition'].map((n) => column(n, 'Condition'));
        result.columns = [heads('by_condition'), heads('classes')];
        result.label = tool('variants').textContent;
        result.count = tool('count').textContent;
        tick(columnsOf('scores'), 'sd');
        result.scores = heads('scores');
        result.metrics = heads('metrics');
        tool('reset').click();
        result.reset = [heads('scores').includes('sd'), rows('scores').length, heads('by_condition').length];
        """,
    )  # fmt: skip
    assert result["variants"][:3] == [["none", "cross"]] * 3 and len(result["variants"][3]) == 2
    assert all("clean" not in names and "no_lidar" in names for names in result["conditions"])
    assert result["columns"] == [["Condition", "none", "cross"], ["Condition", "Class", "none", "cross"]]
    assert result["label"] == "Variants: 2 of 3" and "images of figures, which show all" in result["count"]
    assert "sd" not in result["scores"] and "mAP" in result["scores"] and "mAP" in result["metrics"]
    assert result["reset"] == [True, 9, 4]


def test_light_and_dark_are_a_switch(page, tmp_path):
    result = run_in_page(
        page, tmp_path,
        STEPS + """
        result.grounds = [ground()];
        for (const _ of [0, 1]) { tool('theme').click(); result.grounds.push(ground()); }
        result.cell = document.querySelector('table[data-csv$=by_condition] td[title]').title;
        """,
    )  # fmt: skip
    light, dark = "rgb(255, 255, 255)", "rgb(21, 25, 29)"
    assert result["grounds"] in ([light, dark, light], [dark, light, dark])
    assert result["cell"].startswith("none, clean: mAP 0.40") and "3 of 3" in result["cell"]


def save_noise(figure, folder, name, footer=""):
    """In place of ``style.save``: a picture of the size of a figure's file, 40 kB."""
    style.plt.close(figure)
    Image.effect_noise((230, 230), 40).save(folder / f"{name}.png")
    return folder / f"{name}.png"


@pytest.mark.parametrize("shape", WIDE)
def test_a_long_tail_stays_small(shape, tmp_path, monkeypatch):
    for module in (study_figures, robustness, folded):
        monkeypatch.setattr(module, "save", save_noise)
    studies = [load_study(path) for path in wide_studies(tmp_path, WIDE[shape])]
    page = build_report(load_tier("smoke"), studies, tmp_path / "results", tmp_path / "out")
    assert page.stat().st_size < 5_000_000
    text = page.read_text(encoding="utf-8")
    # What answers comes first, and no figure is gone without a word.
    assert text.count("_difference.png") == 0 and text.count("<img") > 2 * len(studies)
    result = run_in_page(page, tmp_path, STEPS_OF_SIZE)
    assert result["rows"] == sum(math.prod(group) for group in WIDE[shape])
    assert result["left"] == sum(studies * conditions for studies, _, conditions in WIDE[shape])
