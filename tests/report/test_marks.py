"""Figures as SVG whose marks name variant, condition and value; images where that is not possible."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns
from PIL import Image

from aqr_bench.report.embed import PAGE_LIMIT, Budget, embed_figures
from aqr_bench.report.figures import marks
from aqr_bench.report.figures.marks import SVG, Mark, marks_svg, tag, tag_heatmap
from aqr_bench.report.section import ReportFigure


@pytest.fixture
def axis():
    figure, axis = plt.subplots(figsize=(2, 2))
    yield axis
    plt.close(figure)


def groups(svg: str) -> list[tuple[str | None, str | None, str | None, int]]:
    """Variant, condition, hover text and number of drawn elements of every mark."""
    groups = [g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if any(k.startswith("data-") for k in g.attrib)]
    drawn = [f"{SVG}{name}" for name in ("path", "use", "text")]
    return [
        (
            g.get("data-variant"),
            g.get("data-condition"),
            g.findtext(f"{SVG}title"),
            sum(e.tag in drawn for e in g.iter()),
        )
        for g in groups
    ]


def test_marks_have_names_and_one_hover_text(axis):
    tag(axis.plot([0, 1], [0, 1], "o") + axis.plot([0, 1], [0, 0]), "a<b", "dark & wet", "mAP < 0.5")
    tag(axis.text(0, 0, "x & y"), "other")
    axis.plot([0, 1], [1, 0])
    svg = marks_svg(axis.figure, "fig")
    marked = [group for group in groups(svg) if group[1]]
    assert [group[:3] for group in marked] == [("a<b", "dark & wet", "mAP < 0.5")], "neighbours are one mark"
    assert ("other", None, None, 1) in groups(svg) and "x &amp; y</text>" in svg
    other = marks_svg(axis.figure, "other")
    names, others = (set(re.findall(r'(?:id|class)="([^"]+)"', text)) for text in (svg, other))
    assert names and not names & others, "a page has many figures"
    assert set(re.findall(r"#([\w-]+)[\")]", svg)) < names > set(re.findall(r"\.([a-z][\w-]+)\{", svg))
    assert svg == marks_svg(axis.figure, "fig"), "the same bytes each time"


def test_every_cell_of_a_heat_map_is_a_mark(axis):
    values = np.array([[1.0, 2.0, np.nan], [4.0, 5.0, 6.0]])
    sns.heatmap(values, mask=np.isnan(values), annot=True, cbar=False, ax=axis)
    rows, columns = values.shape
    tag_heatmap(
        axis, [[Mark(f"v{row}", f"c{column}", f"{row} {column}") for column in range(columns)] for row in range(rows)]
    )
    marked = [group for group in groups(marks_svg(axis.figure, "fig")) if group[1]]
    cells = {(f"v{r}", f"c{c}", f"{r} {c}") for r in range(2) for c in range(3)}
    assert {group[:3] for group in marked} == cells
    assert sum(group[3] for group in marked) == 6 + 5, "a ground for each cell, a number where there is one"


def test_what_has_no_marks_or_is_too_large_is_an_image(axis, monkeypatch):
    line = axis.plot([0, 1], [0, 1])
    assert marks_svg(axis.figure, "fig") is None
    tag(line, "a")
    monkeypatch.setattr(marks, "MAX_SVG", 100)
    assert marks_svg(axis.figure, "fig") is None


def test_leading_figures_and_then_small_ones_have_the_page_s_room(tmp_path):
    def image(name: str, side: int, lead: bool = False) -> ReportFigure:
        Image.effect_noise((side, side), 90).save(tmp_path / f"{name}.png")
        return ReportFigure(name, tmp_path / f"{name}.png", lead)

    figures = [image("large", 300), image("small", 20), image("lead", 200, lead=True)]
    drawing = tmp_path / "drawn.png"
    (tmp_path / "drawn.svg").write_text('<svg width="96" height="20"></svg>')
    embedded = embed_figures([*figures, ReportFigure("drawn", drawing)], Budget(PAGE_LIMIT - 80_000))
    assert list(embedded) == [tmp_path / "lead.png", drawing, tmp_path / "small.png"]
    assert embedded[drawing].svg.startswith("<svg") and embedded[drawing].width == 96
    assert embedded[tmp_path / "small.png"].source.startswith("data:image/png") and embedded[drawing].source == ""
