"""Blur of one image: motion, zoom, line. uint8 BGR [h, w, 3] in and out."""

from __future__ import annotations

import numpy as np


def motion(image: np.ndarray, radius: int, sigma: float, angle_deg: float) -> np.ndarray:
    """One-sided Gaussian weights over 2 radius + 1 pixels along a direction."""
    return image.copy()


def zoom(image: np.ndarray, most: float, step: float) -> np.ndarray:
    """Mean of the image and of copies zoomed by 1, 1 + step, ... below ``most``."""
    return image.copy()


def linear(image: np.ndarray, pixels: int, angle_deg: float) -> np.ndarray:
    """Mean over a line of ``pixels`` pixels at ``angle_deg``."""
    return image.copy()
