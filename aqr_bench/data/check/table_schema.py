"""The thirteen tables of nuScenes v1.0: which fields they have, what a field holds, and which table it points to.

After the published schema (nuscenes-devkit, docs/schema_nuscenes.md), without the free texts that nothing reads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FARTHEST_M = 1e9  # no coordinate of a data set on Earth lies beyond
NORM_TOLERANCE = 1e-3  # of a rotation quaternion
_NUMBERS = frozenset([int, float])


@dataclass(frozen=True)
class Kind:
    """What a field holds.

    Args:
        wants: what a good value is, for messages.
        type: the JSON type as Python has it; a bool is no int.
        fits: is a value of that type good?
        all_fit: the same for a whole column at once, may say False where it does not know; None: ask one by one.
        table: the table that the value, a token, points to.
        many: the value is a list of tokens.
    """

    wants: str
    type: type
    fits: Callable[[Any], bool] = lambda value: True
    all_fit: Callable[[Sequence[Any]], bool] | None = lambda column: True
    table: str | None = None
    many: bool = False


def offenders(kind: Kind, column: Sequence[Any]) -> list[int]:
    """Positions in the column whose value is not of that kind."""
    if kind.all_fit is not None and set(map(type, column)) <= {kind.type} and kind.all_fit(column):
        return []
    return [i for i, value in enumerate(column) if not (type(value) is kind.type and kind.fits(value))]


def _vector(wants: str, length: int, fits: Callable[[np.ndarray], np.ndarray]) -> Kind:
    """A list of so many numbers; ``fits`` takes [N, length] float64 and gives [N] bool."""

    def one(value: list) -> bool:
        if len(value) != length or not set(map(type, value)) <= _NUMBERS:
            return False
        # Compared as Python numbers: an int may be too large for a float, and nan compares as False.
        return all(-FARTHEST_M <= x <= FARTHEST_M for x in value) and bool(fits(np.array([value], np.float64))[0])

    def column(values: Sequence[list]) -> bool:
        if not values or set(map(len, values)) != {length}:
            return not values
        if not set(map(type, itertools.chain.from_iterable(values))) <= _NUMBERS:
            return False
        try:
            array = np.array(values, np.float64)
        except OverflowError:
            return False
        return bool((np.abs(array) <= FARTHEST_M).all() and fits(array).all())

    return Kind(wants, list, one, column)


def _intrinsic(value: list) -> bool:
    """An empty list (no camera), or an invertible matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels."""
    if not value:
        return True
    if len(value) != 3 or any(type(row) is not list or len(row) != 3 for row in value):
        return False
    numbers = [x for row in value for x in row]
    if not set(map(type, numbers)) <= _NUMBERS or not all(-FARTHEST_M <= x <= FARTHEST_M for x in numbers):
        return False
    matrix = np.array(value, np.float64)
    focal = matrix[0, 0] > 0 and matrix[1, 1] > 0
    return bool(focal and np.allclose(matrix[2], [0, 0, 1]) and abs(np.linalg.det(matrix)) > 1e-3)


def _unit(array: np.ndarray) -> np.ndarray:
    return np.abs(np.linalg.norm(array, axis=1) - 1) <= NORM_TOLERANCE


def _all_texts(column: Sequence[list]) -> bool:
    return set(map(type, itertools.chain.from_iterable(column))) <= {str}


def _link(table: str, empty: bool = False) -> Kind:
    if empty:
        return Kind(f"a token of {table}.json, or ''", str, table=table)
    return Kind(f"a token of {table}.json", str, bool, all, table=table)


TOKEN = Kind("a text that is not empty", str, bool, all)
TEXT = Kind("a text", str)
FLAG = Kind("true or false", bool)
COUNT = Kind(
    "a whole number from 0",
    int,
    lambda value: 0 <= value < 2**63,
    lambda column: not column or (min(column) >= 0 and max(column) < 2**63),
)
PLACE = _vector("three finite numbers, in metres", 3, lambda array: np.ones(len(array), bool))
SIZE = _vector("width, length and height above 0, in metres", 3, lambda array: (array > 0).all(axis=1))
ROTATION = _vector("a rotation quaternion w, x, y, z of length 1", 4, _unit)
INTRINSIC = Kind("an invertible 3 x 3 matrix in pixels, or an empty list", list, _intrinsic, None)
TOKENS = Kind("a list of tokens", list, lambda value: set(map(type, value)) <= {str}, _all_texts, many=True)
ATTRIBUTES = Kind("a list of tokens of attribute.json", list, TOKENS.fits, _all_texts, "attribute", many=True)

SCHEMA: dict[str, dict[str, Kind]] = {
    "attribute": {"token": TOKEN, "name": TEXT},
    "calibrated_sensor": {
        "token": TOKEN,
        "sensor_token": _link("sensor"),
        "translation": PLACE,
        "rotation": ROTATION,
        "camera_intrinsic": INTRINSIC,
    },
    "category": {"token": TOKEN, "name": TEXT},
    "ego_pose": {"token": TOKEN, "timestamp": COUNT, "rotation": ROTATION, "translation": PLACE},
    "instance": {
        "token": TOKEN,
        "category_token": _link("category"),
        "nbr_annotations": COUNT,
        "first_annotation_token": _link("sample_annotation"),
        "last_annotation_token": _link("sample_annotation"),
    },
    "log": {"token": TOKEN, "logfile": TEXT, "location": TEXT},
    # No link: the maps of v1.0-mini name logs of the whole data set. But every log must be named by a map.
    "map": {"token": TOKEN, "filename": TOKEN, "log_tokens": TOKENS},
    "sample": {
        "token": TOKEN,
        "timestamp": COUNT,
        "prev": _link("sample", empty=True),
        "next": _link("sample", empty=True),
        "scene_token": _link("scene"),
    },
    "sample_annotation": {
        "token": TOKEN,
        "sample_token": _link("sample"),
        "instance_token": _link("instance"),
        "visibility_token": _link("visibility", empty=True),
        "attribute_tokens": ATTRIBUTES,
        "translation": PLACE,
        "size": SIZE,
        "rotation": ROTATION,
        "prev": _link("sample_annotation", empty=True),
        "next": _link("sample_annotation", empty=True),
        "num_lidar_pts": COUNT,
        "num_radar_pts": COUNT,
    },
    "sample_data": {
        "token": TOKEN,
        "sample_token": _link("sample"),
        "ego_pose_token": _link("ego_pose"),
        "calibrated_sensor_token": _link("calibrated_sensor"),
        "timestamp": COUNT,
        "fileformat": TEXT,
        "is_key_frame": FLAG,
        "height": COUNT,
        "width": COUNT,
        "filename": TOKEN,
        "prev": _link("sample_data", empty=True),
        "next": _link("sample_data", empty=True),
    },
    "scene": {
        "token": TOKEN,
        "name": TEXT,
        "nbr_samples": COUNT,
        "log_token": _link("log"),
        "first_sample_token": _link("sample"),
        "last_sample_token": _link("sample"),
    },
    "sensor": {"token": TOKEN, "channel": TEXT, "modality": TEXT},
    "visibility": {"token": TOKEN, "level": TEXT},
}
MAY_BE_EMPTY = frozenset(["attribute", "instance", "sample_annotation"])  # a drive past nothing is a data set

# Columns that later checks read; all others are let go, since those of the full data set take gigabytes.
KEPT = {
    "calibrated_sensor": ("camera_intrinsic",),
    "map": ("filename",),
    "sample_data": ("filename", "is_key_frame", "height", "width"),
    "scene": ("name", "nbr_samples"),
    "sensor": ("channel", "modality"),
}
assert math.isfinite(FARTHEST_M) and all("token" in fields for fields in SCHEMA.values())
