"""Geometry that corruptions share: LiDAR beams, mounting, azimuth, points in boxes, box corners, disturbed poses."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from aqr_bench.corruptions.frame import MAX_RINGS, RING, Frame, FrameError, merged_xyz

_GRID = 256  # cells per side of the raster that rules out points far from every box
NUSCENES_BEAMS = 32
BEAM_COUNTS = (16, NUSCENES_BEAMS, 40, 64, 80, MAX_RINGS)  # of the LiDARs there are
# The LiDARs of nuScenes are mounted within a degree of "x right, y ahead"; published corruptions work in those axes.
MOUNTING_TOLERANCE_DEG = 5.0


# ---------------------------------------------------------------- beams


def keep_rings(frame: Frame, rings: Iterable[int]) -> Frame:
    """The frame with only the points of some rings, in every cloud. The corruptions that use it need ``ring``.

    Args:
        rings: ring indices to keep, see :func:`rings_of`; of nuScenes' 32, numbered from 0, the lowest beam.
    """
    present = [cloud.points[:, RING] for cloud in frame.clouds if len(cloud.points)]
    keep = np.zeros(MAX_RINGS, bool)
    keep[list(rings_of(tuple(rings), int(max(map(np.max, present))) if present else 0))] = True
    return frame.with_points(lambda cloud: cloud.points[keep[cloud.points[:, RING].astype(np.intp)]])


def rings_of(rings: tuple[int, ...], highest: int) -> tuple[int, ...]:
    """What rings of nuScenes' 32 are in a LiDAR of which ``highest`` is the highest ring that returned a point.

    Evenly spaced rings keep their spacing up to the top: every second one of 32 is every second one of 64. Others are
    those at the same share of the height. Rings of a 32-beam LiDAR are returned as they are.
    """
    beams = next(count for count in BEAM_COUNTS if highest < count)
    steps = set(np.diff(rings).tolist())
    if beams == NUSCENES_BEAMS or max(rings, default=0) >= NUSCENES_BEAMS:  # the second are given for such a LiDAR
        return rings
    if len(steps) == 1 and rings[-1] + min(steps) >= NUSCENES_BEAMS > rings[0]:
        return tuple(range(rings[0], beams, steps.pop()))
    return tuple(dict.fromkeys(int((ring + 0.5) * beams / NUSCENES_BEAMS) for ring in rings))


# ---------------------------------------------------------------- mounting and azimuth


def nuscenes_axes(frame: Frame) -> np.ndarray | None:
    """float64 [3, 3], the LiDAR's axes to those of nuScenes' LiDAR (x right, y ahead): a turn about z.

    None where the LiDAR is mounted like that already, or its mounting is not known.
    """
    if frame.lidar2ego is None:
        return None
    ahead = float(azimuth_deg(np.asarray(frame.lidar2ego, np.float64)[:1, :2])[0])  # the car's x axis, in LiDAR axes
    return None if abs(ahead) <= MOUNTING_TOLERANCE_DEG else yaw_rotation(np.radians(ahead))


def azimuth_from_ahead_deg(frame: Frame) -> np.ndarray:
    """float64 [sum P], degrees in (-180, 180]: direction of all points from straight ahead, see :func:`azimuth_deg`."""
    axes, xyz = nuscenes_axes(frame), merged_xyz(frame)
    return azimuth_deg(xyz if axes is None else xyz @ axes.T)


def in_nuscenes_axes(frame: Frame, points: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A cloud's points [P, F] after a change that tells directions apart: it sees them in nuScenes' axes."""
    axes = nuscenes_axes(frame)
    return change(points) if axes is None else _turned(change(_turned(points, axes)), axes.T)


def _turned(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    turned = points.copy()
    turned[:, :3] = points[:, :3].astype(np.float64) @ rotation.T
    return turned


def azimuth_deg(xyz: np.ndarray) -> np.ndarray:
    """float64 [N], degrees in (-180, 180]: direction of points [N, >= 2] seen from above, from +y, the front.

    Positive to the right (+x), so 90 is right, -90 left, 180 straight behind. A point on the axis counts as ahead, 0.
    """
    x = np.asarray(xyz[:, 0], np.float64)
    y = np.asarray(xyz[:, 1], np.float64)
    # Adding 0.0 turns -0.0 into 0.0: behind the sensor that is the difference between 180 and -180.
    return np.degrees(np.arctan2(x + 0.0, y + 0.0))


# ---------------------------------------------------------------- points and boxes


def yaw_rotation(yaw: float) -> np.ndarray:
    """float64 [3, 3], box axes to LiDAR axes: turn by ``yaw`` (rad), counter-clockwise seen from above."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def to_box(xyz: np.ndarray, box: np.ndarray) -> np.ndarray:
    """float64 [N, 3]: points in a box's own axes (x along its length), metres from its centre."""
    return (np.asarray(xyz, np.float64) - box[:3]) @ yaw_rotation(box[6])


def indices_in_boxes(xyz: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """Which points each box holds.

    Args:
        xyz: [N, 3], metres. ``boxes``: [M, 7], gravity centre (m), l, w, h (m), yaw (rad); same frame as the points.
    Returns:
        M ascending index arrays into the points; a point on a face is inside, one in two boxes is in both lists.
    Raises:
        FrameError: a box with a value that is not finite.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    bad = np.flatnonzero(~np.isfinite(boxes).all(1))
    if len(bad):
        raise FrameError(f"box {bad[0]} of {len(boxes)} has a value that is not finite")
    near, column, row, spans = _near_boxes(xyz, boxes)
    points = np.asarray(xyz[near], np.float64)
    indices = []
    for box, (left, right, low, high) in zip(boxes, spans, strict=True):
        candidates = np.flatnonzero((column >= left) & (column <= right) & (row >= low) & (row <= high))
        inside = (np.abs(to_box(points[candidates], box)) <= box[3:6] / 2).all(1)
        indices.append(near[candidates[inside]])
    return indices


def box_of_points(xyz: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """int64 [N]: the box that each point is in, -1 outside; of several boxes the first. See ``indices_in_boxes``."""
    owner = np.full(len(xyz), -1)
    indices = indices_in_boxes(xyz, boxes)
    for number in range(len(indices) - 1, -1, -1):
        owner[indices[number]] = number
    return owner


def in_any_box(xyz: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """bool [N]: which points are in at least one box. See ``indices_in_boxes``."""
    inside = np.zeros(len(xyz), bool)
    for indices in indices_in_boxes(xyz, boxes):
        inside[indices] = True
    return inside


def corners(boxes: np.ndarray) -> np.ndarray:
    """float64 [M, 8, 3]: corners of boxes [M, 7] (m), in the order of their signs along length, width and height:
    (-, -, -), (-, -, +), (-, +, -), ... (+, +, +)."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    signs = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5], indexing="ij"), -1).reshape(8, 3)
    local = boxes[:, None, 3:6] * signs
    c, s = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    x, y = local[..., 0], local[..., 1]
    return np.stack([c * x - s * y, s * x + c * y, local[..., 2]], -1) + boxes[:, None, :3]


def _near_boxes(xyz: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points whose raster cell some box touches: a few percent of a frame; only these are compared with the boxes.

    Returns:
        (their indices, their columns, their rows, int [M, 4]: first and last column, first and last row of each box).
    """
    if not len(boxes) or not len(xyz):
        empty = np.zeros(0, np.intp)
        return empty, empty, empty, np.zeros((len(boxes), 4), np.intp)
    outline = corners(boxes)[..., :2]
    low, high = outline.min(1), outline.max(1)
    start = low.min(0)
    cell = np.maximum((high.max(0) - start) / (_GRID - 1), 1e-3)
    first, last = np.floor((low - start) / cell), np.floor((high - start) / cell)
    # One cell more on each side: rounding must not lose a point that lies on a face.
    spans = np.stack([first[:, 0] - 1, last[:, 0] + 1, first[:, 1] - 1, last[:, 1] + 1], 1).astype(np.intp)
    touched = np.zeros((_GRID + 4, _GRID + 4), bool)
    for left, right, bottom, top in spans + 1:
        touched[max(left, 0) : right + 1, max(bottom, 0) : top + 1] = True
    column = np.floor((np.asarray(xyz[:, 0], np.float64) - start[0]) / cell[0]) + 1
    row = np.floor((np.asarray(xyz[:, 1], np.float64) - start[1]) / cell[1]) + 1
    within = np.flatnonzero((column >= 0) & (column < _GRID + 4) & (row >= 0) & (row < _GRID + 4))
    column, row = column[within].astype(np.intp), row[within].astype(np.intp)
    near = touched[column, row]
    return within[near], column[near] - 1, row[near] - 1, spans


# ---------------------------------------------------------------- poses


def random_axis(rng: np.random.Generator) -> np.ndarray:
    """float64 [3]: a direction, uniform on the sphere (height and longitude are uniform; Archimedes)."""
    z, longitude = rng.uniform(-1, 1), rng.uniform(0, 2 * np.pi)
    ring = np.sqrt(1 - z * z)
    return np.array([ring * np.cos(longitude), ring * np.sin(longitude), z])


def axis_rotation(axis: np.ndarray, angle_deg: float) -> np.ndarray:
    """float64 [3, 3]: turn by ``angle_deg`` about a unit axis [3], counter-clockwise seen against it (Rodrigues)."""
    angle = np.radians(angle_deg)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def rigid_motion(rotation: np.ndarray, translation: np.ndarray, pivot: Iterable[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """float64 [4, 4]: turn by ``rotation`` [3, 3] about the point ``pivot`` [3] (m), then shift by ``translation`` [3]
    (m)."""
    centre = np.asarray(tuple(pivot), np.float64)
    motion = np.eye(4)
    motion[:3, :3] = rotation
    motion[:3, 3] = centre - rotation @ centre + translation
    return motion


def perturb_pose(
    pose: np.ndarray, rotation: np.ndarray, translation: np.ndarray, pivot: Iterable[float] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    """float64 [4, 4]: a pose (frame A to frame B) turned and then shifted in B, about a point of B.

    The other way round, for a pose ``b2a`` that leads from B: ``b2a @ inv(rigid_motion(...))``.
    """
    return rigid_motion(rotation, translation, pivot) @ np.asarray(pose, np.float64)
