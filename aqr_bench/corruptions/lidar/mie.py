"""Extinction of light by one water drop (Mie theory), and by rain of a given rate."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy

# LISA (velatkilic/LISA, Kilic et al. 2021): refractive index of water at the laser's wavelength, losses neglected.
WATER_INDEX, WAVELENGTH_M = 1.328, 905e-9
# Marshall and Palmer 1948: drops per m3 and mm of diameter N0 exp(-4.1 R^-0.21 D), R in mm/h, D in mm.
DROPS_PER_M3_MM, SLOPE_PER_MM, SLOPE_POWER = 8000.0, 4.1, -0.21
LARGEST_DROP_MM = 8.0  # larger ones break up; they would add less than 1e-4 to the extinction at 50 mm/h
# Above this size parameter the series is replaced by its limit; it oscillates about it by less than 3 %.
LARGE_SIZE = 100.0


def mie_extinction(index: float, size: float) -> float:
    """Extinction efficiency Q_ext of a sphere that does not absorb.

    Args:
        index: refractive index relative to the surroundings, real, above 1.
        size: size parameter pi D / wavelength, above 0.
    Returns:
        Extinction cross-section over geometric cross-section: Bohren and Huffman 1983, equations 4.53 and 4.62, the
        number of terms from Wiscombe 1980.
    """
    order = np.arange(1, int(np.ceil(size + 4.05 * np.cbrt(size) + 2)) + 1)
    inside, outside = index * size, size
    psi_in, dpsi_in = _riccati(scipy.special.spherical_jn, order, inside)
    psi, dpsi = _riccati(scipy.special.spherical_jn, order, outside)
    chi, dchi = _riccati(scipy.special.spherical_yn, order, outside)
    xi, dxi = psi + 1j * chi, dpsi + 1j * dchi
    a = (index * psi_in * dpsi - psi * dpsi_in) / (index * psi_in * dxi - xi * dpsi_in)
    b = (psi_in * dpsi - index * psi * dpsi_in) / (psi_in * dxi - index * xi * dpsi_in)
    return float(2 / size**2 * np.sum((2 * order + 1) * (a + b).real))


def _riccati(bessel, order: np.ndarray, at: float) -> tuple[np.ndarray, np.ndarray]:
    """x f(x) and its derivative, of a spherical Bessel function f."""
    value, slope = bessel(order, at), bessel(order, at, derivative=True)
    return at * value, value + at * slope


def extinction_efficiency(diameter_mm: np.ndarray) -> np.ndarray:
    """Q_ext of water drops at the laser's wavelength; float64 as ``diameter_mm`` (above 0).

    Drops larger than 29 um (size parameter 100) take the limit 2 + 1.9924 x^(-2/3) of geometric optics with its edge
    term (Nussenzveig and Wiscombe 1980): rain consists of them, and the series has as many terms as x is large.
    """
    size = np.pi * np.asarray(diameter_mm, np.float64) * 1e-3 / WAVELENGTH_M
    limit = 2 + 1.9924 * size ** (-2 / 3)
    return np.where(size > LARGE_SIZE, limit, [mie_extinction(WATER_INDEX, min(x, LARGE_SIZE)) for x in size])


@lru_cache(maxsize=1)
def _drops() -> tuple[np.ndarray, np.ndarray]:
    """Diameters (mm) at which the size distribution is integrated, with their extinction efficiency."""
    diameter = np.geomspace(1e-3, LARGEST_DROP_MM, 401)
    efficiency = extinction_efficiency(diameter)
    diameter.flags.writeable = efficiency.flags.writeable = False
    return diameter, efficiency


def rain_slope(rate_mm_h: float) -> float:
    """Lambda of the Marshall-Palmer distribution (1/mm) at a rain rate above 0."""
    return SLOPE_PER_MM * rate_mm_h**SLOPE_POWER


@lru_cache(maxsize=64)
def rain_extinction(rate_mm_h: float) -> float:
    """Extinction coefficient of rain (1/m): integral of Q_ext pi D^2 / 4 N(D) over the diameter."""
    if rate_mm_h <= 0:
        return 0.0
    diameter, efficiency = _drops()
    number = DROPS_PER_M3_MM * np.exp(-rain_slope(rate_mm_h) * diameter)
    area_m2 = np.pi / 4 * (1e-3 * diameter) ** 2
    return float(scipy.integrate.simpson(efficiency * area_m2 * number, x=diameter))
