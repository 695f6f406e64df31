"""Light on one image: brightness, darkness, grey veil, sun flare. uint8 BGR [h, w, 3] in and out."""

from __future__ import annotations

import numpy as np


def brightness(image: np.ndarray, add: float) -> np.ndarray:
    """HSV value raised by ``add`` (unit range), clipped."""
    return image.copy()


def dark(
    image: np.ndarray, rng: np.random.Generator, scale: float, gamma: float, poisson_lambda: float, sigma: float
) -> np.ndarray:
    """Low light: min-max stretch, gamma, scale, Poisson noise, Gaussian noise."""
    return image.copy()


def grey_blend(image: np.ndarray, weight: float, level: int = 128) -> np.ndarray:
    """(1 - weight) image + weight level."""
    return image.copy()


def limit_value(image: np.ndarray, most: float) -> np.ndarray:
    """HSV value rescaled so that its range ends at ``most`` (unit range) at the latest."""
    return image.copy()


def sun_flare(image: np.ndarray, centre_uv: tuple[float, float], radius_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Image with a sun at ``centre_uv`` (pixels: u to the right, v down); bool [h, w], where the flare covers it."""
    return image.copy(), np.zeros(image.shape[:2], bool)
