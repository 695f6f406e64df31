"""Planar motion and oriented boxes: the formulas that the simulation is built on.

Everything is upright, on the plane z = 0, so a pose is (x, y, yaw) in metres and radians, yaw counter-clockwise
from x. A solid is a cuboid with vertical sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Solids:
    """P upright cuboids in one frame: centre (P, 3), yaw (P,), half size (P, 3), ``owner`` (P,) the actor's index."""

    center: np.ndarray
    yaw: np.ndarray
    half: np.ndarray
    owner: np.ndarray

    def __len__(self) -> int:
        return len(self.yaw)

    @property
    def packed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre, half size and owner in the memory layout that the compiled loops are compiled for."""
        center, half = (np.ascontiguousarray(array, float) for array in (self.center, self.half))
        return center, half, np.ascontiguousarray(self.owner, np.int64)

    def relative_to(self, pose: np.ndarray) -> Solids:
        """Return the same cuboids in the frame of ``pose`` (x, y, yaw)."""
        xy = rotate(self.center[:, :2] - pose[:2], -pose[2])
        return Solids(np.concatenate([xy, self.center[:, 2:]], 1), self.yaw - pose[2], self.half, self.owner)


def arc(start: np.ndarray, speed: np.ndarray, yaw_rate: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """Return poses (..., 3) after driving ``time_s`` from ``start`` (..., 3) at constant speed and yaw rate.

    The chord of a circle: it points along yaw + w t / 2 and has length v t sin(w t / 2) / (w t / 2).
    """
    turn = np.asarray(yaw_rate) * time_s
    chord = np.asarray(speed) * time_s * np.sinc(turn / (2 * np.pi))
    heading = start[..., 2] + turn / 2
    x = start[..., 0] + chord * np.cos(heading)
    y = start[..., 1] + chord * np.sin(heading)
    return np.stack(np.broadcast_arrays(x, y, start[..., 2] + turn), -1)


def rotate(xy: np.ndarray, angle: float | np.ndarray) -> np.ndarray:
    """Rotate vectors (..., 2) by ``angle`` radians, counter-clockwise."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * xy[..., 0] - sin * xy[..., 1], sin * xy[..., 0] + cos * xy[..., 1]], -1)


def footprint(pose: np.ndarray, length: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the ground corners (..., 4, 2) of boxes with poses (..., 3), counter-clockwise from the front left."""
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    local = signs * np.stack([length, width], -1)[..., None, :]
    return pose[..., None, :2] + rotate(local, pose[..., None, 2])


def overlap(pose_a: np.ndarray, size_a: np.ndarray, pose_b: np.ndarray, size_b: np.ndarray) -> np.ndarray:
    """Return (...,) which pairs of rectangles overlap; poses (..., 3), sizes (..., 2) as length and width.

    Separating axis theorem: two convex shapes are apart if and only if some edge normal of one separates them.
    """
    delta = pose_b[..., :2] - pose_a[..., :2]
    turn = pose_b[..., 2] - pose_a[..., 2]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))

    def reach(size: np.ndarray) -> np.ndarray:  # extent of one along the axes of the other
        return np.stack([size[..., 0] * cos + size[..., 1] * sin, size[..., 0] * sin + size[..., 1] * cos], -1)

    apart_a = np.abs(rotate(delta, -pose_a[..., 2])) > (size_a + reach(size_b)) / 2
    apart_b = np.abs(rotate(delta, -pose_b[..., 2])) > (size_b + reach(size_a)) / 2
    return ~(apart_a.any(-1) | apart_b.any(-1))


def corners(center: np.ndarray, yaw: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return the 8 corners (P, 8, 3) of upright cuboids: the four of the bottom, then the four above them."""
    flat = footprint(np.concatenate([center[:, :2], yaw[:, None]], 1), 2 * half[:, 0], 2 * half[:, 1])
    low = np.concatenate([flat, np.broadcast_to((center[:, 2] - half[:, 2])[:, None, None], (len(yaw), 4, 1))], 2)
    high = low.copy()
    high[:, :, 2] += 2 * half[:, None, 2]
    return np.concatenate([low, high], 1)
