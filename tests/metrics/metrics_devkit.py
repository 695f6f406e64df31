"""The fast metric behind the devkit's own functions: EvalBoxes in, DetectionMetricData out.

``accumulate``, ``calc_ap``, ``calc_tp`` and ``filter_eval_boxes`` take what nuscenes-devkit's take and return what they
return, so that the devkit's own unit tests run on the fast metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionMetricData
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from aqr_bench.metrics.boxes import BoxArrays, from_eval_boxes
from aqr_bench.metrics.greedy_matching import match
from aqr_bench.metrics.ground_truth import BIKE_RACK, kept
from aqr_bench.metrics.nuscenes import average_precision, curve, matched_errors, mean_error

calc_ap = average_precision
calc_tp = mean_error


def accumulate(
    gt_boxes: Any,
    pred_boxes: Any,
    class_name: str,
    dist_fcn: Callable[[Any, Any], float],
    dist_th: float,
    verbose: bool = False,
) -> DetectionMetricData:
    """Curves of one class at one threshold; ``dist_fcn`` may be any function of an object and a detection."""
    truth, found, samples, kept_boxes = _arrays(gt_boxes, pred_boxes, class_name)
    label = DETECTION_NAMES.index(class_name)
    if verbose:
        print(f"{class_name}: {len(truth)} objects, {len(found)} detections")
    objects, detections = kept_boxes
    own = None if dist_fcn is center_distance else lambda t, row: dist_fcn(objects[t], detections[row])
    matching = match(truth, found, samples, [dist_th], own)
    hit = matching.matched[:, 0] >= 0
    errors = matched_errors(truth, found, matching)[0]
    part = matching.of(label)
    return curve(found.score[matching.order][part], hit[part], errors, len(truth))


def _arrays(gt_boxes: Any, pred_boxes: Any, name: str) -> tuple[BoxArrays, BoxArrays, int, tuple[list, list]]:
    """Boxes of one class on both sides as arrays, the number of samples, and the boxes themselves."""
    listed = [[box for t in side.sample_tokens for box in side[t]] for side in (gt_boxes, pred_boxes)]
    tokens = dict.fromkeys([*gt_boxes.sample_tokens, *pred_boxes.sample_tokens, *(b.sample_token for b in listed[1])])
    number = {token: i for i, token in enumerate(tokens)}
    truth, found = from_eval_boxes(gt_boxes, number), from_eval_boxes(pred_boxes, number, use_box_token=True)
    label = DETECTION_NAMES.index(name)
    rows = [np.flatnonzero(boxes.label == label) for boxes in (truth, found)]
    chosen = tuple([side[i] for i in index] for side, index in zip(listed, rows, strict=True))
    return truth[rows[0]], found[rows[1]], len(number), chosen


def filter_eval_boxes(nusc: Any, eval_boxes: Any, max_dist: Mapping[str, float], verbose: bool = False) -> Any:
    """Remove boxes out of range, without points, or cycles in bicycle racks; ``eval_boxes`` itself is changed."""
    tokens = eval_boxes.sample_tokens
    boxes = from_eval_boxes(eval_boxes, {token: i for i, token in enumerate(tokens)})
    everything = [box for token in tokens for box in eval_boxes[token]]
    racks: dict[int, tuple[Box, ...]] = {}
    for i, token in enumerate(tokens):
        records = [nusc.get("sample_annotation", a) for a in nusc.get("sample", token)["anns"]]
        records = [r for r in records if r["category_name"] == BIKE_RACK]
        if records:
            racks[i] = tuple(Box(r["translation"], r["size"], Quaternion(r["rotation"])) for r in records)
    offset = np.array([box.ego_translation[:2] for box in everything], dtype=np.float64).reshape(-1, 2)
    stays = kept(boxes, offset, racks, max_dist)
    if verbose:
        print(f"{len(boxes)} boxes, {int(stays.sum())} of them kept")
    for i, token in enumerate(tokens):
        rows = np.flatnonzero(stays & (boxes.sample == i))
        eval_boxes.boxes[token] = [everything[row] for row in rows]
    return eval_boxes
