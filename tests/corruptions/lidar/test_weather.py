"""What holds for all weather on a LiDAR cloud: points on their rays, further columns, hostile clouds."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from corruption_frames import make_cloud
from lidar_clouds import rng

from aqr_bench.corruptions.lidar.fog import fog
from aqr_bench.corruptions.lidar.optics import ranges
from aqr_bench.corruptions.lidar.rain import rain
from aqr_bench.corruptions.lidar.snow import snow
from aqr_bench.corruptions.lidar.wet_ground import wet_ground

WEATHER = {
    "fog": lambda points, rng: fog(points, rng, 0.06, 0.05, 1e-6, 10.0),
    "snow": lambda points, rng: snow(points, rng, 2.5, 0.2),
    "rain": lambda points, rng: rain(points, rng, 7.29),
    "wet ground": lambda points, rng: wet_ground(points, rng, 1.2, 0.7),
}


@pytest.mark.parametrize("name", WEATHER)
@pytest.mark.filterwarnings("error")
def test_hostile_clouds(name):
    cloud = make_cloud(rng(), 300).points
    for points in (cloud[:0], cloud[:1], cloud * 0, cloud * np.float32([1e6, 1e6, 1e6, 1, 1]), cloud[:, :4]):
        given = points.copy()
        given.flags.writeable = False
        out = WEATHER[name](given, rng())
        assert out.dtype == np.float32 and out.shape[1] == points.shape[1] and len(out) <= len(points)
        assert np.isfinite(out).all() and not np.shares_memory(out, given)
        assert out[:, 3].min(initial=0) >= 0 and out[:, 3].max(initial=0) <= 255


@pytest.mark.parametrize("name", WEATHER)
def test_points_move_along_their_ray_and_not_behind_the_target(name, numbered):
    out = WEATHER[name](numbered, rng())
    indices = out[:, 4].astype(int)
    assert (np.diff(indices) > 0).all() and not np.array_equal(out, numbered[indices])
    before, after = ranges(numbered)[indices], ranges(out)
    far = (before > 1) & (after > 0.5)
    direction = out[far, :3] / after[far, None] - numbered[indices][far, :3] / before[far, None]
    assert np.abs(direction).max() < 1e-5
    spread = 5 * 0.09 / np.sqrt(2 * 0.9) if name == "rain" else 1e-4
    assert (after - before).max() < spread
    assert np.array_equal(out[:, 3], np.rint(out[:, 3]))


@pytest.mark.parametrize("name", WEATHER)
def test_the_same_draws_give_the_same_points(name):
    points = make_cloud(rng(), 5000).points
    assert np.array_equal(WEATHER[name](points, rng(1)), WEATHER[name](points, rng(1)))
    assert np.array_equal(WEATHER[name](points, rng(1)), WEATHER[name](points, rng(2))) == (name == "wet ground")


def test_no_weather_changes_nothing():
    points = make_cloud(rng(), 500).points
    clear = (
        fog(points, rng(), 0.0, 0.0, 1e-6, 10.0),
        snow(points, rng(), 0.0, 1.2),
        rain(points, rng(), 0.0),
        wet_ground(points, rng(), 0.0, 0.7),
    )
    for out in clear:
        assert np.array_equal(out, points) and out is not points


def test_ring_and_further_columns_stay():
    points = np.column_stack([make_cloud(rng(), 2000).points, np.full(2000, 7)]).astype(np.float32)
    points[:, 4] = np.arange(2000)
    for weather in (*WEATHER.values(), partial(rain, rate_mm_h=30.0)):
        out = weather(points, rng())
        assert np.isin(out[:, 4], points[:, 4]).all() and (out[:, 5] == 7).all()
