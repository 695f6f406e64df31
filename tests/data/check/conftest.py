"""A copied world for the tests of `data check`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(world, tmp_path) -> Path:
    """The world once more, to be damaged."""
    return Path(shutil.copytree(world, tmp_path / "a world"))
