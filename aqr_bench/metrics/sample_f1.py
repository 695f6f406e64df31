"""F1 of the detections of each sample: good and bad samples, the best score threshold, matched boxes of one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES

from aqr_bench.metrics.boxes import NO_ATTRIBUTE, NOT_COUNTED, BoxArrays
from aqr_bench.metrics.greedy_matching import Matching, match


@dataclass(frozen=True)
class SampleObjects:
    """Objects of one sample: centre [n, 2] in the plane (m, any one frame), class names, scores (of detections)."""

    centre: np.ndarray
    names: Sequence[str]
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class DetectionCounts:
    """Detections of a sample: matched, unmatched, and objects without a detection."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 without objects and detections."""
        total = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / total if total else 0.0


def count_detections(
    detections: Mapping[str, SampleObjects], truth: Mapping[str, SampleObjects], distance_m: float = 2.0
) -> dict[str, DetectionCounts]:
    """Counts of every sample of ``truth``, over all classes, matched as nuScenes does within ``distance_m``.

    All detections count: leave out those with a low score before. Keys are sample tokens.
    """
    tokens = list(truth)
    detected, actual, matching = _matched(tokens, detections, truth, distance_m)
    matched = matching.order[matching.matched[:, 0] >= 0]
    per_sample = (
        np.bincount(sample, minlength=len(tokens)).tolist()
        for sample in (detected.sample[matched], detected.sample, actual.sample)
    )
    return {token: DetectionCounts(tp, n - tp, m - tp) for token, tp, n, m in zip(tokens, *per_sample, strict=True)}


def best_threshold(
    detections: Mapping[str, SampleObjects], truth: Mapping[str, SampleObjects], distance_m: float = 2.0
) -> float | None:
    """The score threshold with the highest F1 over all samples, to three decimals; None where nothing is detected.

    Detections are matched by descending score, so those above a threshold match the same whatever lies below it.
    """
    detected, actual, matching = _matched(list(truth), detections, truth, distance_m)
    scores = detected.score[matching.order]
    descending = np.argsort(-scores, kind="stable")
    true_positives = np.cumsum(matching.matched[descending, 0] >= 0)
    if not true_positives.size or not true_positives[-1]:
        return None
    f1 = 2 * true_positives / (np.arange(1, len(scores) + 1) + len(actual.sample))
    return float(np.floor(scores[descending][f1.argmax()] * 1000) / 1000)


def matched_boxes(
    detections: SampleObjects, truth: SampleObjects, distance_m: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections [n] of one sample match an object, and which objects [m] a detection, bool."""
    _, _, matching = _matched(["sample"], {"sample": detections}, {"sample": truth}, distance_m)
    true_positive, detected = np.zeros(len(detections.names), bool), np.zeros(len(truth.names), bool)
    hit = matching.matched[:, 0] >= 0
    true_positive[matching.order[hit]] = True
    detected[matching.matched[hit, 0]] = True
    return true_positive, detected


def _matched(
    tokens: Sequence[str],
    detections: Mapping[str, SampleObjects],
    truth: Mapping[str, SampleObjects],
    distance_m: float,
) -> tuple[BoxArrays, BoxArrays, Matching]:
    """Detections and objects of all samples as arrays, and which of them match."""
    empty = SampleObjects(np.zeros((0, 2)), [], np.zeros(0))
    detected = _boxes([detections.get(token, empty) for token in tokens])
    actual = _boxes([truth[token] for token in tokens])
    return detected, actual, match(actual, detected, len(tokens), [distance_m])


def _boxes(samples: Sequence[SampleObjects]) -> BoxArrays:
    """The metric's arrays of objects; matching uses x and y alone."""
    sample = np.repeat(np.arange(len(samples), dtype=np.int32), [len(objects.names) for objects in samples])
    label = np.array([DETECTION_NAMES.index(n) for objects in samples for n in objects.names], dtype=np.int8)
    translation = np.zeros((len(sample), 3))
    scores = np.full(len(sample), -1.0)
    if len(sample):
        translation[:, :2] = np.concatenate([objects.centre for objects in samples])
        scores = np.concatenate(
            [np.full(len(o.names), -1.0) if o.scores is None else np.asarray(o.scores, np.float64) for o in samples]
        )
    blank = {"size": np.ones((len(sample), 3)), "rotation": np.zeros((len(sample), 4))}
    codes = np.full(len(sample), NO_ATTRIBUTE, np.int8), np.full(len(sample), NOT_COUNTED, np.int32)
    velocity = np.full((len(sample), 2), np.nan)
    return BoxArrays(
        sample, label, translation, **blank, velocity=velocity, score=scores, attribute=codes[0], points=codes[1]
    )


def best_and_worst(counts: Mapping[str, DetectionCounts], count: int = 1) -> tuple[list[str], list[str]]:
    """Tokens of the ``count`` best and worst samples by F1, none of them twice; samples without objects are left out.

    Of equal F1 the sample with more true positives is better, the one with more errors worse.
    """
    seen = {token: c for token, c in counts.items() if c.true_positives + c.false_negatives}
    best = sorted(seen, key=lambda t: (-seen[t].f1, -seen[t].true_positives, t))[:count]
    worst = sorted(seen, key=lambda t: (seen[t].f1, -(seen[t].false_positives + seen[t].false_negatives), t))
    return best, [t for t in worst if t not in best][:count]
