"""Calibration: how often what is scored with s is right, in bins of s, and the expected calibration error.

Source: Guo et al., ICML 2017 (arXiv:1706.04599), for detections as in Kueppers et al., CVPRW 2020 (arXiv:2004.13546): a
detection is right if it is matched to an object, here at 2 m. Objects that are not detected do not enter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqr_bench.metrics.matches import Matches

BINS = 20
CONFIDENT = 0.3  # a limit of the bins; most detections of a detector are below it, and are background


@dataclass(frozen=True)
class Reliability:
    """Sums over what falls into each of B bins of equal width over [0, 1].

    count  [B] how many
    score  [B] sum of their scores
    right  [B] how many of them are right
    """

    count: np.ndarray
    score: np.ndarray
    right: np.ndarray

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.count + other.count, self.score + other.score, self.right + other.right)

    @property
    def mean_score(self) -> np.ndarray:
        """[B]; NaN in an empty bin."""
        return _ratio(self.score, self.count)

    @property
    def precision(self) -> np.ndarray:
        """Share that is right [B]; NaN in an empty bin."""
        return _ratio(self.right, self.count)

    def error(self, lowest: float = 0.0) -> float | None:
        """Expected calibration error of the bins from ``lowest`` on: mean of |precision - mean score| over all in them.

        None where they are empty.
        """
        first = round(lowest * len(self.count))
        total = self.count[first:].sum()
        return float(np.abs(self.right - self.score)[first:].sum() / total) if total else None


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def reliability(score_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> Reliability | None:
    """Bins of scores and whether each is right; None for scores that are not all from 0 to 1."""
    if len(score_N) and not (score_N.min() >= 0 and score_N.max() <= 1):
        return None
    index = np.minimum((score_N * bins).astype(np.int64), bins - 1)
    count, score, right = (
        np.bincount(index, weights, bins).astype(np.float64) for weights in (None, score_N, right_N.astype(np.float64))
    )
    return Reliability(count, score, right)


def detection_reliability(matches: Matches) -> dict[str, Reliability] | None:
    """Reliability of the detections of each class at the threshold of the true-positive errors, 2 m.

    None for scores that are not all from 0 to 1, and for matches without that threshold.
    """
    if matches.error_distance not in matches.distances:
        return None
    column = matches.distances.index(matches.error_distance)
    by_class = {name: reliability(c.score, c.tp[:, column]) for name, c in matches.classes.items()}
    return None if None in by_class.values() else by_class
