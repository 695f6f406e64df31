"""Weather on one LiDAR cloud: fog, snow, rain and wet ground by physical models."""

from __future__ import annotations

import numpy as np


def fog(
    points: np.ndarray, rng: np.random.Generator, alpha: float, beta: float, gamma: float, noise_m: float
) -> np.ndarray:
    """Points in homogeneous fog: attenuation only so far. float32 [P, F >= 4] in and out."""
    return _attenuated(points, alpha)


def snow(
    points: np.ndarray,
    rng: np.random.Generator,
    rate_mm_h: float,
    terminal_m_s: float,
    beam_divergence_rad: float = 3e-3,
    noise_floor: float = 0.7,
) -> np.ndarray:
    """Points in falling snow: attenuation only so far. float32 [P, F >= 4] in, [P' <= P, F] out."""
    return _attenuated(points, 0.002 * rate_mm_h)


def rain(points: np.ndarray, rng: np.random.Generator, rate_mm_h: float) -> np.ndarray:
    """Points in rain: attenuation only so far. float32 [P, F >= 4] in, [P' <= P, F] out."""
    return _attenuated(points, 0.0001 * rate_mm_h)


def wet_ground(points: np.ndarray, rng: np.random.Generator, water_mm: float, noise_floor: float) -> np.ndarray:
    """Points on a wet road: unchanged so far. float32 [P, F >= 4] in, [P' <= P, F] out."""
    return points.copy()


def _attenuated(points: np.ndarray, alpha: float) -> np.ndarray:
    out = points.copy()
    out[:, 3] = np.round(points[:, 3] * np.exp(-2 * alpha * np.linalg.norm(points[:, :3].astype(np.float64), axis=1)))
    return out
