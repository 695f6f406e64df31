"""Scores of two sets of results, one by one: means, differences with their tests, verdicts; also by slice."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from aqr_bench.metrics.slices import ALL, SliceScore
from aqr_bench.report.result_sets import ResultSet, other_inputs
from aqr_bench.report.scene_bootstrap import matches_beside
from aqr_bench.report.score_statistics import (
    CONFIDENCE,
    ScoreDifference,
    Summary,
    correct,
    corrected_verdict,
    paired_difference,
    summarise,
    verdict,
)
from aqr_bench.report.slice_scores import METRIC, load_slices, slice_difference
from aqr_bench.study.spec import LOWER_IS_BETTER


@dataclass(frozen=True)
class ScoreKey:
    """What a score is of."""

    metric: str
    study: str
    variant: str
    suite: str
    condition: str


@dataclass(frozen=True)
class ScoreComparison:
    """One score of a variant under one condition in both sets.

    test       paired (by seed, paired t-test), identical, Welch (other seeds), or why there is no test
    delta      B - A; None where they are not compared
    verdict    better, worse, within the noise, identical, ... (B against A), each comparison by itself
    corrected  the same after the correction for the number of comparisons
    stale      why records behind it are not of what is asked for now; empty where they are
    """

    key: ScoreKey
    a: Summary
    b: Summary
    test: str
    delta: ScoreDifference | None
    verdict: str
    corrected: str
    stale: str = ""


def compare_scores(a: ResultSet, b: ResultSet, metrics: Sequence[str], judge: bool = True) -> list[ScoreComparison]:
    """Every score that is in either set; nothing is tested unless ``judge``, nor where the inputs differ."""
    unequal = other_inputs(a, b)[0]
    rows = []
    for metric in metrics:
        scores_a, scores_b = _scores(a, metric), _scores(b, metric)
        tests: dict[ScoreKey, tuple[str, ScoreDifference | None]] = {}
        for key in dict.fromkeys([*scores_a, *scores_b]):
            by_seed_a, by_seed_b = scores_a.get(key, {}), scores_b.get(key, {})
            if not judge:
                tests[key] = ("not compared", None)
            elif not by_seed_a or not by_seed_b:
                tests[key] = (f"only in {'A' if by_seed_a else 'B'}", None)
            elif (key.suite, key.condition) in unequal:
                tests[key] = ("other inputs", None)
            else:
                tests[key] = score_difference(by_seed_a, by_seed_b)
        for study in dict.fromkeys(key.study for key in tests):
            family = {k: d for k, (test, d) in tests.items() if k.study == study and test != "identical"}
            corrected = correct(family)
            rows += [
                _judged(k, scores_a.get(k, {}), scores_b.get(k, {}), *tests[k], corrected.get(k))
                for k in tests
                if k.study == study
            ]
    return rows


def compare_slices(a: ResultSet, b: ResultSet, judge: bool = True) -> list[ScoreComparison]:
    """mAP by slice where both sets have it, under the same inputs; corrected for the number of slices by study."""
    unequal = other_inputs(a, b)[0]
    slices_a, slices_b = (_slices(results, other) for results, other in ((a, b), (b, a)))
    tests: dict[ScoreKey, tuple[str, ScoreDifference | None]] = {}
    values: dict[ScoreKey, tuple[dict[int, float], dict[int, float]]] = {}
    for key in (k for k in slices_a if k in slices_b and (k.suite, k.condition) not in unequal):
        sides = slices_a[key], slices_b[key]
        values[key] = tuple({seed: score.value for seed, score in side.items()} for side in sides)
        test, delta = score_difference(*values[key]) if judge else ("not compared", None)
        tests[key] = test, slice_difference(sides[1], sides[0], delta) if test.startswith("paired") else delta
    rows = []
    for study in dict.fromkeys(key.study for key in tests):
        corrected = correct({k: d for k, (test, d) in tests.items() if k.study == study and test != "identical"})
        rows += [_judged(k, *values[k], *tests[k], corrected.get(k)) for k in tests if k.study == study]
    return rows


def _slices(results: ResultSet, other: ResultSet) -> dict[ScoreKey, dict[int, SliceScore]]:
    """Slices by seed of every variant and condition that the other set has, too; but for ``all``, which is mAP."""
    scores: dict[ScoreKey, dict[int, SliceScore]] = {}
    others = {key[1:3] + key[4:] for key in other.of("evaluate")}
    for key, record in results.of("evaluate").items():
        _, study, variant, seed, suite, condition = key
        file = results.files.get(key) if key[1:3] + key[4:] in others else None
        path = None if file is None else matches_beside(file, record)
        for (criterion, name), score in (load_slices(path, record.scores.get(METRIC)) or {}).items():
            metric = f"{METRIC}, all" if (criterion, name) == ALL else f"{METRIC}, {criterion.replace('_', ' ')} {name}"
            scores.setdefault(ScoreKey(metric, study, variant, suite, condition), {})[seed or 0] = score
    return scores


def score_difference(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[str, ScoreDifference | None]:
    """Name of the test and B - A: paired over the seeds that both have, else Welch's t-test.

    A set without some seed of the other must not differ by that alone: two common seeds are enough for pairs.
    """
    common = sorted(set(a) & set(b))
    if len(common) > 1 or set(a) == set(b):
        test = "paired" if set(a) == set(b) else f"paired, {len(common)} seeds"
        return ("identical" if all(a[s] == b[s] for s in common) else test), paired_difference(b, a)
    values_a, values_b = list(a.values()), list(b.values())
    summary_a, summary_b = summarise(values_a), summarise(values_b)
    mean, n = summary_b.mean - summary_a.mean, min(summary_a.n, summary_b.n)
    if n < 2:
        return "Welch", ScoreDifference(n, mean, None, None)
    if summary_a.sd == 0 and summary_b.sd == 0:  # the test divides by 0
        return "Welch", ScoreDifference(n, mean, mean, mean, p_seeds=0.0 if mean else 1.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss occurred")
        welch = stats.ttest_ind(values_b, values_a, equal_var=False)
    interval = welch.confidence_interval(CONFIDENCE)
    return "Welch", ScoreDifference(n, mean, float(interval.low), float(interval.high), p_seeds=float(welch.pvalue))


def _scores(results: ResultSet, metric: str) -> dict[ScoreKey, dict[int, float]]:
    """Finite scores by seed of every variant and condition."""
    scores: dict[ScoreKey, dict[int, float]] = {}
    for (_, study, variant, seed, suite, condition), record in results.of("evaluate").items():
        value = record.score(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            scores.setdefault(ScoreKey(metric, study, variant, suite, condition), {})[seed or 0] = float(value)
    return scores


def _judged(
    key: ScoreKey,
    a: Mapping[int, float],
    b: Mapping[int, float],
    test: str,
    plain: ScoreDifference | None,
    corrected: ScoreDifference | None,
) -> ScoreComparison:
    summaries = summarise(list(a.values())), summarise(list(b.values()))
    if plain is None or test == "identical":
        return ScoreComparison(key, *summaries, test, plain, test, test)
    delta, higher = corrected or plain, key.metric not in LOWER_IS_BETTER
    return ScoreComparison(key, *summaries, test, delta, verdict(delta, higher), corrected_verdict(delta, higher))
