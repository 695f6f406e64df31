"""Falling snow on a LiDAR cloud against hand-worked numbers, and on the real keyframe."""

from __future__ import annotations

import numpy as np
import pytest
from lidar_clouds import fate, many, rng

from aqr_bench.corruptions.lidar.optics import ranges
from aqr_bench.corruptions.lidar.snow import flakes, occupancy, rain_rate, snow

SNOW = [(0.5, 1.2), (2.5, 1.6), (1.5, 0.4)]


@pytest.mark.parametrize(
    ("pair", "rate", "share"),
    [
        ((0.5, 1.2), 4.8162, 1.1574e-6),
        ((2.5, 1.6), 34.975, 4.3403e-6),
        ((1.5, 0.4), 130.04, 1.04167e-5),
        ((0.5, 1.8), 2.6216, 7.716e-7),  # the five of nuScenes-C, by the names of its flake files
        ((2.5, 1.4), 42.731, 4.9603e-6),
        ((1.0, 0.2), 200.21, 1.38889e-5),
        ((1.5, 0.2), 367.80, 2.08333e-5),
        ((2.5, 0.2), 791.39, 3.47222e-5),
    ],
)
def test_rain_rate_and_occupancy_of_the_reference(pair, rate, share):
    assert rain_rate(*pair) == pytest.approx(rate, rel=1e-4)
    assert occupancy(*pair) == pytest.approx(share, rel=1e-4)


def test_light_taken_by_flakes_has_a_closed_form():
    # Without a largest flake: volume pi N0 / Lambda^4, area pi N0 / (2 Lambda^3), so occupancy Lambda / 2.
    law, per_m = flakes(0.5, 1.2)
    assert law.slope_per_mm == pytest.approx(2.55 * 4.8162**-0.48, rel=1e-4)
    assert per_m == pytest.approx(1.1574e-6 * law.slope_per_mm * 1e3 / 2, rel=1e-3)
    assert law.per_m3_mm == pytest.approx(1.1574e-6 * (1e3 * law.slope_per_mm) ** 4 / np.pi * 1e-3, rel=1e-3)


def test_snow_dims_a_bright_target_by_what_flakes_take():
    points = many(30.0, 20_000, 255.0)
    out = snow(points, rng(), 1.5, 0.4)
    seen = np.isclose(ranges(out), 30.0)
    # exp(-30 m * 1.54e-3 / m) = 0.955; flakes that win are left out, so the mean is a little higher.
    assert seen.mean() > 0.9 and 0.95 < out[seen, 3].mean() / 255 < 0.97


def test_a_flake_wins_where_it_returns_more_than_the_target():
    out = snow(many(30.0, 20_000, 10.0), rng(), 1.5, 0.4)
    flake = ranges(out) < 29
    assert flake.mean() > 0.2 and ranges(out)[flake].min() >= 1.0
    power = (out[flake, 3] + 0.5) / ranges(out)[flake] ** 2
    assert (power > 10 * 0.5 / 30**2).all() and out[flake, 3].max() <= 230
    assert snow(many(0.5, 2000), rng(), 1.5, 0.4)[:, 1].min() == 0.5  # no flake is seen nearer than 1 m


def test_heavier_snow_spoils_more(numbered):
    extinction = [flakes(*pair)[1] for pair in SNOW]
    assert extinction == sorted(extinction)
    spoiled = [np.mean([sum(fate(numbered, snow(numbered, rng(s), *pair))) for s in range(4)]) for pair in SNOW]
    assert 0.05 < spoiled[0] < spoiled[2] < 0.2
    published = [(0.5, 1.8), (2.5, 1.4), (1.0, 0.2), (1.5, 0.2), (2.5, 0.2)]
    spoiled = [sum(fate(numbered, snow(numbered, rng(), *pair))) for pair in published]
    assert spoiled == sorted(spoiled)
