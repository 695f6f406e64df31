"""Boxes of many samples as arrays, and the checks of their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES

from aqr_bench.errors import UserError

NO_ATTRIBUTE = -1
NOT_COUNTED = -1  # points in the box: the devkit's value
LABEL_INDEX = {name: i for i, name in enumerate(DETECTION_NAMES)}
ATTRIBUTE_INDEX = {"": NO_ATTRIBUTE, **{name: i for i, name in enumerate(ATTRIBUTE_NAMES)}}
WIDTHS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}
# Columns of the properties that boxes are sliced by, see slices.py; detections have the first three alone.
PROPERTIES = ("range_m", "speed_m_s", "longest_side_m", "lidar_points", "visibility")
DETECTED_PROPERTIES = 3


@dataclass(frozen=True)
class BoxArrays:
    """N boxes in the global frame, sample after sample.

    sample       [N] int32, index of the sample
    label        [N] int8, index into the devkit's DETECTION_NAMES
    translation  [N, 3] centre, metres
    size         [N, 3] width, length, height, metres
    rotation     [N, 4] quaternion w, x, y, z
    velocity     [N, 2] m/s; NaN where unknown
    score        [N], -1 for ground truth
    attribute    [N] int8, index into the devkit's ATTRIBUTE_NAMES; -1: none
    points       [N] int32, LiDAR and radar points inside; -1: not counted
    """

    sample: np.ndarray
    label: np.ndarray
    translation: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    velocity: np.ndarray
    score: np.ndarray
    attribute: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, rows: Any) -> BoxArrays:
        return BoxArrays(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[BoxArrays]) -> BoxArrays:
        """All boxes of the parts, in their order."""
        parts = [cls.empty(), *parts]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @classmethod
    def empty(cls) -> BoxArrays:
        """No boxes, with the data types of all arrays."""
        geometry = [np.zeros((0, width)) for width in WIDTHS.values()]
        sample, label, attribute, points = (np.zeros(0, kind) for kind in (np.int32, np.int8, np.int8, np.int32))
        return cls(sample, label, *geometry, np.zeros(0), attribute, points)


def box_properties(boxes: BoxArrays, offset_N2: np.ndarray) -> np.ndarray:
    """Range, speed and longest side [N, 3] float32 in m and m/s; NaN for a speed that is not known.

    ``offset_N2``: where the boxes are as seen from the vehicle, in the plane.
    """
    range_m, speed_m_s = (np.sqrt((vector**2).sum(1)) for vector in (offset_N2, boxes.velocity))
    longest = boxes.size.max(axis=1) if len(boxes) else np.zeros(0)
    return np.stack([range_m, speed_m_s, longest], axis=1).astype(np.float32)


def raise_if_invalid(boxes: BoxArrays, where: str) -> None:
    """The devkit's checks of boxes, as UserError that begins with ``where``; velocities may be NaN."""
    for key, width in WIDTHS.items():
        values = getattr(boxes, key)
        if values.shape != (len(boxes), width):
            raise UserError(f"{where}: {key} of a box must be {width} numbers")
        if key != "velocity" and np.isnan(values).any():
            raise UserError(f"{where}: {key} of a box is NaN")
    if np.isnan(boxes.score).any():
        raise UserError(f"{where}: detection_score is NaN")
