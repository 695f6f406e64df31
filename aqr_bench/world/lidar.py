"""A spinning LiDAR by ray casting: 32 rings like a Velodyne HDL-32E, cuboids and a ground plane."""

from __future__ import annotations

import numpy as np

from aqr_bench.world import rays
from aqr_bench.world.geometry import Solids, corners
from aqr_bench.world.rig import LIDAR_TRANSLATION, beam_elevations
from aqr_bench.world.spec import WorldSpec

GROUND_ROUGHNESS_M = 0.015
GROUND_INTENSITY = 14.0
GROUND = -1  # owner of a return from the ground, or from a drop of rain
RAIN_EXTINCTION_PER_M = 0.012  # loss of light each way: drops in the air, and water on surfaces and window
WET_GROUND = 0.5  # reflectance of wet ground, as a share
DROP_SHARE, DROP_NEAREST_M, DROP_MEAN_M = 0.02, 1.5, 5.0  # pulses that drops return, and their mean range beyond that


def scan(
    solids: Solids,
    intensity: np.ndarray,
    dropout: float,
    spec: WorldSpec,
    rng: np.random.Generator,
    rain: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Scan cuboids given in the ego frame; ``intensity`` (P,) is their mean reflectance (0 .. 255).

    A share ``dropout`` of the pulses is lost. Of the others 1 - 2 ** -(s (h / r)^2 / 10) come back from range r,
    where s is reflectance times incidence and h is ``spec.half_return_m``: dark, slanted and far surfaces fade out.
    In the ``rain`` they fade out sooner, wet ground returns less, and drops return some pulses from near the car.

    Returns points (N, 5) float32 in the LiDAR frame (x right, y forward, z up; metres), intensity 0 .. 255 and ring
    (0 lowest), in firing order, and the owner (N,) of each: an owner of ``solids``, or ``GROUND``.
    """
    origin = np.array(LIDAR_TRANSLATION)
    elevation = beam_elevations(spec.beams)[::-1]  # a fan's slopes fall
    level, slope = np.cos(elevation), np.tan(elevation)
    step = 2 * np.pi / spec.azimuths
    azimuth = (np.arange(spec.azimuths) + rng.random()) * step - np.pi
    dx, dy = np.cos(azimuth), np.sin(azimuth)
    shape = (spec.beams, spec.azimuths)

    height = origin[2] + GROUND_ROUGHNESS_M * rng.standard_normal(shape)
    with np.errstate(divide="ignore"):
        depth = np.where(slope[:, None] < 0, -height / slope[:, None], np.inf)
    part = np.full(shape, rays.MISS, np.int32)
    heading = np.stack([np.cos(solids.yaw), np.sin(solids.yaw)], -1)
    first, count = _windows(solids, origin, azimuth[0], step)
    center, half, owner = solids.packed
    stamp, unoccluded = np.zeros((1, 1), np.int32), np.zeros(0, np.int64)
    rays.cast_fan(origin, dx, dy, slope, center, heading, half, owner, first, count, depth, part, stamp, unoccluded)

    lost = rng.standard_exponential(shape)
    lost[rng.random(shape) < dropout] = np.inf
    ground_intensity = GROUND_INTENSITY
    if rain:
        ground_intensity *= WET_GROUND
        distance = DROP_NEAREST_M + DROP_MEAN_M * rng.standard_exponential(shape)
        drop = (rng.random(shape) < DROP_SHARE) & (distance * level[:, None] < depth)
        depth[drop], part[drop] = (distance * level[:, None])[drop], rays.MISS
        lost *= np.exp(2 * RAIN_EXTINCTION_PER_M * depth / level[:, None])
    noise = spec.range_noise_m * rng.standard_normal(shape)
    speckle = np.exp(0.25 * rng.standard_normal(shape))
    strength = np.log(2) / 10 * spec.half_return_m**2
    cloud, owners = np.empty((part.size, 5), np.float32), np.empty(part.size, np.int64)
    number = rays.returns(
        origin, dx, dy, slope, level, depth, part, center, heading, half, owner, np.asarray(intensity, float),
        ground_intensity, spec.max_range_m, strength, lost, noise, speckle, cloud, owners,
    )  # fmt: skip
    return cloud[:number], owners[:number]


def _windows(solids: Solids, origin: np.ndarray, azimuth: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the first column (P,) at which the LiDAR may see each cuboid and how many; ``azimuth`` is column 0."""
    flat = corners(solids.center, solids.yaw, solids.half)[:, :4, :2] - origin[:2]
    bearing = np.arctan2(solids.center[:, 1] - origin[1], solids.center[:, 0] - origin[0])
    off = (np.arctan2(flat[..., 1], flat[..., 0]) - bearing[:, None] + np.pi) % (2 * np.pi) - np.pi
    turns = round(2 * np.pi / step)
    first = np.ceil((bearing + off.min(1) - azimuth) / step).astype(np.int64)
    last = np.floor((bearing + off.max(1) - azimuth) / step).astype(np.int64)
    return first % turns, np.clip(last - first + 1, 0, turns)
