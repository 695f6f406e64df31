"""How well the objects of one sample were found: a score per sample, to tell good samples from bad ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES

from aqr_bench.metrics.boxes import NO_ATTRIBUTE, NOT_COUNTED, BoxArrays
from aqr_bench.metrics.greedy_matching import match


@dataclass(frozen=True)
class Objects:
    """Objects of one sample: centre [n, 2] in the plane (m, any one frame), class names, scores (of detections)."""

    centre: np.ndarray
    names: Sequence[str]
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Found:
    """Objects found, detections that found nothing, objects missed."""

    hits: int
    false: int
    missed: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 without objects and detections."""
        total = 2 * self.hits + self.false + self.missed
        return 2 * self.hits / total if total else 0.0


def count_found(
    detections: Mapping[str, Objects], truth: Mapping[str, Objects], distance_m: float = 2.0
) -> dict[str, Found]:
    """What was found in every sample of ``truth``, class by class, matched as nuScenes does within ``distance_m``.

    Detections count as they are: leave out those with a low score before. Samples go by their token.
    """
    tokens = list(truth)
    nothing = Objects(np.zeros((0, 2)), [], np.zeros(0))
    found = _boxes([detections.get(token, nothing) for token in tokens])
    real = _boxes([truth[token] for token in tokens])
    matching = match(real, found, len(tokens), [distance_m])
    took = matching.order[matching.matched[:, 0] >= 0]
    hits, all_found, objects = (
        np.bincount(samples, minlength=len(tokens)) for samples in (found.sample[took], found.sample, real.sample)
    )
    counts = zip(tokens, hits.tolist(), all_found.tolist(), objects.tolist(), strict=True)
    return {token: Found(h, n - h, m - h) for token, h, n, m in counts}


def _boxes(samples: Sequence[Objects]) -> BoxArrays:
    """Objects as the metric's arrays; of their places only x and y count in matching."""
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


def best_and_worst(found: Mapping[str, Found], count: int = 1) -> tuple[list[str], list[str]]:
    """Tokens of the ``count`` best and worst samples by F1, none of them twice; samples without objects are left out.

    Of equal ones the sample with more hits is better, the one with more mistakes worse.
    """
    seen = {token: f for token, f in found.items() if f.hits + f.missed}
    best = sorted(seen, key=lambda t: (-seen[t].f1, -seen[t].hits, t))[:count]
    worst = sorted(seen, key=lambda t: (seen[t].f1, -(seen[t].false + seen[t].missed), t))
    return best, [t for t in worst if t not in best][:count]
