"""Clouds with other units or columns than nuScenes' are recognised by their numbers; real and synthetic ones pass."""

from __future__ import annotations

import numpy as np
import pytest

from aqr_bench.data.check.clouds import COLUMNS, INTENSITIES, RINGS, SCAN, points_fault


def scan(count: int = 4000) -> np.ndarray:
    """A cloud like nuScenes': all around, 1 to 60 m away, 32 rings."""
    rng = np.random.default_rng(0)
    angle, distance = rng.uniform(-np.pi, np.pi, count), rng.lognormal(2, 0.8, count)
    points = [distance * np.cos(angle), distance * np.sin(angle), rng.uniform(-2, 2, count)]
    return np.stack([*points, rng.integers(0, 256, count), rng.integers(0, 32, count)], 1).astype(np.float32)


def column(index: int, value) -> callable:
    def change(points: np.ndarray) -> np.ndarray:
        points[:, index] = value
        return points

    return change


@pytest.mark.parametrize(
    ("change", "message", "cause"),
    [
        (lambda points: points * 0, "all points are at x = y = z = 0", COLUMNS),
        (lambda points: points * [100, 100, 100, 1, 1], "away in the median", COLUMNS),
        (lambda points: points * [1000, 1000, 1000, 1, 1], "with a coordinate of .*, read as metres", COLUMNS),
        (lambda points: points * [0.01, 0.01, 0.01, 1, 1], "away in the median", COLUMNS),
        (column(3, 1.67e9), "in column 3, which holds the intensity", COLUMNS),
        (lambda points: points[:, [0, 1, 2, 4, 3]], "in column 4, which holds the ring", COLUMNS),
        (column(4, 99863300), "with 9.98633e.07 in column 4", COLUMNS),
        (column(4, 0.05), "with 0.05 in column 4", COLUMNS),
        (column(4, -1), "with -1 in column 4", COLUMNS),
        (column(4, 1), "with 1 as ring of all points", RINGS),
        (lambda points: points * [1, 1, 1, 1 / 255, 1], "an intensity of at most 1", INTENSITIES),
        (lambda points: points[points[:, 0] > 0], "a sector of 60 degrees", SCAN),
        (column(4, np.arange(4000) % 128), "", ""),  # other LiDARs have up to 128 beams
        (column(3, 0), "", ""),
        (lambda points: points[:0], "", ""),
        (lambda points: points, "", ""),
    ],
)
def test_clouds_of_other_units_and_columns(change, message, cause):
    import re

    fault, result = points_fault(change(scan()).astype(np.float32))
    assert (bool(fault), result) == (bool(message), cause) and re.search(message, fault)


def test_the_worlds_clouds_pass(world):
    for path in sorted((world / "samples/LIDAR_TOP").iterdir()):
        assert points_fault(np.fromfile(path, np.float32).reshape(-1, 5))[1] in ("", SCAN)  # an empty side of a street
