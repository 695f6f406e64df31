"""Wheel and sdist of the checkout, built once for all files."""

from __future__ import annotations

from pathlib import Path

import pytest
from installation import build_distributions


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> dict[str, Path]:
    return build_distributions(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist"))
