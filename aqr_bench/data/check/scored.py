"""Whether the val split has anything that detections could be scored with: annotations that count in the metric."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aqr_bench.data.check.finding import Finding
from aqr_bench.data.check.links import channels_of
from aqr_bench.data.check.tables import Table
from aqr_bench.data.complete_scenes import CHANNELS, LIDAR
from aqr_bench.metrics.scoring_rules import ScoringRules
from aqr_bench.metrics.splits import Split
from aqr_bench.study.vocabulary import Vocabulary

REMEDIES = {
    "scored": "Annotate objects in its scenes, let other scenes be this split in splits.json (docs/extend.md), or "
    "check with the --tier that has ranges of its own (evaluate.ranges): aqr-bench data refuses it."
}
# Where any of it is missing or bad, an object that counts might be among it.
_NEEDED = {
    "scene": ("name",),
    "sample": ("scene_token",),
    "sample_data": ("sample_token", "ego_pose_token", "calibrated_sensor_token", "is_key_frame"),
    "ego_pose": ("translation",),
    "category": ("name",),
    "instance": ("category_token",),
    "sample_annotation": ("sample_token", "instance_token", "translation", "num_lidar_pts", "num_radar_pts"),
}


def check_scored(
    tables: Mapping[str, Table], split: Split, vocabulary: Vocabulary, scoring: ScoringRules
) -> list[Finding]:
    """A finding where no object of the split counts; none where that is not certain, or there is no sample of it.

    As in the metric, an object counts whose category is a detection class, in which a point was counted, and which is
    within its class's range of the car, by ``scoring``. (That cycles in a bicycle rack do not count is left out.)
    """
    if not all(name in tables and tables[name].complete("token", *fields) for name, fields in _NEEDED.items()):
        return []
    scene, sample, annotation = tables["scene"], tables["sample"], tables["sample_annotation"]
    scenes = scene.hashes["token"][np.isin(scene.columns["name"], split.scenes)]
    samples = sample.hashes["token"][np.isin(sample.hashes["scene_token"], scenes)]
    if not len(samples):
        return []
    points = sum(np.array(annotation.columns[name], np.int64) for name in ("num_lidar_pts", "num_radar_pts"))
    if annotation.count and not points.any():
        return []  # a finding of all annotations, see check_values
    rows = np.flatnonzero(np.isin(annotation.hashes["sample_token"], samples))
    range_m = _class_ranges(tables, annotation.hashes["instance_token"][rows], vocabulary, scoring)
    if np.isnan(range_m).any():
        return []
    rows, range_m = rows[range_m > 0], range_m[range_m > 0]
    nothing = f"split {split.name}, the one that is evaluated, has no object"
    if not len(rows):
        return [Finding("scored", f"{nothing} of any detection class to be scored", "scored")]
    ego = _ego_positions(tables, annotation.hashes["sample_token"][rows])
    distance_m = np.hypot(*(annotation.columns["translation"][rows] - ego)[:, :2].T)
    has_points = points[rows] > 0
    if (has_points & ~(distance_m >= range_m)).any():  # NaN, of a link that leads nowhere, is reported elsewhere
        return []
    what = f"{nothing} that counts: of {len(rows)}, {(~has_points).sum()} have no LiDAR or radar point, the others are "
    return [Finding("scored", f"{what}out of the range of their class", "scored")]


def _class_ranges(
    tables: Mapping[str, Table], instances: np.ndarray, vocabulary: Vocabulary, scoring: ScoringRules
) -> np.ndarray:
    """Metres around the car in which annotations of these instances count.

    0 for what is no detection class, NaN where the name of the category is unknown.
    """
    from nuscenes.eval.detection.utils import category_to_detection_name  # late: the import takes a second or two

    ranges = scoring.class_range()
    names = tables["category"].columns["name"]
    unknown = set(vocabulary.unknown_categories(names))
    classes = [category_to_detection_name(vocabulary.categories.get(name, name)) for name in names]
    by_category = [np.nan if n in unknown else ranges.get(c, 0.0) for n, c in zip(names, classes, strict=True)]
    category = _looked_up(instances, tables["instance"], tables["instance"].hashes["category_token"], 0)
    return _looked_up(category, tables["category"], np.array(by_category, np.float64), np.nan)


def _ego_positions(tables: Mapping[str, Table], samples: np.ndarray) -> np.ndarray:
    """Where the car is at the keyframe of the LiDAR of these samples, [N, 3] in metres; NaN where that is not known."""
    data = tables["sample_data"]
    keyframes = np.array(data.columns["is_key_frame"], bool) & (channels_of(tables) == CHANNELS.index(LIDAR))
    by_sample = dict(zip(data.hashes["sample_token"][keyframes].tolist(), np.flatnonzero(keyframes), strict=True))
    recorded = np.array([by_sample.get(token, -1) for token in samples.tolist()])
    poses = np.where(recorded >= 0, data.hashes["ego_pose_token"][recorded], 0)
    return _looked_up(poses, tables["ego_pose"], tables["ego_pose"].columns["translation"], np.nan)


def _looked_up(tokens: np.ndarray, table: Table, values: np.ndarray, otherwise: float) -> np.ndarray:
    """The values of the rows that have these tokens; ``otherwise`` for a token that the table does not have."""
    present = table.hashes["token"]
    if not len(present) or not len(tokens):
        return np.full((len(tokens), *values.shape[1:]), otherwise, values.dtype)
    order = np.argsort(present)
    position = np.minimum(np.searchsorted(present, tokens, sorter=order), len(present) - 1)
    row = order[position]
    exists = present[row] == tokens
    return np.where(exists.reshape(-1, *[1] * (values.ndim - 1)), values[row], otherwise)
