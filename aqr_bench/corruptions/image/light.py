"""Light on one image: brightness, darkness, a grey veil, the sun. uint8 BGR [h, w, 3] in and out."""

from __future__ import annotations

import cv2
import numpy as np

from aqr_bench.corruptions.image.noise import dark_noise

_FLARE_GAIN, _FLARE_EDGE = 1.5, 0.8


def brightness(image: np.ndarray, add: float) -> np.ndarray:
    """The HSV value raised by ``add`` (1 being the full range), clipped; hue and saturation stay.

    imagecorruptions and ika-rwth-aachen/MultiCorrupt:converter/img.py, brightness. Black becomes grey. Rounded to
    nearest, where the source truncates.
    """
    value = np.arange(256.0)
    return _with_value(image, np.clip(value + 255 * add, 0, 255))


def limit_value(image: np.ndarray, max_value: float) -> np.ndarray:
    """The HSV value rescaled so that its maximum is ``max_value`` (1 being the full range): bright images get darker.

    thu-ml/3D_Corruptions_AD:Camera_corruptions.py, snow and rain: V <- trunc(V / max V * 256 max_value), at most 255.
    Hue and saturation stay exactly; the source rounds them to OpenCV's 8 bits on the way. A black image stays black.
    """
    brightest = int(image.max())
    value = np.arange(256.0)
    return _with_value(image, np.minimum(np.floor(value / max(brightest, 1) * 256 * max_value), 255))


def _with_value(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Every pixel's HSV value v made ``target[v]`` (float64 [256]): its three values times target[v] / v."""
    image = np.ascontiguousarray(image)
    blue, green, red = cv2.split(image)
    value = cv2.max(cv2.max(blue, green), red)
    gain = (target / np.maximum(np.arange(256.0), 1)).astype(np.float32)
    out = cv2.multiply(image, cv2.merge([cv2.LUT(value, gain)] * 3), dtype=cv2.CV_8U)
    if target[0] >= 0.5:
        out[value == 0] = round(target[0])  # black has no hue
    return out


def dark(
    image: np.ndarray, rng: np.random.Generator, scale: float, gamma: float, poisson_lambda: float, sigma: float
) -> np.ndarray:
    """Low light.

    ika-rwth-aachen/MultiCorrupt:converter/img.py, low_light: the image stretched from its lowest to its highest value,
    over all channels, to 0..1; to the power ``gamma``; times ``scale``; Poisson noise; Gaussian noise. An image of one
    value only becomes black before the noise (the source divides by zero).

    Args:
        image: uint8 [h, w, 3].
        scale: brightest signal, 1 being the full range.
        poisson_lambda: photons at full range. ``sigma``: of the Gaussian, 1 being the full range.
    """
    low, high = int(image.min()), int(image.max())
    stretched = np.clip((np.arange(256.0) - low) / max(high - low, 1), 0, 1)
    return dark_noise(image, rng, scale * stretched**gamma, poisson_lambda, sigma)


def grey_blend(image: np.ndarray, weight: float, level: int = 128) -> np.ndarray:
    """(1 - weight) image + weight level, truncated (thu-ml/3D_Corruptions_AD:Camera_corruptions.py, gray_ratio)."""
    table = np.floor((1 - weight) * np.arange(256.0) + weight * level + 1e-9).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(image), table)


def sun_flare(image: np.ndarray, centre_uv: tuple[float, float], radius_px: float) -> tuple[np.ndarray, np.ndarray]:
    """A white sun in the image.

    thu-ml/3D_Corruptions_AD:utils/weather/Automold.py, flare_source_gaussian: white with weight
    min(1.5 exp(-d^2 / (2 radius^2)), 1). Its second, smaller spot on the line to the image's centre is not drawn.

    Args:
        image: uint8 [h, w, 3].
        centre_uv: pixels, u to the right, v down; may lie outside the image.
        radius_px: standard deviation of the flare.
    Returns:
        The image, and bool [h, w]: where the weight is above 0.8, which blinds the LiDAR in the source; a disc of
        1.12 ``radius_px``.
    """
    height, width = image.shape[:2]
    u, v = int(centre_uv[0]), int(centre_uv[1])
    scale = 1 / (2 * float(radius_px) ** 2)
    across = np.exp(-scale * (np.arange(width) - u) ** 2.0)
    down = np.exp(-scale * (np.arange(height) - v) ** 2.0)
    weight = _FLARE_GAIN * np.outer(down, across)
    white = np.minimum(weight, 1.0).astype(np.float32)
    return blend(image, 1 - white, 255.0), weight > _FLARE_EDGE


def blend(image: np.ndarray, weight: np.ndarray, level: float) -> np.ndarray:
    """weight image + (1 - weight) level, with the weight (float32 [h, w], 0..1) of each pixel; rounded to nearest."""
    weighted = cv2.multiply(np.ascontiguousarray(image), cv2.merge([weight] * 3), dtype=cv2.CV_32F)
    return cv2.add(weighted, cv2.merge([(1 - weight) * np.float32(level)] * 3), dtype=cv2.CV_8U)
