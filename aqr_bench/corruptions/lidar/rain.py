"""Rain on one LiDAR cloud: attenuation, drops that return more light than the target, less accurate ranges."""

from __future__ import annotations

import numpy as np

from aqr_bench.corruptions.frame import INTENSITY
from aqr_bench.corruptions.lidar.mie import (
    DROPS_PER_M3_MM,
    LARGEST_DROP_MM,
    WATER_INDEX,
    rain_extinction,
    rain_slope,
)
from aqr_bench.corruptions.lidar.optics import (
    DIVERGENCE_RAD,
    MAX_INTENSITY,
    MIN_INTENSITY_PER_M2,
    min_intensity,
    moved,
    ranges,
    with_intensity,
)
from aqr_bench.corruptions.lidar.scatterers import Particles, draw_returns

# LISA (velatkilic/LISA, Kilic et al. 2021): smallest drop drawn, nearest distance seen, range accuracy.
SMALLEST_DROP_MM, NEAREST_M, ACCURACY_M = 0.05, 1.5, 0.09
# Fresnel reflection of water at normal incidence, the part of the light that a drop returns (LISA).
DROP_REFLECTIVITY = ((WATER_INDEX - 1) / (WATER_INDEX + 1)) ** 2
NOISE_FLOOR = 0.9  # LISA: weakest power 0.9 / r_max^2


def range_noise(intensity: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Standard deviation (m) of a measured range: 0.09 / sqrt(2 SNR), SNR over the weakest registered return (LISA)."""
    power = np.maximum(MIN_INTENSITY_PER_M2 * distance**2, 1e-12)
    return ACCURACY_M / np.sqrt(2 * np.maximum(intensity / power, NOISE_FLOOR))


def rain(
    points: np.ndarray,
    rng: np.random.Generator,
    rate_mm_h: float,
    beam_divergence_rad: float = DIVERGENCE_RAD,
    noise_floor: float = NOISE_FLOOR,
) -> np.ndarray:
    """Points in rain, after LISA's hybrid Monte-Carlo model in strongest-return mode.

    Drops follow Marshall and Palmer; the target's intensity becomes I exp(-2 alpha r) with the Mie extinction alpha of
    :func:`rain_extinction`. Where a drop returns more light (0.02 of what falls on it, over r^2), the point moves to
    it; else its range gets noise that grows as its signal sinks. It is lost below the weakest intensity registered.

    Args:
        points: float32 [P, F >= 4], one cloud in its sensor frame (m), intensity 0..255.
        rate_mm_h: rain rate; 0: the points as they are.
        beam_divergence_rad: full opening angle of a beam.
        noise_floor: part of the weakest intensity seen that would still be registered.
    Returns:
        float32 [P' <= P, F], in the same order.
    """
    if rate_mm_h <= 0:
        return points.copy()
    alpha = rain_extinction(float(rate_mm_h))
    law = Particles(
        per_m3_mm=DROPS_PER_M3_MM,
        slope_per_mm=rain_slope(float(rate_mm_h)),
        smallest_mm=SMALLEST_DROP_MM,
        largest_mm=LARGEST_DROP_MM,
        brightness=DROP_REFLECTIVITY * MAX_INTENSITY,
        divergence_rad=float(beam_divergence_rad),
        nearest_m=NEAREST_M,
        min_intensity_per_m2=float(noise_floor) * MIN_INTENSITY_PER_M2,
    )
    distance = ranges(points)
    intensity = points[:, INTENSITY].astype(np.float64)
    target = intensity * np.exp(-2 * alpha * distance)
    drop = draw_returns(distance, rng, law)
    drop_intensity = drop.intensity * np.exp(-2 * alpha * drop.distance)
    scattered = drop_intensity * distance**2 > target * drop.distance**2
    lost = ~scattered & (target < noise_floor * min_intensity(intensity, distance))
    noisy = distance + range_noise(target, distance) * rng.standard_normal(len(points))
    after = np.where(scattered, drop.distance, np.maximum(noisy, 0.0))
    out = moved(points, distance > 0, distance, after)
    return with_intensity(out, np.where(scattered, drop_intensity, target))[~lost]
