"""The ground as seen from above: soil, plots, streets, markings, shadows and lamplight, drawn anew per image."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from aqr_bench.world.geometry import Solids, footprint, rotate
from aqr_bench.world.light import Light, lamplight
from aqr_bench.world.road import LANE_M, PARKING_M, ZEBRA_M, Street
from aqr_bench.world.scene import Scene

CELL_M = 0.15
REACH_M = 48.0  # the drawing covers +- this much around the car
CELLS = int(2 * REACH_M / CELL_M)
DASH_M, DASH_EVERY_M, LINE_M = 3.0, 7.0, 0.18
PAINT = np.full(3, 0.85)
_AHEAD_M = 60.0  # streets are drawn this far along
_SHIFT = 4  # sub-pixel bits of OpenCV's drawing functions
_TILE = 512


def draw(scene: Scene, ego_pose: np.ndarray, solids_ego: Solids) -> np.ndarray:
    """Return the colour of the ground (CELLS, CELLS, 3) uint8; column is ego x, row is ego y.

    ``solids_ego`` are the cuboids in the ego frame; they cast a shadow away from the sun and darken where they stand.
    """
    canvas = np.empty((CELLS, CELLS, 3), np.uint8)
    canvas[:] = _level(scene.light.ground)
    for plot in scene.plots:
        outline = rotate(plot.corners - ego_pose[:2], -ego_pose[2])
        if np.abs(outline).min(0).max() < REACH_M:
            cv2.fillConvexPoly(canvas, _cells(outline), _level(plot.colour), cv2.LINE_8, _SHIFT)
    _streets(canvas, scene, ego_pose)
    light = _shadows(scene.light, ego_pose, solids_ego)
    light = cv2.multiply(light, _grain(ego_pose), scale=1 / 128)
    if scene.light.night:
        coarse = np.linspace(-REACH_M, REACH_M, 65)[:-1] + REACH_M / 64
        xy = np.stack(np.meshgrid(coarse, coarse), -1)
        lamps = rotate(scene.lamps - ego_pose[:2], -ego_pose[2])
        level = lamplight(scene.light, lamps, xy) * 64
        field = cv2.resize(np.clip(level, 0, 255).astype(np.uint8), (CELLS, CELLS), interpolation=cv2.INTER_LINEAR)
        light = cv2.multiply(light, field, scale=1 / 64)
    return cv2.multiply(canvas, cv2.merge([light, light, light]), scale=1 / 128)


def _streets(canvas: np.ndarray, scene: Scene, ego_pose: np.ndarray) -> None:
    """Draw pavements, kerbs, carriageways and their markings."""
    roads, asphalt = scene.roads, scene.light.asphalt
    lines = []
    for street in roads.streets:
        station = float(street.frame(ego_pose[:2])[0])
        stations = station + np.arange(-_AHEAD_M, _AHEAD_M + 1, 2.0)
        lines.append((street, station, _ego_xy(street, ego_pose, stations, street.middle)))
    for colour, extra in ((1.45 * asphalt, 0.0), (2.1 * asphalt, None), (asphalt, 0.15)):
        for street, _, line in lines:
            half = street.edge if extra == 0.0 else street.half + 0.15 - (extra or 0.0)
            _lines(canvas, line[None], colour, 2 * half)
    for index, (street, station, _) in enumerate(lines):
        first = np.floor((station - 54) / DASH_EVERY_M) * DASH_EVERY_M
        dashes = np.arange(first, station + 54, DASH_EVERY_M)
        dashes = dashes[~roads.in_junction(index, dashes + DASH_M / 2, 2 * ZEBRA_M)]
        ends = dashes[:, None] + np.array([0, DASH_M])
        for lane in range(1 - street.lanes, street.lanes):
            _lines(canvas, _ego_xy(street, ego_pose, ends, street.middle + lane * LANE_M), PAINT, LINE_M)
        pieces = np.arange(first, station + 54, 4.0)[:, None] + np.array([0, 4.0])
        pieces = pieces[~roads.in_junction(index, pieces.mean(1), ZEBRA_M + 3.0)]
        for side in (-1, 1):
            lateral = street.middle + side * (street.half - PARKING_M)
            _lines(canvas, _ego_xy(street, ego_pose, pieces, lateral), PAINT * 0.9, LINE_M)
        for owner, middle in roads.zebras:
            if owner == index:
                bars = np.arange(-street.half + 0.5, street.half, 1.0)
                ends = np.broadcast_to(middle + np.array([-0.5, 0.5]) * ZEBRA_M, (len(bars), 2))
                _lines(canvas, _ego_xy(street, ego_pose, ends, street.middle + bars[:, None]), PAINT, 0.5)


def _ego_xy(street: Street, ego_pose: np.ndarray, stations: np.ndarray, lateral: np.ndarray | float) -> np.ndarray:
    """Return positions (..., 2) on a street in the ego frame, metres."""
    lateral = np.broadcast_to(lateral, stations.shape)
    return rotate(street.poses(stations, lateral)[..., :2] - ego_pose[:2], -ego_pose[2])


def _level(colour: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in np.clip(np.asarray(colour) * 255, 0, 255))


def _cells(xy: np.ndarray) -> np.ndarray:
    """Convert points in metres to OpenCV's fixed-point columns and rows (cell centres are whole numbers)."""
    return np.round(((xy + REACH_M) / CELL_M - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _lines(canvas: np.ndarray, xy: np.ndarray, colour: np.ndarray, width_m: float) -> None:
    """Draw L lines through points (L, N, 2) in metres."""
    thickness = max(1, round(width_m / CELL_M))
    smooth = cv2.LINE_AA if thickness < 10 else cv2.LINE_8  # whole streets: slow to smooth, and it hardly shows
    if len(xy):
        cv2.polylines(canvas, list(_cells(xy)), False, _level(colour), thickness, smooth, _SHIFT)


def _shadows(light: Light, ego_pose: np.ndarray, solids: Solids) -> np.ndarray:
    """Return the brightness (CELLS, CELLS) uint8, 128 is full, of cast shadows and the dark below and beside things."""
    cast_mask = np.full((CELLS, CELLS), 128, np.uint8)
    near_mask = cast_mask.copy()
    near = np.abs(solids.center[:, :2]).max(1) < REACH_M + 12
    center, half, yaw = solids.center[near], solids.half[near], solids.yaw[near]
    poses = np.concatenate([center[:, :2], yaw[:, None]], 1)
    base = footprint(poses, 2 * half[:, 0], 2 * half[:, 1])
    contact = _cells(footprint(poses, 2 * half[:, 0] + 0.4, 2 * half[:, 1] + 0.4))
    sun = rotate(light.sun[:2], -ego_pose[2]) / light.sun[2]
    low = (center[:, 2] - half[:, 2])[:, None, None] * sun
    high = (center[:, 2] + half[:, 2])[:, None, None] * sun
    outline = _cells(np.concatenate([base - low, base - high], 1))
    level = round(128 * light.shadow)
    for index in range(len(yaw)):
        cv2.fillConvexPoly(cast_mask, cv2.convexHull(outline[index]), level, cv2.LINE_AA, _SHIFT)
        if center[index, 2] - half[index, 2] < 0.3:
            cv2.fillConvexPoly(near_mask, contact[index], 58, cv2.LINE_AA, _SHIFT)
    return cv2.min(cast_mask, cv2.blur(near_mask, (3, 3)))


def _grain(ego_pose: np.ndarray) -> np.ndarray:
    """Return the grain of the ground (CELLS, CELLS) uint8 about 128, fixed to the world."""
    cos, sin = np.cos(ego_pose[2]), np.sin(ego_pose[2])
    center = (CELLS - 1) / 2
    rotation = np.array([[cos, -sin], [sin, cos]])
    origin = ego_pose[:2] / CELL_M % _TILE - rotation @ [center, center]
    matrix = np.concatenate([rotation, origin[:, None]], 1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(_tile(), matrix, (CELLS, CELLS), flags=flags, borderMode=cv2.BORDER_WRAP)


@cache
def _tile() -> np.ndarray:
    """Return a periodic grain (TILE, TILE) uint8 about 128: noise of several coarsenesses."""
    rng = np.random.default_rng(20180724)
    total = np.ones((_TILE, _TILE))
    for sigma, strength in ((1.0, 0.06), (4.0, 0.07), (16.0, 0.08)):
        frequency = np.fft.fftfreq(_TILE)
        decay = np.exp(-2 * (np.pi * sigma) ** 2 * (frequency[:, None] ** 2 + frequency**2))
        layer = np.fft.ifft2(np.fft.fft2(rng.normal(size=(_TILE, _TILE))) * decay).real
        total += strength * layer / layer.std()
    return np.round(128 * total.clip(0.6, 1.4)).astype(np.uint8)
