"""The ground as seen from above: soil, road, markings and shadows around the car, drawn anew for every picture."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from aqr_bench.world.appearance import Light
from aqr_bench.world.geometry import Solids, arc, footprint, rotate
from aqr_bench.world.scene import ROAD_CENTER_M, ROAD_HALF_WIDTH_M, Scene

CELL_M = 0.15
REACH_M = 48.0  # the drawing covers +- this much around the car
CELLS = int(2 * REACH_M / CELL_M)
DASH_M, DASH_EVERY_M, LINE_M = 3.0, 7.0, 0.18
_SHIFT = 4  # sub-pixel bits of OpenCV's drawing functions
_TILE = 512


def draw(scene: Scene, ego_pose: np.ndarray, solids_ego: Solids) -> np.ndarray:
    """Return the colour of the ground (CELLS, CELLS, 3) float32 in 0 .. 1; column is ego x, row is ego y.

    ``solids_ego`` are the cuboids in the ego frame; they cast a shadow away from the sun and darken where they stand.
    """
    light = scene.light
    canvas = np.empty((CELLS, CELLS, 3), np.uint8)
    canvas[:] = np.clip(light.ground * 255, 0, 255).astype(np.uint8)
    along = _path_length(scene, ego_pose)
    stations = along + np.arange(-60, 61, 2.0)
    _line(canvas, _road(scene, ego_pose, stations, ROAD_CENTER_M), light.asphalt, 2 * ROAD_HALF_WIDTH_M)
    for edge in (ROAD_CENTER_M - ROAD_HALF_WIDTH_M + 0.4, ROAD_CENTER_M + ROAD_HALF_WIDTH_M - 0.4):
        _line(canvas, _road(scene, ego_pose, stations, edge), np.full(3, 0.85), LINE_M)
    first = np.floor((along - 54) / DASH_EVERY_M) * DASH_EVERY_M
    for dash in np.arange(first, along + 54, DASH_EVERY_M):
        _line(canvas, _road(scene, ego_pose, dash + np.array([0, DASH_M]), ROAD_CENTER_M), np.full(3, 0.85), LINE_M)
    brightness = _grain(ego_pose) * _shadows(light, ego_pose, solids_ego)
    return canvas * (brightness * np.float32(1 / 255))[..., None]


def _path_length(scene: Scene, ego_pose: np.ndarray) -> float:
    """Return how far along the road the car is."""
    if not scene.ego_speed:
        return 0.0
    chord = np.hypot(*(ego_pose[:2] - scene.ego_start[:2]))
    ahead = np.dot(ego_pose[:2] - scene.ego_start[:2], [np.cos(scene.ego_start[2]), np.sin(scene.ego_start[2])]) >= 0
    half_turn = np.arcsin(np.clip(chord * abs(scene.curvature) / 2, 0, 1))
    length = 2 * half_turn / abs(scene.curvature) if abs(scene.curvature) > 1e-6 else chord
    return float(length if ahead else -length)


def _road(scene: Scene, ego_pose: np.ndarray, stations: np.ndarray, lateral: float) -> np.ndarray:
    """Return the points (N, 2) in the ego frame at distances along the road and to the left of the path."""
    path = arc(scene.ego_start, 1.0, scene.curvature, stations)
    points = path[:, :2] + lateral * np.stack([-np.sin(path[:, 2]), np.cos(path[:, 2])], -1)
    return rotate(points - ego_pose[:2], -ego_pose[2])


def _cells(xy: np.ndarray) -> np.ndarray:
    """Convert points in metres to OpenCV's fixed-point columns and rows (cell centres are whole numbers)."""
    return np.round(((xy + REACH_M) / CELL_M - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _line(canvas: np.ndarray, xy: np.ndarray, colour: np.ndarray, width_m: float) -> None:
    level = tuple(int(value) for value in np.clip(colour * 255, 0, 255))
    thickness = max(1, round(width_m / CELL_M))
    cv2.polylines(canvas, [_cells(xy)], False, level, thickness, cv2.LINE_AA, _SHIFT)


def _shadows(light: Light, ego_pose: np.ndarray, solids: Solids) -> np.ndarray:
    """Return the brightness (CELLS, CELLS) float32 left by cast shadows and by the dark below and beside things."""
    cast_mask = np.full((CELLS, CELLS), 255, np.uint8)
    near_mask = cast_mask.copy()
    if len(solids):
        poses = np.concatenate([solids.center[:, :2], solids.yaw[:, None]], 1)
        base = footprint(poses, 2 * solids.half[:, 0], 2 * solids.half[:, 1])
        wide = footprint(poses, 2 * solids.half[:, 0] + 0.4, 2 * solids.half[:, 1] + 0.4)
        sun = rotate(light.sun[:2], -ego_pose[2]) / light.sun[2]
        low = (solids.center[:, 2] - solids.half[:, 2])[:, None, None] * sun
        high = (solids.center[:, 2] + solids.half[:, 2])[:, None, None] * sun
        outline = _cells(np.concatenate([base - low, base - high], 1))
        level = round(255 * light.shadow)
        contact = _cells(wide)
        for index in range(len(solids)):
            cv2.fillConvexPoly(cast_mask, cv2.convexHull(outline[index]), level, cv2.LINE_AA, _SHIFT)
            if solids.center[index, 2] - solids.half[index, 2] < 0.3:
                cv2.fillConvexPoly(near_mask, contact[index], 115, cv2.LINE_AA, _SHIFT)
    near_mask = cv2.blur(near_mask, (3, 3))
    return cv2.min(cast_mask, near_mask).astype(np.float32) * np.float32(1 / 255)


def _grain(ego_pose: np.ndarray) -> np.ndarray:
    """Return the grain of the ground (CELLS, CELLS) float32 about 1, fixed to the world."""
    cos, sin = np.cos(ego_pose[2]), np.sin(ego_pose[2])
    center = (CELLS - 1) / 2
    turn = np.array([[cos, -sin], [sin, cos]])
    origin = ego_pose[:2] / CELL_M % _TILE - turn @ [center, center]
    matrix = np.concatenate([turn, origin[:, None]], 1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(_tile(), matrix, (CELLS, CELLS), flags=flags, borderMode=cv2.BORDER_WRAP)


@cache
def _tile() -> np.ndarray:
    """Return a periodic grain (TILE, TILE) float32: noise of several coarsenesses."""
    rng = np.random.default_rng(20180724)
    total = np.ones((_TILE, _TILE), np.float32)
    for sigma, strength in ((1.0, 0.06), (4.0, 0.07), (16.0, 0.08)):
        frequency = np.fft.fftfreq(_TILE)
        decay = np.exp(-2 * (np.pi * sigma) ** 2 * (frequency[:, None] ** 2 + frequency**2))
        layer = np.fft.ifft2(np.fft.fft2(rng.normal(size=(_TILE, _TILE))) * decay).real
        total += (strength * layer / layer.std()).astype(np.float32)
    return total.clip(0.6, 1.4)
