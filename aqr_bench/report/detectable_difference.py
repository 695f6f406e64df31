"""Minimal detectable difference of a study: the noise over seeds and scenes, and the smallest difference above it."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass, replace

from scipy import stats

from aqr_bench.report.collect import Results
from aqr_bench.report.score_statistics import CONFIDENCE, FEW_SEEDS, ScoreDifference, number, seeds_text, summarise
from aqr_bench.report.tables.study import by_seed, differences
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.spec import Study

POWER = 0.8


@dataclass(frozen=True)
class DetectableDifference:
    """Noise of the paired differences under one condition, pooled over variants; None: no estimate.

    seeds         pairs of seeds of a variant (the fewest, where variants differ)
    df            degrees of freedom of ``pooled_sd``
    pooled_sd     standard deviation over seeds of a paired difference
    seed_half     half of the 95 % interval over seeds of the mean difference
    scenes        scenes of the bootstrap
    scene_half    half of the 95 % interval over scenes, median over variants
    scene_sd      standard deviation over draws of scenes, median over variants
    smallest      difference detected with 80 % power by a two-sided test at 5 %, seeds and scenes together
    baseline_sd   standard deviation over seeds of the baseline's score
    baseline_runs finished seeds of the baseline
    floor         noise floor: difference of two baselines of different seeds, mean over all pairs of seeds
    floor_most    the largest; both None for fewer than two seeds
    """

    condition: str
    seeds: int
    df: int = 0
    pooled_sd: float | None = None
    seed_half: float | None = None
    scenes: int | None = None
    scene_half: float | None = None
    scene_sd: float | None = None
    smallest: float | None = None
    baseline_sd: float | None = None
    baseline_runs: int = 0
    floor: float | None = None
    floor_most: float | None = None


def detectable_differences(study: Study, results: Results) -> list[DetectableDifference]:
    """One row per condition of the suite, in its order."""
    deltas = differences(study, results)
    rows = []
    for condition in (c.name for c in study.suite.conditions):
        of_condition = [d for (_, name), d in deltas.items() if name == condition and d is not None]
        baseline = list(by_seed(results, study.baseline, condition, study.metric).values())
        rows.append(_detectable(condition, of_condition, baseline))
    return rows


def _detectable(condition: str, deltas: list[ScoreDifference], baseline: list[float]) -> DetectableDifference:
    distances = [abs(a - b) for a, b in itertools.combinations(baseline, 2)]
    spread = [d for d in deltas if d.sd is not None]
    scenes = [d.scenes for d in deltas if d.scenes is not None]
    seeds = min((d.n for d in spread), default=max((d.n for d in deltas), default=0))
    noise = DetectableDifference(
        condition,
        seeds,
        scenes=scenes[0].scenes if scenes else None,
        scene_half=statistics.median((s.high - s.low) / 2 for s in scenes) if scenes else None,
        scene_sd=statistics.median(s.sd for s in scenes) if scenes else None,
        baseline_sd=summarise(baseline).sd,
        baseline_runs=len(baseline),
        floor=statistics.fmean(distances) if distances else None,
        floor_most=max(distances, default=None),
    )
    if not spread:
        return noise
    # Weighted by degrees of freedom: the plain mean of the variances where all variants have the same seeds.
    df = sum(d.n - 1 for d in spread)
    variance = sum((d.n - 1) * d.sd**2 for d in spread) / df
    confidence, power = (float(stats.t.ppf(q, df)) for q in (0.5 + CONFIDENCE / 2, POWER))
    total = math.sqrt(variance / seeds + (noise.scene_sd or 0.0) ** 2)
    return replace(
        noise,
        df=df,
        pooled_sd=math.sqrt(variance),
        seed_half=confidence * math.sqrt(variance / seeds),
        smallest=(confidence + power) * total,
    )


def detectable_difference_table(study: Study, results: Results) -> ReportTable:
    """``detectable_differences`` as a table; no rows where there is nothing to compare."""
    rows = [
        Row(
            vars(row),
            {
                "Condition": row.condition,
                "Seeds": seeds_text(row.seeds),
                "Scenes": "–" if row.scenes is None else str(row.scenes),
                "sd, seeds": number(row.pooled_sd, 4),
                "df": str(row.df),
                "Half 95 %, seeds": number(row.seed_half, 4),
                "Half 95 %, scenes": number(row.scene_half, 4),
                "Smallest difference": number(row.smallest, 4),
                "Baseline sd": number(row.baseline_sd, 4),
                "Noise floor": number(row.floor, 4),
                "Floor, at most": number(row.floor_most, 4),
            },
            row.seeds < FEW_SEEDS,
        )
        for row in (detectable_differences(study, results) if len(study.variants) > 1 else [])
    ]
    note = (
        "sd, seeds: of a paired difference to the baseline, pooled over variants. Half 95 %: half the width of the "
        "interval of a mean difference, over seeds and (median of the variants) over scenes. Smallest difference: "
        "detected with 80 % power by a two-sided test at 5 %, seeds and scenes together (seeds only where there are "
        "no scenes). All variants are compared with the same baseline runs, so the degrees of freedom (df) are a "
        "little too many. Baseline sd: the baseline's score over seeds. Noise floor: difference of two baselines "
        "that differ in nothing but the seed, mean over all pairs of seeds, and at most."
    )
    numeric = set(rows[0].text) - {"Condition", "Seeds"} if rows else set()
    columns = list(DetectableDifference.__dataclass_fields__), None
    return make_table(f"{study.name}_resolution", "What this study can resolve", rows, note, numeric, columns)


def detectable_difference_sentence(study: Study, results: Results) -> str:
    """The smallest difference and the noise floor of the reference condition, in two sentences."""
    row = detectable_differences(study, results)[0]
    floor = _floor_sentence(study, row)
    if row.smallest is None:
        return (
            f"What '{row.condition}' can resolve is unknown: no variant shares two finished seeds with the baseline. "
            f"{floor}"
        )
    few = " (fewer than three)" if row.seeds < FEW_SEEDS else ""
    scenes = f"{row.scenes} scenes" if row.scenes else "without the noise over scenes"
    return (
        f"Under '{row.condition}', a true difference of {number(row.smallest)} {study.metric} would be detected four "
        f"times out of five ({row.seeds} seeds{few}, {scenes}); a smaller one may well be missed. {floor}"
    )


def _floor_sentence(study: Study, row: DetectableDifference) -> str:
    if row.floor is None:
        return f"The noise floor is unknown: '{study.baseline}' has fewer than two finished seeds."
    what = f"Noise floor: two trainings of '{study.baseline}' with different seeds are"
    if row.baseline_runs == 2:
        return f"{what} {number(row.floor)} {study.metric} apart (one pair of seeds, fewer than three seeds)."
    pairs = math.comb(row.baseline_runs, 2)
    return (
        f"{what} {number(row.floor)} {study.metric} apart on average, at most {number(row.floor_most)} ({pairs} pairs)."
    )
