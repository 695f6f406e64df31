"""Weather on one image: fog, snow, rain. uint8 BGR [h, w, 3] in and out."""

from __future__ import annotations

import numpy as np


def plasma_fog(image: np.ndarray, rng: np.random.Generator, amount: float, decay: float) -> np.ndarray:
    """imagecorruptions fog: a plasma fractal of that ``amount`` (unit range) and ``decay`` on the image."""
    return image.copy()


def haze_fog(
    image: np.ndarray,
    rng: np.random.Generator,
    amount: float,
    beta: float,
    decay: float = 1.7,
    attenuation: float = 0.8,
    backscatter: float = 0.5,
    air_light: float = 0.5,
) -> np.ndarray:
    """MultiCorrupt fog: plasma, then haze by the distance from a fixed rectangle."""
    return image.copy()


def snow(
    image: np.ndarray,
    rng: np.random.Generator,
    loc: float,
    scale: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    mix: float,
    angle_deg: tuple[float, float] = (-135.0, -45.0),
    gain: float = 1.0,
) -> np.ndarray:
    """imagecorruptions snow; MultiCorrupt's with ``gain`` 0.9."""
    return image.copy()


def rain(
    image: np.ndarray,
    rng: np.random.Generator,
    density: tuple[float, float],
    drop_size: tuple[float, float] = (0.4, 0.6),
    angle_deg: tuple[float, float] = (-15.0, 15.0),
    speed: tuple[float, float] = (0.04, 0.20),
) -> np.ndarray:
    """imgaug RainLayer; a pair is a range of which one value is drawn per image."""
    return image.copy()
