"""Matrices that loaders derive from a camera's calibration: renewed after a condition has changed it, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from aqr_bench.corruptions import View
from aqr_bench.errors import UserError

CALIBRATION = frozenset(["cam2img", "lidar2cam"])


def _intrinsics(view: View) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(view.cam2img)[:3, :3]
    return matrix


def _lidar2img(view: View) -> np.ndarray:
    return _intrinsics(view) @ view.lidar2cam


# By key of the sample, [4, 4] each. mmdet3d's loaders derive ori_cam2img, that of its BEVFusion the others too.
DERIVED: Mapping[str, Callable[[View], np.ndarray]] = {
    "cam2lidar": lambda view: np.linalg.inv(view.lidar2cam),
    "lidar2img": _lidar2img,
    "img2lidar": lambda view: np.linalg.inv(_lidar2img(view)),
    "ori_cam2img": _intrinsics,
    "ori_lidar2img": _lidar2img,
}


def renewed_matrices(results: Mapping[str, Any], before: Sequence[View], after: Sequence[View]) -> dict[str, Any]:
    """Matrices per camera that a loader left in ``results``, for the views after a condition; shaped as they were.

    Nothing where the condition changed no calibration and removed no camera.

    Raises:
        UserError: one that is not known, so that a model would see half of a calibration error.
    """
    if len(before) == len(after) and all(map(_same_calibration, before, after)):
        return {}
    renewed = {}
    for key, value in results.items():
        shape = _matrix_shape(value, len(before))
        if shape is None or key in CALIBRATION:
            continue
        if key not in DERIVED:
            raise UserError(
                f"the pipeline leaves '{key}', a matrix per camera, before the condition changes the calibration",
                f"Compute it behind SensorCondition, or name it as one of {', '.join(DERIVED)}.",
            )
        dtype = np.asarray(value).dtype
        matrices = [DERIVED[key](view)[: shape[0], : shape[1]].astype(dtype) for view in after]
        if isinstance(value, np.ndarray):
            renewed[key] = np.stack(matrices) if matrices else np.zeros((0, *shape), dtype)
        else:
            renewed[key] = matrices
    return renewed


def _same_calibration(a: View, b: View) -> bool:
    same = a.camera == b.camera and np.array_equal(a.cam2img, b.cam2img)
    return same and np.array_equal(a.lidar2cam, b.lidar2cam)


def _matrix_shape(value: Any, cameras: int) -> tuple[int, int] | None:
    """Rows and columns of a list or array of one calibration matrix per camera; None for anything else."""
    if not isinstance(value, list | tuple | np.ndarray) or not cameras or len(value) != cameras:
        return None
    shapes = {np.shape(matrix) if isinstance(matrix, list | tuple | np.ndarray) else () for matrix in value}
    shape = shapes.pop() if len(shapes) == 1 else ()
    return shape if len(shape) == 2 and set(shape) <= {3, 4} else None
