"""Corruptions of objects alone: the LiDAR points in ground-truth boxes, and what the cameras see of the boxes.

Points belong to the first box that holds them in the keyframe's coordinates, those of sweeps too. Boxes are [M, 7]
with gravity centres. The corruptions are those of thu-ml/3D_Corruptions_AD (arXiv:2303.11040), in
TransFusion/mmdet3d/datasets/pipelines: ``bbox_util.py`` for points, ``Camera_corruptions.py`` for images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from aqr_bench.corruptions.frame import Frame, View, keep_merged, merged_xyz, move_merged
from aqr_bench.corruptions.geometry import box_of_points, corners
from aqr_bench.corruptions.lidar.noise import random_signs, share_of, squared_distance

MIN_DEPTH_M = 0.1  # a box with a corner nearer to the camera's plane has no outline in the image
_MAX_PX = 30_000  # outlines are cut here: far outside any image, within the integers that OpenCV draws with
_MIN_SIZE_M = 1e-9


# ---------------------------------------------------------------- points in boxes: fewer or disturbed


@dataclass(frozen=True)
class BoxPoints:
    """The K points of a frame that lie in boxes, ordered as in the merged clouds.

    Args:
        where: bool [P], which of all points they are. ``owner``: int [K], box of each.
        xyz: float64 [K, 3], keyframe's LiDAR frame (m). ``sizes``: int [M], points in each box.
    """

    where: np.ndarray
    owner: np.ndarray
    xyz: np.ndarray
    sizes: np.ndarray

    def ranks(self, key: np.ndarray) -> np.ndarray:
        """int [K]: how many points of the same box have a smaller ``key`` [K]."""
        order = np.lexsort((key, self.owner))
        starts = np.cumsum(self.sizes) - self.sizes
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order)) - starts[self.owner[order]]
        return ranks

    def keep(self, frame: Frame, stays: np.ndarray) -> Frame:
        """The frame without those of the points that do not stay, bool [K]."""
        mask = np.ones(len(self.where), bool)
        mask[self.where] = stays
        return keep_merged(frame, mask)

    def move(self, frame: Frame, moves: np.ndarray, by: np.ndarray) -> Frame:
        """The frame with those of the points moved that ``moves``, bool [K], by float [K, 3] (m)."""
        where = np.zeros(len(self.where), bool)
        where[self.where] = moves
        return move_merged(frame, where, self.xyz[moves] + by[moves])


def box_points(frame: Frame) -> BoxPoints:
    """The points of a frame that lie in its boxes."""
    xyz = merged_xyz(frame)
    owner = box_of_points(xyz, frame.boxes)
    where = owner >= 0
    return BoxPoints(where, owner[where], xyz[where], np.bincount(owner[where], minlength=len(frame.boxes)))


def drop_points(frame: Frame, rng: np.random.Generator, share: float) -> Frame:
    """The frame without a random share of the points of each box. Source: bbox_util.py, density: 10 .. 50 %."""
    inside = box_points(frame)
    ranks = inside.ranks(rng.random(len(inside.owner)))
    return inside.keep(frame, ranks >= share_of(inside.sizes, share)[inside.owner])


def cutout(frame: Frame, rng: np.random.Generator, share: float) -> Frame:
    """Each box without one clump: a random point of it and its nearest neighbours in the box, a share of its points.

    Source: bbox_util.py, cutout: 30 .. 70 %.
    """
    inside = box_points(frame)
    first = inside.ranks(rng.random(len(inside.owner))) == 0
    centres = np.zeros((len(inside.sizes), 3))
    centres[inside.owner[first]] = inside.xyz[first]
    ranks = inside.ranks(squared_distance(inside.xyz, centres[inside.owner]))
    return inside.keep(frame, ranks >= share_of(inside.sizes, share)[inside.owner])


def gaussian(frame: Frame, rng: np.random.Generator, sigma_m: float) -> Frame:
    """Every point in a box moved by N(0, sigma_m) per axis. Source: bbox_util.py, gaussian."""
    inside = box_points(frame)
    return inside.move(frame, np.ones(len(inside.owner), bool), rng.standard_normal((len(inside.owner), 3)) * sigma_m)


def uniform(frame: Frame, rng: np.random.Generator, amount_m: float) -> Frame:
    """Every point in a box moved by U(-amount_m, amount_m) per axis. Source: bbox_util.py, uniform."""
    inside = box_points(frame)
    shift = rng.uniform(-amount_m, amount_m, (len(inside.owner), 3))
    return inside.move(frame, np.ones(len(inside.owner), bool), shift)


def impulse(frame: Frame, rng: np.random.Generator, divisor: int, amount_m: float) -> Frame:
    """One in ``divisor`` points of each box moved by +-amount_m along each axis. Source: bbox_util.py, impulse."""
    inside = box_points(frame)
    struck = inside.ranks(rng.random(len(inside.owner))) < (inside.sizes // divisor)[inside.owner]
    return inside.move(frame, struck, random_signs(rng, (len(struck), 3)) * float(amount_m))


# ---------------------------------------------------------------- boxes transformed


@dataclass(frozen=True)
class BoxTransforms:
    """An affine map for each of M boxes, in the axes of the box (x along its length): x -> linear x + offset.

    Args:
        linear: float64 [M, 3, 3]. ``offset``: float64 [M, 3] (m).
    """

    linear: np.ndarray
    offset: np.ndarray

    def apply(self, local: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """float64 [K, 3]: points [K, 3] in the axes of their boxes, int [K], after the map."""
        return np.einsum("kij,kj->ki", self.linear[owner], local) + self.offset[owner]


def shears(rng: np.random.Generator, count: int, coefficient: float, spread: float) -> BoxTransforms:
    """Shears of ``count`` boxes: x += d y + f z, z += b x + e y.

    Each of b, d, e, f is drawn within +-spread of the coefficient and has a random sign. Source: bbox_util.py, shear.
    """
    size = rng.uniform(coefficient - spread, coefficient + spread, (count, 4))
    b, d, e, f = (size * random_signs(rng, (count, 4))).T
    ones, zeros = np.ones(count), np.zeros(count)
    linear = np.stack([ones, d, f, zeros, ones, zeros, b, e, ones], 1).reshape(count, 3, 3)
    return BoxTransforms(linear, np.zeros((count, 3)))


def scales(rng: np.random.Generator, boxes: np.ndarray, amount: float) -> BoxTransforms:
    """Boxes longer, wider or higher (one of the three, at random) by 1 + amount or 1 - amount.

    What changes its height stays on the ground. Source: bbox_util.py, scale.
    """
    rows, axis = np.arange(len(boxes)), rng.integers(0, 3, len(boxes))
    factors = np.ones((len(boxes), 3))
    factors[rows, axis] += amount * random_signs(rng, (len(boxes),))
    offset = np.zeros((len(boxes), 3))
    offset[:, 2] = (factors[:, 2] - 1) * boxes[:, 5] / 2
    return BoxTransforms(factors[:, :, None] * np.eye(3), offset)


def rotations(rng: np.random.Generator, count: int, angle_deg: float, spread_deg: float) -> BoxTransforms:
    """Boxes turned about their vertical axis by an angle within +-spread_deg of angle_deg, with a random sign.

    Source: bbox_util.py, rotation.
    """
    size = rng.uniform(angle_deg - spread_deg, angle_deg + spread_deg, count)
    angle = np.radians(size * random_signs(rng, (count,)))
    c, s, ones, zeros = np.cos(angle), np.sin(angle), np.ones(count), np.zeros(count)
    return BoxTransforms(
        np.stack([c, -s, zeros, s, c, zeros, zeros, zeros, ones], 1).reshape(count, 3, 3), np.zeros((count, 3))
    )


def transform_points(frame: Frame, transforms: BoxTransforms, fit: bool = False) -> Frame:
    """The frame with the points of its boxes moved as their boxes are transformed.

    Args:
        fit: press the points of a box together, axis by axis, until the original box holds them again. Source:
            bbox_util.py, normalize_gt, which only the shear uses.
    """
    inside = box_points(frame)
    boxes = frame.boxes[inside.owner]
    local = transforms.apply(_rotated(inside.xyz - boxes[:, :3], -boxes[:, 6]), inside.owner)
    if fit:
        excess = np.ones((len(inside.sizes), 3))
        np.maximum.at(excess, inside.owner, np.abs(local) / np.maximum(boxes[:, 3:6] / 2, _MIN_SIZE_M))
        local /= excess[inside.owner]
    return move_merged(frame, inside.where, _rotated(local, boxes[:, 6]) + boxes[:, :3])


def move_forward(frame: Frame, distance_m: float) -> Frame:
    """The frame with the points of boxes moved along the heading, those in the rear third by half of the distance.

    Source: bbox_util.py, moving_object: 0.2 .. 1 m along x, which is forward in KITTI.
    """
    inside = box_points(frame)
    boxes = frame.boxes[inside.owner]
    local = _rotated(inside.xyz - boxes[:, :3], -boxes[:, 6])
    rear = local[:, 0] < -boxes[:, 3] / 6
    ahead = np.where(rear, distance_m / 2, distance_m)[:, None] * np.array([1.0, 0.0, 0.0])
    return inside.move(frame, np.ones(len(rear), bool), _rotated(ahead, boxes[:, 6]))


def _rotated(xyz: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """float64 [K, 3]: each vector [K, 3] rotated by its angle [K] (rad), counter-clockwise from above."""
    c, s, (x, y, z) = np.cos(yaw), np.sin(yaw), xyz.T
    return np.stack([c * x - s * y, s * x + c * y, z], 1)


# ---------------------------------------------------------------- what the cameras see of boxes


def project(view: View, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners [M, 8, 3] (m) in the image: pixels float64 [M, 8, 2], and bool [M] whether all are in front."""
    projection = view.lidar2img
    at = xyz @ projection[:3, :3].T + projection[:3, 3]
    ahead = (at[..., 2] >= MIN_DEPTH_M).all(1)
    depth = np.where(ahead[:, None, None], at[..., 2:3], 1.0)
    return np.clip(at[..., :2] / depth, -_MAX_PX, _MAX_PX), ahead


def region(uv: np.ndarray, image: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns of the image that hold the places uv [K, 2]; None if the image shows less than 2 x 2 pixels."""
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(uv.min(0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(uv.max(0)) + 1, 0, (width, height)).astype(int)
    return (slice(top, bottom), slice(left, right)) if right - left >= 2 and bottom - top >= 2 else None


def transform_image(view: View, boxes: np.ndarray, transforms: BoxTransforms) -> np.ndarray:
    """The image with every box warped by its transform; the near ones last, over the far ones. uint8 [h, w, 3].

    The 8 corners of a box before and after the change give an affine map of the image (least squares), which is applied
    where the image shows the box before or after. Where it shows less than before, the surroundings stretch into the
    gap. Source: Camera_corruptions.py, ImageBBoxOperation, with thin-plate splines through the 4 or 6 near corners.
    """
    before = corners(boxes)
    local = _rotated((before - boxes[:, None, :3]).reshape(-1, 3), -np.repeat(boxes[:, 6], 8))
    owner = np.repeat(np.arange(len(boxes)), 8)
    after = _rotated(transforms.apply(local, owner), boxes[owner, 6]).reshape(-1, 8, 3) + boxes[:, None, :3]
    (uv, ahead), (new_uv, new_ahead) = project(view, before), project(view, after)
    out = np.array(view.image, order="C")
    far_first = np.argsort(-np.hypot(boxes[:, 0], boxes[:, 1]), kind="stable")
    for box in far_first[(ahead & new_ahead)[far_first]]:
        area = region(np.concatenate([uv[box], new_uv[box]]), out)
        if area is not None:
            warp(out, area, new_uv[box], uv[box])
    return out


def warp(image: np.ndarray, area: tuple[slice, slice], to: np.ndarray, source: np.ndarray) -> None:
    """Fill an area of an image, in place, with what an affine map brings there: places ``source`` go to ``to`` [K, 2].

    Points on one line define no map: the image stays.
    """
    rows, columns = area
    origin = np.array([columns.start, rows.start])
    # Backwards, from the filled area to the image: that is what sampling needs.
    design = np.concatenate([to - origin, np.ones((len(to), 1))], 1)
    back, _, rank, _ = np.linalg.lstsq(design, source, rcond=1e-6)
    if rank == 3:
        size = (columns.stop - columns.start, rows.stop - rows.start)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image[area] = cv2.warpAffine(image, back.T, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def blur_objects(view: View, boxes: np.ndarray, blur: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The image, blurred within the outlines of its boxes. uint8 [h, w, 3].

    Args:
        blur: of the entire image, uint8 [h, w, 3].

    Source: Camera_corruptions.py, ImageBBoxMotionBlurFrontBack and -LeftRight: convex hulls of the corners.
    """
    uv, ahead = project(view, corners(boxes))
    mask = np.zeros(view.image.shape[:2], np.uint8)
    for outline in uv[ahead]:
        if region(outline, view.image) is not None:
            cv2.fillConvexPoly(mask, cv2.convexHull(np.round(outline).astype(np.int32)), 1)
    if not mask.any():
        return view.image
    return np.where(mask[..., None] > 0, blur(view.image), view.image)
