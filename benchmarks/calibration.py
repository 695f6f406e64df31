"""A kernel that says how fast the machine is at the moment: what a benchmark took is compared as a multiple of it."""

from __future__ import annotations

import time

import numpy as np
import torch

_MATRIX = torch.linspace(-1, 1, 384 * 384).view(384, 384)
_VALUES = np.linspace(0, 1, 200_000)[np.random.default_rng(0).permutation(200_000)]


def kernel() -> float:
    """A bit of everything that the hot paths are made of: matrix products, sorting and streaming, plain Python."""
    product = _MATRIX @ _MATRIX @ _MATRIX
    values = np.sort(_VALUES) * 2.0 + 1.0
    total = sum(i * i for i in range(20_000))
    return float(product[0, 0]) + float(values[0]) + total


def seconds() -> float:
    """CPU seconds of one run: what other processes take is not in it, the clock of the machine is."""
    start = time.process_time()
    kernel()
    return time.process_time() - start
