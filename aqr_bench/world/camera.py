"""Six pinhole cameras by ray casting into a depth buffer, drawn at twice the size and averaged down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from aqr_bench.world import ground
from aqr_bench.world.appearance import TEXELS, Light
from aqr_bench.world.geometry import Solids, cast, corners, rotate
from aqr_bench.world.rig import CAMERAS, CameraMount
from aqr_bench.world.scene import Scene

SUPERSAMPLE = 2
NEAR_M = 0.1
HAZE_M = 90.0  # depth at which 63 % of a colour is lost in the haze
_EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])


@dataclass(frozen=True)
class _View:
    """What never changes about a camera: its rays, and where on the ground they fall.

    ``rays`` (3, H, W) in ego axes have unit depth, so distances along them are depths. ``column`` and ``row``
    (H - horizon, W) look up the ground drawing, ``clear`` (H - horizon, W, 1) is the share of its colour that gets
    through the haze, ``far`` (H - horizon, W, 1) the share of plain ground where the drawing ends.
    """

    mount: CameraMount
    focal: float
    center: tuple[float, float]
    origin: np.ndarray
    rays: np.ndarray
    horizon: int
    depth: np.ndarray
    column: np.ndarray
    row: np.ndarray
    clear: np.ndarray
    far: np.ndarray


@lru_cache(maxsize=4)
def _views(image_size: tuple[int, int]) -> tuple[_View, ...]:
    views = []
    width, height = (SUPERSAMPLE * size for size in image_size)
    for mount in CAMERAS:
        matrix = mount.intrinsic(image_size) * SUPERSAMPLE
        focal, center = matrix[0, 0], (matrix[0, 2], matrix[1, 2])
        right = (np.arange(width) + 0.5 - center[0]) / focal
        down = (np.arange(height) + 0.5 - center[1]) / focal
        local = np.stack(np.broadcast_arrays(right, down[:, None], 1.0))
        rays = np.einsum("ij,jhw->ihw", mount.axes, local).astype(np.float32)
        origin = np.array(mount.translation)
        horizon = int(np.searchsorted(down, 0.0, "right"))
        depth = np.full((height, width), np.inf, np.float32)
        depth[horizon:] = (origin[2] / down[horizon:, None]).astype(np.float32)
        ground_xy = origin[:2, None, None] + rays[:2, horizon:] * depth[horizon:]
        lookup = ((ground_xy + ground.REACH_M) / ground.CELL_M - 0.5).astype(np.float32)
        distance = np.abs(ground_xy).max(0)
        far = np.clip((distance - 0.75 * ground.REACH_M) / (0.22 * ground.REACH_M), 0, 1)
        clear = np.exp(-depth[horizon:] / HAZE_M)
        views.append(
            _View(
                mount, focal, center, origin, rays, horizon, depth, lookup[0], lookup[1],
                clear[..., None].astype(np.float32), far[..., None].astype(np.float32),
            )
        )  # fmt: skip
    return tuple(views)


def photograph(
    scene: Scene, solids_ego: Solids, ego_pose: np.ndarray, image_size: tuple[int, int], rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Take the six pictures at one moment; ``solids_ego`` are the scene's cuboids in the ego frame at ``ego_pose``.

    Returns RGB pictures (H, W, 3) uint8 in the order of ``rig.CAMERAS``, and for each actor how many pixels (of the
    doubled pictures) show it and how many would if it stood there alone.
    """
    drawing = ground.draw(scene, ego_pose, solids_ego)
    sun = np.append(rotate(scene.light.sun[:2], -ego_pose[2]), scene.light.sun[2])
    first_part = np.concatenate([[0], np.cumsum([len(actor.parts) for actor in scene.actors])])
    seen, alone = np.zeros(len(scene.actors), int), np.zeros(len(scene.actors), int)
    boxes = corners(solids_ego.center, solids_ego.yaw, solids_ego.half)
    pictures = []
    for view in _views(image_size):
        colour = _backdrop(view, scene, drawing)
        depth = view.depth.copy()
        shown = np.full(depth.shape, -1, np.int32)
        rectangles = _rectangles(view, boxes)
        for index, actor in enumerate(scene.actors):
            own = range(first_part[index], first_part[index + 1])
            parts = [(p, actor.textures[p - own.start], rectangles[p]) for p in own if rectangles[p] is not None]
            if parts:
                buffers = (colour, depth, shown)
                alone[index] += _draw_actor(view, scene.light, sun, solids_ego, parts, index, buffers)
        seen += np.bincount(shown[shown >= 0], minlength=len(seen))
        pictures.append(_develop(colour, scene, image_size, rng))
    return pictures, seen, alone


def _backdrop(view: _View, scene: Scene, drawing: np.ndarray) -> np.ndarray:
    """Return sky and ground (H, W, 3) float32."""
    light = scene.light
    haze, sky, plain = (np.asarray(value, np.float32) for value in (light.haze, light.sky, light.ground))
    colour = np.empty((*view.depth.shape, 3), np.float32)
    rise = np.linspace(1, 0, view.horizon, dtype=np.float32)[:, None, None] ** 0.7
    colour[: view.horizon] = haze + (sky - haze) * rise
    surface = cv2.remap(drawing, view.column, view.row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    surface += (plain - surface) * view.far
    colour[view.horizon :] = haze + (surface - haze) * view.clear
    return colour


def _rectangles(view: _View, boxes: np.ndarray) -> list[tuple[slice, slice] | None]:
    """Return the rows and columns that each cuboid with corners (P, 8, 3) may cover, None where it is out of sight."""
    local = (boxes - view.origin) @ view.mount.axes
    height, width = view.depth.shape
    result: list[tuple[slice, slice] | None] = []
    for points in local:
        ahead = points[:, 2] > NEAR_M
        if not ahead.any():
            result.append(None)
            continue
        if not ahead.all():  # cut the edges that pass the near plane
            start, end = points[_EDGES[:, 0]], points[_EDGES[:, 1]]
            crossing = ahead[_EDGES[:, 0]] != ahead[_EDGES[:, 1]]
            start, end = start[crossing], end[crossing]
            share = (NEAR_M - start[:, 2]) / (end[:, 2] - start[:, 2])
            points = np.concatenate([points[ahead], start + share[:, None] * (end - start)])
        column = view.focal * points[:, 0] / points[:, 2] + view.center[0]
        row = view.focal * points[:, 1] / points[:, 2] + view.center[1]
        left, right = max(0, int(np.floor(column.min()))), min(width, int(np.ceil(column.max())) + 1)
        top, bottom = max(0, int(np.floor(row.min()))), min(height, int(np.ceil(row.max())) + 1)
        result.append((slice(top, bottom), slice(left, right)) if right > left and bottom > top else None)
    return result


def _draw_actor(
    view: _View,
    light: Light,
    sun: np.ndarray,
    solids: Solids,
    parts: list[tuple[int, np.ndarray, tuple[slice, slice]]],
    index: int,
    buffers: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> int:
    """Draw actor ``index`` into the buffers (colour, depth, shown actor); return how many pixels it would cover alone.

    ``parts`` gives for each of its cuboids the index in ``solids``, the texture, and the rows and columns it may cover.
    """
    colour, depth, shown = buffers
    rectangles = [rectangle for _, _, rectangle in parts]
    top, left = (min(rectangle[axis].start for rectangle in rectangles) for axis in (0, 1))
    bottom, right = (max(rectangle[axis].stop for rectangle in rectangles) for axis in (0, 1))
    covered = np.zeros((bottom - top, right - left), bool)
    haze = np.asarray(light.haze, np.float32)
    for part, texture, (rows, columns) in parts:
        hit, axis, start, ray = cast(
            view.origin, view.rays[:, rows, columns], solids.center[part], solids.yaw[part], solids.half[part]
        )
        solid = np.isfinite(hit)
        covered[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] |= solid
        row, column = np.nonzero(hit < depth[rows, columns])
        if not len(row):
            continue
        t, dim = hit[row, column], axis[row, column]
        point = (start[:, None] + ray[:, row, column] * t) / solids.half[part].astype(np.float32)[:, None]
        face = 2 * dim + (np.take_along_axis(point, dim[None].astype(np.intp), 0)[0] < 0)
        u = np.where(dim == 0, point[1], point[0])
        v = np.where(dim == 2, point[1], -point[2])
        texel = np.clip(((np.stack([v, u]) + 1) * (TEXELS / 2)).astype(np.intp), 0, TEXELS - 1)
        painted = texture[face, texel[0], texel[1]] * _shading(solids.yaw[part], sun, light.ambient)[face, None]
        clear = np.exp(t * np.float32(-1 / HAZE_M))[:, None]
        where = (row + rows.start, column + columns.start)
        colour[where] = haze + (painted - haze) * clear
        depth[where] = t
        shown[where] = index
    return int(covered.sum())


def _shading(yaw: float, sun: np.ndarray, ambient: float) -> np.ndarray:
    """Return the brightness (6,) of the faces +x, -x, +y, -y, +z, -z: ambient light and Lambert's cosine."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    along, across = cos * sun[0] + sin * sun[1], cos * sun[1] - sin * sun[0]
    facing = np.array([along, -along, across, -across, sun[2], -sun[2]])
    level = ambient + (1 - ambient) * np.clip(facing, 0, None) + 0.12 * np.array([0, 0, 0, 0, 1, -1])
    return level.astype(np.float32)


def _develop(colour: np.ndarray, scene: Scene, image_size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Average down, expose, add pixel noise."""
    picture = cv2.resize(colour, image_size, interpolation=cv2.INTER_AREA)
    picture *= np.float32(255 * scene.light.gain)
    picture += np.float32(scene.light.noise) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
