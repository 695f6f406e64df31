"""Matches with all that slices and types of errors need: of random boxes, and of a few boxes put where a case asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from metrics_boxes import CONFIG, random_boxes
from metrics_devkit import from_eval_boxes
from nuscenes.eval.detection.constants import DETECTION_NAMES

from aqr_bench.metrics.boxes import BoxArrays, box_properties
from aqr_bench.metrics.matches import Matches, collect_matches
from aqr_bench.metrics.nuscenes import evaluate

DESCRIPTIONS = ("Night, rain", "After rain, bus", "dusk", "train, parked cars", "Night", "", "day", "rainy", "x", "y")


def with_properties(scenes: int = 10, seed: int = 0):
    """Truth, detections (arrays), and their matches; ranges, speeds and sizes are random, some speeds unknown."""
    truth, detections, scene_of = random_boxes(scenes=scenes, seed=seed, quality=4)
    tokens = tuple(scene_of)
    index = {token: i for i, token in enumerate(tokens)}
    rng = np.random.default_rng(seed)
    boxes = [spread(from_eval_boxes(side, index), rng) for side in (truth, detections)]
    names = tuple(sorted(set(scene_of.values())))
    scene = np.array([names.index(scene_of[token]) for token in tokens])
    objects = np.c_[box_properties(boxes[0], boxes[0].translation[:, :2]), rng.integers(0, 30, len(boxes[0]))]
    visibility = np.where(rng.uniform(size=len(objects)) < 0.1, np.nan, rng.integers(0, 4, len(objects)))
    properties = np.c_[objects, visibility].astype(np.float32), box_properties(boxes[1], boxes[1].translation[:, :2])
    result = evaluate(*boxes, len(tokens), CONFIG)
    matches = collect_matches(result, *boxes, tokens, names, scene, CONFIG, properties, DESCRIPTIONS[:scenes])
    return boxes, properties, matches


def spread(boxes: BoxArrays, rng: np.random.Generator) -> BoxArrays:
    velocity = rng.normal(0, 2, (len(boxes), 2)) * rng.integers(0, 2, (len(boxes), 1))
    velocity[rng.uniform(size=len(boxes)) < 0.1] = np.nan
    size = rng.uniform(0.5, 9, (len(boxes), 3))
    return replace(boxes, translation=3 * boxes.translation, velocity=velocity, size=size)


# ---------------------------------------------------------------- boxes of a case

OBJECTS = [("car", 20.0 * i, 0.0) for i in range(10)] + [("truck", 20.0 * i, 100.0) for i in range(10)]


def boxes(rows, scores=None, yaw: float = 0.0) -> BoxArrays:
    """Boxes of one sample from (class, x, y); ``scores`` None: ground truth."""
    n = len(rows)
    xyz = np.array([[x, y, 0.0] for _, x, y in rows]).reshape(n, 3)
    rotation = np.tile([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)], (n, 1))
    label = np.array([DETECTION_NAMES.index(name) for name, _, _ in rows], dtype=np.int8)
    score = np.full(n, -1.0) if scores is None else np.array(scores, dtype=float)
    zeros = np.zeros(n, dtype=np.int32)
    return BoxArrays(
        zeros, label, xyz, np.ones((n, 3)), rotation, np.zeros((n, 2)), score, zeros.astype(np.int8), zeros
    )


def matches_of(detections: BoxArrays, truth: BoxArrays | None = None) -> Matches:
    truth = boxes(OBJECTS) if truth is None else truth
    properties = np.zeros((len(truth), 5), np.float32), np.zeros((len(detections), 3), np.float32)
    where = ("sample",), ("scene",), np.zeros(1, np.int64)
    return collect_matches(evaluate(truth, detections, 1, CONFIG), truth, detections, *where, CONFIG, properties)


def detected(*changes, extra=(), yaw: float = 0.0) -> BoxArrays:
    """The objects as detected with score 0.5; ``changes``: (row, class, dx); ``extra``: (class, x, y, score)."""
    rows = list(OBJECTS)
    for row, name, dx in changes:
        rows[row] = (name, rows[row][1] + dx, rows[row][2])
    rows = [row for row in rows if row[0] is not None]
    return boxes(rows + [e[:3] for e in extra], [0.5] * len(rows) + [e[3] for e in extra], yaw)
