"""Plasma fractal: the cloudy random field behind the fog of images."""

from __future__ import annotations

import cv2
import numpy as np

_COARSER = 4  # cells of the last halvings are interpolated instead
_SMALL = 64


def plasma(height: int, width: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A field between 0 and 1, cloudier for small ``decay``.

    Diamond-square algorithm as in imagecorruptions 1.1.2 (plasma_fractal): a periodic square, the least power of two
    that covers the image; every halving of the step adds uniform noise, whose amplitude falls by decay^2; the field is
    stretched to 0..1 over the whole square, then cut to the image at its top left corner.

    In squares of 64 and more the last two halvings are left to linear interpolation. In one of 2048 their noise is
    0.002 of the first one's at decay 1.4, which is below a quarter of a grey level in a foggy image.

    Returns:
        float32 [height, width].
    """
    size = max(2, 1 << (max(height, width) - 1).bit_length())
    coarser = _COARSER if size >= _SMALL else 1
    field = _diamond_square(size // coarser, decay, rng)
    field -= field.min()
    field /= max(field.max(), np.finfo(np.float32).tiny)
    if coarser == 1:
        return field[:height, :width].copy()
    to_field = np.array([[1 / coarser, 0, 0], [0, 1 / coarser, 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(field, to_field, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)


def _diamond_square(size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """float32 [size, size], periodic; amplitude 1 in the first step."""
    corners = np.zeros((1, 1), np.float32)
    amplitude = np.float32(1.0)
    while len(corners) < size:
        half = len(corners)
        noise = (2 * rng.random((3, half, half), np.float32) - 1) * amplitude
        below = corners + np.roll(corners, -1, 0)
        centres = (below + np.roll(below, -1, 1)) / 4 + noise[0]
        beside = corners + np.roll(corners, -1, 1)
        field = np.empty((2 * half, 2 * half), np.float32)
        field[::2, ::2] = corners
        field[1::2, 1::2] = centres
        field[::2, 1::2] = (beside + centres + np.roll(centres, 1, 0)) / 4 + noise[1]
        field[1::2, ::2] = (below + centres + np.roll(centres, 1, 1)) / 4 + noise[2]
        corners = field
        amplitude /= np.float32(decay) ** 2
    return corners
