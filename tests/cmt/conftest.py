"""Let the tests of this folder import its helper modules (pytest runs in importlib mode), and quiet mmengine."""

import logging
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    """init_weights logs four lines for every parameter."""
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().setLevel(logging.WARNING)
