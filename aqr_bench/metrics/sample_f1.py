"""How well the objects of one sample were found: a score per sample, to tell good samples from bad ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aqr_bench.metrics.matching import match


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
    counts = np.zeros((len(tokens), 3), np.int64)  # hits, detections, objects
    nothing = Objects(np.zeros((0, 2)), [], np.zeros(0))
    every = [(detections.get(token, nothing), truth[token]) for token in tokens]
    for name in sorted({name for pair in every for side in pair for name in side.names}):
        of_found = [np.flatnonzero(np.asarray(found.names, object) == name) for found, _ in every]
        of_truth = [np.flatnonzero(np.asarray(real.names, object) == name) for _, real in every]
        # Of one sample the surest detection chooses first.
        of_found = [rows[np.argsort(-every[i][0].scores[rows], kind="stable")] for i, rows in enumerate(of_found)]
        sample_N, sample_T = (
            np.repeat(np.arange(len(tokens)), [len(r) for r in rows]) for rows in (of_found, of_truth)
        )
        counts[:, 1] += np.bincount(sample_N, minlength=len(tokens))
        counts[:, 2] += np.bincount(sample_T, minlength=len(tokens))
        if not len(sample_N) or not len(sample_T):
            continue
        centre_N2 = np.concatenate([every[i][0].centre[rows] for i, rows in enumerate(of_found)])
        centre_T2 = np.concatenate([every[i][1].centre[rows] for i, rows in enumerate(of_truth)])
        hit_N = match(sample_N, centre_N2, sample_T, centre_T2, [distance_m])[:, 0]
        counts[:, 0] += np.bincount(sample_N[hit_N], minlength=len(tokens))
    return {t: Found(int(h), int(n - h), int(m - h)) for t, (h, n, m) in zip(tokens, counts, strict=True)}


def best_and_worst(found: Mapping[str, Found], count: int = 1) -> tuple[list[str], list[str]]:
    """Tokens of the ``count`` best and worst samples by F1, none of them twice; samples without objects are left out.

    Of equal ones the sample with more hits is better, the one with more mistakes worse.
    """
    seen = {token: f for token, f in found.items() if f.hits + f.missed}
    best = sorted(seen, key=lambda t: (-seen[t].f1, -seen[t].hits, t))[:count]
    worst = sorted(seen, key=lambda t: (seen[t].f1, -(seen[t].false + seen[t].missed), t))
    return best, [t for t in worst if t not in best][:count]
