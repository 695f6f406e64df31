"""Six pinhole cameras by ray casting, drawn at twice the size and averaged down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from aqr_bench.world import ground, rays
from aqr_bench.world.geometry import Solids, corners, rotate
from aqr_bench.world.light import NIGHT_FLOOR, Light, lamplight
from aqr_bench.world.rig import CAMERAS
from aqr_bench.world.scene import Scene

SUPERSAMPLE = 2
NEAR_M = 0.1


@dataclass(frozen=True)
class _View:
    """What never changes about a camera: where it sits and its fan of rays, whose distances are depths.

    ``axes`` (3, 3) from camera to ego frame, ``dx`` and ``dy`` (W,) the directions of the columns on the ground,
    ``dz`` (H,) the slopes of the rows, ``depth`` (H, 1) of the ground at each row; H and W are those of the doubled
    image.
    """

    origin: np.ndarray
    axes: np.ndarray
    focal: float
    center: float
    dx: np.ndarray
    dy: np.ndarray
    dz: np.ndarray
    depth: np.ndarray


@lru_cache(maxsize=4)
def _views(image_size: tuple[int, int]) -> tuple[_View, ...]:
    views = []
    width, height = (SUPERSAMPLE * size for size in image_size)
    for mount in CAMERAS:
        matrix = mount.intrinsic(image_size) * SUPERSAMPLE
        right = (np.arange(width) + 0.5 - matrix[0, 2]) / matrix[0, 0]
        down = (np.arange(height) + 0.5 - matrix[1, 2]) / matrix[0, 0]
        axes, origin = mount.axes, np.array(mount.translation)
        dx, dy = (axes[axis, 0] * right + axes[axis, 2] for axis in (0, 1))
        with np.errstate(divide="ignore"):
            depth = np.where(down > 0, origin[2] / down, np.inf)[:, None]
        views.append(_View(origin, axes, matrix[0, 0], matrix[0, 2], dx, dy, -down, depth))
    return tuple(views)


def render(
    scene: Scene, solids_ego: Solids, ego_pose: np.ndarray, image_size: tuple[int, int], rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Render the six images at one moment; ``solids_ego`` are the scene's cuboids in the ego frame at ``ego_pose``.

    Returns RGB images (H, W, 3) uint8 in the order of ``rig.CAMERAS``, and for each actor how many pixels (of the
    doubled images) show it and how many would if it were alone.
    """
    light, actors = scene.light, len(scene.actors)
    drawing = ground.draw(scene, ego_pose, solids_ego)
    faces = _brightness(scene, solids_ego, ego_pose)
    center, half, owner = solids_ego.packed
    heading = np.stack([np.cos(solids_ego.yaw), np.sin(solids_ego.yaw)], -1)
    boxes = corners(solids_ego.center, solids_ego.yaw, solids_ego.half)
    texture_of = np.arange(len(owner))
    plain = np.asarray(light.ground, float) * (NIGHT_FLOOR if light.night else 1.0)
    haze, exposure = np.asarray(light.haze, float), 255.0 * light.gain
    visible, unoccluded = np.zeros(actors, np.int64), np.zeros(actors, np.int64)
    images = []
    for view in _views(image_size):
        depth = np.repeat(view.depth, len(view.dx), 1)
        part, stamp = np.full(depth.shape, rays.MISS, np.int32), np.zeros(depth.shape, np.int32)
        first, count = _columns(view, boxes)
        fan = (view.origin, view.dx, view.dy, view.dz)
        rays.cast_fan(*fan, center, heading, half, owner, first, count, depth, part, stamp, unoccluded)
        pixels = np.bincount(part.ravel() + 1, minlength=len(owner) + 1)[1:]
        visible += np.bincount(owner, pixels, minlength=actors)[:actors].astype(np.int64)
        noise = rng.standard_normal((image_size[1], image_size[0], 3), dtype=np.float32)
        noise *= np.float32(light.noise)
        image = np.empty(noise.shape, np.uint8)
        rays.shade(
            *fan, depth, part, center, heading, half, texture_of, scene.textures,
            faces, haze, _clear(light.haze_m), _sky(view, light), plain, drawing, ground.REACH_M, exposure, noise,
            image,
        )  # fmt: skip
        images.append(image)
    return images, visible, unoccluded


def _columns(view: _View, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first column (P,) that each cuboid with corners (P, 8, 3) may cover, and how many it may."""
    flat = (boxes[:, :4] - view.origin) @ view.axes  # the camera stands upright: the lower four have all columns
    ahead = flat[..., 2] > NEAR_M
    with np.errstate(divide="ignore", invalid="ignore"):
        column = view.focal * flat[..., 0] / flat[..., 2] + view.center
    width = len(view.dx)
    in_front = ahead.all(1)
    first = np.where(in_front, np.clip(np.floor(column.min(1)), 0, width), 0)
    last = np.where(in_front, np.clip(np.ceil(column.max(1)) + 1, 0, width), width)  # else: it passes the near plane
    count = np.where(ahead.any(1), last - first, 0)
    return first.astype(np.int64), count.astype(np.int64)


def _sky(view: _View, light: Light) -> np.ndarray:
    """Return the colour of the sky (H, 3) for each row above the horizon."""
    horizon = int((view.dz >= 0).sum())
    rise = np.zeros((len(view.dz), 1))
    rise[:horizon, 0] = np.linspace(1, 0, horizon) ** 0.7
    return light.haze + (light.sky - light.haze) * rise


@cache
def _clear(haze_m: float) -> np.ndarray:
    """Return the share (N,) of a colour that gets through the haze, for depths in quarters of a metre."""
    return np.exp(-(np.arange(1200) + 0.5) / 4 / haze_m)


def _brightness(scene: Scene, solids: Solids, ego_pose: np.ndarray) -> np.ndarray:
    """Return the brightness (P, 6) float32 of the faces +x, -x, +y, -y, +z, -z: ambient light, sun, lamps."""
    light = scene.light
    sun = rotate(light.sun[:2], -ego_pose[2])
    cos, sin = np.cos(solids.yaw), np.sin(solids.yaw)
    along, across, up = cos * sun[0] + sin * sun[1], cos * sun[1] - sin * sun[0], np.full(len(solids), light.sun[2])
    facing = np.stack([along, -along, across, -across, up, -up], -1)
    level = light.ambient + (1 - light.ambient) * np.clip(facing, 0, None) + 0.12 * np.array([0, 0, 0, 0, 1, -1])
    lamps = rotate(scene.lamps - ego_pose[:2], -ego_pose[2])
    return (level * lamplight(light, lamps, solids.center[:, :2])[:, None]).astype(np.float32)
