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


SWAPPED = [0, 1, 2, 4, 3]


def beams(count: int = 4000, rings: int = 32) -> np.ndarray:
    """As ``scan``, with a beam of one elevation for each ring, and dark surfaces: intensities below 128."""
    points = scan(count)
    elevation = np.radians(-30 + 40 / rings * (points[:, 4] % rings))
    points[:, 2] = np.hypot(points[:, 0], points[:, 1]) * np.tan(elevation)
    points[:, 3] %= 60
    return points


@pytest.mark.parametrize("rings", [4, 32])
def test_swapped_columns_are_recognised_where_both_are_in_the_range_of_the_other(rings):
    right = beams(rings=rings)
    assert points_fault(right) == ("", "")
    fault, cause = points_fault(right[:, SWAPPED])
    assert "the ring in column 3 and the intensity in column 4, which are swapped" in fault and cause == COLUMNS
    constant = right * np.float32([1, 1, 1, 0, 1])
    assert "swapped" in points_fault(constant[:, SWAPPED])[0] and points_fault(constant) == ("", "")
    both = right.copy()
    both[:, 3] = both[:, 4]  # an intensity by elevation is odd, and no swap
    assert points_fault(both) == ("", "")
    assert "swapped" not in points_fault(right[:900][:, SWAPPED])[0], "too few points to tell"


def test_real_clouds_pass_and_are_recognised_when_swapped(shared):
    files = [*(shared / "data/nuscenes_sample").glob("*.bin"), *(shared / "data/strangers/lidar_clouds").glob("*.bin")]
    assert len(files) == 3
    for file in files:
        points = np.fromfile(file, np.float32).reshape(-1, 5)
        dark = points.copy()
        dark[:, 3] //= 2  # below 128
        assert points_fault(points)[0] == points_fault(dark)[0] == "" and dark[:, 3].max() < 128
        assert "swapped" in points_fault(points[:, SWAPPED])[0] and "swapped" in points_fault(dark[:, SWAPPED])[0]


def test_the_worlds_clouds_pass(world):
    for path in sorted((world / "samples/LIDAR_TOP").iterdir()):
        points = np.fromfile(path, np.float32).reshape(-1, 5)
        assert points_fault(points)[1] in ("", SCAN)  # an empty side of a street
        swapped = points[:, SWAPPED]
        swapped[:, 4] //= 2  # below 128
        assert "swapped" in points_fault(swapped)[0]
