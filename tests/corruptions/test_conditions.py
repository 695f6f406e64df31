"""Conditions: pure, seeded, and never equal to clean by accident."""

from __future__ import annotations

import numpy as np
import pytest

from aqr_bench.corruptions import CONDITIONS, SensorData, corrupt, fingerprint, get_condition, sample_rng
from aqr_bench.errors import UserError


def data(seed=0):
    rng = np.random.default_rng(seed)
    images = tuple(rng.integers(1, 255, (4, 6, 3), dtype=np.uint8) for _ in range(6))
    return SensorData(rng.normal(size=(20, 5)).astype(np.float32), images)


@pytest.mark.parametrize("name", CONDITIONS)
def test_input_is_never_written_to(name):
    clean, twin = data(), data()
    corrupt(get_condition(name), clean, "token")
    assert fingerprint(clean) == fingerprint(twin)


@pytest.mark.parametrize("name", [n for n in CONDITIONS if n != "clean"])
def test_every_corruption_changes_the_fingerprint(name):
    out = corrupt(get_condition(name), data(), "token")
    assert fingerprint(out) != fingerprint(data())
    assert fingerprint(out) == fingerprint(corrupt(get_condition(name), data(), "token"))


def test_missing_sensors_are_zero_filled_not_removed():
    lidar = corrupt(get_condition("no_lidar"), data(), "t")
    assert lidar.points.shape == (20, 5) and not lidar.points.any() and lidar.images[0].any()
    cameras = corrupt(get_condition("no_cameras"), data(), "t")
    assert len(cameras.images) == 6 and not any(i.any() for i in cameras.images) and cameras.points.any()


def test_random_streams_depend_on_every_part_of_their_key():
    keys = [(0, "a", 1, "t", "x"), (1, "a", 1, "t", "x"), (0, "b", 1, "t", "x"), (0, "a", 2, "t", "x")]
    keys += [(0, "a", 1, "u", "x"), (0, "a", 1, "t", "y")]
    draws = {sample_rng(*key).integers(0, 2**62) for key in keys}
    assert len(draws) == len(keys)
    assert sample_rng(*keys[0]).integers(0, 2**62) == sample_rng(*keys[0]).integers(0, 2**62)


def test_fingerprint_sees_shapes_and_types():
    points, images = data().points, data().images
    prints = {
        fingerprint(SensorData(points, images)),
        fingerprint(SensorData(points.reshape(10, 10), images)),
        fingerprint(SensorData(points.view(np.int32), images)),
        fingerprint(SensorData(points, images[:5])),
    }
    assert len(prints) == 4


def test_unknown_condition_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'no_lidar'"):
        get_condition("no_lidr")
