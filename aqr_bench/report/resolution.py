"""What a study can resolve: the noise over seeds and over scenes, and the smallest difference it would find."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from aqr_bench.report.collect import Results
from aqr_bench.report.statistics import CONFIDENCE, FEW, Difference, number, summarise
from aqr_bench.report.tables.study import Table, by_seed, differences
from aqr_bench.study.spec import Study

POWER = 0.8


@dataclass(frozen=True)
class Resolution:
    """Noise of the paired differences under one condition, pooled over variants; None: no estimate.

    seeds         pairs of seeds of a variant (the fewest, where variants differ)
    df            degrees of freedom of ``pooled_sd``
    pooled_sd     standard deviation over seeds of a paired difference
    seed_half     half of the 95 % interval over seeds of the mean difference
    scenes        scenes of the bootstrap
    scene_half    half of the 95 % interval over scenes, median over variants
    scene_sd      standard deviation over draws of scenes, median over variants
    smallest      difference found with 80 % power by a two-sided test at 5 %, seeds and scenes together
    baseline_sd   standard deviation over seeds of the baseline's own score
    baseline_runs finished seeds of the baseline
    floor         noise floor: how far two baselines of different seeds are apart, mean over all pairs of seeds
    floor_most    the farthest two; both None for fewer than two seeds
    """

    condition: str
    seeds: int
    df: int
    pooled_sd: float | None
    seed_half: float | None
    scenes: int | None
    scene_half: float | None
    scene_sd: float | None
    smallest: float | None
    baseline_sd: float | None
    baseline_runs: int
    floor: float | None
    floor_most: float | None


def resolution(study: Study, results: Results) -> list[Resolution]:
    """One row per condition of the suite, in its order."""
    deltas = differences(study, results)
    rows = []
    for condition in (c.name for c in study.suite.conditions):
        own = [d for (_, where), d in deltas.items() if where == condition and d is not None]
        rows.append(_resolve(condition, own, list(by_seed(results, study.baseline, condition, study.metric).values())))
    return rows


def _resolve(condition: str, deltas: list[Difference], baseline: list[float]) -> Resolution:
    apart = [abs(a - b) for a, b in itertools.combinations(baseline, 2)]
    floor = (statistics.fmean(apart), max(apart)) if apart else (None, None)
    own_noise = (summarise(baseline).sd, len(baseline), *floor)
    spread = [d for d in deltas if d.sd is not None]
    over_scenes = [d.scenes for d in deltas if d.scenes is not None]
    scene_half = statistics.median((s.high - s.low) / 2 for s in over_scenes) if over_scenes else None
    scene_sd = statistics.median(s.sd for s in over_scenes) if over_scenes else None
    scenes = over_scenes[0].scenes if over_scenes else None
    seeds = min((d.n for d in spread), default=max((d.n for d in deltas), default=0))
    if not spread:
        return Resolution(condition, seeds, 0, None, None, scenes, scene_half, scene_sd, None, *own_noise)
    # Weighted by degrees of freedom: the plain mean of the variances where all variants have the same seeds.
    df = sum(d.n - 1 for d in spread)
    variance = sum((d.n - 1) * d.sd**2 for d in spread) / df
    sure, power = (float(stats.t.ppf(q, df)) for q in (0.5 + CONFIDENCE / 2, POWER))
    total = math.sqrt(variance / seeds + (scene_sd or 0.0) ** 2)
    return Resolution(
        condition,
        seeds,
        df,
        math.sqrt(variance),
        sure * math.sqrt(variance / seeds),
        scenes,
        scene_half,
        scene_sd,
        (sure + power) * total,
        *own_noise,
    )


def resolution_table(study: Study, results: Results) -> Table:
    """The rows of ``resolution`` as a table; no rows where there is nothing to compare."""
    rows = resolution(study, results) if len(study.variants) > 1 else []
    shown = [
        {
            "Condition": row.condition,
            "Seeds": f"{row.seeds}, fewer than three" if row.seeds < FEW else str(row.seeds),
            "Scenes": "–" if row.scenes is None else str(row.scenes),
            "sd, seeds": number(row.pooled_sd, 4),
            "df": str(row.df),
            "Half 95 %, seeds": number(row.seed_half, 4),
            "Half 95 %, scenes": number(row.scene_half, 4),
            "Smallest difference": number(row.smallest, 4),
            "Baseline sd": number(row.baseline_sd, 4),
            "Noise floor": number(row.floor, 4),
            "Floor, at most": number(row.floor_most, 4),
        }
        for row in rows
    ]
    columns = list(Resolution.__dataclass_fields__)
    return Table(
        f"{study.name}_resolution",
        "What this study can resolve",
        pd.DataFrame([vars(row) for row in rows], columns=columns),
        pd.DataFrame(shown),
        "sd, seeds: of a paired difference to the baseline, pooled over variants. Half 95 %: half the width of the "
        "interval of a mean difference, over seeds and (median of the variants) over scenes. Smallest difference: "
        "found with 80 % power by a two-sided test at 5 %, seeds and scenes together (seeds alone where there are no "
        "scenes). All variants are compared with the same baseline runs, so the degrees of freedom (df) are a little "
        "too many. Baseline sd: the baseline's own score over seeds. Noise floor: how far apart two baselines are that "
        "differ in nothing but the seed, mean over all pairs of seeds, and at most.",
        frozenset(i for i, row in enumerate(rows) if row.seeds < FEW),
        frozenset(shown[0]) - {"Condition", "Seeds"} if shown else frozenset(),
    )


def resolution_sentence(study: Study, results: Results) -> str:
    """The smallest difference and the noise floor of the reference condition, in two sentences."""
    row = resolution(study, results)[0]
    floor = _floor_sentence(study, row)
    if row.smallest is None:
        return (
            f"What '{row.condition}' can resolve is unknown: no variant shares two finished seeds with the baseline. "
            f"{floor}"
        )
    few = " (fewer than three)" if row.seeds < FEW else ""
    scenes = f"{row.scenes} scenes" if row.scenes else "the noise over scenes left out"
    return (
        f"Under '{row.condition}', a true difference of {number(row.smallest)} {study.metric} would be found four "
        f"times out of five ({row.seeds} seeds{few}, {scenes}); a smaller one may well stay hidden. {floor}"
    )


def _floor_sentence(study: Study, row: Resolution) -> str:
    if row.floor is None:
        return f"The noise floor is unknown: '{study.baseline}' has fewer than two finished seeds."
    what = f"Noise floor: two trainings of '{study.baseline}' with different seeds are"
    if row.baseline_runs == 2:
        return f"{what} {number(row.floor)} {study.metric} apart (one pair of seeds, fewer than three seeds)."
    pairs = math.comb(row.baseline_runs, 2)
    return (
        f"{what} {number(row.floor)} {study.metric} apart on average, at most {number(row.floor_most)} ({pairs} pairs)."
    )
