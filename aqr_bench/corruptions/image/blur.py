"""Blur of one image: by motion, by zooming, along a line. uint8 BGR [h, w, 3] in and out, rounded to nearest."""

from __future__ import annotations

import math

import cv2
import numpy as np


def motion(image: np.ndarray, radius: int, sigma: float, angle_deg: float) -> np.ndarray:
    """Smear by a motion: weights exp(-i^2 / (2 sigma^2)) of the pixels i = 0 .. 2 radius along a direction.

    imagecorruptions 1.1.2, _motion_blur: the smear is one-sided, and every weight falls on a single pixel. Beyond the
    border the outermost pixels are repeated. (The source stops at steps longer than the image and darkens tiny ones.)

    Args:
        image: uint8 [h, w, 3] or float32 [h, w].
        sigma: pixels.
        angle_deg: direction in which the source is looked up; 0 to the right, 90 down. 0 smears to the left.
    """
    return _along(image, motion_weights(radius, sigma), angle_deg)


def motion_weights(radius: int, sigma: float) -> np.ndarray:
    """float64 [2 radius + 1], sum 1."""
    weights = np.exp(-(np.arange(2 * radius + 1.0) ** 2) / (2 * float(sigma) ** 2))
    return weights / weights.sum()


def linear(image: np.ndarray, pixels: int, angle_deg: float) -> np.ndarray:
    """Mean over a centred line of ``pixels`` pixels (made odd), as by an even motion during the exposure.

    nuScenes-C uses imgaug's MotionBlur for it, which rounds up to odd as well and has the line horizontal at its 90
    degrees. The border is mirrored, as there.

    Args:
        image: uint8 [h, w, 3].
        angle_deg: of the line, from the x axis; 0 is horizontal.
    """
    pixels = int(pixels) + 1 - int(pixels) % 2
    if pixels <= 1:
        return image.copy()
    image = np.ascontiguousarray(image)
    if angle_deg % 180 == 0:
        return cv2.blur(image, (pixels, 1), borderType=cv2.BORDER_REFLECT_101)
    if angle_deg % 180 == 90:
        return cv2.blur(image, (1, pixels), borderType=cv2.BORDER_REFLECT_101)
    return _along(image, np.full(pixels, 1 / pixels), angle_deg, pixels // 2, cv2.BORDER_REFLECT_101)


def _along(
    image: np.ndarray, weights: np.ndarray, angle_deg: float, behind: int = 0, border: int = cv2.BORDER_REPLICATE
) -> np.ndarray:
    """Sum over i of weights[i] times the pixel i - ``behind`` steps along a direction, rounded to integer pixels."""
    steps = np.arange(len(weights)) - behind
    angle = math.radians(angle_deg)
    # ceil(x - 0.5): the source's rounding, halves down.
    across = np.ceil(steps * math.cos(angle) - 0.5).astype(int)
    down = np.ceil(steps * math.sin(angle) - 0.5).astype(int)
    kernel = np.zeros((np.ptp(down) + 1, np.ptp(across) + 1), np.float32)
    np.add.at(kernel, (down - down.min(), across - across.min()), weights)
    anchor = (int(-across.min()), int(-down.min()))
    return cv2.filter2D(np.ascontiguousarray(image), -1, kernel, anchor=anchor, borderType=border)


def zoom(image: np.ndarray, max_factor: float, step: float) -> np.ndarray:
    """Mean of the image and of its copies zoomed about the centre by 1, 1 + step, ... up to ``max_factor``, included.

    imagecorruptions 1.1.2, zoom_blur, whose ranges include their end as well; linear interpolation. It counts the image
    itself twice, once as the copy zoomed by 1.

    Args:
        image: uint8 [h, w, 3].
        max_factor: as 1.02. ``step``: between factors, as 0.005.
    """
    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    factors = 1 + step * np.arange(math.floor((max_factor - 1) / step + 1e-6) + 1)
    total = image.astype(np.float32)
    for factor in factors:
        cv2.accumulate(_zoomed(image, factor, height, width), total)
    return cv2.convertScaleAbs(total, alpha=1 / (len(factors) + 1))


def _zoomed(image: np.ndarray, factor: float, height: int, width: int) -> np.ndarray:
    """The middle of an image enlarged by a factor to at least its size, and cut to it.

    Args:
        image: uint8 [h, w, 3] or float32 [h, w].
    """
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    return enlarged(image[top : top + rows, left : left + columns], factor, height, width)


def enlarged(part: np.ndarray, factor: float, height: int, width: int) -> np.ndarray:
    """A part of an image enlarged, its outermost pixels at the border (scipy's zoom, order 1), cut to a size."""
    to_part = np.zeros((2, 3))
    for axis, size in ((0, part.shape[1]), (1, part.shape[0])):
        out = round(size * factor)
        to_part[axis, axis] = (size - 1) / (out - 1) if out > 1 else 0.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        np.ascontiguousarray(part), to_part, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
