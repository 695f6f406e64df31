"""Rays against one cuboid, in numpy and float32: what the compiled loops of the world are compared with."""

from __future__ import annotations

import numpy as np


def cast(
    origin: np.ndarray, directions: np.ndarray, center: np.ndarray, yaw: float, half: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cast rays from one point at one cuboid (slab method), all in the same frame.

    ``directions`` is (3, ...) and need not be of unit length. Returns, for each ray, the distance in units of the
    direction (infinite where it misses or starts inside), the axis of the face hit (0, 1, 2) and the origin (3,) and
    directions (3, ...) in the frame of the cuboid.
    """
    cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    shift = origin - center
    start = np.array([cos * shift[0] + sin * shift[1], cos * shift[1] - sin * shift[0], shift[2]], np.float32)
    ray = np.empty_like(directions)
    ray[0] = cos * directions[0] + sin * directions[1]
    ray[1] = cos * directions[1] - sin * directions[0]
    ray[2] = directions[2]
    ray[ray == 0] = 1e-9  # parallel to a face: keep 0 * inf out of the slabs
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.float32(1) / ray
        near, far, axis = None, None, None
        for dim in range(3):
            reach = np.abs(np.float32(half[dim]) * inverse[dim])
            middle = -start[dim] * inverse[dim]
            enter, leave = middle - reach, middle + reach
            if near is None:
                near, far, axis = enter, leave, np.zeros(enter.shape, np.int8)
            else:
                axis[enter > near] = dim
                near, far = np.maximum(near, enter), np.minimum(far, leave)
        near[~((near < far) & (near > 0))] = np.inf
    return near, axis, start, ray
