"""Ground truth boxes of a split as arrays, read from the nuScenes tables, and the devkit's filter of boxes.

Source of every rule: nuscenes-devkit 1.2, eval/common/loaders.py (load_gt, add_center_dist, filter_eval_boxes).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import get_scenes_of_split
from pyquaternion import Quaternion

from aqr_bench.errors import UserError
from aqr_bench.metrics.boxes import NO_ATTRIBUTE, BoxArrays, box_properties, raise_if_invalid

BIKE_RACK = "static_object.bicycle_rack"
CYCLES = [DETECTION_NAMES.index(name) for name in ("bicycle", "motorcycle")]
MAX_TIME_DIFF_S = 1.5  # between two samples, for a velocity from them (NuScenes.box_velocity)
VISIBILITY_LEVELS = ("v0-40", "v40-60", "v60-80", "v80-100")  # of the table of visibilities
UNKNOWN_VISIBILITY = -1
# Centres this close to a rack's face, as a fraction of the rack's size, are decided by the devkit's function alone.
_FACE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Samples:
    """The S samples of a split, in the order of the table.

    tokens        of the samples
    scenes        names, sorted
    scene         [S] index of the scene
    ego           [S, 2] where the vehicle is when the LiDAR's sweep is, metres, global frame
    racks         bicycle racks by sample index, only of samples that have any
    descriptions  of the scenes, in their order; empty where the table has none
    """

    tokens: tuple[str, ...]
    scenes: tuple[str, ...]
    scene: np.ndarray
    ego: np.ndarray
    racks: Mapping[int, tuple[Box, ...]]
    descriptions: tuple[str, ...] = ()

    @property
    def index_by_token(self) -> dict[str, int]:
        """Index by token."""
        return {token: i for i, token in enumerate(self.tokens)}

    def offset(self, boxes: BoxArrays) -> np.ndarray:
        """Where boxes are as seen from the vehicle [N, 2], metres, in the global frame's directions."""
        return boxes.translation[:, :2] - self.ego[boxes.sample]


@dataclass(frozen=True)
class GroundTruth:
    """Samples of a split and N boxes in them.

    lidar_points  [N] int32, LiDAR points inside
    visibility    [N] int8, index of VISIBILITY_LEVELS, or UNKNOWN_VISIBILITY
    """

    samples: Samples
    boxes: BoxArrays
    lidar_points: np.ndarray
    visibility: np.ndarray

    def properties(self) -> np.ndarray:
        """What the boxes are sliced by [N, 5] float32, in the order of ``boxes.PROPERTIES``; NaN: not known."""
        visibility = np.where(self.visibility == UNKNOWN_VISIBILITY, np.nan, self.visibility)
        columns = np.stack([self.lidar_points, visibility], axis=1).astype(np.float32)
        return np.concatenate([box_properties(self.boxes, self.samples.offset(self.boxes)), columns], axis=1)


_CACHE: weakref.WeakKeyDictionary[Any, dict[tuple, GroundTruth]] = weakref.WeakKeyDictionary()


def ground_truth(nusc: Any, eval_set: str, class_range: Mapping[str, float]) -> GroundTruth:
    """Ground truth of a split, the boxes that count; computed once for each set of tables.

    Raises UserError if the split has no sample or no object that counts, or an object two attributes or one that
    nuScenes does not have.
    """
    cache = _CACHE.setdefault(nusc, {})
    key = (eval_set, *sorted(class_range.items()))
    if key not in cache:
        truth = read_split(nusc, eval_set)
        boxes, samples = truth.boxes, truth.samples
        counts = filter_mask(boxes, samples.offset(boxes), samples.racks, class_range)
        if not counts.any():
            empty = int((boxes.points == 0).sum())
            raise UserError(
                f"split {eval_set} of {nusc.version} has no object that counts: of {len(boxes)}, {empty} have no LiDAR "
                "or radar point, the others are out of the range of their class",
                "Correct num_lidar_pts, or the translations, in sample_annotation.json.",
            )
        cache[key] = GroundTruth(samples, boxes[counts], truth.lidar_points[counts], truth.visibility[counts])
    return cache[key]


def split_samples(nusc: Any, eval_set: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The samples of a split in the order of the table, and the names of its scenes by token; UserError without any."""
    scene_names = frozenset(get_scenes_of_split(eval_set, nusc))
    names = {scene["token"]: scene["name"] for scene in nusc.scene if scene["name"] in scene_names}
    records = [sample for sample in nusc.sample if sample["scene_token"] in names]
    if not records:
        raise UserError(f"the tables of {nusc.version} have no sample of split {eval_set}")
    return records, names


def read_split(nusc: Any, eval_set: str) -> GroundTruth:
    """Samples of a split and all their annotations of detection classes, unfiltered."""
    records, names = split_samples(nusc, eval_set)
    scenes = tuple(sorted({names[sample["scene_token"]] for sample in records}))
    scene_index = {name: i for i, name in enumerate(scenes)}
    descriptions = {scene["name"]: str(scene.get("description", "")) for scene in nusc.scene}
    racks: dict[int, tuple[Box, ...]] = {}
    rows: list[tuple] = []
    for i, sample in enumerate(records):
        annotations = [nusc.get("sample_annotation", token) for token in sample["anns"]]
        rack_records = [a for a in annotations if a["category_name"] == BIKE_RACK]
        if rack_records:
            racks[i] = tuple(Box(a["translation"], a["size"], Quaternion(a["rotation"])) for a in rack_records)
        for annotation in annotations:
            label = _label(annotation["category_name"])
            if label is not None:
                rows.append((i, label, annotation))
    if not rows:
        raise UserError(f"split {eval_set} of {nusc.version} has no object of any detection class to be scored")
    samples = Samples(
        tuple(sample["token"] for sample in records),
        scenes,
        np.array([scene_index[names[sample["scene_token"]]] for sample in records], dtype=np.int64),
        np.array([_ego(nusc, sample) for sample in records]),
        racks,
        tuple(descriptions[name] for name in scenes),
    )
    annotations = [annotation for _, _, annotation in rows]
    return GroundTruth(
        samples,
        _boxes(nusc, rows, np.array([1e-6 * sample["timestamp"] for sample in records])),
        np.array([a["num_lidar_pts"] for a in annotations], dtype=np.int32),
        _visibilities(nusc, annotations),
    )


def _visibilities(nusc: Any, annotations: list[Mapping[str, Any]]) -> np.ndarray:
    """Index of the level [N] int8; tables from elsewhere may have none, or other levels."""
    index = {level: i for i, level in enumerate(VISIBILITY_LEVELS)}
    levels = {row["token"]: index.get(row["level"], UNKNOWN_VISIBILITY) for row in getattr(nusc, "visibility", ())}
    tokens = [a.get("visibility_token", "") for a in annotations]
    return np.array([levels.get(token, UNKNOWN_VISIBILITY) for token in tokens], dtype=np.int8)


@functools.cache
def _label(category: str) -> int | None:
    """Index of the detection class of a category; None for those that are not detected."""
    name = category_to_detection_name(category)
    return None if name is None else DETECTION_NAMES.index(name)


def _ego(nusc: Any, sample: Mapping[str, Any]) -> list[float]:
    """Where the vehicle is, by the pose of the LiDAR's sweep."""
    sweep = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
    return nusc.get("ego_pose", sweep["ego_pose_token"])["translation"][:2]


def _boxes(nusc: Any, rows: list[tuple], time_S: np.ndarray) -> BoxArrays:
    """Boxes of (sample index, label, annotation); times of the samples in seconds."""
    attributes = {a["token"]: a["name"] for a in nusc.attribute}
    records = [annotation for _, _, annotation in rows]
    sample_N = np.array([sample for sample, _, _ in rows], dtype=np.int32)
    wide = [np.array([a[key] for a in records], dtype=np.float64) for key in ("translation", "size", "rotation")]
    boxes = BoxArrays(
        sample_N,
        np.array([label for _, label, _ in rows], dtype=np.int8),
        *wide,
        _velocities(nusc, records, wide[0][:, :2], time_S[sample_N]),
        np.full(len(rows), -1.0),
        np.array([_attribute(a, attributes) for a in records], dtype=np.int8),
        np.array([a["num_lidar_pts"] + a["num_radar_pts"] for a in records], dtype=np.int32),
    )
    raise_if_invalid(boxes, "ground truth")
    return boxes


def _attribute(annotation: Mapping[str, Any], names: Mapping[str, str]) -> int:
    tokens = annotation["attribute_tokens"]
    if len(tokens) > 1:
        raise UserError(f"annotation {annotation['token']} has more than one attribute")
    if not tokens:
        return NO_ATTRIBUTE
    if names[tokens[0]] not in ATTRIBUTE_NAMES:
        raise UserError(
            f"annotation {annotation['token']} has the attribute '{names[tokens[0]]}', which nuScenes does not have",
            "Map it to one of nuScenes' in the tier file, under data.attributes, and make the info files again.",
        )
    return ATTRIBUTE_NAMES.index(names[tokens[0]])


def _velocities(
    nusc: Any, annotations: list[Mapping[str, Any]], centre_N2: np.ndarray, time_N: np.ndarray
) -> np.ndarray:
    """Velocity [N, 2] from the annotations before and after; NaN without either, or where they are too far apart."""
    row_of = {a["token"]: row for row, a in enumerate(annotations)}
    centres, times, exists = [], [], []
    for key in ("prev", "next"):
        # The row of the object itself where there is no neighbour, as in the devkit.
        rows = np.array([row_of.get(a[key], -1) if a[key] else row for row, a in enumerate(annotations)])
        centre, time = centre_N2[rows], time_N[rows]
        for row in np.flatnonzero(rows < 0):  # of a category that is not detected, or of another split
            other = nusc.get("sample_annotation", annotations[row][key])
            centre[row] = other["translation"][:2]
            time[row] = 1e-6 * nusc.get("sample", other["sample_token"])["timestamp"]
        centres.append(centre)
        times.append(time)
        exists.append(np.array([bool(a[key]) for a in annotations]))
    elapsed = times[1] - times[0]
    limit = np.where(exists[0] & exists[1], 2 * MAX_TIME_DIFF_S, MAX_TIME_DIFF_S)
    with np.errstate(divide="ignore", invalid="ignore"):
        velocity = (centres[1] - centres[0]) / elapsed[:, None]
    velocity[~(exists[0] | exists[1]) | (elapsed > limit)] = np.nan
    return velocity


# ---------------------------------------------------------------- the filter


def filter_boxes(boxes: BoxArrays, samples: Samples, class_range: Mapping[str, float]) -> BoxArrays:
    """The boxes that count: in the range of their class, not empty of points, no cycle in a bicycle rack."""
    return boxes[filter_mask(boxes, samples.offset(boxes), samples.racks, class_range)]


def filter_mask(
    boxes: BoxArrays, offset_N2: np.ndarray, racks: Mapping[int, tuple[Box, ...]], class_range: Mapping[str, float]
) -> np.ndarray:
    """Which boxes count [N] bool; ``offset_N2`` is where they are as seen from the vehicle, in the global frame."""
    limit = np.array([class_range[name] for name in DETECTION_NAMES], dtype=np.float64)
    distance = np.sqrt(offset_N2[:, 0] ** 2 + offset_N2[:, 1] ** 2)
    mask = (distance < limit[boxes.label]) & (boxes.points != 0)
    cycles = np.flatnonzero(mask & np.isin(boxes.label, CYCLES))
    if racks and len(cycles):
        cycles = cycles[np.argsort(boxes.sample[cycles], kind="stable")]
        by_sample = boxes.sample[cycles]
        for sample, here in racks.items():
            rows = cycles[np.searchsorted(by_sample, sample) : np.searchsorted(by_sample, sample, side="right")]
            if len(rows):
                mask[rows] = ~_in_any(here, boxes.translation[rows])
    return mask


def _in_any(racks: tuple[Box, ...], centre_N3: np.ndarray) -> np.ndarray:
    """Which points lie in one of the racks [N] bool."""
    inside = np.zeros(len(centre_N3), dtype=bool)
    for rack in racks:
        within, about = (
            points_in_box(rack, centre_N3.T, factor) for factor in (1 - _FACE_TOLERANCE, 1 + _FACE_TOLERANCE)
        )
        # On a face the last bit decides, and it is not the same for many points at once as for one.
        for row in np.flatnonzero(within != about):
            within[row] = points_in_box(rack, centre_N3[row][:, None])[0]
        inside |= within
    return inside
