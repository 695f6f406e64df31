"""The devkit's matching on arrays: in every sample and class each detection takes the nearest object still free.

Detections go by descending score, of equal ones the later in the list first. Samples and classes do not touch one
another, so each is matched on its own, at all distance thresholds in one go.
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
# Two ways of summing two squares differ by less than this (one may round once, by a fused multiply-add).
ROUNDING = 1e-14
Distance = Callable[[int, int], float]  # of an object and a detection, rows of the arrays


def compiled(function: Callable) -> Callable:
    """Compile at the first call; keep the machine code on disk where there is a place for it."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        return numba.njit(function)


@dataclass(frozen=True)
class Matching:
    """Which detection found which object.

    order    [N] rows of the detections: class by class, in each the order in which they chose
    start    [CLASSES + 1] where each class begins in ``order``
    matched  [N, D] row of the object taken at each distance threshold, in the order of ``order``; -1: none
    """

    order: np.ndarray
    start: np.ndarray
    matched: np.ndarray

    def of(self, label: int) -> slice:
        """The places of a class."""
        return slice(int(self.start[label]), int(self.start[label + 1]))


def match(
    truth: BoxArrays, found: BoxArrays, samples: int, distances: Sequence[float], distance: Distance | None = None
) -> Matching:
    """Match the detections of all classes.

    Args:
        samples: how many there are; the boxes' sample indices are below it.
        distances: thresholds D, metres; a match is nearer than that.
        distance: instead of that of the centres in the plane.
    """
    order = np.argsort(found.score, kind="stable")[::-1]
    order = order[np.argsort(found.label[order], kind="stable")]
    label = found.label[order]
    start = np.searchsorted(label, np.arange(CLASSES + 1))
    group = label.astype(np.int64) * samples + found.sample[order]
    box_first, box_at = _grouped(group, CLASSES * samples)
    truth_first, truth_at = _grouped(truth.label.astype(np.int64) * samples + truth.sample, CLASSES * samples)
    limits = np.array(distances, dtype=np.float64)
    matched = np.full((len(order), len(limits)), -1, dtype=np.int32)
    shared = (np.diff(box_first) > 0) & (np.diff(truth_first) > 0)
    if distance is None:
        groups = np.flatnonzero(shared)
        doubtful = np.zeros(len(groups), dtype=np.bool_)
        boxes_xy, truth_xy = found.translation[order, :2], np.ascontiguousarray(truth.translation[:, :2])
        _match_groups(groups, box_first, box_at, boxes_xy, truth_first, truth_at, truth_xy, limits, matched, doubtful)
        again, distance = groups[doubtful], _centre_distance(truth, found)
    else:
        again = np.flatnonzero(shared)
    for g in again:
        places, objects = box_at[box_first[g] : box_first[g + 1]], truth_at[truth_first[g] : truth_first[g + 1]]
        table = np.array([[distance(int(t), int(row)) for t in objects] for row in order[places]], dtype=np.float64)
        taken = np.full((len(places), len(limits)), -1, dtype=np.int32)
        _match_table(table, limits, taken)
        matched[places] = np.where(taken < 0, -1, objects[taken])
    return Matching(order, start, matched)


def _centre_distance(truth: BoxArrays, found: BoxArrays) -> Distance:
    """The very call the devkit makes: the last bit of its result depends on the BLAS of the machine."""
    return lambda t, row: np.linalg.norm(found.translation[row, :2] - truth.translation[t, :2])


@compiled
def _grouped(group_N, groups):
    """Places by group, in their order: where each group begins [groups + 1], and the places [N]."""
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
def _exact(a):
    """Whether the square of ``a`` needs no rounding."""
    return np.float64(np.float32(a)) == a


@compiled
def _match_groups(groups, box_first, box_at, boxes_xy, truth_first, truth_at, truth_xy, limits, matched, doubtful):
    """Fill ``matched`` [N, D]; ``doubtful`` [G] tells where the last bit of a distance decides."""
    most = 0
    for g in groups:
        most = max(most, truth_first[g + 1] - truth_first[g])
    away = np.empty(most)
    dx = np.empty(most)
    dy = np.empty(most)
    taken = np.empty((len(limits), most), dtype=np.bool_)
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
                away[k] = np.sqrt(dx[k] * dx[k] + dy[k] * dy[k])
                near = near or away[k] <= widest
            if not near:
                continue
            for d in range(len(limits)):
                best = -1
                least = np.inf
                for k in range(count):
                    if taken[d, k]:
                        continue
                    close = best >= 0 and abs(away[k] - least) <= ROUNDING * least and away[k] <= widest
                    if close and not (dx[k] == dx[best] and dy[k] == dy[best]):
                        sure = _exact(dx[k]) and _exact(dy[k]) and _exact(dx[best]) and _exact(dy[best])
                        doubtful[i] = doubtful[i] or not sure
                    if away[k] < least:
                        least = away[k]
                        best = k
                if best < 0:
                    continue
                if abs(least - limits[d]) <= ROUNDING * limits[d] and not (_exact(dx[best]) and _exact(dy[best])):
                    doubtful[i] = True
                if least < limits[d]:
                    taken[d, best] = True
                    matched[p, d] = truth_at[truth_first[g] + best]


@compiled
def _match_table(table, limits, taken):
    """The same with a table of distances [P, K]; ``taken`` [P, D] gets the columns."""
    for d in range(len(limits)):
        free = np.ones(table.shape[1], dtype=np.bool_)
        for p in range(table.shape[0]):
            best = -1
            least = np.inf
            for k in range(table.shape[1]):
                if free[k] and table[p, k] < least:
                    least = table[p, k]
                    best = k
            if best >= 0 and least < limits[d]:
                free[best] = False
                taken[p, d] = best
