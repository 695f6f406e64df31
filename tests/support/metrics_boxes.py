"""Random boxes as nuscenes-devkit's EvalBoxes, the devkit's AP of them, and comparison of box arrays."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.algo import accumulate, calc_ap
from nuscenes.eval.detection.data_classes import DetectionBox

from aqr_bench.metrics.boxes import BoxArrays

CONFIG = config_factory("detection_cvpr_2019")
PRESENT = ("car", "pedestrian", "bus", "truck")  # bus: no objects; truck: no detections; other classes: neither


def box(token: str, name: str, xy, score: float = -1.0) -> DetectionBox:
    attribute = {"car": "vehicle.parked", "pedestrian": "pedestrian.moving"}.get(name, "vehicle.parked")
    return DetectionBox(
        sample_token=token,
        translation=(float(xy[0]), float(xy[1]), 0.0),
        size=(2.0, 4.0, 1.5),
        detection_name=name,
        detection_score=score,
        attribute_name=attribute,
    )


def random_boxes(scenes: int = 6, samples: int = 2, seed: int = 0, ties: bool = True, quality: float = 1.0):
    """Truth, detections (EvalBoxes) and scene by sample; ``ties``: scores of two digits, so that many are equal.

    Some samples have no objects, some no detections; objects are close enough to compete for detections. Objects depend
    on ``seed`` alone; a higher ``quality`` means detections nearer to them.
    """
    rng = np.random.default_rng(seed)
    truth, detections, scene_of = EvalBoxes(), EvalBoxes(), {}
    for k in range(scenes * samples):
        token = f"sample{k}"
        scene_of[token] = f"scene-{k // samples:04d}"
        truths, boxes = [], []
        for name in PRESENT:
            centres = rng.uniform(-8, 8, (rng.integers(2, 7), 2))
            near = np.repeat(centres, 2, 0) + rng.normal(0, 0.7, (2 * len(centres), 2)) / quality
            centres_all = np.vstack([near, rng.uniform(-9, 9, (rng.integers(0, 8), 2))])
            right = np.arange(len(centres_all)) < len(near)
            scores = np.clip(rng.uniform(0, 0.6, len(centres_all)) + 0.3 * right, 0, 1)
            scores = np.round(scores, 2) if ties else scores
            if name != "bus" and k % 5 != 3:
                truths += [box(token, name, c) for c in centres]
            if name != "truck" and k % 7 != 5:
                boxes += [box(token, name, c, float(s)) for c, s in zip(centres_all, scores, strict=True)]
        order = rng.permutation(len(boxes))
        truth.add_boxes(token, truths)
        detections.add_boxes(token, [boxes[i] for i in order])
    return truth, detections, scene_of


def devkit_aps(truth: EvalBoxes, detections: EvalBoxes) -> dict[str, list[float]]:
    """AP by class and threshold, by the devkit itself."""

    def ap(name: str, distance: float) -> float:
        curve = accumulate(truth, detections, name, CONFIG.dist_fcn_callable, distance)
        return calc_ap(curve, CONFIG.min_recall, CONFIG.min_precision)

    return {name: [ap(name, d) for d in CONFIG.dist_ths] for name in CONFIG.class_names}


def assert_equal(a: BoxArrays, b: BoxArrays) -> None:
    """The same boxes bit by bit: data types, shapes and values, where NaN equals NaN."""
    for field in fields(BoxArrays):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert x.shape == y.shape and x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True), field.name
