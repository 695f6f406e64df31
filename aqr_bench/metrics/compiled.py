"""Loops compiled by numba, for the parts of the metric that go one by one."""

from __future__ import annotations

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile at the first call; keep the machine code on disk where there is a place for it."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        return numba.njit(function)
