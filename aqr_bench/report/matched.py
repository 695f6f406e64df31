"""Recall and precision of an evaluation from the matches that it kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aqr_bench.errors import ARRAY_READ_ERRORS
from aqr_bench.metrics.matches import Matches

DISTANCE_M = 2.0  # the threshold at which nuScenes takes its true-positive errors
LEAST_OBJECTS = 20  # of a class


def recall_and_precision(path: Path | None) -> tuple[float, float] | None:
    """Recall and precision where F1 is best, median of the classes with enough objects.

    None if there is no such class, or if the file is missing or damaged.
    """
    try:
        matches = None if path is None else Matches.load(path)
    except ARRAY_READ_ERRORS:
        return None
    if matches is None or DISTANCE_M not in matches.distances:
        return None
    column, points = matches.distances.index(DISTANCE_M), []
    for found in matches.classes.values():
        objects, hits = found.positives.sum(), np.cumsum(found.tp[:, column])
        if objects < LEAST_OBJECTS or not len(hits):
            continue
        f1 = 2 * hits / (objects + np.arange(1, len(hits) + 1))
        best = int(f1.argmax())
        points.append((hits[best] / objects, hits[best] / (best + 1)))
    if not points:
        return None
    recall, precision = np.median(np.array(points), axis=0)
    return float(recall), float(precision)
