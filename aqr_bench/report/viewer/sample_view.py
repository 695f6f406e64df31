"""One sample under one condition as one model sees it: cloud, images, boxes by outcome, queries and their attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from aqr_bench.report.figures.detections import DrawnBoxes

if TYPE_CHECKING:
    from aqr_bench.engine.attention_maps import QueryAttention

# Outcomes of a box. The first two are of detections, the others of objects.
TRUE_POSITIVE, FALSE_POSITIVE, DETECTED_OBJECT, FALSE_NEGATIVE = "tp", "fp", "gt", "fn"
OUTCOMES = {
    TRUE_POSITIVE: "true positive",
    FALSE_POSITIVE: "false positive",
    FALSE_NEGATIVE: "false negative (missed object)",
    DETECTED_OBJECT: "ground truth of a true positive",
}


@dataclass(frozen=True)
class QueryViews:
    """What the router gives each query, and where the bias acts.

    reference_Q3, score_Q: reference points (m, LiDAR frame); largest class score of the last layer.
    weight_Q2: LiDAR and camera weight.
    bev_window_Q4: x0, y0, x1, y1 (m) of the window cells; None without a BEV window.
    camera_windows_W6: query, number of the camera, u0, v0, u1, v1 as shares of the network input's width and height;
        0 rows without a camera window.
    """

    reference_Q3: np.ndarray
    score_Q: np.ndarray
    weight_Q2: np.ndarray
    bev_window_Q4: np.ndarray | None
    camera_windows_W6: np.ndarray


@dataclass(frozen=True)
class SampleView:
    """A sample under a condition, with what a model detects.

    model, condition, token, scene: names; ``scene`` may be empty. ``timestamp_s``: of the keyframe.
    points_P4: x, y, z (m, LiDAR frame) and intensity, as the network gets them, with sweeps.
    images: RGB uint8 [h, w, 3] by camera, in the network's order; lidar2img: 4 x 4 by camera, to pixels of these.
    detections: those with a score of at least ``threshold``; ``true_positive_D``: which of them match an object.
    truth: None without annotations; ``detected_T``: which objects a detection matches.
    queries: None for a model without a router.
    attention: of a few queries, by the reason for their choice; empty for a detector without CMT's head.
    input_area: x0, y0, x1, y1 of what the network gets of an image, by camera, as shares of the image's width and
        height; a camera that is not in it: all of the image.
    """

    model: str
    condition: str
    token: str
    scene: str
    timestamp_s: float
    points_P4: np.ndarray
    images: Mapping[str, np.ndarray]
    lidar2img: Mapping[str, np.ndarray]
    detections: DrawnBoxes
    threshold: float
    truth: DrawnBoxes | None
    true_positive_D: np.ndarray
    detected_T: np.ndarray
    queries: QueryViews | None = None
    attention: Mapping[str, QueryAttention] = field(default_factory=dict)
    input_area: Mapping[str, np.ndarray] = field(default_factory=dict)

    def area_of(self, camera: str) -> np.ndarray:
        """``input_area`` of a camera, [4]."""
        return self.input_area.get(camera, np.array([0.0, 0.0, 1.0, 1.0]))

    def boxes_by_outcome(self) -> dict[str, DrawnBoxes]:
        """All boxes by outcome; every outcome has an entry. Without annotations all detections count as false."""
        truth = self.truth or DrawnBoxes(np.zeros((0, 7)), [])
        return {
            DETECTED_OBJECT: truth.select(self.detected_T),
            FALSE_NEGATIVE: truth.select(~self.detected_T),
            FALSE_POSITIVE: self.detections.select(~self.true_positive_D),
            TRUE_POSITIVE: self.detections.select(self.true_positive_D),
        }
