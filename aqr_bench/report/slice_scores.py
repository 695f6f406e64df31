"""Slices of evaluations, from the matches that they wrote: over seeds, with their scenes, and as paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aqr_bench.errors import ARRAY_READ_ERRORS
from aqr_bench.metrics.bootstrap import paired_scene_bootstrap
from aqr_bench.metrics.slices import ALL, Key, SliceScore, has_slices, slice_scores
from aqr_bench.report.scene_bootstrap import AGREEMENT, load_matches
from aqr_bench.report.score_statistics import (
    CONFIDENCE,
    ScoreDifference,
    Summary,
    correct,
    paired_difference,
    summarise,
)

DRAWS = 200  # of scenes: there are many slices, and a rough limit is enough to see that one has few scenes
METRIC = "mAP"


@dataclass(frozen=True)
class SliceRow:
    """mAP of a model on a slice of the data.

    objects, scenes, classes  that the slice has, see metrics.slices
    summary                   over seeds
    low, high                 95 % interval over scenes of the mean over seeds; None with too few scenes
    difference                to another model, paired by seed and by scene; None where there is none
    """

    key: Key
    model: str
    objects: int
    scenes: int
    classes: int
    summary: Summary
    low: float | None
    high: float | None
    difference: ScoreDifference | None


def load_slices(path: Path | None, score: float | None) -> dict[Key, SliceScore] | None:
    """Slices of an evaluation whose mAP is ``score``.

    None if its matches are missing, damaged, of another evaluation, or of an older one, which has no slices.
    """
    matches = load_matches(path)
    if matches is None or score is None:
        return None
    try:
        scores = slice_scores(matches, DRAWS) if has_slices(matches) else None
    except ARRAY_READ_ERRORS:
        return None
    return scores if scores is not None and abs(scores[ALL].value - score) <= AGREEMENT else None


def slice_difference(
    model: Mapping[int, SliceScore], other: Mapping[int, SliceScore], seeds_only: ScoreDifference | None = None
) -> ScoreDifference | None:
    """Difference model - other by seed, with its interval over scenes where all pairs have one.

    ``seeds_only``: the difference over seeds, where it is known already.
    """
    values = [{seed: score.value for seed, score in side.items()} for side in (model, other)]
    delta = seeds_only or paired_difference(*values)
    pairs = [s for s in model if s in other]
    draws = [{s: side[s].resampled for s in pairs} for side in (model, other)]
    if delta is None or not pairs or any(d is None for side in draws for d in side.values()):
        return delta
    return replace(delta, scenes=paired_scene_bootstrap(*draws))


def slice_rows(
    scores: Mapping[str, Mapping[int, Mapping[Key, SliceScore]]], against: Mapping[str, str]
) -> list[SliceRow]:
    """A row for each slice and model, slice by slice.

    Args:
        scores: slices by model and seed.
        against: what a model is compared with. P-values are corrected for the number of slices and models.
    """
    keys = dict.fromkeys(key for by_seed in scores.values() for slices in by_seed.values() for key in slices)
    sides = {
        (key, model): {seed: slices[key] for seed, slices in by_seed.items() if key in slices}
        for key in keys
        for model, by_seed in scores.items()
    }
    deltas = {
        (key, model): slice_difference(side, sides.get((key, against[model]), {}))
        for (key, model), side in sides.items()
        if model in against
    }
    deltas |= correct({key: delta for key, delta in deltas.items() if key[0] != ALL})
    return [
        _row(key, model, list(side.values()), deltas.get((key, model))) for (key, model), side in sides.items() if side
    ]


def _row(key: Key, model: str, scores: Sequence[SliceScore], difference: ScoreDifference | None) -> SliceRow:
    draws = [score.resampled for score in scores]
    low = high = None
    if all(d is not None and d.scenes == draws[0].scenes for d in draws):
        tail = 50 * (1 - CONFIDENCE)
        low, high = map(float, np.percentile(np.mean([d.draws for d in draws], axis=0), [tail, 100 - tail]))
    first = scores[0]
    summary = summarise([score.value for score in scores])
    return SliceRow(key, model, first.objects, first.scenes, first.classes, summary, low, high, difference)
