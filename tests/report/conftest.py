"""PDFs are written quickly."""

import pytest

from aqr_bench.report.figures import style


@pytest.fixture(scope="session", autouse=True)
def _outlines_for_fonts():
    """Cutting TrueType fonts to size is a quarter of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "PDF_FONTS", 3)
        yield
