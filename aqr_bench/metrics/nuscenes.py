"""The nuScenes detection metric on arrays: the devkit's numbers, curves and failures, many times faster.

nuscenes-devkit stays the reference: tests and ``cross_check`` compare with it to 1e-9. Sources: nuscenes-devkit 1.2,
eval/detection/algo.py (curves, AP), data_classes.py (mAP, NDS) and eval/common/utils.py (errors of a pair).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.eval.detection.constants import DETECTION_NAMES, TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionMetricData
from pyquaternion import Quaternion

from aqr_bench.metrics.boxes import NO_ATTRIBUTE, BoxArrays
from aqr_bench.metrics.greedy_matching import Distance, Matching, match

RECALL = np.linspace(0, 1, DetectionMetricData.nelem)
TRANSLATION, SCALE, ORIENTATION, VELOCITY, ATTRIBUTE = (
    TP_METRICS.index(f"{name}_err") for name in ("trans", "scale", "orient", "vel", "attr")
)
BARRIER = DETECTION_NAMES.index("barrier")
# What a class does not have: a cone no heading, neither of them a speed or attributes (eval/detection/evaluate.py).
UNDEFINED = {"traffic_cone": (ORIENTATION, VELOCITY, ATTRIBUTE), "barrier": (VELOCITY, ATTRIBUTE)}
_UPRIGHT = 1e-6  # a heading whose part in the plane is shorter than this is mostly rounding


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    summary   the devkit's summary: mean_ap, nd_score, tp_errors, mean_dist_aps, label_aps, label_tp_errors
    curves    by class and distance threshold: recall, precision, confidence and the five errors, 101 values each
    matching  which detection is matched to which object
    errors    by distance threshold: of the matched detections, in the order of ``matching``, [M, 5]
    """

    summary: dict[str, Any]
    curves: Mapping[tuple[str, float], DetectionMetricData]
    matching: Matching
    errors: tuple[np.ndarray, ...]


def evaluate(
    truth: BoxArrays, detections: BoxArrays, samples: int, config: Any, distance: Distance | None = None
) -> Evaluation:
    """Evaluate filtered boxes as DetectionEval.evaluate does.

    Args:
        truth, detections: of ``samples`` samples; see ground_truth.filter_boxes.
        config: DetectionConfig (classes, thresholds, min recall and precision, weight of mAP).
        distance: see greedy_matching.match.
    Raises:
        AssertionError, as the devkit does: a matched box of no size, negative scores.
    """
    matching = match(truth, detections, samples, config.dist_ths, distance)
    errors = matched_errors(truth, detections, matching)
    names = list(config.class_names)
    score = detections.score[matching.order]
    positives = np.bincount(truth.label, minlength=len(DETECTION_NAMES))
    curves: dict[tuple[str, float], DetectionMetricData] = {}
    for d, threshold in enumerate(config.dist_ths):
        hit = matching.matched[:, d] >= 0
        before = np.concatenate([[0], np.cumsum(hit)])
        for name in names:
            label = DETECTION_NAMES.index(name)
            part = matching.of(label)
            class_errors = errors[d][before[part.start] : before[part.stop]]
            curves[name, threshold] = curve(score[part], hit[part], class_errors, int(positives[label]))
    return Evaluation(summarise(curves, config), curves, matching, errors)


def matched_errors(truth: BoxArrays, detections: BoxArrays, matching: Matching) -> tuple[np.ndarray, ...]:
    """Errors [M, 5] of the pairs at each threshold, in the order of ``matching``; each pair is evaluated once."""
    rank, d = np.nonzero(matching.matched >= 0)
    row = matching.matched[rank, d]
    new = np.ones(len(rank), dtype=bool)
    new[1:] = (np.diff(rank) != 0) | (np.diff(row) != 0)
    errors = pair_errors(truth[row[new]], detections[matching.order[rank[new]]])[np.cumsum(new) - 1]
    return tuple(errors[d == k] for k in range(matching.matched.shape[1]))


def curve(score_N: np.ndarray, hit_N: np.ndarray, errors_M5: np.ndarray, positives: int) -> DetectionMetricData:
    """Curves over recall of one class at one threshold, from its detections in descending order."""
    if not positives or not hit_N.any():
        return DetectionMetricData.no_predictions()
    hits = np.cumsum(hit_N).astype(np.float64)
    recall = hits / positives
    precision = np.interp(RECALL, recall, hits / np.arange(1, len(hits) + 1), right=0)
    confidence = np.interp(RECALL, recall, score_N, right=0)
    matched = score_N[hit_N][::-1]
    errors = {
        name: np.interp(confidence[::-1], matched, running_mean(errors_M5[:, k])[::-1])[::-1]
        for k, name in enumerate(TP_METRICS)
    }
    return DetectionMetricData(RECALL.copy(), precision, confidence, **errors)


def running_mean(x_M: np.ndarray) -> np.ndarray:
    """Mean of the values so far, those that are NaN left out: 0 before the first number, 1 where all are NaN."""
    valid = ~np.isnan(x_M)
    if not valid.any():
        return np.ones(len(x_M))
    total, count = np.nancumsum(x_M.astype(np.float64)), np.cumsum(valid)
    return np.divide(total, count, out=np.zeros_like(total), where=count != 0)


def average_precision(data: DetectionMetricData, min_recall: float, min_precision: float) -> float:
    """Area under the precision curve beyond the min recall and above the min precision, as a fraction."""
    if not (0 <= min_precision < 1 and 0 <= min_recall <= 1):
        raise AssertionError("min recall and precision must be between 0 and 1, the precision below 1")
    above = data.precision[first_bin(min_recall) :] - min_precision
    return float(np.mean(np.where(above < 0, 0.0, above))) / (1.0 - min_precision)


def mean_error(data: DetectionMetricData, min_recall: float, metric_name: str) -> float:
    """Mean of an error's curve from the min recall to the max recall reached; 1 where that is not reached."""
    first, reached = first_bin(min_recall), np.flatnonzero(data.confidence)
    last = reached[-1] if len(reached) else 0
    return 1.0 if last < first else float(np.mean(getattr(data, metric_name)[first : last + 1]))


def first_bin(min_recall: float) -> int:
    """First bin of the curves that counts: the bin of the min recall itself does not."""
    return round(100 * min_recall) + 1


# ---------------------------------------------------------------- errors of matched pairs


def pair_errors(truth: BoxArrays, detections: BoxArrays) -> np.ndarray:
    """Errors [M, 5] of M pairs (row by row), in the order of the devkit's TP_METRICS.

    NaN: attribute of an object without one, velocity where one is unknown, orientation that is NaN.
    Raises AssertionError, as the devkit does, for a box whose size is not above 0.
    """
    errors = np.empty((len(truth), len(TP_METRICS)))
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        errors[:, TRANSLATION] = _length(detections.translation[:, :2] - truth.translation[:, :2])
        errors[:, SCALE] = 1 - scale_iou(truth.size, detections.size)
        period = np.where(truth.label == BARRIER, np.pi, 2 * np.pi)
        errors[:, ORIENTATION] = angle_between(yaw(truth.rotation), yaw(detections.rotation), period)
        errors[:, VELOCITY] = _length(detections.velocity - truth.velocity)
    errors[:, ATTRIBUTE] = np.where(
        truth.attribute == NO_ATTRIBUTE, np.nan, (truth.attribute != detections.attribute).astype(np.float64)
    )
    return errors


def _length(vector_M2: np.ndarray) -> np.ndarray:
    """Euclidean length; no hypot, which does not overflow where the devkit does."""
    return np.sqrt(vector_M2[:, 0] * vector_M2[:, 0] + vector_M2[:, 1] * vector_M2[:, 1])


def scale_iou(truth_M3: np.ndarray, detected_M3: np.ndarray) -> np.ndarray:
    """Intersection over union [M] of boxes with one centre and heading; AssertionError for a size not above 0."""
    assert (truth_M3 > 0).all(), "sizes of ground truth must be above 0"
    assert (detected_M3 > 0).all(), "sizes of detections must be above 0"
    shared = np.prod(np.minimum(truth_M3, detected_M3), axis=1)
    return shared / (np.prod(truth_M3, axis=1) + np.prod(detected_M3, axis=1) - shared)


def yaw(rotation_M4: np.ndarray) -> np.ndarray:
    """Heading [M] in radians: where the rotated x axis points in the plane."""
    q = np.asarray(rotation_M4, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        w, x, y, z = (q / np.sqrt((q * q).sum(axis=1, keepdims=True))).T
        ahead, left = w * w + x * x - y * y - z * z, 2 * (x * y + w * z)
        # For upright, zero and infinite quaternions the devkit's rounding decides: use its function.
        odd = np.flatnonzero(~(ahead * ahead + left * left > _UPRIGHT**2))
    angle = np.arctan2(left, ahead)
    with np.errstate(all="ignore"):
        angle[odd] = [quaternion_yaw(Quaternion(q[row])) for row in odd]
    return angle


def angle_between(x_M: np.ndarray, y_M: np.ndarray, period: np.ndarray | float) -> np.ndarray:
    """Smallest angle [M] between headings that are the same after a period, radians."""
    difference = (x_M - y_M + period / 2) % period - period / 2
    return np.abs(np.where(difference > np.pi, difference - 2 * np.pi, difference))


# ---------------------------------------------------------------- the summary


def summarise(curves: Mapping[tuple[str, float], DetectionMetricData], config: Any) -> dict[str, Any]:
    """The devkit's metrics summary: AP, errors and their means, mAP, NDS."""
    names, limits = list(config.class_names), list(config.dist_ths)
    aps = {
        n: {d: average_precision(curves[n, d], config.min_recall, config.min_precision) for d in limits} for n in names
    }
    errors = {
        name: {
            metric: np.nan
            if k in UNDEFINED.get(name, ())
            else mean_error(curves[name, config.dist_th_tp], config.min_recall, metric)
            for k, metric in enumerate(TP_METRICS)
        }
        for name in names
    }
    ap_CD = np.array([list(aps[name].values()) for name in names])
    error_C5 = np.array([list(errors[name].values()) for name in names])
    mean_ap, mean_errors, nds = means(ap_CD[None], error_C5[None], config.mean_ap_weight)
    return {
        "mean_ap": float(mean_ap[0]),
        "nd_score": float(nds[0]),
        "tp_errors": dict(zip(TP_METRICS, mean_errors[0].tolist(), strict=True)),
        "mean_dist_aps": dict(zip(names, ap_CD.mean(1).tolist(), strict=True)),
        "label_aps": aps,
        "label_tp_errors": errors,
    }


def means(ap_RCD: np.ndarray, error_RC5: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mAP [R], mean errors [R, 5] and NDS [R] of R evaluations.

    Args:
        ap_RCD: AP by class and threshold.
        error_RC5: errors by class, NaN where a class does not have one.
        weight: of mAP in NDS, against the five error scores.
    """
    mean_ap = ap_RCD.mean(2).mean(1)
    valid = ~np.isnan(error_RC5)
    with np.errstate(invalid="ignore"):
        errors = np.where(valid, error_RC5, 0).sum(1) / valid.sum(1)
    score = 1 - errors
    score = np.where(score > 0, score, 0)  # an error that no class has scores 0, as max(0.0, nan) does
    return mean_ap, errors, (weight * mean_ap + score.sum(1)) / (weight + score.shape[1])
