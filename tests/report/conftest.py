"""Figures of reports: PDFs are written quickly, and figures that no test looks at are not rendered."""

import pytest
from PIL import Image

from aqr_bench.report import folded, page
from aqr_bench.report.figures import robustness, study, style


@pytest.fixture(scope="session", autouse=True)
def _outlines_for_fonts():
    """Cutting TrueType fonts to size is a quarter of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "PDF_FONTS", 3)
        yield


def save_blank(figure, folder, name, footer=""):
    """In place of ``style.save``: a figure is built, and files lie where its PNG and PDF would."""
    style.plt.close(figure)
    (folder / f"{name}.pdf").touch()
    Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    return folder / f"{name}.png"


@pytest.fixture(scope="module")
def blank_figures():
    """Layout and rendering of the figures are most of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (study, robustness, folded):
            patch.setattr(module, "save", save_blank)
        yield


@pytest.fixture
def no_figures(monkeypatch):
    """For tests of what else is on the page: figures take seconds also where they are not rendered."""
    for name in ("draw_study", "draw_costs"):
        monkeypatch.setattr(page, name, lambda *_: [])
