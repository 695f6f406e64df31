"""Falling snow on one LiDAR cloud: flakes that return more light than the target, and the light that they take away."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy

from aqr_bench.corruptions.frame import INTENSITY
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

# Hahner et al. CVPR 2022 (SysCV/LiDAR_snow_sim, tools/snowfall/sampling.py): density (g/cm3) and diameter (m) of flakes
# in Rasmussen's relation between visibility, snowfall and rain rate; its factor; the largest flake; their reflectivity.
SNOW_DENSITY, FLAKE_DIAMETER_M, RASMUSSEN = 0.1, 0.003, 487.0
LARGEST_FLAKE_MM = 20.0
FLAKE_REFLECTIVITY = 0.9
# Gunn and Marshall 1958: slope of the size distribution 25.5 R^-0.48 per cm, R in mm/h of water.
SLOPE_PER_MM, SLOPE_POWER = 2.55, -0.48
NEAREST_M = 1.0  # the receiver sees all of the beam from here on (LiDAR_fog_sim, LiDAR_snow_sim: R2)
# LiDAR_snow_sim gives 1 to 10 mm as diameters of flakes; smaller crystals only dim, as a haze.
SMALLEST_FLAKE_MM = 1.0


def rain_rate(rate_mm_h: float, terminal_m_s: float) -> float:
    """Rain rate (mm/h) with the same optical effect as a snowfall rate: (S / (487 rho D v))^1.5 (LiDAR_snow_sim)."""
    return (rate_mm_h / (RASMUSSEN * SNOW_DENSITY * FLAKE_DIAMETER_M * terminal_m_s)) ** 1.5


def occupancy(rate_mm_h: float, terminal_m_s: float) -> float:
    """Part of the air's volume that is snow: S / (3.6e6 rho v), rho relative to water (LiDAR_snow_sim)."""
    return rate_mm_h / (3.6e6 * SNOW_DENSITY * terminal_m_s)


@lru_cache(maxsize=64)
def flakes(
    rate_mm_h: float, terminal_m_s: float, divergence_rad: float = DIVERGENCE_RAD, noise_floor: float = 0.7
) -> tuple[Particles, float]:
    """The flakes in the air, and the light that they take away (1/m).

    The slope is Gunn and Marshall's at :func:`rain_rate`; N0 follows from :func:`occupancy`, the integral of
    pi D^3 / 6 N(D). The second is the integral of pi D^2 / 4 N(D).
    """
    slope = SLOPE_PER_MM * rain_rate(rate_mm_h, terminal_m_s) ** SLOPE_POWER
    diameter = np.linspace(0.0, LARGEST_FLAKE_MM, 4001)
    share = np.exp(-slope * diameter)
    volume_m3 = scipy.integrate.simpson(np.pi / 6 * (1e-3 * diameter) ** 3 * share, x=diameter)
    area_m2 = scipy.integrate.simpson(np.pi / 4 * (1e-3 * diameter) ** 2 * share, x=diameter)
    number = occupancy(rate_mm_h, terminal_m_s) / volume_m3
    law = Particles(
        per_m3_mm=number,
        slope_per_mm=slope,
        smallest_mm=SMALLEST_FLAKE_MM,
        largest_mm=LARGEST_FLAKE_MM,
        brightness=FLAKE_REFLECTIVITY * MAX_INTENSITY,
        divergence_rad=divergence_rad,
        nearest_m=NEAREST_M,
        min_intensity_per_m2=noise_floor * MIN_INTENSITY_PER_M2,
    )
    return law, number * area_m2


def snow(
    points: np.ndarray,
    rng: np.random.Generator,
    rate_mm_h: float,
    terminal_m_s: float,
    beam_divergence_rad: float = DIVERGENCE_RAD,
    noise_floor: float = 0.7,
) -> np.ndarray:
    """Points in falling snow, after Hahner et al. CVPR 2022 with LISA's conical beam.

    The strongest return wins: the target with the light that the flakes in front of it leave, or the flake of the
    largest share / r^2, to which the point then moves along its ray. A target is lost where its intensity falls below
    ``noise_floor`` times the weakest that the sensor registers.

    Args:
        points: float32 [P, F >= 4], one cloud in its sensor frame (m), intensity 0..255.
        rate_mm_h: snowfall, water equivalent; 0: the points as they are. ``terminal_m_s``: speed of fall.
        beam_divergence_rad: full opening angle of a beam.
        noise_floor: part of the weakest intensity seen that would still be registered.
    Returns:
        float32 [P' <= P, F], in the same order.
    """
    if rate_mm_h <= 0:
        return points.copy()
    law, per_m = flakes(float(rate_mm_h), float(terminal_m_s), float(beam_divergence_rad), float(noise_floor))
    distance = ranges(points)
    intensity = points[:, INTENSITY].astype(np.float64)
    flake = draw_returns(distance, rng, law)
    # Flakes too small or too far to be seen take away what is left of the mean.
    visible = np.exp(-np.maximum(per_m * distance - flake.expected, 0.0)) * np.maximum(1 - flake.blocked, 0.0)
    target = intensity * visible
    scattered = flake.intensity * distance**2 > target * flake.distance**2
    lost = ~scattered & ((target < noise_floor * min_intensity(intensity, distance)) | (visible <= 0))
    out = moved(points, scattered, distance, flake.distance)
    return with_intensity(out, np.where(scattered, flake.intensity, target))[~lost]
