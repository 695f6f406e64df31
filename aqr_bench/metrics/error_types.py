"""Types of detection errors on centre distance, and the mAP that fixing each type alone would give.

The rule is that of TIDE (Bolya et al., ECCV 2020, arXiv:2008.08115; dbolya/tide, quantify.py) with nuScenes' centre
distance in the place of the IoU. At each of the metric's distance thresholds, a detection that is not matched is, by
the first of these that holds:

- duplicate: an object of its class is within the threshold, which is then matched to a detection of higher score;
- wrong class: an object of another class is within the threshold;
- misplaced: an object of its class is within ``NEAR_M`` = 4 m, the largest threshold, beyond which nuScenes matches
  nothing (at the threshold of 4 m itself there are none);
- background: the rest. TIDE's "both" (another class's object, beyond the threshold) is in it: both are fixed alike.

An object that is not matched is missed, unless a misplaced detection or one of the wrong class has it as the nearest.
Beside these there is the wrong heading: a match at the threshold of the true-positive errors (2 m) whose heading is off
by more than 45 degrees, so that another side is in front; cones have no heading, that of barriers counts modulo pi.

Fixing, one type at a time, as in TIDE: duplicates and background are removed; of the misplaced ones that have the same
nearest object, the one of the highest score is matched to it if nothing else is, and the others are removed; so are
those of the wrong class, with the object's class instead of theirs; missed objects are taken out of the count of
objects (a class whose objects are all missed keeps AP 0). The gain is averaged over classes and thresholds as mAP is.
A heading does not enter mAP: what fixing it gives is a gain in NDS, by the mean orientation error.

Deviation from TIDE: it asks for misplaced before wrong class and duplicate. Objects stand closer to each other than 4
m, so here what is within the threshold explains a detection before what is beyond it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from aqr_bench.metrics.matches import ClassMatches, Matches
from aqr_bench.metrics.nuscenes import ORIENTATION, RECALL, UNDEFINED, first_bin

DUPLICATE, WRONG_CLASS, MISPLACED, BACKGROUND = "duplicate", "wrong class", "misplaced", "background"
MISSED, WRONG_HEADING = "missed", "wrong heading"
TYPES = (WRONG_CLASS, MISPLACED, WRONG_HEADING, DUPLICATE, BACKGROUND, MISSED)
HEADING_LIMIT = np.pi / 4


@dataclass(frozen=True)
class ErrorType:
    """One type of error of an evaluation.

    count      detections (missed: objects) at the threshold of the true-positive errors, 2 m
    map_gain   mAP that fixing all of the type would add, mean over classes and thresholds
    nds_gain   NDS that fixing wrong headings would add; None for the other types
    """

    count: int
    map_gain: float
    nds_gain: float | None = None


@dataclass(frozen=True)
class _Detections:
    """All detections at one threshold, class after class: score, match, type of error, nearest objects [N, 2]."""

    score: np.ndarray
    hit: np.ndarray
    kind: np.ndarray  # index of _KINDS; -1: matched
    near: np.ndarray
    parts: tuple[slice, ...]  # of each class


_KINDS = (DUPLICATE, WRONG_CLASS, MISPLACED, BACKGROUND)


def has_error_types(matches: Matches) -> bool:
    """Whether matches hold what types of errors need; those of older evaluations do not."""
    classes = matches.classes.values()
    return matches.has_errors and all(c.matched is not None and c.near_distance is not None for c in classes)


def error_types(matches: Matches) -> dict[str, ErrorType]:
    """Count and gain of every one of TYPES. ValueError for matches without neighbours, see :func:`has_error_types`."""
    if not has_error_types(matches):
        raise ValueError("these matches have no distances to the nearest objects")
    gains = np.zeros(len(TYPES))
    counts: dict[str, int] = {}
    positives = np.array([len(c.object_sample) for c in matches.classes.values()])
    for d, threshold in enumerate(matches.distances):
        detections, matched_G = _at_threshold(matches, d, positives)
        missed_G, counted = _missed(detections, matched_G), dict.fromkeys(TYPES, 0)
        for k, kind in enumerate(_KINDS):
            counted[kind] = int((detections.kind == k).sum())
        counted[MISSED] = int(missed_G.sum())
        if threshold == matches.error_distance:
            counts = counted
        base = _mean_ap(matches, detections.hit, detections.parts, positives)
        for i, name in enumerate(TYPES):
            if counted[name]:
                gains[i] += _fixed(matches, name, detections, matched_G, missed_G, positives) - base
    counts[WRONG_HEADING], nds_gain = _wrong_headings(matches)
    return {
        name: ErrorType(counts[name], float(gain) / len(matches.distances), nds_gain if name == WRONG_HEADING else None)
        for name, gain in zip(TYPES, gains, strict=True)
    }


def _at_threshold(matches: Matches, d: int, positives: np.ndarray) -> tuple[_Detections, np.ndarray]:
    """The detections at the distance threshold ``d``, and which objects are matched [G]."""
    classes = list(matches.classes.values())
    starts = np.cumsum([0, *(len(c.score) for c in classes)])
    parts = tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(starts))
    matched_G = np.zeros(int(positives.sum()), dtype=bool)
    for first, c in zip(np.cumsum([0, *positives[:-1]]), classes, strict=True):
        matched_G[first + c.matched[c.tp[:, d], d]] = True
    score = np.concatenate([c.score for c in classes])
    hit = np.concatenate([c.tp[:, d] for c in classes])
    near = np.concatenate([c.near_object for c in classes])
    same, other = np.concatenate([c.near_distance for c in classes]).T
    limit = matches.distances[d]
    rules = [hit, same < limit, other < limit, np.isfinite(same)]
    kind = np.select(rules, [-1, *range(len(_KINDS) - 1)], default=len(_KINDS) - 1)
    return _Detections(score, hit, kind, near, parts), matched_G


def _claims(detections: _Detections, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the detections of a type that would be matched if fixed, in descending score, and their objects.

    ``kind``: misplaced or wrong class; of several with the same nearest object it is the one of the highest score.
    """
    rows = np.flatnonzero(detections.kind == _KINDS.index(kind))
    rows = rows[np.argsort(-detections.score[rows], kind="stable")]
    objects, first = np.unique(detections.near[rows, 1 if kind == WRONG_CLASS else 0], return_index=True)
    return rows[first], objects


def _missed(detections: _Detections, matched_G: np.ndarray) -> np.ndarray:
    """Objects [G] that are neither matched, nor would be if misplaced or wrongly classified detections were fixed."""
    missed = ~matched_G
    for kind in (WRONG_CLASS, MISPLACED):
        missed[_claims(detections, kind)[1]] = False
    return missed


def _fixed(
    matches: Matches,
    name: str,
    detections: _Detections,
    matched_G: np.ndarray,
    missed_G: np.ndarray,
    positives: np.ndarray,
) -> float:
    """Mean AP at one threshold after all errors of a type are fixed."""
    score, hit, parts = detections.score, detections.hit, detections.parts
    if name == MISSED:
        label = np.repeat(np.arange(len(positives)), positives)
        return _mean_ap(matches, hit, parts, positives - np.bincount(label[missed_G], minlength=len(positives)))
    keep = detections.kind != _KINDS.index(name)
    if name in (DUPLICATE, BACKGROUND):
        return _mean_ap(matches, hit, parts, positives, keep)
    rows, objects = _claims(detections, name)
    rows, objects = rows[~matched_G[objects]], objects[~matched_G[objects]]
    if name == MISPLACED:
        hit, keep = hit.copy(), keep.copy()
        hit[rows] = keep[rows] = True
        return _mean_ap(matches, hit, parts, positives, keep)
    total = 0.0
    ends = np.cumsum(positives)
    label = np.searchsorted(ends, objects, side="right")  # of the objects
    for c, part in enumerate(parts):
        scores = np.concatenate([score[part][keep[part]], score[rows[label == c]]])
        hits = np.concatenate([hit[part][keep[part]], np.ones(int((label == c).sum()), dtype=bool)])
        order = np.argsort(-scores, kind="stable")
        total += _ap(hits[order], int(positives[c]), matches.min_recall, matches.min_precision)
    return total / len(parts)


def _mean_ap(
    matches: Matches, hit: np.ndarray, parts: tuple[slice, ...], positives: np.ndarray, keep: np.ndarray | None = None
) -> float:
    """Mean AP of the classes, of the detections that are kept (None: all)."""
    hits_by_part = (hit[part] if keep is None else hit[part][keep[part]] for part in parts)
    values = [
        _ap(hits, int(count), matches.min_recall, matches.min_precision)
        for hits, count in zip(hits_by_part, positives, strict=True)
    ]
    return float(np.mean(values))


def _ap(hit_N: np.ndarray, positives: int, min_recall: float, min_precision: float) -> float:
    """AP of detections in descending order, as ``nuscenes.average_precision`` of their curve."""
    if not positives or not hit_N.any():
        return 0.0
    hits = np.cumsum(hit_N)
    precision = np.interp(RECALL, hits / positives, hits / np.arange(1, len(hits) + 1), right=0)
    above = np.maximum(precision[first_bin(min_recall) :] - min_precision, 0)
    return float(above.mean() / (1 - min_precision))


def _wrong_headings(matches: Matches) -> tuple[int, float]:
    """Matches with a wrong heading, and the gain in NDS if those headings were right."""
    count, classes = 0, {}
    for name, c in matches.classes.items():
        wrong = np.zeros(len(c.errors), dtype=bool)
        if ORIENTATION not in UNDEFINED.get(name, ()):
            wrong = c.errors[:, ORIENTATION] > HEADING_LIMIT
        count += int(wrong.sum())
        classes[name] = _right_heading(c, wrong)
    if not count:
        return 0, 0.0
    return count, float(replace(matches, classes=classes).scores().nds[0] - matches.scores().nds[0])


def _right_heading(c: ClassMatches, wrong: np.ndarray) -> ClassMatches:
    errors = c.errors.copy()
    errors[wrong, ORIENTATION] = 0.0
    return replace(c, errors=errors)
