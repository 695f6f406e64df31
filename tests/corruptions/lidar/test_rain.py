"""Rain on a LiDAR cloud against hand-worked numbers, and on the real keyframe."""

from __future__ import annotations

import numpy as np
import pytest
from lidar_clouds import fate, many, rng

from aqr_bench.corruptions.lidar.mie import rain_extinction
from aqr_bench.corruptions.lidar.optics import MIN_INTENSITY_PER_M2, ranges
from aqr_bench.corruptions.lidar.rain import rain, range_noise


def test_rain_attenuates_and_its_ranges_get_worse_with_distance():
    alpha = rain_extinction(50.0)
    for distance in (20.0, 60.0):
        out = rain(many(distance, 5000, 200.0), rng(), 50.0)
        seen = np.abs(ranges(out) - distance) < 1
        target = 200 * np.exp(-2 * alpha * distance)
        assert (out[seen, 3] == np.rint(target)).all()
        sigma = 0.09 / np.sqrt(2 * target / (MIN_INTENSITY_PER_M2 * distance**2))
        assert (ranges(out)[seen] - distance).std() == pytest.approx(sigma, rel=0.05)
        assert range_noise(np.array([target]), np.array([distance])) == pytest.approx(sigma)


def test_weak_targets_are_lost_in_rain_and_none_without_attenuation():
    # At 60 m the weakest registered intensity is 0.003 * 3600 = 10.8; at 50 mm/h 11 becomes 11 * 0.597 < 0.9 * 10.8.
    left = rain(many(60.0, 1000, 11.0), rng(), 50.0)
    assert 100 < len(left) < 400 and ranges(left).max() < 10  # what is left are drops
    assert len(rain(many(60.0, 1000, 30.0), rng(), 50.0)) == 1000


def test_more_rain_spoils_more(numbered):
    spoiled = [sum(fate(numbered, rain(numbered, rng(), rate))) for rate in (0.2, 0.73, 1.5625, 3.125, 7.29)]
    assert spoiled == sorted(spoiled) and spoiled[0] > 0 and spoiled[-1] < 0.05
