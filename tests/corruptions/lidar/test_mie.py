"""Extinction by spheres against published values and limits; that of rain against published fits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid

from aqr_bench.corruptions.lidar.mie import extinction_efficiency, mie_extinction, rain_extinction
from aqr_bench.corruptions.lidar.scatterers import Particles, draw_returns


@pytest.mark.parametrize(
    ("index", "size", "published"),
    [
        (1.55, 2 * np.pi * 0.525 / 0.6328, 3.10543),  # Bohren and Huffman 1983, appendix A
        (1.5, 10.0, 2.8820),  # Wiscombe 1979, NCAR/TN-140
        (1.5, 100.0, 2.0944),
    ],
)
def test_published_efficiencies(index, size, published):
    assert mie_extinction(index, size) == pytest.approx(published, abs=1e-4)


def test_small_spheres_scatter_as_rayleigh_and_large_ones_take_twice_their_area():
    size, square = 0.02, 1.328**2
    rayleigh = 8 / 3 * size**4 * ((square - 1) / (square + 2)) ** 2
    assert mie_extinction(1.328, size) == pytest.approx(rayleigh, rel=1e-3)
    assert mie_extinction(1.328, 2000.0) == pytest.approx(2.0, abs=0.03)


def test_series_and_limit_meet():
    diameter = np.array([100.0, 101.0]) * 905e-9 / np.pi * 1e3  # the size parameter 100 is where one takes over
    below, above = extinction_efficiency(diameter * [0.999, 1.0])
    assert below == pytest.approx(above, rel=0.03)


def test_extinction_of_rain():
    # Geometric optics: pi N0 / Lambda^3 with Lambda = 4.1 * 10^-0.21 = 2.528 per mm: 1.555e-3 per m, 6.8 dB / km.
    assert rain_extinction(10.0) == pytest.approx(1.555e-3, rel=0.02)
    # Carbonneau 1998: 1.076 R^0.67 dB/km, by measurement; Marshall and Palmer's drops give a third more.
    for rate in (1.0, 10.0, 50.0):
        assert 1.0 < 4343 * rain_extinction(rate) / (1.076 * rate**0.67) < 1.6
    assert rain_extinction(0.0) == 0.0
    assert rain_extinction(20.0) / rain_extinction(10.0) == pytest.approx(2**0.63, rel=0.01)


def test_drawn_particles_have_the_mean_and_the_bounds_of_their_law():
    law = Particles(1000.0, 1.0, 0.05, 20.0, 200.0, 3e-3, 1.5, 0.002)
    distance = np.full(40_000, 12.0)
    returns = draw_returns(distance, np.random.default_rng(0), law)
    assert returns.blocked.mean() == pytest.approx(returns.expected[0], rel=0.05)
    hit = returns.distance > 0
    assert returns.distance[hit].min() >= 1.5 and returns.distance.max() <= 12.0
    assert (returns.intensity[hit] / returns.distance[hit] ** 2 > 0.002 * 0.98).all() and returns.intensity.max() <= 200
    # Seen particles up to r: integral of pi/4 (3e-3 s)^2 N0 / slope exp(-slope D_min(s)), D_min = 3 s^2 sqrt(1e-5) mm.
    s = np.linspace(1.5, 12.0, 10_001)
    mean = trapezoid(np.pi / 4 * (3e-3 * s) ** 2 * 1000 * np.exp(-np.maximum(3 * s**2 * np.sqrt(1e-5), 0.05)), s)
    assert hit.mean() == pytest.approx(1 - np.exp(-mean), rel=0.03)


def test_nothing_is_drawn_in_front_of_near_targets():
    law = Particles(1e6, 1.0, 0.05, 20.0, 200.0, 3e-3, 1.5, 0.002)
    returns = draw_returns(np.array([0.0, 1.0, 1.5]), np.random.default_rng(0), law)
    assert not returns.distance.any() and not returns.blocked.any()
