"""Noise on one image: Gaussian, uniform, impulse, and that of a dark sensor. uint8 BGR [h, w, 3] in and out.

Every value of an image has its own random number, 26 million in six nuScenes images: a uint16, which a table of the
exact distribution of the result turns into the noisy value: probabilities are exact to 1/65536 (dark_noise: 1/16384).
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import scipy

_STEPS = 65536  # values of a uint16
_DARK_BITS = 14  # resolution of dark_noise, whose table has 256 rows and has to stay in the cache
_ROWS = 8


def gaussian(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Gaussian noise on every value, clipped.

    imagecorruptions 1.1.2, gaussian_noise: trunc(255 clip(v / 255 + N(0, sigma), 0, 1)).

    Args:
        image: uint8 [h, w, 3].
        sigma: standard deviation, 1 being the full range.
    """
    return _add(image, rng, _gaussian_table(float(sigma)))


def uniform(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Uniform noise of +- ``amount`` (1 being the full range) on every value, clipped.

    thu-ml/3D_Corruptions_AD:Camera_corruptions.py, uniform_noise; truncated as the Gaussian.
    """
    return _add(image, rng, _uniform_table(float(amount)))


def impulse(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Salt and pepper: each value, not each pixel, is hit with probability ``amount``; half of the hits 255, half 0.

    imagecorruptions 1.1.2, impulse_noise: scikit-image's random_noise in mode s&p, whose share of salt is 0.5.
    """
    image = np.ascontiguousarray(image)
    hits = round(amount * _STEPS)
    random = _random_uint16(rng, image.shape)
    salt = (random < hits // 2).view(np.uint8) * np.uint8(255)
    out = cv2.bitwise_or(image, salt)
    out[(random >= hits // 2) & (random < hits)] = 0
    return out


def dark_noise(
    image: np.ndarray, rng: np.random.Generator, signal: np.ndarray, poisson_lambda: float, sigma: float
) -> np.ndarray:
    """Shot noise, then read-out noise, on a signal that is a function of the value.

    ika-rwth-aachen/MultiCorrupt:converter/img.py, poisson_gaussian_noise:
    trunc(255 clip(clip(Poisson(lambda s) / lambda, 0, 1) + N(0, sigma), 0, 1)).

    Args:
        image: uint8 [h, w, 3].
        signal: float64 [256], the signal s of each value, 1 being the full range.
        poisson_lambda: photons at full range. ``sigma``: of the Gaussian, 1 being the full range.
    """
    table = _dark_table(signal, poisson_lambda, sigma)
    random = _random_uint16(rng, image.shape)
    np.right_shift(random, 16 - _DARK_BITS, out=random)
    out = np.empty(image.shape, np.uint8)
    # By a few rows: the indices, eight bytes a value, stay in the cache.
    for k in range(0, len(image), _ROWS):
        entry = image[k : k + _ROWS].astype(np.int64)
        entry <<= _DARK_BITS
        entry |= random[k : k + _ROWS]
        np.take(table, entry, out=out[k : k + _ROWS], mode="clip")
    return out


def _random_uint16(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform uint16 of that shape."""
    return rng.integers(0, _STEPS, shape, dtype=np.uint16)


def _add(image: np.ndarray, rng: np.random.Generator, table: np.ndarray) -> np.ndarray:
    return cv2.add(np.ascontiguousarray(image), table[_random_uint16(rng, image.shape)], dtype=cv2.CV_8U)


@lru_cache(maxsize=32)
def _gaussian_table(sigma: float) -> np.ndarray:
    return _integer_levels(sigma * scipy.special.ndtri((np.arange(_STEPS) + 0.5) / _STEPS))


@lru_cache(maxsize=32)
def _uniform_table(amount: float) -> np.ndarray:
    return _integer_levels(amount * (2 * (np.arange(_STEPS) + 0.5) / _STEPS - 1))


def _integer_levels(noise: np.ndarray) -> np.ndarray:
    """int16: what noise adds to a value. trunc(v + 255 n) of an integer v is v + floor(255 n), up to the clip."""
    table = np.clip(np.floor(255 * noise), -255, 255).astype(np.int16)
    table.flags.writeable = False
    return table


def _dark_table(signal: np.ndarray, poisson_lambda: float, sigma: float) -> np.ndarray:
    """uint8 [256 * 2^14]: the quantiles of the noisy value, for one value after the other."""
    max_count = int(scipy.stats.poisson.isf(1e-9, poisson_lambda * max(float(signal.max()), 1e-9)))
    counts = np.arange(max_count + 1)
    weights = scipy.stats.poisson.pmf(counts, poisson_lambda * signal[:, None])
    mean = np.minimum(counts / poisson_lambda, 1.0)
    # The result is at most k where mean + Gaussian is below (k + 1) / 255.
    below = scipy.special.ndtr((np.arange(1, 256) / 255 - mean[:, None]) / sigma)
    ends = np.rint(weights @ below / weights.sum(1, keepdims=True) * 2**_DARK_BITS).astype(np.int64)
    ends = np.concatenate([np.zeros((256, 1), np.int64), ends, np.full((256, 1), 2**_DARK_BITS)], axis=1)
    levels = np.tile(np.arange(256, dtype=np.uint8), 256)
    return np.repeat(levels, np.diff(ends, axis=1).ravel())
