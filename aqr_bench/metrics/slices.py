"""Scores of slices of a data set: light, rain, range, speed, size, LiDAR points and visibility.

An evaluation matches all detections with all objects, once; a slice then counts a part of both:

- objects: those in the slice;
- true positives: detections that are matched to an object in the slice. A detection that is matched to an object of
  another slice counts in neither way, as objects outside an area range do in COCO;
- false positives: by what the detection itself says where it says it (range, speed, size) or by its scene (light,
  rain). A detection has neither points nor a visibility: every false positive counts in each of these slices, so that
  their AP is a lower bound.

The slices of a criterion are a partition of the objects. The score of a slice is the mean AP over the classes that have
an object in it; ``all`` is the metric itself, in which a class without objects counts as 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from aqr_bench.metrics import resampled
from aqr_bench.metrics.bootstrap import MIN_SCENES, Resampled, scene_draws
from aqr_bench.metrics.boxes import DETECTED_PROPERTIES, PROPERTIES
from aqr_bench.metrics.matches import ClassMatches, Matches
from aqr_bench.metrics.nuscenes import RECALL, first_bin

ALL = ("all", "all")
UNKNOWN = "unknown"
Key = tuple[str, str]  # criterion, slice


@dataclass(frozen=True)
class Bins:
    """Slices by a property: ``names[i]`` from ``edges[i - 1]`` on, below ``edges[i]``."""

    column: str
    edges: tuple[float, ...]
    names: tuple[str, ...]

    def of(self, values_N: np.ndarray) -> np.ndarray:
        """Index of the slice [N]; one beyond the last where the value is not known."""
        return np.where(np.isnan(values_N), len(self.names), np.digitize(values_N, self.edges))


# Speeds, points and sizes: limits of the Waymo Open Dataset's breakdowns (0.2 and 3 m/s; 5 points; 7 m), and 3 m for
# what is smaller than cars. Visibility: nuScenes' levels.
BINS = {
    "range": Bins("range_m", (20, 30, 50), ("0-20 m", "20-30 m", "30-50 m", "over 50 m")),
    "speed": Bins("speed_m_s", (0.2, 3), ("stationary", "slow", "fast")),
    "size": Bins("longest_side_m", (3, 7), ("under 3 m", "3-7 m", "over 7 m")),
    "lidar_points": Bins("lidar_points", (1, 6, 21), ("0", "1-5", "6-20", "over 20")),
    "visibility": Bins("visibility", (1, 2, 3), ("0-40 %", "40-60 %", "60-80 %", "80-100 %")),
}
SCENE_SLICES = {"light": ("day", "dusk", "night"), "rain": ("dry", "rain")}


@dataclass(frozen=True)
class SliceScore:
    """mAP of a slice.

    objects, scenes  in the slice: ground truth objects, and scenes with any of them
    classes          with an object in it
    value            mean AP over these classes
    resampled        the same on draws of scenes; None where fewer than MIN_SCENES have an object of the slice
    """

    objects: int
    scenes: int
    classes: int
    value: float
    resampled: Resampled | None


def has_slices(matches: Matches) -> bool:
    """Whether matches hold what slices need; those of older evaluations do not."""
    classes = matches.classes.values()
    complete = all(c.matched is not None and c.object_properties is not None for c in classes)
    return complete and matches.scene_of_sample is not None


def scene_condition(criterion: str, description: str) -> int:
    """Slice of a scene by the words of its description, as is usual with nuScenes: night, rain; else day, dry."""
    words = description.lower()
    if criterion == "rain":
        return int(re.search(r"\brain", words) is not None)  # as a word: not "train"
    return 2 if "night" in words else int("dusk" in words)


def slice_scores(matches: Matches, draws: int) -> dict[Key, SliceScore]:
    """Scores of all slices that have an object, ``all`` first; ``draws``: of scenes, for intervals.

    Slices of light and rain are resampled within their own scenes, the others over all scenes. The draws of scenes are
    the same for every model. ValueError for matches without properties, see :func:`has_slices`.
    """
    if not has_slices(matches):
        raise ValueError("these matches have no properties of objects and detections")
    scores = {ALL: _all(matches, draws)}
    for criterion in (*SCENE_SLICES, *BINS):
        names = SCENE_SLICES.get(criterion) or (*BINS[criterion].names, UNKNOWN)
        labels = {name: _labels(matches, part, criterion) for name, part in matches.classes.items()}
        for k, name in enumerate(names):
            if any((objects == k).any() for objects, _ in labels.values()):
                scores[criterion, name] = _slice(matches, criterion, k, labels, draws)
    return scores


def _labels(matches: Matches, part: ClassMatches, criterion: str) -> tuple[np.ndarray, np.ndarray]:
    """Slice of each object [G] and each detection [N] of a class; -1: of every slice, if it is a false positive."""
    if criterion in SCENE_SLICES:
        descriptions = matches.descriptions or ("",) * len(matches.scenes)
        of_scene = np.array([scene_condition(criterion, text) for text in descriptions])
        return of_scene[matches.scene_of_sample[part.object_sample]], of_scene[part.scene]
    bins = BINS[criterion]
    column = PROPERTIES.index(bins.column)
    objects = bins.of(part.object_properties[:, column])
    if column >= DETECTED_PROPERTIES:
        return objects, np.full(len(part.score), -1)
    return objects, bins.of(part.properties[:, column])


def _all(matches: Matches, draws: int) -> SliceScore:
    positives_CS = np.stack([part.positives for part in matches.classes.values()])
    scenes = len(matches.scenes)
    weights_RS = _weights(np.ones(scenes, bool), draws if scenes >= MIN_SCENES else 0)
    return _score(matches.scenes, positives_CS, matches.map(weights_RS))


def _slice(
    matches: Matches, criterion: str, k: int, labels: dict[str, tuple[np.ndarray, np.ndarray]], draws: int
) -> SliceScore:
    """The score of slice ``k`` of a criterion."""
    scenes = len(matches.scenes)
    parts, positives = [], []
    for name, part in matches.classes.items():
        inside = labels[name][0] == k
        of_object = matches.scene_of_sample[part.object_sample[inside]]
        positives.append(np.bincount(of_object, minlength=scenes))
        parts.append((part, inside, labels[name][1]))
    positives_CS = np.stack(positives)
    drawn = positives_CS.any(0) if criterion in SCENE_SLICES else np.ones(scenes, bool)
    weights_RS = _weights(drawn, draws if positives_CS.any(0).sum() >= MIN_SCENES else 0)
    total, classes = np.zeros(len(weights_RS)), np.zeros(len(weights_RS))
    for (part, inside, of_detection), positives_S in zip(parts, positives_CS, strict=True):
        if not positives_S.any():
            continue
        npos_R = weights_RS @ positives_S
        total += _ap(matches, part, inside, (of_detection == k) | (of_detection < 0), weights_RS, npos_R)
        classes += npos_R > 0
    names = tuple(name for name, is_drawn in zip(matches.scenes, drawn, strict=True) if is_drawn)
    return _score(names, positives_CS, total / np.maximum(classes, 1))


def _weights(drawn_S: np.ndarray, draws: int) -> np.ndarray:
    """Every scene once, then ``draws`` draws of those that are ``drawn``: [1 + draws, S]."""
    weights = np.zeros((1 + draws, len(drawn_S)))
    weights[0] = drawn_S
    if draws:
        weights[1:, drawn_S] = scene_draws(int(drawn_S.sum()), draws)
    return weights


def _ap(
    matches: Matches,
    part: ClassMatches,
    inside_G: np.ndarray,
    false_N: np.ndarray,
    weights_RS: np.ndarray,
    npos_R: np.ndarray,
) -> np.ndarray:
    """AP [R] of a class, mean over the distance thresholds; ``false_N``: counts where it is a false positive."""
    grid = RECALL[first_bin(matches.min_recall) :]
    level, exact = resampled.levels(npos_R, grid)
    weights_SR = np.ascontiguousarray(weights_RS.T, dtype=np.int32)
    confidence = np.zeros((len(npos_R), len(grid)))
    total = np.zeros(len(npos_R))
    for d in range(len(matches.distances)):
        tp = part.tp[:, d]
        counted = np.where(tp, inside_G[part.matched[:, d]] if len(inside_G) else False, false_N)
        precision = np.zeros((1, len(npos_R), len(grid)))
        score, scene = part.score[counted], np.ascontiguousarray(part.scene[counted], dtype=np.int64)
        hits = np.ascontiguousarray(tp[counted][:, None])
        resampled.curves(score, scene, hits, weights_SR, npos_R, level, exact, grid, -1, precision, confidence)
        total += np.maximum(precision[0] - matches.min_precision, 0).mean(1) / (1 - matches.min_precision)
    return total / len(matches.distances)


def _score(drawn: tuple[str, ...], positives_CS: np.ndarray, values_R: np.ndarray) -> SliceScore:
    """``drawn``: names of the scenes that draws are of; ``values_R``: on all of them, then on each draw."""
    scenes = int(positives_CS.any(0).sum())
    enough = len(values_R) > 1 and scenes >= MIN_SCENES
    return SliceScore(
        int(positives_CS.sum()),
        scenes,
        int(positives_CS.any(1).sum()),
        float(values_R[0]),
        Resampled(drawn, float(values_R[0]), values_R[1:]) if enough else None,
    )
