"""The five errors of matched pairs, as arrays: translation, scale, orientation, velocity, attribute.

Source of every formula: nuscenes-devkit 1.2, eval/common/utils.py.
"""

from __future__ import annotations

import numpy as np
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.eval.detection.constants import DETECTION_NAMES, TP_METRICS
from pyquaternion import Quaternion

from aqr_bench.metrics.boxes import NO_ATTRIBUTE, BoxArrays

TRANSLATION, SCALE, ORIENTATION, VELOCITY, ATTRIBUTE = (
    TP_METRICS.index(f"{name}_err") for name in ("trans", "scale", "orient", "vel", "attr")
)
BARRIER = DETECTION_NAMES.index("barrier")
# What a class does not have: a cone no heading, neither of them a speed or attributes (eval/detection/evaluate.py).
UNDEFINED = {"traffic_cone": (ORIENTATION, VELOCITY, ATTRIBUTE), "barrier": (VELOCITY, ATTRIBUTE)}
_UPRIGHT = 1e-6  # a heading whose part in the plane is shorter than this is mostly rounding


def pair_errors(truth: BoxArrays, found: BoxArrays) -> np.ndarray:
    """Errors [M, 5] of M pairs (row by row), in the order of the devkit's TP_METRICS.

    NaN: attribute of an object without one, velocity where one is unknown, orientation that is no number.
    Raises AssertionError, as the devkit does, for a box whose size is not above 0.
    """
    errors = np.empty((len(truth), len(TP_METRICS)))
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        errors[:, TRANSLATION] = _length(found.translation[:, :2] - truth.translation[:, :2])
        errors[:, SCALE] = 1 - scale_iou(truth.size, found.size)
        period = np.where(truth.label == BARRIER, np.pi, 2 * np.pi)
        errors[:, ORIENTATION] = angle_between(yaw(truth.rotation), yaw(found.rotation), period)
        errors[:, VELOCITY] = _length(found.velocity - truth.velocity)
    errors[:, ATTRIBUTE] = np.where(
        truth.attribute == NO_ATTRIBUTE, np.nan, (truth.attribute != found.attribute).astype(np.float64)
    )
    return errors


def _length(vector_M2: np.ndarray) -> np.ndarray:
    """Euclidean length; no hypot, which does not overflow where the devkit does."""
    return np.sqrt(vector_M2[:, 0] * vector_M2[:, 0] + vector_M2[:, 1] * vector_M2[:, 1])


def scale_iou(truth_M3: np.ndarray, found_M3: np.ndarray) -> np.ndarray:
    """Intersection over union [M] of boxes with one centre and heading; AssertionError for a size not above 0."""
    assert (truth_M3 > 0).all(), "sizes of ground truth must be above 0"
    assert (found_M3 > 0).all(), "sizes of detections must be above 0"
    shared = np.prod(np.minimum(truth_M3, found_M3), axis=1)
    return shared / (np.prod(truth_M3, axis=1) + np.prod(found_M3, axis=1) - shared)


def yaw(rotation_M4: np.ndarray) -> np.ndarray:
    """Heading [M] in radians: where the rotated x axis points in the plane."""
    q = np.asarray(rotation_M4, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        w, x, y, z = (q / np.sqrt((q * q).sum(axis=1, keepdims=True))).T
        ahead, left = w * w + x * x - y * y - z * z, 2 * (x * y + w * z)
        # Upright, zero and infinite ones, where the devkit's own rounding decides, are left to it.
        odd = np.flatnonzero(~(ahead * ahead + left * left > _UPRIGHT**2))
    angle = np.arctan2(left, ahead)
    with np.errstate(all="ignore"):
        angle[odd] = [quaternion_yaw(Quaternion(q[row])) for row in odd]
    return angle


def angle_between(x_M: np.ndarray, y_M: np.ndarray, period: np.ndarray | float) -> np.ndarray:
    """Smallest angle [M] between headings that are the same after a period, radians."""
    difference = (x_M - y_M + period / 2) % period - period / 2
    return np.abs(np.where(difference > np.pi, difference - 2 * np.pi, difference))
