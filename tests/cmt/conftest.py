"""mmengine logs warnings alone."""

import logging

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    """init_weights logs four lines for every parameter."""
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().setLevel(logging.WARNING)
