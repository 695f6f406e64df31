"""Transforms that mmdet3d lacks: pose-corrected sweeps, images of any size, file checks, projections, half a turn."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike

from aqr_bench import compat

compat.prepare()

from mmcv.transforms import BaseTransform  # noqa: E402
from mmdet3d.datasets.transforms import LoadPointsFromMultiSweeps  # noqa: E402
from mmdet3d.registry import TRANSFORMS  # noqa: E402

import aqr_bench.data.nuscenes_dataset  # noqa: E402, F401  registers the data set of every pipeline
from aqr_bench.corruptions import Cloud, View  # noqa: E402
from aqr_bench.data.camera_matrices import renewed_matrices  # noqa: E402
from aqr_bench.data.infos import lidar_to_image  # noqa: E402
from aqr_bench.data.raw_frames import (  # noqa: E402
    SWEEP_CLOUDS,
    BadFrameError,
    SweepClouds,
    check_jpeg,
    image_size,
    read_cloud,
    read_image,
    sweep_clouds,
)
from aqr_bench.errors import UserError  # noqa: E402


@TRANSFORMS.register_module()
class LoadPoseCorrectedSweeps(LoadPointsFromMultiSweeps):
    """LoadPointsFromMultiSweeps with the right rigid motion.

    mmdet3d 1.4 computes R p + R^T T from ``lidar2sensor`` where the sweep's pose asks for R p + T: half a metre
    off when the car turns by 0.1 rad between sweeps 5 m apart. CMT's mmdet3d 1.0 had it right. Column 4 becomes the
    time lag in seconds, as in mmdet3d.

    Required keys: points, timestamp, and lidar_sweeps (info entries, whose files are read) or sweep_clouds
    (:class:`SweepClouds` of a SensorCondition before; removed here). Modified key: points. Added key: merged_sweeps,
    how many there are at most, for the sampling of objects out of as many.

    Raises:
        BadFrameError: a sweep is missing or cut short.
        UserError: a SensorCondition before loaded fewer sweeps than are to be merged.
    """

    def transform(self, results: dict) -> dict:
        points = results["points"]
        points.tensor[:, 4] = 0
        merged = [points]
        for cloud in self._sweeps(results):
            array = cloud.points.copy()
            if self.remove_close:
                array = self._remove_close(array)
            array[:, :3] = array[:, :3] @ cloud.to_key[:3, :3].T + cloud.to_key[:3, 3]
            array[:, 4] = results["timestamp"] - cloud.time
            merged.append(points.new_point(array))
        results["points"], results["merged_sweeps"] = points.cat(merged)[:, self.use_dim], self.sweeps_num
        return results

    def _sweeps(self, results: dict) -> Sequence[Cloud]:
        """The sweeps to merge: those that SensorCondition loaded, or read here."""
        if SWEEP_CLOUDS in results:
            loaded: SweepClouds = results.pop(SWEEP_CLOUDS)
            if self.sweeps_num > loaded.limit:
                raise UserError(
                    f"LoadPoseCorrectedSweeps merges {self.sweeps_num} sweeps, the condition before it loads "
                    f"{loaded.limit}; set its sweeps_num to {self.sweeps_num}"
                )
            return loaded.clouds[: self.sweeps_num]
        sweeps = results.get("lidar_sweeps", [])
        count = min(self.sweeps_num, len(sweeps))
        picked = range(count) if self.test_mode else np.random.choice(len(sweeps), count, replace=False)
        chosen = [sweeps[index] for index in sorted(picked)]
        return sweep_clouds(chosen, [sweep["lidar_points"]["lidar_path"] for sweep in chosen])


@TRANSFORMS.register_module()
class CheckFrame(BaseTransform):
    """Refuse a keyframe with files that are missing or cut short, or with values that are not finite.

    Training and evaluation begin with it, before anything is decoded, so that both treat the same frame alike.

    Args:
        load_dim: columns of a point on disk.
        lidar, cameras: which sensors the pipeline loads.
    Raises:
        BadFrameError: names the file, or the sample and the matrix or box.
    """

    def __init__(self, load_dim: int = 5, lidar: bool = True, cameras: bool = True) -> None:
        self.load_dim, self.lidar, self.cameras = load_dim, lidar, cameras

    def transform(self, results: dict) -> dict:
        if self.lidar:
            path = Path(results["lidar_points"]["lidar_path"])
            if not path.is_file():
                raise BadFrameError(f"LiDAR file is missing: {path} (sample {results['token']})")
            read_cloud(path, self.load_dim)
        for camera, info in results.get("images", {}).items() if self.cameras else ():
            if not Path(info["img_path"]).is_file():
                raise BadFrameError(f"image of {camera} is missing: {info['img_path']} (sample {results['token']})")
            check_jpeg(info["img_path"])
        for name, values in self._numbers(results):
            if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
                raise BadFrameError(f"sample {results['token']}: {name} in the info file is not finite")
        return results

    def _numbers(self, results: dict) -> Iterator[tuple[str, ArrayLike]]:
        """Matrices of the sensors that are loaded, and boxes but for their velocities, which may be unknown."""
        for number, sweep in enumerate(results.get("lidar_sweeps", []) if self.lidar else [], 1):
            yield f"lidar2sensor of LiDAR sweep {number}", sweep["lidar_points"].get("lidar2sensor", 0)
        for camera, info in results.get("images", {}).items() if self.cameras else ():
            for key in ("cam2img", "lidar2cam"):
                yield f"{key} of {camera}", info.get(key, 0)
        annotations = results.get("ann_info") or results.get("eval_ann_info") or {}
        if "gt_bboxes_3d" in annotations:
            for number, box in enumerate(annotations["gt_bboxes_3d"].tensor[:, :7].numpy()):
                yield f"box {number} of the ground truth", box


@TRANSFORMS.register_module()
class LoadViewImages(BaseTransform):
    """Load the image of every camera as it is recorded; mmdet3d's loader pads all of them to the largest.

    Padding before the views are resized leaves less of the network's input to the smaller ones. Grey images and those
    with an alpha channel become BGR, and no rotation noted in a file is applied: see ``raw_frames.read_image``.

    Required key: images. Added keys: those of mmdet3d's LoadMultiViewImageFromFiles; ``img`` is a list of N arrays
    [h, w, 3] uint8, BGR, of which each has its size.

    Raises:
        BadFrameError: an image is missing, cut short or cannot be decoded.
    """

    def transform(self, results: dict) -> dict:
        views = results["images"].values()
        images = [read_image(view["img_path"]) for view in views]
        results["filename"] = [view["img_path"] for view in views]
        results["cam2img"] = [view["cam2img"] for view in views]
        results["lidar2cam"] = [view["lidar2cam"] for view in views]
        results["ori_cam2img"] = copy.deepcopy(results["cam2img"])
        results["img"], results["num_views"], results["scale_factor"] = images, len(images), 1.0
        size = tuple(np.max([image.shape[:2] for image in images], axis=0).tolist()) if images else (0, 0)
        results["img_shape"] = results["ori_shape"] = results["pad_shape"] = size
        return results


@TRANSFORMS.register_module()
class EqualizeViews(BaseTransform):
    """Scale the views of a frame to the size that most of them have, where the images of its cameras differ in size.

    For pipelines whose loader pads the views at the right and below to the largest, as mmdet3d's do, before all of them
    are scaled alike: padding would take the greater part of what a small view has of the network's input. It belongs
    behind the loader and the condition. Views of a loader that scales them are left as they are.

    Required keys: images, img, cam2img, lidar2cam. Modified keys: img, its shapes, cam2img and what is derived from it.
    """

    def transform(self, results: dict) -> dict:
        cameras, images = list(results.get("images", {})), results.get("img", ())
        sizes = [image_size(results["images"][camera]["img_path"]) for camera in cameras]
        if len(set(sizes)) < 2 or any(np.less(i.shape[:2], s).any() for i, s in zip(images, sizes, strict=True)):
            return results
        (height, width), _ = Counter(sizes).most_common(1)[0]
        before, after = [], []
        for number, (camera, image, (rows, columns)) in enumerate(zip(cameras, images, sizes, strict=True)):
            cam2img = np.array(results["cam2img"][number], np.float64)[:3, :3]
            before.append(View(camera, image, cam2img, np.asarray(results["lidar2cam"][number])))
            smaller = rows > height or columns > width
            view = np.ascontiguousarray(image[:rows, :columns])
            view = cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
            scaled = np.diag([width / columns, height / rows, 1.0]) @ cam2img
            after.append(replace(before[-1], image=view, cam2img=scaled))
        results.update(renewed_matrices(results, before, after))
        results["img"] = [view.image for view in after]
        for number, view in enumerate(after):
            matrix = np.array(results["cam2img"][number])
            matrix[:3, :3] = view.cam2img
            results["cam2img"][number] = matrix if isinstance(results["cam2img"], np.ndarray) else matrix.tolist()
        results["img_shape"] = results["ori_shape"] = results["pad_shape"] = (height, width)
        return results


@TRANSFORMS.register_module()
class AddProjections(BaseTransform):
    """Add ``lidar2img`` [N, 4, 4] float64: LiDAR frame (metres) to pixels of the loaded images."""

    def transform(self, results: dict) -> dict:
        views = zip(results["cam2img"], results["lidar2cam"], strict=True)
        projections = [lidar_to_image(*view) for view in views]
        results["lidar2img"] = np.stack(projections) if projections else np.zeros((0, 4, 4))
        return results


@TRANSFORMS.register_module()
class ResizeViews(BaseTransform):
    """Resize every view by itself to the target width and keep its bottom rows (the sky is what can go).

    Args:
        size: target (height, width) in pixels. A view that is too low after resizing is padded at the top.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size

    def transform(self, results: dict) -> dict:
        images = []
        for view, image in enumerate(results["img"]):
            scale = self.width / image.shape[1]
            rows = round(image.shape[0] * scale)
            if image.shape[:2] != (rows, self.width):
                image = cv2.resize(image, (self.width, rows), interpolation=cv2.INTER_AREA)
            shift = self.height - rows
            if shift < 0:
                image = image[-shift:]
            elif shift > 0:
                image = cv2.copyMakeBorder(image, shift, 0, 0, 0, cv2.BORDER_CONSTANT, value=0)
            warp = np.diag([scale, scale, 1.0, 1.0])
            warp[1, 2] = shift
            results["lidar2img"][view] = warp @ results["lidar2img"][view]
            images.append(np.ascontiguousarray(image))
        results["img"] = images
        results["img_shape"] = results["pad_shape"] = (self.height, self.width)
        return results


@TRANSFORMS.register_module()
class RandomRotate180(BaseTransform):
    """Rotate points, boxes and projections by 180 degrees about z with probability ``prob``; images do not change.

    Unlike a flip it keeps traffic on its side of the road, so that headings stay predictable from positions.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def transform(self, results: dict) -> dict:
        if np.random.rand() >= self.prob:
            return results
        # Two flips are half a turn, without the rounding of sin(pi).
        for direction in ("horizontal", "vertical"):
            results["points"].flip(direction)
            if "gt_bboxes_3d" in results:
                results["gt_bboxes_3d"].flip(direction)
        results["lidar2img"] = results["lidar2img"] @ np.diag([-1.0, -1.0, 1.0, 1.0])
        return results
