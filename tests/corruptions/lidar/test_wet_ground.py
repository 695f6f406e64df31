"""A wet road on a LiDAR cloud: where the road is, and how much water takes."""

from __future__ import annotations

import numpy as np
import pytest
from lidar_clouds import rng

from aqr_bench.corruptions.lidar.wet_ground import ground_plane, wet_gain, wet_ground


def road(slope=0.0, count=4000):
    draws = rng()
    xy = draws.uniform(-40, 40, (count, 2))
    z = -1.84 + slope * xy[:, 1] + draws.normal(0, 0.02, count)
    high = np.column_stack([draws.uniform(-40, 40, (count // 3, 2)), draws.uniform(-1, 3, count // 3)])
    xyz = np.concatenate([np.column_stack([xy, z]), high])
    number = np.arange(len(xyz))
    return np.column_stack([xyz, np.full(len(xyz), 20.0), number]).astype(np.float32)


def test_road_is_detected_on_a_slope_and_on_the_real_keyframe(numbered):
    for slope in (0.0, 0.01):
        assert np.allclose(ground_plane(road(slope)), (0, slope, -1.84), atol=[0.002, 0.002, 0.02])
    a, b, c = ground_plane(numbered)
    assert abs(a) < 0.05 and abs(b) < 0.05 and -2.0 < c < -1.7
    assert ground_plane(numbered[:10]) == (0.0, 0.0, -1.84)


def test_wet_gain_by_hand():
    # Straight down: R = (0.3297 / 2.3303)^2 = 0.0200, (1 - R)^2 / (1 - R / 15) = 0.9616; flat: everything is reflected.
    gain = wet_gain(np.array([1.0, 0.0, 0.1]), 1.2)
    assert gain[0] == pytest.approx(0.9616, abs=5e-4) and gain[1] == 0
    assert wet_gain(np.array([0.1]), 0.6) == pytest.approx(0.5 + 0.5 * gain[2])
    brewster = np.cos(np.arctan(1.33 / 1.0003))
    assert wet_gain(np.array([brewster]), 5.0) == pytest.approx(1.0)


def test_only_the_road_gets_wet_and_more_water_takes_more():
    points = road()
    outs = [wet_ground(points, rng(), depth, 0.7) for depth in (0.2, 0.6, 1.2)]
    high = points[:, 2] > -1.4
    for out in outs:
        assert np.array_equal(out[out[:, 2] > -1.4], points[high])
    lost = [1 - len(out) / len(points) for out in outs]
    assert lost == sorted(lost) and lost[0] < 0.01 and lost[-1] > 0.2
    assert len(wet_ground(points, rng(), 1.2, 0.1)) > len(outs[-1])
