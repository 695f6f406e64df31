"""Ground-truth sampling: paste objects of the database into a training frame, into points and images alike."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from aqr_bench import compat

compat.prepare()

from mmdet3d.datasets.transforms import ObjectSample  # noqa: E402
from mmdet3d.datasets.transforms.dbsampler import BatchSampler, DataBaseSampler  # noqa: E402
from mmdet3d.registry import TRANSFORMS  # noqa: E402
from mmdet3d.structures.points import BasePoints  # noqa: E402

from aqr_bench.data.dbinfos import LAG, REMEDY, max_lag_s, read_dbinfos, validate_boxes  # noqa: E402
from aqr_bench.data.gt_database import project_boxes  # noqa: E402
from aqr_bench.data.raw_frames import POINT_COLUMNS, BadFrameError, raise_if_not_finite, read_image  # noqa: E402
from aqr_bench.errors import UserError, nearest  # noqa: E402

FILTERS = ("filter_by_difficulty", "filter_by_min_points")
_POINTS_LOADER = dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=[0, 1, 2, 3, 4])


class _IndependentBatchSampler(BatchSampler):
    """BatchSampler whose draw depends on numpy's seed alone, not on what was drawn before.

    mmdet3d's walks through a shuffled list, and its position is in no checkpoint: a resumed training would see
    other objects than an unbroken one.
    """

    def _sample(self, num: int) -> np.ndarray:
        # A permutation of all entries, as np.random.choice makes, is slow for hundreds of thousands of cars.
        generator = np.random.default_rng(np.random.randint(2**31))
        return generator.choice(self._example_num, min(num, self._example_num), replace=False)


@TRANSFORMS.register_module()
class UnifiedDataBaseSampler(DataBaseSampler):
    """Draw objects with points and image crops from a database, so that none collides with another in BEV.

    Args:
        info_path: ``dbinfos_train.pkl``; it is read as plain data, nothing in it is executed.
        data_root: folder that the paths in it are relative to; None: the folder of ``info_path``.
        rate: share of the missing objects that is filled up.
        prepare: name of a filter (FILTERS) to its value.
        sample_groups: class to the number of objects up to which a frame is filled.
        classes: class names in the order of the frame's labels.
        points_loader: config of the transform that reads an object's points.
    Raises:
        UserError: database missing or damaged, unknown filter, a sampled class that is not in ``classes``.
    """

    def __init__(
        self,
        info_path: str,
        data_root: str | None,
        rate: float,
        prepare: Mapping[str, Any],
        sample_groups: Mapping[str, int],
        classes: Sequence[str],
        points_loader: Mapping[str, Any] = _POINTS_LOADER,
    ) -> None:
        # Not the parent's: it unpickles whatever the file asks for.
        self.info_path, self.rate, self.prepare = str(info_path), rate, dict(prepare)
        self.data_root = str(Path(info_path).parent) if data_root is None else str(data_root)
        self.classes = list(classes)
        self.cat2label = {name: label for label, name in enumerate(self.classes)}
        self.label2cat = dict(enumerate(self.classes))
        for name in sample_groups:
            if name not in self.cat2label:
                raise UserError(f"sample_groups: class '{name}' is not in classes{nearest(name, self.classes)}")
        self.sample_groups = [{name: int(number)} for name, number in sample_groups.items()]
        self.sample_classes = list(sample_groups)
        self.sample_max_nums = [int(number) for number in sample_groups.values()]
        self.points_loader = TRANSFORMS.build(dict(points_loader))
        self.load_dim = int(points_loader.get("load_dim", POINT_COLUMNS))
        self.db_infos = self._filtered(read_dbinfos(info_path))
        checked = [entry for name in self.classes for entry in self.db_infos[name]]
        validate_boxes(self.info_path, checked, self.data_root, self.load_dim)
        self.group_db_infos = self.db_infos
        self.sampler_dict = {
            name: _IndependentBatchSampler(entries, name, shuffle=False)
            for name, entries in self.db_infos.items()
            if entries
        }

    def _filtered(self, db_infos: dict[str, list[dict]]) -> dict[str, list[dict]]:
        for name in self.classes:
            db_infos.setdefault(name, [])
        for name, value in self.prepare.items():
            if name not in FILTERS:
                raise UserError(f"prepare: unknown filter '{name}'{nearest(name, FILTERS)}")
            if name == "filter_by_min_points":
                # The parent's filter looks every class up.
                value = {key: number for key, number in value.items() if key in db_infos}
            db_infos = getattr(self, name)(db_infos, value)
        return db_infos

    def sample_all(
        self, gt_bboxes: np.ndarray, gt_labels: np.ndarray, with_img: bool = False, sweeps: int | None = None
    ) -> dict | None:
        """Draw ``round(rate * (group size - present))`` objects of each class; those that collide are dropped.

        Args:
            gt_bboxes: [n, 9] the frame's boxes at their bottom centres, LiDAR frame.
            gt_labels: [n] positions in ``classes``.
            with_img: read the image crops as well.
            sweeps: that the frame's points are merged from at most; older points of objects are left out, and objects
                without any other. None: not known, all points are pasted.
        Returns:
            None if nothing was drawn, else a dict of gt_labels_3d [k] int64, gt_bboxes_3d [k, 9] float32, points
            (those of all objects, in the frame), points_idx [p] (the object of each point), images (list of k crops
            [h, w, 3] uint8 BGR, None where an object has none or ``with_img`` is off), group_ids [k].
        Raises:
            UserError: a file that the database names is missing or damaged; the database has fewer sweeps.
        """
        chosen: list[dict] = []
        taken = gt_bboxes = np.asarray(gt_bboxes, dtype=np.float32)
        for name, group_size in zip(self.sample_classes, self.sample_max_nums, strict=True):
            present = int(np.count_nonzero(np.asarray(gt_labels) == self.cat2label[name]))
            missing = max(0, round(self.rate * (group_size - present)))
            if not missing or name not in self.sampler_dict:
                continue
            drawn = self.sample_class_v2(name, missing, taken)
            chosen += drawn
            taken = np.concatenate([taken, *([entry["box3d_lidar"]] for entry in drawn)]).astype(np.float32)
        if not chosen:
            return None
        loaded = [(entry, self._load_points(entry, sweeps)) for entry in chosen]
        chosen, clouds = [e for e, cloud in loaded if len(cloud)], [cloud for _, cloud in loaded if len(cloud)]
        if not chosen:
            return None
        boxes = np.stack([entry["box3d_lidar"] for entry in chosen]).astype(np.float32)
        return {
            "gt_labels_3d": np.array([self.cat2label[entry["name"]] for entry in chosen], dtype=np.int64),
            "gt_bboxes_3d": boxes,
            "points": clouds[0].cat(clouds),
            "points_idx": np.repeat(np.arange(len(chosen)), [len(cloud) for cloud in clouds]),
            "images": [self._load_crop(entry) if with_img else None for entry in chosen],
            "group_ids": np.arange(len(gt_bboxes), len(gt_bboxes) + len(boxes)),
        }

    def sample_class_v2(self, name: str, num: int, gt_bboxes: np.ndarray) -> list[dict]:
        """Draw ``num`` objects of a class and keep those that overlap neither ``gt_bboxes`` [n, 9] nor each other.

        The parent's collision test looks for edges that cross and corners that lie inside: it passes two equal boxes,
        and so pastes an object onto itself, or twice where it stood still.
        """
        accepted: list[dict] = []
        taken = np.asarray(gt_bboxes)[:, :7]
        for entry in self.sampler_dict[name].sample(num):
            box = np.asarray(entry["box3d_lidar"])[:7]
            if not overlaps_bev(box, taken).any():
                accepted.append(entry)
                taken = np.concatenate([taken, box[None]])
        return accepted

    def _load_points(self, entry: dict, sweeps: int | None = None) -> BasePoints:
        path = os.path.join(self.data_root, entry["path"])
        try:
            points = self.points_loader({"lidar_points": {"lidar_path": path}})["points"]
            limit_s = max_lag_s(self.info_path, entry, sweeps)
            if limit_s is not None:
                lag = np.fromfile(path, np.float32).reshape(-1, self.load_dim)[:, LAG]
                points = points[torch.from_numpy(lag <= limit_s)]
        except (OSError, ValueError) as error:
            raise UserError(f"points of {self.info_path} cannot be read: {path} ({error})", REMEDY) from error
        raise_if_not_finite(points.tensor.numpy(), path)
        points.translate(np.asarray(entry["box3d_lidar"][:3], dtype=np.float32))
        return points

    def _load_crop(self, entry: dict) -> np.ndarray | None:
        if not entry.get("image_path"):
            return None
        try:
            return read_image(os.path.join(self.data_root, entry["image_path"]))
        except BadFrameError as error:
            raise UserError(f"ground-truth database {self.info_path}: {error}", REMEDY) from error

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(info_path={self.info_path!r}, data_root={self.data_root!r}, rate={self.rate}, "
            f"sample_groups={self.sample_groups})"
        )


def overlaps_bev(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which boxes share ground with a box; touching is not overlapping.

    Two rectangles are apart exactly where their shadows on one of their four sides' directions are.

    Args:
        box: [7 or more] x, y, z, l, w, h, yaw counter-clockwise from x (metres, radians).
        others: [n, 7 or more].
    Returns:
        [n] bool.
    """
    box, others = np.asarray(box, np.float64), np.asarray(others, np.float64)
    axes, other_axes = _directions(box[6]), _directions(others[:, 6])
    directions = np.concatenate([np.broadcast_to(axes, other_axes.shape), other_axes], 1)  # [n, 4, 2]
    reach = np.abs(directions @ axes.T) @ box[3:5] + (
        np.abs(directions @ other_axes.transpose(0, 2, 1)) @ others[:, 3:5, None]
    ).squeeze(-1)
    distance = np.abs(directions @ (others[:, :2] - box[:2])[..., None]).squeeze(-1)
    return (distance < reach / 2).all(-1)


def _directions(yaw: np.ndarray) -> np.ndarray:
    """[..., 2, 2]: unit vectors along and across."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)


@TRANSFORMS.register_module()
class UnifiedObjectSample(ObjectSample):
    """Paste drawn objects into points, boxes, labels and, with ``sample_2d``, every camera image.

    It belongs before any augmentation (an object keeps the place where it was recorded) and before SensorDropout.
    DisableObjectSampleHook switches it off for the last epochs.

    Args:
        db_sampler: config of the sampler; its type is UnifiedDataBaseSampler by default.
        sample_2d: paste into the images as well; needs ``img`` (BGR) and ``lidar2img``.
        mixup_rate: weight m of a patch in ``(1 - m) * image + m * patch``; negative: the patch replaces the image.
        sample_method: order of pasting; "depth", from far to near, is the only one.
    """

    def __init__(
        self,
        db_sampler: Mapping[str, Any],
        sample_2d: bool = False,
        mixup_rate: float = -1,
        sample_method: str = "depth",
    ) -> None:
        if mixup_rate > 1:
            raise UserError(f"UnifiedObjectSample: mixup_rate is {mixup_rate}; it must be at most 1 (negative: off)")
        if sample_method != "depth":
            raise UserError(
                f"UnifiedObjectSample: sample_method is '{sample_method}'{nearest(sample_method, ['depth'])}"
            )
        super().__init__({"type": "UnifiedDataBaseSampler", **db_sampler}, sample_2d=sample_2d)
        self.mixup_rate, self.sample_method = mixup_rate, sample_method

    def transform(self, results: dict) -> dict:
        if self.disabled:
            return results
        if self.sample_2d and not {"img", "lidar2img"} <= results.keys():
            raise UserError(
                "UnifiedObjectSample: sample_2d needs img and lidar2img; put it behind LoadViewImages and "
                "AddProjections, or set sample_2d=False"
            )
        boxes, labels = results["gt_bboxes_3d"], results["gt_labels_3d"]
        sweeps = results.get("merged_sweeps")
        drawn = self.db_sampler.sample_all(boxes.tensor.numpy(), labels, with_img=self.sample_2d, sweeps=sweeps)
        if drawn is None:
            return results
        points, objects = results["points"], drawn["points"]
        if points.tensor.shape[1] != objects.tensor.shape[1]:
            raise UserError(
                f"UnifiedObjectSample: the frame's points have {points.tensor.shape[1]} columns, the database's "
                f"{objects.tensor.shape[1]}; make db_sampler.points_loader.use_dim fit"
            )
        boxes = boxes.new_box(np.concatenate([boxes.tensor.numpy(), drawn["gt_bboxes_3d"]]))
        results["points"] = points.cat([self.remove_points_in_boxes(points, drawn["gt_bboxes_3d"]), objects])
        results["gt_bboxes_3d"] = boxes
        results["gt_labels_3d"] = np.concatenate([labels, drawn["gt_labels_3d"]]).astype(np.int64)
        if self.sample_2d:
            corners = boxes.corners.numpy()
            results["img"] = [
                paste_crops(image, lidar2img, corners, drawn["images"], self.mixup_rate)
                for image, lidar2img in zip(results["img"], results["lidar2img"], strict=True)
            ]
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(db_sampler={self.db_sampler}, sample_2d={self.sample_2d}, "
            f"mixup_rate={self.mixup_rate}, sample_method={self.sample_method!r})"
        )


def paste_crops(
    image: np.ndarray,
    lidar2img: np.ndarray,
    corners: np.ndarray,
    crops: Sequence[np.ndarray | None],
    mixup_rate: float,
) -> np.ndarray:
    """Paste crops into one view from far to near; nearer real objects get their pixels back.

    The official code pastes a real object's pixels from the image that is being changed, which restores nothing.

    Args:
        image: [h, w, c] uint8 or float; it is not written to.
        lidar2img: [4, 4], LiDAR frame in metres to pixels.
        corners: [r + k, 8, 3] metres, LiDAR frame: r boxes of the frame, then the k pasted ones.
        crops: k crops [h', w', c]; None: the object has no pixels to paste.
        mixup_rate: see UnifiedObjectSample.
    Returns:
        A new image of the same dtype, or ``image`` itself where no crop falls into it.
    """
    rectangles, depth, in_front = project_boxes(corners, lidar2img, image.shape[1], image.shape[0])
    seen = in_front & (rectangles[:, 2:] - rectangles[:, :2] > 1).all(-1)
    order = [index for index in np.argsort(-depth, kind="stable") if seen[index]]
    first = len(corners) - len(crops)
    patches = {index: crops[index - first] for index in order if index >= first and crops[index - first] is not None}
    if not patches:
        return image
    canvas = image.astype(np.float64 if image.dtype == np.float64 else np.float32)
    for index in order:
        left, top, right, bottom = rectangles[index]
        where = np.s_[top:bottom, left:right]
        if index < first:
            patch = image[where]
        elif index in patches:
            patch = _resized(patches[index], right - left, bottom - top)
        else:
            continue
        canvas[where] = patch if mixup_rate < 0 else (1 - mixup_rate) * canvas[where] + mixup_rate * patch
    if np.issubdtype(image.dtype, np.integer):
        canvas = np.rint(canvas)
    return canvas.astype(image.dtype, copy=False)


def _resized(crop: np.ndarray, width: int, height: int) -> np.ndarray:
    # Views may have been made smaller since the crop was cut; leaving pixels out would make the patch grainy.
    shrinks = width < crop.shape[1] and height < crop.shape[0]
    return cv2.resize(crop, (int(width), int(height)), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
