"""mmdet3d transforms that change sensor data: test conditions, masked-modal training, fingerprint of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from aqr_bench import compat

compat.prepare()

from mmcv.transforms import BaseTransform  # noqa: E402
from mmdet3d.registry import TRANSFORMS  # noqa: E402

import aqr_bench.data.nuscenes_dataset  # noqa: E402, F401  registers the data set of every pipeline
from aqr_bench.corruptions import (  # noqa: E402
    Cloud,
    Corruption,
    Frame,
    corrupt,
    get_composition,
    get_corruption,
    sample_fingerprint,
)
from aqr_bench.data.camera_matrices import renewed_matrices  # noqa: E402
from aqr_bench.data.raw_frames import (  # noqa: E402
    SWEEP_CLOUDS,
    BadFrameError,
    SceneHistory,
    SweepClouds,
    mounting,
    open_infos,
    sweep_clouds,
    view_of,
)
from aqr_bench.sensor_state import SensorState  # noqa: E402


@TRANSFORMS.register_module()
class SensorCondition(BaseTransform):
    """Apply a named condition (aqr_bench.corruptions) to raw points, sweeps, images and calibration.

    It belongs after the loaders of keyframe and images, and before sweeps are merged (``LoadPoseCorrectedSweeps``) and
    projections computed (``AddProjections``): only there every LiDAR point still has its ring index.

    Required keys: token, and per sensor that the pipeline loads: points, lidar_points, lidar_sweeps, timestamp; img,
    images, cam2img, lidar2cam. Added keys: sensor_state, sweep_clouds (:class:`SweepClouds`, for
    ``LoadPoseCorrectedSweeps``), cameras. Modified keys: points, img, images, cam2img, lidar2cam, num_views, and what
    loaders derived from the calibration, see ``data.camera_matrices``.

    Args:
        name, severity, options: as in a suite of conditions. ``seed``: benchmark seed of its randomness.
        corruptions: instead of these three, corruptions that are applied one after the other, as in a suite.
        sweeps_num: LiDAR sweeps that ``LoadPoseCorrectedSweeps`` will merge; as many are loaded and corrupted here.
        ann_file, data_root: info file and root of the data set, for conditions that need earlier frames.
    """

    def __init__(
        self,
        name: str = "clean",
        severity: int | None = None,
        options: dict | None = None,
        seed: int = 0,
        sweeps_num: int = 0,
        ann_file: str | None = None,
        data_root: str | None = None,
        corruptions: Sequence[dict] = (),
    ) -> None:
        self.condition = get_composition(corruptions) if corruptions else get_corruption(name, severity, options)
        self.seed, self.sweeps_num, self.ann_file, self.data_root = seed, sweeps_num, ann_file, data_root

    def transform(self, results: dict) -> dict:
        return self._apply(results, self.condition, self.seed)

    def _apply(self, results: dict, condition: Corruption, seed: int) -> dict:
        before, after = self.frames(results, condition, seed)
        return update_results(results, before, after, self.sweeps_num)

    def frames(self, results: dict, condition: Corruption, seed: int) -> tuple[Frame, Frame]:
        """The raw data of a sample as loaded, and under a condition."""
        frame = frame_of(results, self.sweeps_num, self._history(results["token"], condition))
        return frame, corrupt(condition, frame, seed)

    def _history(self, token: str, condition: Corruption) -> SceneHistory | None:
        if "history" not in condition.needs or self.ann_file is None or self.data_root is None:
            return None
        infos = open_infos(self.ann_file, self.data_root)
        has_scene = "scene_token" in infos.infos[infos.index(token)]
        return SceneHistory(infos, token, self.sweeps_num) if has_scene else None


@TRANSFORMS.register_module()
class RandomCondition(SensorCondition):
    """Training under corruption: with probability ``prob`` one of the named conditions, with a new seed every time.

    The draws come from numpy's global generator; the transform itself has no state that changes from sample to sample.

    Args:
        names: ``[name]`` or ``[name@severity]`` each, all equally likely.
        prob: of a sample to be corrupted. The other arguments are those of :class:`SensorCondition`.
    """

    def __init__(self, names: Sequence[str], prob: float = 0.5, **kwargs: Any) -> None:
        if not names or not 0 <= prob <= 1:
            raise ValueError(f"RandomCondition: needs at least one name and 0 <= prob <= 1, got {names}, {prob}")
        super().__init__(**kwargs)
        self.prob = prob
        self.conditions = [get_corruption(name) for name in names]

    def transform(self, results: dict) -> dict:
        condition = self.condition
        if np.random.rand() < self.prob:
            condition = self.conditions[np.random.randint(len(self.conditions))]
        return self._apply(results, condition, seed=int(np.random.randint(2**31)))


@TRANSFORMS.register_module()
class SensorDropout(BaseTransform):
    """Masked-modal training: with the given probabilities a sample loses its LiDAR or its cameras.

    CMT trains with 0.25 and 0.25. Points and images are multiplied by 0, as the test conditions ``no_lidar`` and
    ``no_cameras`` have it; it belongs after the merging of sweeps.
    """

    def __init__(self, lidar: float = 0.25, cameras: float = 0.25) -> None:
        if lidar < 0 or cameras < 0 or lidar + cameras > 1:
            raise ValueError(f"SensorDropout: probabilities {lidar} and {cameras} must be >= 0 and sum to at most 1")
        self.lidar, self.cameras = lidar, cameras

    def transform(self, results: dict) -> dict:
        draw = np.random.rand()
        results["sensor_state"] = SensorState.CLEAN
        if draw < self.lidar:
            results["sensor_state"] = SensorState.NO_LIDAR
            if "points" in results:
                results["points"] = results["points"].new_point(results["points"].tensor * 0)
        elif draw < self.lidar + self.cameras:
            results["sensor_state"] = SensorState.NO_CAMERAS
            if "img" in results:
                results["img"] = [np.zeros_like(image) for image in results["img"]]
        return results


# Published configs name it InputProof, and pack its result under the key that it leaves.
@TRANSFORMS.register_module(name=["InputFingerprint", "InputProof"])
class InputFingerprint(BaseTransform):
    """Add a fingerprint of what the detector is about to see: ``input_proof``, a dict. It goes right before packing.

    A sensor that a condition removed altogether is deleted from the sample here, since packing cannot hold it.

    Raises:
        BadFrameError: something in it is not finite, which would leave the sample without detections.
    """

    def transform(self, results: dict) -> dict:
        points = results["points"].tensor.numpy() if "points" in results else np.zeros((0, 5), np.float32)
        images, projections = results.get("img", ()), results.get("lidar2img", ())
        for name, arrays in (("points", [points]), ("img", images), ("lidar2img", projections)):
            if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in map(np.asarray, arrays)):
                raise BadFrameError(f"sample {results['token']}: '{name}' is not finite behind the pipeline")
        fingerprint = sample_fingerprint(points, images, projections)
        results["input_proof"] = asdict(fingerprint)
        if "img" in results and not len(results["img"]):
            del results["img"]
        if results.get("sensor_state") == SensorState.NO_LIDAR and not len(points):
            results.pop("points", None)
        return results


def update_results(results: dict, frame: Frame, out: Frame, sweeps_num: int) -> dict:
    """Put a frame after a condition, ``out``, in the place of the one before; keys as :class:`SensorCondition` has."""
    results["sensor_state"] = out.state
    if "points" in results:
        key = out.clouds[0].points if out.clouds else np.zeros((0, results["points"].tensor.shape[1]), np.float32)
        results["points"] = results["points"].new_point(key)
        results[SWEEP_CLOUDS] = SweepClouds(sweeps_num, tuple(out.clouds[1:]))
    if "img" in results:
        dtype = results["img"][0].dtype if results["img"] else np.uint8
        results["img"] = [view.image.astype(dtype, copy=False) for view in out.views]
        results["cam2img"] = [view.cam2img.tolist() for view in out.views]  # as info files have it
        results["lidar2cam"] = [view.lidar2cam for view in out.views]
        cameras = {view.camera for view in out.views}
        results.update(renewed_matrices(results, frame.views, out.views))
        results["images"] = {camera: info for camera, info in results["images"].items() if camera in cameras}
        results["num_views"] = len(out.views)
        results["cameras"] = list(results["images"])
    return results


def frame_of(results: dict, sweeps_num: int, history: SceneHistory | None) -> Frame:
    """The raw data that the loaders of a pipeline left in ``results``; a sensor that it does not load is not there."""
    clouds: tuple[Cloud, ...] = ()
    if "points" in results:
        key = results["points"].tensor.numpy()
        name = results.get("lidar_points", {}).get("lidar_path", "key")
        sweeps = results.get("lidar_sweeps", [])[:sweeps_num]
        paths = [sweep["lidar_points"]["lidar_path"] for sweep in sweeps]
        clouds = (
            Cloud(key, np.eye(4), float(results.get("timestamp", 0.0)), str(name).rpartition("/")[2]),
            *sweep_clouds(sweeps, paths),
        )
    views = ()
    if "img" in results:
        infos = zip(results["images"].items(), results["img"], strict=True)
        # mmdet3d's loader stacks the views along the last axis: made contiguous here, since strided pixels are slow.
        views = tuple(view_of(c, info, np.ascontiguousarray(image, dtype=np.uint8)) for (c, info), image in infos)
    lidar2ego = mounting(results.get("lidar_points"))
    return Frame(results["token"], clouds, views, _boxes(results), history, lidar2ego=lidar2ego)


def _boxes(results: dict) -> np.ndarray | None:
    """[N, 7]: gravity centre, l, w, h, yaw of the annotated boxes of the detection classes; None without any."""
    annotations = results.get("eval_ann_info") or results.get("ann_info") or {}
    annotated = results.get("gt_bboxes_3d", annotations.get("gt_bboxes_3d"))
    if annotated is None:
        return None
    boxes = np.concatenate([annotated.gravity_center.numpy(), annotated.tensor[:, 3:7].numpy()], 1).astype(np.float64)
    labels = results.get("gt_labels_3d", annotations.get("gt_labels_3d"))
    return boxes if labels is None else boxes[np.asarray(labels) >= 0]
