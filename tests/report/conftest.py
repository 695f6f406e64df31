"""The folder's helper module can be imported (pytest runs in importlib mode); PDFs are written quickly."""

import sys
from pathlib import Path

import pytest

from aqr_bench.report.figures import style

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def _outlines_for_fonts():
    """Cutting TrueType fonts to size is a quarter of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "PDF_FONTS", 3)
        yield
