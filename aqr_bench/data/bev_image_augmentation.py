"""CMT's training augmentation of BEV and images; ``lidar2img`` is updated exactly with every change.

Invariant of every transform here: a LiDAR point projects to the same point of the scene before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from aqr_bench import compat

compat.prepare()

from mmcv.transforms import BaseTransform  # noqa: E402
from mmdet3d.datasets.transforms import GlobalRotScaleTrans  # noqa: E402
from mmdet3d.registry import TRANSFORMS  # noqa: E402
from mmdet3d.structures import LiDARPoints  # noqa: E402

from aqr_bench.errors import UserError, nearest  # noqa: E402


def move_cameras(results: dict, motion: np.ndarray) -> None:
    """Replace the projections after the LiDAR frame was moved by ``motion`` (4 x 4, old to new coordinates)."""
    back = np.linalg.inv(motion)
    for key in ("lidar2img", "lidar2cam"):
        if key in results:
            results[key] = np.stack([np.asarray(m, dtype=np.float64) @ back for m in results[key]])


@TRANSFORMS.register_module()
class GlobalRotScaleTransAll(GlobalRotScaleTrans):
    """mmdet3d's GlobalRotScaleTrans for points and boxes, with the cameras moved along.

    A point p becomes ``scale * R p + t``; R is the transpose of the matrix that mmdet3d returns.
    """

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        motion = np.eye(4)
        rotation = np.asarray(results["pcd_rotation"], dtype=np.float64).T
        motion[:3, :3] = results["pcd_scale_factor"] * rotation
        motion[:3, 3] = results["pcd_trans"]
        move_cameras(results, motion)
        return results


@TRANSFORMS.register_module()
class GlobalRotScaleTransImage(GlobalRotScaleTransAll):
    """The same without a LiDAR: boxes and cameras move.

    The official class turns boxes by the negative of the angle that it turns the cameras by (``reverse_angle``), which
    was right for the yaw of mmdet3d 0.x and is wrong from 1.0 on. Here both turn the same way.
    """

    def transform(self, results: dict) -> dict:
        without_lidar = "points" not in results
        if without_lidar:
            results["points"] = LiDARPoints(np.zeros((0, 3), np.float32), points_dim=3)
        results = super().transform(results)
        if without_lidar:
            del results["points"]
        return results


@TRANSFORMS.register_module()
class CustomRandomFlip3D(BaseTransform):
    """Mirror points, boxes and cameras; the images stay as they are.

    Args:
        flip_ratio_bev_horizontal: probability of y -> -y.
        flip_ratio_bev_vertical: probability of x -> -x.
    """

    def __init__(self, flip_ratio_bev_horizontal: float = 0.0, flip_ratio_bev_vertical: float = 0.0) -> None:
        for name, ratio in (("horizontal", flip_ratio_bev_horizontal), ("vertical", flip_ratio_bev_vertical)):
            if not 0 <= ratio <= 1:
                raise UserError(f"CustomRandomFlip3D.flip_ratio_bev_{name} is {ratio}; it has to lie in 0 .. 1")
        self.ratios = {"horizontal": flip_ratio_bev_horizontal, "vertical": flip_ratio_bev_vertical}

    def transform(self, results: dict) -> dict:
        motion = np.eye(4)
        for direction, axis in (("horizontal", 1), ("vertical", 0)):
            flip = bool(np.random.rand() < self.ratios[direction])
            results[f"pcd_{direction}_flip"] = flip
            if flip:
                motion[axis, axis] = -1
                for key in ("points", "gt_bboxes_3d"):
                    if key in results:
                        results[key].flip(direction)
        move_cameras(results, motion)
        return results


@dataclass(frozen=True)
class ImageChange:
    """Resize to ``resized`` (w, h), cut ``size`` (h, w) at ``corner`` (x, y), flip, turn by ``angle`` degrees."""

    resized: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]
    flip: bool = False
    angle: float = 0.0

    def matrix(self, height: int, width: int) -> np.ndarray:
        """3 x 3: (u, v, 1) of an image of that size to (u, v, 1) of the result."""
        resize = np.diag([self.resized[0] / width, self.resized[1] / height, 1.0])
        resize[:2, 2] = -self.corner[0], -self.corner[1]
        flip = np.eye(3)
        if self.flip:
            flip[0, 0], flip[0, 2] = -1.0, self.size[1]
        return self._rotation() @ flip @ resize

    def apply(self, image: np.ndarray) -> np.ndarray:
        """[h, w, 3] -> [size, 3] of the same dtype; what lies outside of the image is black."""
        (h, w), (x, y) = self.size, self.corner
        source = cv2.resize(image, self.resized, interpolation=cv2.INTER_LINEAR)
        out = np.zeros((h, w, image.shape[2]), image.dtype)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, source.shape[1]), min(y + h, source.shape[0])
        if x1 > x0 and y1 > y0:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = source[y0:y1, x0:x1]
        if self.flip:
            out = out[:, ::-1]
        if self.angle:
            out = cv2.warpAffine(np.ascontiguousarray(out), self._rotation()[:2], (w, h))
        return np.ascontiguousarray(out)

    def _rotation(self) -> np.ndarray:
        rotation = np.eye(3)
        if self.angle:
            rotation[:2] = cv2.getRotationMatrix2D((self.size[1] / 2, self.size[0] / 2), self.angle, 1.0)
        return rotation


@TRANSFORMS.register_module()
class ResizeCropFlipImage(BaseTransform):
    """Resize, crop and flip all views alike, as CMT does: one draw for all cameras of a sample.

    In training: a random size, cropped at the top and, at a random position, from left to right, a flip (u -> width -
    u) in half of the samples. At test: the smallest size that covers ``final_dim``, bottom centre.

    Args:
        data_aug_conf: ``H``, ``W`` (size that ``resize_lim`` refers to; views of another size are brought to it),
            ``final_dim`` (h, w), ``resize_lim``, ``bot_pct_lim``, ``rot_lim`` (degrees), ``rand_flip``.
        training: random, or the fixed change of the test.
    """

    KEYS = ("H", "W", "final_dim", "resize_lim", "bot_pct_lim", "rot_lim", "rand_flip")

    def __init__(self, data_aug_conf: dict, training: bool = True) -> None:
        for key in data_aug_conf:
            if key not in self.KEYS:
                raise UserError(f"ResizeCropFlipImage.data_aug_conf: unknown key '{key}'{nearest(key, self.KEYS)}")
        for key in ("H", "W", "final_dim"):
            if key not in data_aug_conf:
                raise UserError(f"ResizeCropFlipImage.data_aug_conf lacks '{key}'")
        self.height, self.width = int(data_aug_conf["H"]), int(data_aug_conf["W"])
        self.size = (int(data_aug_conf["final_dim"][0]), int(data_aug_conf["final_dim"][1]))
        self.resize_lim = self._pair(data_aug_conf, "resize_lim", (1.0, 1.0))
        self.bottom_lim = self._pair(data_aug_conf, "bot_pct_lim", (0.0, 0.0))
        self.angle_lim = self._pair(data_aug_conf, "rot_lim", (0.0, 0.0))
        self.rand_flip, self.training = bool(data_aug_conf.get("rand_flip", False)), training

    @staticmethod
    def _pair(conf: dict, key: str, default: Sequence[float]) -> tuple[float, float]:
        low, high = conf.get(key, default)
        if low > high:
            raise UserError(f"ResizeCropFlipImage.data_aug_conf.{key} is ({low}, {high}); the first must be the lower")
        return float(low), float(high)

    def draw(self) -> ImageChange:
        """The change of one sample."""
        height, width = self.size
        if self.training:
            ratio = np.random.uniform(*self.resize_lim)
            bottom_fraction, left_fraction = np.random.uniform(*self.bottom_lim), np.random.uniform()
            flip = self.rand_flip and bool(np.random.choice([0, 1]))
            angle = float(np.random.uniform(*self.angle_lim))
        else:
            ratio = max(height / self.height, width / self.width)
            bottom_fraction, left_fraction, flip, angle = sum(self.bottom_lim) / 2, 0.5, False, 0.0
        resized = (int(self.width * ratio), int(self.height * ratio))
        corner = (int(left_fraction * max(0, resized[0] - width)), int((1 - bottom_fraction) * resized[1]) - height)
        return ImageChange(resized, corner, self.size, flip, angle)

    def transform(self, results: dict) -> dict:
        change = self.draw()
        images, projections = [], []
        for image, lidar2img in zip(results["img"], results["lidar2img"], strict=True):
            # Projected coordinates are (u d, v d, d, 1): the offset of a pixel goes with the depth.
            matrix = np.eye(4)
            matrix[:3, :3] = change.matrix(*image.shape[:2])
            projections.append(matrix @ np.asarray(lidar2img, dtype=np.float64))
            images.append(change.apply(image))
        results["img"], results["lidar2img"] = images, np.stack(projections)
        results["img_shape"] = results["pad_shape"] = self.size
        return results
