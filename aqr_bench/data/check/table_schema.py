"""The thirteen tables of nuScenes v1.0: which fields they have, what a field holds, and which table it points to.

After the published schema (nuscenes-devkit, docs/schema_nuscenes.md), without the free texts that nothing reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_COORDINATE_M = 1e9  # no coordinate of a data set on Earth is larger
NORM_TOLERANCE = 1e-3  # of a rotation quaternion
_NUMBERS = frozenset([int, float])


@dataclass(frozen=True)
class Kind:
    """What a field holds.

    Args:
        expected: what a valid value is, for messages.
        type: the JSON type as Python has it; a bool is no int.
        valid: whether all values of a column, each of that type, are valid.
        table: the table that the value, a token, points to.
        many: the value is a list of tokens.
    """

    expected: str
    type: type
    valid: Callable[[Sequence[Any]], bool] = lambda column: True
    table: str | None = None
    many: bool = False


def offenders(kind: Kind, column: Sequence[Any], first: int = 0) -> list[int]:
    """Positions in the column, counted from ``first``, whose value is not of that kind.

    A column is checked at once, and halved where a value is not: the full data set has millions of rows.
    """
    if set(map(type, column)) <= {kind.type} and (not column or kind.valid(column)):
        return []
    if len(column) == 1:
        return [first]
    half = len(column) // 2
    return offenders(kind, column[:half], first) + offenders(kind, column[half:], first + half)


def _vector(expected: str, length: int, valid: Callable[[np.ndarray], np.ndarray] | None = None) -> Kind:
    """A list of so many numbers; ``valid`` maps [N, length] float64 to [N] bool."""

    def all_valid(column: Sequence[list]) -> bool:
        if set(map(len, column)) != {length} or not set(map(type, itertools.chain.from_iterable(column))) <= _NUMBERS:
            return False
        try:
            array = np.array(column, np.float64)
        except OverflowError:  # an int may be too large for a float
            return False
        in_range = bool((np.abs(array) <= MAX_COORDINATE_M).all())  # NaN compares as False
        return in_range and (valid is None or bool(valid(array).all()))

    return Kind(expected, list, all_valid)


def _is_intrinsic(value: list) -> bool:
    """An empty list (no camera), or an invertible matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels."""
    if not value:
        return True
    if set(map(type, value)) != {list} or not _INTRINSIC_ROW.valid(value) or len(value) != 3:
        return False
    matrix = np.array(value, np.float64)
    focal = matrix[0, 0] > 0 and matrix[1, 1] > 0
    return bool(focal and np.allclose(matrix[2], [0, 0, 1]) and abs(np.linalg.det(matrix)) > 1e-3)


_INTRINSIC_ROW = _vector("", 3)
_KINDS = {
    "token": Kind("a non-empty string", str, all),
    "text": Kind("a string", str),
    "flag": Kind("true or false", bool),
    "count": Kind("an integer from 0", int, lambda column: min(column) >= 0 and max(column) < 2**63),
    "position": _vector("three finite numbers, in metres", 3),
    "size": _vector("width, length and height above 0, in metres", 3, lambda array: (array > 0).all(axis=1)),
    "rotation": _vector(
        "a rotation quaternion w, x, y, z of length 1",
        4,
        lambda array: np.abs(np.linalg.norm(array, axis=1) - 1) <= NORM_TOLERANCE,
    ),
    "intrinsic": Kind(
        "an invertible 3 x 3 matrix in pixels, or an empty list", list, lambda column: all(map(_is_intrinsic, column))
    ),
}


def _kind(word: str) -> Kind:
    """A name of ``_KINDS``; else the table that a token points to: with ? the token may be '', with * it is a list."""
    if word in _KINDS:
        return _KINDS[word]
    table = word.rstrip("?*")
    if word.endswith("*"):
        all_strings = lambda column: set(map(type, itertools.chain.from_iterable(column))) <= {str}  # noqa: E731
        return Kind(f"a list of tokens of {table}.json", list, all_strings, table, many=True)
    if word.endswith("?"):
        return Kind(f"a token of {table}.json, or ''", str, table=table)
    return Kind(f"a token of {table}.json", str, all, table)


# field or field:kind; a field without a kind has the kind of its name. See _kind for the words.
_TABLES = {
    "attribute": "token name:text",
    "calibrated_sensor": "token sensor_token:sensor translation:position rotation camera_intrinsic:intrinsic",
    "category": "token name:text",
    "ego_pose": "token timestamp:count rotation translation:position",
    "instance": "token category_token:category nbr_annotations:count first_annotation_token:sample_annotation "
    "last_annotation_token:sample_annotation",
    "log": "token logfile:text location:text",
    "map": "token filename:token log_tokens:log*",
    "sample": "token timestamp:count prev:sample? next:sample? scene_token:scene",
    "sample_annotation": "token sample_token:sample instance_token:instance visibility_token:visibility? "
    "attribute_tokens:attribute* translation:position size rotation prev:sample_annotation? next:sample_annotation? "
    "num_lidar_pts:count num_radar_pts:count",
    "sample_data": "token sample_token:sample ego_pose_token:ego_pose calibrated_sensor_token:calibrated_sensor "
    "timestamp:count fileformat:text is_key_frame:flag height:count width:count filename:token prev:sample_data? "
    "next:sample_data?",
    "scene": "token name:text nbr_samples:count log_token:log first_sample_token:sample last_sample_token:sample",
    "sensor": "token channel:text modality:text",
    "visibility": "token level:text",
}
SCHEMA: dict[str, dict[str, Kind]] = {
    table: {field.partition(":")[0]: _kind(field.rpartition(":")[2]) for field in fields.split()}
    for table, fields in _TABLES.items()
}
MAY_BE_EMPTY = frozenset(["attribute", "instance", "sample_annotation"])  # a drive past nothing is a data set
# The maps of v1.0-mini name logs of the full data set. But every log must be named by a map.
MAY_POINT_NOWHERE = frozenset([("map", "log_tokens")])

# Columns that later checks read; the others are freed: those of the full data set take gigabytes.
RETAINED_COLUMNS = {
    "attribute": ("name",),
    "calibrated_sensor": ("camera_intrinsic",),
    "category": ("name",),
    "ego_pose": ("translation",),
    "map": ("filename",),
    "sample": ("timestamp",),
    "sample_annotation": ("num_lidar_pts", "num_radar_pts", "translation"),
    "sample_data": ("filename", "is_key_frame", "height", "width", "timestamp"),
    "scene": ("name", "nbr_samples"),
    "sensor": ("channel", "modality"),
}
