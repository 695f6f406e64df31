"""Flakes and drops in a LiDAR beam: how many, where, how large, and which of them returns the most light.

A beam is a cone. Particles are spread evenly in space, their diameters are distributed exponentially, each reflects a
fixed part of the light that falls on it (LISA, Kilic et al. 2021). Only those are drawn whose return the sensor could
register at all; the others are many and small, and act through their mean alone. So it stays exact, and cheap.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy

STEPS = 400


@dataclass(frozen=True)
class Particles:
    """Particles in the air, and the beam and the sensor that meet them.

    Args:
        per_m3_mm: N0 of the size distribution N0 exp(-slope D), per m3 and mm of diameter.
        slope_per_mm: its slope.
        smallest_mm, largest_mm: diameters beyond which there is none.
        brightness: intensity (0..255) of a particle that fills the beam.
        divergence_rad: full opening angle of the beam.
        nearest_m: what is nearer is not seen.
        min_intensity_per_m2: weakest registered return, intensity / range^2.
    """

    per_m3_mm: float
    slope_per_mm: float
    smallest_mm: float
    largest_mm: float
    brightness: float
    divergence_rad: float
    nearest_m: float
    min_intensity_per_m2: float


@dataclass(frozen=True)
class Returns:
    """The particles in every beam, float64 [P] each.

    Args:
        distance: of the particle that returns the most light (m), 0 where there is none.
        intensity: calibrated intensity of that particle, 0 where there is none.
        blocked: part of the beam's light that the drawn particles take away, may exceed 1.
        expected: mean of ``blocked``.
    """

    distance: np.ndarray
    intensity: np.ndarray
    blocked: np.ndarray
    expected: np.ndarray


def covered_share(diameter_mm: np.ndarray, distance: np.ndarray, divergence_rad: float) -> np.ndarray:
    """Part of a beam that a particle at a distance (m) covers, at most 1: (D / beam width)^2."""
    return np.minimum((1e-3 * diameter_mm / (divergence_rad * distance)) ** 2, 1.0)


@lru_cache(maxsize=64)
def _table(law: Particles) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distance (m), smallest diameter seen there (mm), number of seen particles and light taken away up to there."""
    dimmest = np.sqrt(law.min_intensity_per_m2 / law.brightness)  # the share must be (dimmest r)^2 or more
    farthest = np.sqrt(1e-3 * law.largest_mm / (law.divergence_rad * dimmest))
    distance = np.geomspace(law.nearest_m, max(farthest, law.nearest_m * 1.001), STEPS)
    width_mm = 1e3 * law.divergence_rad * distance
    seen_mm = np.clip(width_mm * dimmest * distance, law.smallest_mm, law.largest_mm)
    area_m2 = np.pi / 4 * (1e-3 * width_mm) ** 2
    tail = np.exp(-law.slope_per_mm * seen_mm) - np.exp(-law.slope_per_mm * law.largest_mm)
    per_m = area_m2 * law.per_m3_mm / law.slope_per_mm * tail
    sizes = seen_mm[:, None] + (law.largest_mm - seen_mm)[:, None] * np.linspace(0, 1, STEPS) ** 2
    number = law.per_m3_mm * np.exp(-law.slope_per_mm * sizes)
    taken = area_m2 * scipy.integrate.trapezoid(
        number * covered_share(sizes, distance[:, None], law.divergence_rad), sizes, axis=1
    )
    table = distance, seen_mm, _running(per_m, distance), _running(taken, distance)
    for column in table:
        column.flags.writeable = False
    return table


def _running(density: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return scipy.integrate.cumulative_trapezoid(density, distance, initial=0.0)


def draw_returns(distance: np.ndarray, rng: np.random.Generator, law: Particles) -> Returns:
    """Particles in front of the target of every beam.

    Args:
        distance: float64 [P], to the target (m).
        law: what the particles are.
    """
    grid, seen_mm, number, taken = _table(law)
    mean = np.interp(distance, grid, number, left=0.0)
    count = rng.poisson(mean)
    beam = np.repeat(np.arange(len(distance)), count)
    # Distances by inversion of the mean number up to there; diameters from the truncated exponential distribution.
    at = np.interp(mean[beam] * rng.random(len(beam)), number, grid)
    low = np.interp(at, grid, seen_mm)
    truncation = -np.expm1(-law.slope_per_mm * (law.largest_mm - low))
    diameter = low - np.log1p(-rng.random(len(beam)) * truncation) / law.slope_per_mm
    share = covered_share(diameter, at, law.divergence_rad)
    best = _strongest(share / at**2, beam)
    out = np.zeros((2, len(distance)))
    out[:, beam[best]] = at[best], law.brightness * share[best]
    blocked = np.bincount(beam, share, minlength=len(distance))
    return Returns(out[0], out[1], blocked, np.interp(distance, grid, taken, left=0.0))


def _strongest(power: np.ndarray, beam: np.ndarray) -> np.ndarray:
    """Index of the largest power of every beam; ``beam`` (int) is sorted."""
    order = np.lexsort((power, beam))
    last = np.append(beam[order][1:] != beam[order][:-1], True)[: len(order)]
    return order[last]
