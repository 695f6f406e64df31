"""Greedy matching as in nuscenes-devkit, on arrays: each detection takes the nearest unmatched object of its class.

Detections are taken by descending score, of equal scores the later in the list first. Each sample and class is matched
independently, at all distance thresholds at once.
Source: nuscenes-devkit 1.2, eval/detection/algo.py, ``accumulate``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numba
import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES

from aqr_bench.metrics.boxes import BoxArrays

CLASSES = len(DETECTION_NAMES)
NEAR_M = 4.0  # the largest distance at which nuScenes matches anything: an object further away explains no detection
# Two ways of summing two squares differ by less than this (one may round once, by a fused multiply-add).
ROUNDING = 1e-14
Distance = Callable[[int, int], float]  # of an object and a detection, rows of the arrays


def compiled(function: Callable) -> Callable:
    """Compile at the first call; cache the machine code on disk where a folder can be written."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        return numba.njit(function)


@dataclass(frozen=True)
class Matching:
    """Which detection is matched to which object.

    order    [N] rows of the detections: class by class, in each the order in which they are matched
    start    [CLASSES + 1] where each class begins in ``order``
    matched  [N, D] row of the object taken at each distance threshold, in the order of ``order``; -1: none
    """

    order: np.ndarray
    start: np.ndarray
    matched: np.ndarray

    def of(self, label: int) -> slice:
        """Where a class is in ``order``."""
        return slice(int(self.start[label]), int(self.start[label + 1]))


def match(
    truth: BoxArrays, detections: BoxArrays, samples: int, distances: Sequence[float], distance: Distance | None = None
) -> Matching:
    """Match the detections of all classes.

    Args:
        samples: how many there are; the boxes' sample indices are below it.
        distances: thresholds D, metres; a match is nearer than that.
        distance: instead of that of the centres in the plane.
    """
    order = np.argsort(detections.score, kind="stable")[::-1]
    order = order[np.argsort(detections.label[order], kind="stable")]
    label = detections.label[order]
    start = np.searchsorted(label, np.arange(CLASSES + 1))
    group = label.astype(np.int64) * samples + detections.sample[order]
    box_first, box_at = _grouped(group, CLASSES * samples)
    truth_first, truth_at = _grouped(truth.label.astype(np.int64) * samples + truth.sample, CLASSES * samples)
    limits = np.array(distances, dtype=np.float64)
    matched = np.full((len(order), len(limits)), -1, dtype=np.int32)
    shared = (np.diff(box_first) > 0) & (np.diff(truth_first) > 0)
    if distance is None:
        groups = np.flatnonzero(shared)
        doubtful = np.zeros(len(groups), dtype=np.bool_)
        boxes_xy, truth_xy = detections.translation[order, :2], np.ascontiguousarray(truth.translation[:, :2])
        _match_groups(groups, box_first, box_at, boxes_xy, truth_first, truth_at, truth_xy, limits, matched, doubtful)
        recheck, distance = groups[doubtful], _centre_distance(truth, detections)
    else:
        recheck = np.flatnonzero(shared)
    for g in recheck:
        rows, objects = box_at[box_first[g] : box_first[g + 1]], truth_at[truth_first[g] : truth_first[g + 1]]
        table = np.array([[distance(int(t), int(row)) for t in objects] for row in order[rows]], dtype=np.float64)
        taken = np.full((len(rows), len(limits)), -1, dtype=np.int32)
        _match_table(table, limits, taken)
        matched[rows] = np.where(taken < 0, -1, objects[taken])
    return Matching(order, start, matched)


def nearest_objects(truth: BoxArrays, detections: BoxArrays, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest object of the same class and that of another class, for each of N detections, within NEAR_M.

    Matched objects count as well. Returns distances [N, 2] in metres, inf where there is none, and rows of the objects
    [N, 2], -1 likewise.
    """
    first, at = _grouped(truth.sample.astype(np.int64), samples)
    distance = np.full((len(detections), 2), np.inf, dtype=np.float32)
    row = np.full((len(detections), 2), -1, dtype=np.int32)
    sides = (np.ascontiguousarray(boxes.translation[:, :2]) for boxes in (detections, truth))
    _find_nearest(first, at, detections.sample, detections.label, truth.label, *sides, distance, row)
    return distance, row


def _centre_distance(truth: BoxArrays, detections: BoxArrays) -> Distance:
    """The very call the devkit makes: the last bit of its result depends on the BLAS of the machine."""
    return lambda t, row: np.linalg.norm(detections.translation[row, :2] - truth.translation[t, :2])


@compiled
def _grouped(group_N, groups):
    """Indices by group, in their order: where each group begins [groups + 1], and the indices [N]."""
    first = np.zeros(groups + 1, dtype=np.int64)
    for g in group_N:
        first[g + 1] += 1
    for g in range(groups):
        first[g + 1] += first[g]
    fill = first[:groups].copy()
    at = np.empty(len(group_N), dtype=np.int64)
    for i in range(len(group_N)):
        at[fill[group_N[i]]] = i
        fill[group_N[i]] += 1
    return first, at


@compiled
def _find_nearest(truth_first, truth_at, sample, label, truth_label, boxes_xy, truth_xy, distance, row):
    """Fill ``distance`` and ``row`` [N, 2]: of the same class, of another class."""
    for i in range(len(sample)):
        nearest = np.full(2, NEAR_M * NEAR_M)
        for k in range(truth_first[sample[i]], truth_first[sample[i] + 1]):
            t = truth_at[k]
            dx, dy = boxes_xy[i, 0] - truth_xy[t, 0], boxes_xy[i, 1] - truth_xy[t, 1]
            column = 0 if truth_label[t] == label[i] else 1
            if dx * dx + dy * dy < nearest[column]:
                nearest[column] = dx * dx + dy * dy
                distance[i, column] = np.sqrt(nearest[column])
                row[i, column] = t


@compiled
def _exact(a):
    """Whether the square of ``a`` needs no rounding."""
    return np.float64(np.float32(a)) == a


@compiled
def _match_groups(groups, box_first, box_at, boxes_xy, truth_first, truth_at, truth_xy, limits, matched, doubtful):
    """Fill ``matched`` [N, D]; ``doubtful`` [G]: the last bit of a distance decides."""
    max_objects = 0
    for g in groups:
        max_objects = max(max_objects, truth_first[g + 1] - truth_first[g])
    dist = np.empty(max_objects)
    dx = np.empty(max_objects)
    dy = np.empty(max_objects)
    taken = np.empty((len(limits), max_objects), dtype=np.bool_)
    widest = limits.max() * (1 + ROUNDING)
    for i in range(len(groups)):
        g = groups[i]
        count = truth_first[g + 1] - truth_first[g]
        taken[:, :count] = False
        for at in range(box_first[g], box_first[g + 1]):
            p = box_at[at]
            near = False
            for k in range(count):
                t = truth_at[truth_first[g] + k]
                dx[k] = abs(boxes_xy[p, 0] - truth_xy[t, 0])
                dy[k] = abs(boxes_xy[p, 1] - truth_xy[t, 1])
                dist[k] = np.sqrt(dx[k] * dx[k] + dy[k] * dy[k])
                near = near or dist[k] <= widest
            if not near:
                continue
            for d in range(len(limits)):
                best = -1
                nearest = np.inf
                for k in range(count):
                    if taken[d, k]:
                        continue
                    close = best >= 0 and abs(dist[k] - nearest) <= ROUNDING * nearest and dist[k] <= widest
                    if close and not (dx[k] == dx[best] and dy[k] == dy[best]):
                        sure = _exact(dx[k]) and _exact(dy[k]) and _exact(dx[best]) and _exact(dy[best])
                        doubtful[i] = doubtful[i] or not sure
                    if dist[k] < nearest:
                        nearest = dist[k]
                        best = k
                if best < 0:
                    continue
                if abs(nearest - limits[d]) <= ROUNDING * limits[d] and not (_exact(dx[best]) and _exact(dy[best])):
                    doubtful[i] = True
                if nearest < limits[d]:
                    taken[d, best] = True
                    matched[p, d] = truth_at[truth_first[g] + best]


@compiled
def _match_table(table, limits, taken):
    """The same with a table of distances [P, K]; ``taken`` [P, D] gets the columns."""
    for d in range(len(limits)):
        free = np.ones(table.shape[1], dtype=np.bool_)
        for p in range(table.shape[0]):
            best = -1
            nearest = np.inf
            for k in range(table.shape[1]):
                if free[k] and table[p, k] < nearest:
                    nearest = table[p, k]
                    best = k
            if best >= 0 and nearest < limits[d]:
                free[best] = False
                taken[p, d] = best
