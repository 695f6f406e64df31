"""The metric behind the devkit's functions: EvalBoxes in, DetectionMetricData out.

``accumulate``, ``calc_ap``, ``calc_tp`` and ``filter_eval_boxes`` take what nuscenes-devkit's take and return what they
return, so that the devkit's unit tests run on our metric. ``from_eval_boxes`` and ``match_boxes`` start from EvalBoxes.
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

from aqr_bench.metrics.boxes import ATTRIBUTE_INDEX, LABEL_INDEX, WIDTHS, BoxArrays
from aqr_bench.metrics.greedy_matching import match
from aqr_bench.metrics.ground_truth import BIKE_RACK, filter_mask
from aqr_bench.metrics.matches import Matches, collect_matches
from aqr_bench.metrics.nuscenes import average_precision, curve, evaluate, matched_errors, mean_error

calc_ap = average_precision
calc_tp = mean_error


def from_eval_boxes(boxes: Any, sample_index: Mapping[str, int], use_box_token: bool = False) -> BoxArrays:
    """The devkit's EvalBoxes, in the order of its ``all``.

    Args:
        sample_index: index of each sample token.
        use_box_token: take the sample that a box names (as the devkit matches detections), not the one it is listed
            under.
    """
    rows = [(t, box) for t in boxes.sample_tokens for box in boxes[t]]
    if not rows:
        return BoxArrays.empty()
    every = [box for _, box in rows]
    # A pyquaternion Quaternion is accepted for a rotation, as the devkit accepts it.
    geometry = [np.array([[*getattr(box, key)] for box in every], dtype=np.float64) for key in WIDTHS]
    return BoxArrays(
        np.array([sample_index[box.sample_token if use_box_token else t] for t, box in rows], dtype=np.int32),
        np.array([LABEL_INDEX[box.detection_name] for box in every], dtype=np.int8),
        *geometry,
        np.array([box.detection_score for box in every], dtype=np.float64),
        np.array([ATTRIBUTE_INDEX[box.attribute_name] for box in every], dtype=np.int8),
        np.array([box.num_pts for box in every], dtype=np.int32),
    )


def match_boxes(truth: Any, detections: Any, scene_of: Mapping[str, str], config: Any) -> Matches:
    """Match the devkit's filtered boxes as its ``accumulate`` does.

    Args:
        truth, detections: EvalBoxes of DetectionEval, ``gt_boxes`` and ``pred_boxes``.
        scene_of: scene name by sample token.
        config: DetectionConfig (classes, thresholds, distance in the plane).
    """
    samples = tuple(dict.fromkeys([*truth.sample_tokens, *detections.sample_tokens]))
    sample_index = {token: i for i, token in enumerate(samples)}
    scenes = tuple(sorted({scene_of[token] for token in samples}))
    scene_of_sample = np.array([scenes.index(scene_of[token]) for token in samples], dtype=np.int64)
    truth_boxes = from_eval_boxes(truth, sample_index)
    detected = from_eval_boxes(detections, sample_index, use_box_token=True)
    evaluation = evaluate(truth_boxes, detected, len(samples), config)
    return collect_matches(evaluation, truth_boxes, detected, samples, scenes, scene_of_sample, config)


def accumulate(
    gt_boxes: Any,
    pred_boxes: Any,
    class_name: str,
    dist_fcn: Callable[[Any, Any], float],
    dist_th: float,
    verbose: bool = False,
) -> DetectionMetricData:
    """Curves of one class at one threshold; ``dist_fcn`` may be any function of an object and a detection."""
    truth, detections, samples, chosen_boxes = _arrays(gt_boxes, pred_boxes, class_name)
    label = DETECTION_NAMES.index(class_name)
    if verbose:
        print(f"{class_name}: {len(truth)} objects, {len(detections)} detections")
    object_boxes, detection_boxes = chosen_boxes
    custom = None if dist_fcn is center_distance else lambda t, row: dist_fcn(object_boxes[t], detection_boxes[row])
    matching = match(truth, detections, samples, [dist_th], custom)
    hit = matching.matched[:, 0] >= 0
    errors = matched_errors(truth, detections, matching)[0]
    part = matching.of(label)
    return curve(detections.score[matching.order][part], hit[part], errors, len(truth))


def _arrays(gt_boxes: Any, pred_boxes: Any, name: str) -> tuple[BoxArrays, BoxArrays, int, tuple[list, list]]:
    """Boxes of one class on both sides as arrays, the count of samples, and the boxes themselves."""
    sides = [[box for t in side.sample_tokens for box in side[t]] for side in (gt_boxes, pred_boxes)]
    tokens = dict.fromkeys([*gt_boxes.sample_tokens, *pred_boxes.sample_tokens, *(b.sample_token for b in sides[1])])
    sample_index = {token: i for i, token in enumerate(tokens)}
    truth = from_eval_boxes(gt_boxes, sample_index)
    detections = from_eval_boxes(pred_boxes, sample_index, use_box_token=True)
    label = DETECTION_NAMES.index(name)
    rows = [np.flatnonzero(boxes.label == label) for boxes in (truth, detections)]
    chosen = tuple([side[i] for i in index] for side, index in zip(sides, rows, strict=True))
    return truth[rows[0]], detections[rows[1]], len(sample_index), chosen


def filter_eval_boxes(nusc: Any, eval_boxes: Any, max_dist: Mapping[str, float], verbose: bool = False) -> Any:
    """Remove boxes out of range, without points, or cycles in bicycle racks; ``eval_boxes`` itself is changed."""
    tokens = eval_boxes.sample_tokens
    boxes = from_eval_boxes(eval_boxes, {token: i for i, token in enumerate(tokens)})
    every_box = [box for token in tokens for box in eval_boxes[token]]
    racks: dict[int, tuple[Box, ...]] = {}
    for i, token in enumerate(tokens):
        records = [nusc.get("sample_annotation", a) for a in nusc.get("sample", token)["anns"]]
        records = [r for r in records if r["category_name"] == BIKE_RACK]
        if records:
            racks[i] = tuple(Box(r["translation"], r["size"], Quaternion(r["rotation"])) for r in records)
    offset = np.array([box.ego_translation[:2] for box in every_box], dtype=np.float64).reshape(-1, 2)
    mask = filter_mask(boxes, offset, racks, max_dist)
    if verbose:
        print(f"{len(boxes)} boxes, {int(mask.sum())} of them left")
    for i, token in enumerate(tokens):
        rows = np.flatnonzero(mask & (boxes.sample == i))
        eval_boxes.boxes[token] = [every_box[row] for row in rows]
    return eval_boxes
