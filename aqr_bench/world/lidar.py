"""A spinning LiDAR by ray casting: 32 rings like a Velodyne HDL-32E, cuboids and a ground plane."""

from __future__ import annotations

import numpy as np

from aqr_bench.world.geometry import Solids, cast, corners
from aqr_bench.world.rig import LIDAR_TRANSLATION, beam_elevations
from aqr_bench.world.spec import WorldSpec

GROUND_ROUGHNESS_M = 0.015
GROUND_INTENSITY = 14.0
GROUND = -1  # owner of a return from the ground


def scan(
    solids: Solids, intensity: np.ndarray, dropout: float, spec: WorldSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scan cuboids given in the ego frame; ``intensity`` (P,) is their mean reflectance (0 .. 255).

    Returns points (N, 5) float32 in the LiDAR frame (x right, y forward, z up; metres), intensity 0 .. 255 and ring
    (0 lowest), in firing order, and the owner (N,) of each: an actor index, or ``GROUND``.
    """
    origin = np.array(LIDAR_TRANSLATION)
    elevation = beam_elevations(spec.beams)
    azimuth = (np.arange(spec.azimuths) + rng.random()) * (2 * np.pi / spec.azimuths) - np.pi
    cos_e, sin_e = np.cos(elevation)[:, None], np.sin(elevation)[:, None]
    rays = np.stack(np.broadcast_arrays(cos_e * np.cos(azimuth), cos_e * np.sin(azimuth), sin_e)).astype(np.float32)

    height = origin[2] + rng.normal(0, GROUND_ROUGHNESS_M, rays.shape[1:])
    with np.errstate(divide="ignore"):
        ground = np.where(sin_e < 0, -height / sin_e, np.inf)
    distance = ground.astype(np.float32)
    part = np.full(distance.shape, -1)
    slope = np.abs(np.broadcast_to(sin_e, distance.shape)).astype(np.float32)  # |cosine| of incidence

    for index, (rings, first, count) in _windows(solids, origin, elevation, azimuth):
        columns = np.arange(first, first + count) % spec.azimuths
        window = rays[:, rings, :][:, :, columns]
        hit, axis, _, local = cast(origin, window, solids.center[index], solids.yaw[index], solids.half[index])
        row, column = np.nonzero(hit < distance[rings][:, columns])
        where = (row + rings.start, columns[column])
        distance[where] = hit[row, column]
        part[where] = index
        slope[where] = np.abs(local[axis[row, column], row, column])

    lost = rng.random(distance.shape) < dropout
    keep = ~lost & (distance < spec.max_range_m)
    ranges = distance + rng.normal(0, spec.range_noise_m, distance.shape)
    points = np.moveaxis(rays * ranges, 0, -1)
    points = np.stack([-points[..., 1], points[..., 0], points[..., 2]], -1)  # ego axes to LiDAR axes

    reflectance = np.append(intensity, GROUND_INTENSITY)[part]  # part -1 is the last one, the ground
    strength = reflectance * (0.35 + 0.65 * slope) * np.exp(rng.normal(0, 0.25, part.shape))
    owner = np.append(solids.owner, GROUND)[part]
    ring = np.broadcast_to(np.arange(spec.beams)[:, None], part.shape)
    cloud = np.concatenate([points, np.clip(np.round(strength), 0, 255)[..., None], ring[..., None]], -1)
    order = keep.T  # all rings of one azimuth fire together
    return cloud.transpose(1, 0, 2)[order].astype(np.float32), owner.T[order]


def _windows(solids: Solids, origin: np.ndarray, elevation: np.ndarray, azimuth: np.ndarray):
    """Yield, for each cuboid the LiDAR may see, its index and (slice of rings, first column, number of columns)."""
    if not len(solids):
        return
    flat = corners(solids.center, solids.yaw, solids.half)[:, :4, :2] - origin[:2]
    middle = solids.center[:, :2] - origin[:2]
    bearing = np.arctan2(middle[:, 1], middle[:, 0])
    off = (np.arctan2(flat[..., 1], flat[..., 0]) - bearing[:, None] + np.pi) % (2 * np.pi) - np.pi
    step = 2 * np.pi / len(azimuth)
    first = np.ceil((bearing + off.min(1) - azimuth[0]) / step).astype(int)
    last = np.floor((bearing + off.max(1) - azimuth[0]) / step).astype(int)

    # Distances from the LiDAR to the nearest and farthest point of each footprint, for the range of elevations.
    cos, sin = np.cos(solids.yaw), np.sin(solids.yaw)
    local = np.abs(np.stack([cos * middle[:, 0] + sin * middle[:, 1], cos * middle[:, 1] - sin * middle[:, 0]], -1))
    near = np.hypot(*np.maximum(local - solids.half[:, :2], 0.05).T)
    far = np.hypot(*(local + solids.half[:, :2]).T)
    low = solids.center[:, 2] - solids.half[:, 2] - origin[2]
    high = solids.center[:, 2] + solids.half[:, 2] - origin[2]
    lowest = np.arctan2(low, np.where(low < 0, near, far))
    highest = np.arctan2(high, np.where(high < 0, far, near))
    ring_from = np.searchsorted(elevation, lowest, "left")
    ring_to = np.searchsorted(elevation, highest, "right")
    for index in range(len(solids)):
        count = last[index] - first[index] + 1
        if count > 0 and ring_to[index] > ring_from[index]:
            yield index, (slice(ring_from[index], ring_to[index]), first[index], count)
