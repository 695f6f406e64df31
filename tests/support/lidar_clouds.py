"""Made-up clouds for the weather tests, and what weather did to the points of a cloud."""

from __future__ import annotations

import numpy as np

from aqr_bench.corruptions.lidar.optics import ranges


def line(*distances, intensity=100.0):
    """Points straight ahead at these distances; column 4 numbers them."""
    points = np.zeros((len(distances), 5), np.float32)
    points[:, 1], points[:, 3], points[:, 4] = distances, intensity, np.arange(len(distances))
    return points


def many(distance, count=4000, intensity=10.0):
    return line(*[distance] * count, intensity=intensity)


def rng(seed=0):
    return np.random.default_rng(seed)


def fate(before, after):
    """(part lost, part moved by more than half a metre)."""
    indices = after[:, 4].astype(int)
    moved = np.abs(ranges(after) - ranges(before)[indices]) > 0.5
    return 1 - len(after) / len(before), moved.sum() / len(before)
