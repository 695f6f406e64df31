"""What a study can resolve: the noise over seeds and over scenes, and the smallest difference it would find."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from aqr_bench.report.collect import Results
from aqr_bench.report.statistics import CONFIDENCE, Difference, number, summarise
from aqr_bench.report.tables import Table, by_seed, differences
from aqr_bench.study import Study

POWER = 0.8
FEW = 3  # fewer seeds than this are called few


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


def resolution(study: Study, results: Results) -> list[Resolution]:
    """One row per condition of the suite, in its order."""
    deltas = differences(study, results)
    rows = []
    for condition in (c.name for c in study.suite.conditions):
        own = [d for (_, where), d in deltas.items() if where == condition and d is not None]
        baseline = summarise(list(by_seed(results, study.baseline, condition, study.metric).values()))
        rows.append(_resolve(condition, own, baseline.sd))
    return rows


def _resolve(condition: str, deltas: list[Difference], baseline_sd: float | None) -> Resolution:
    spread = [d for d in deltas if d.sd is not None]
    over_scenes = [d.scenes for d in deltas if d.scenes is not None]
    scene_half = statistics.median((s.high - s.low) / 2 for s in over_scenes) if over_scenes else None
    scene_sd = statistics.median(s.sd for s in over_scenes) if over_scenes else None
    scenes = over_scenes[0].scenes if over_scenes else None
    seeds = min((d.n for d in spread), default=max((d.n for d in deltas), default=0))
    if not spread:
        return Resolution(condition, seeds, 0, None, None, scenes, scene_half, scene_sd, None, baseline_sd)
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
        baseline_sd,
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
        "too many. Baseline sd: the baseline's own score over seeds.",
        frozenset(i for i, row in enumerate(rows) if row.seeds < FEW),
        frozenset(shown[0]) - {"Condition", "Seeds"} if shown else frozenset(),
    )


def resolution_sentence(study: Study, results: Results) -> str:
    """The smallest difference of the reference condition, in one sentence."""
    row = resolution(study, results)[0]
    if row.smallest is None:
        return f"What '{row.condition}' can resolve is unknown: no variant shares two finished seeds with the baseline."
    few = " (fewer than three)" if row.seeds < FEW else ""
    scenes = f"{row.scenes} scenes" if row.scenes else "the noise over scenes left out"
    return (
        f"Under '{row.condition}', a true difference of {number(row.smallest)} {study.metric} would be found four "
        f"times out of five ({row.seeds} seeds{few}, {scenes}); a smaller one may well stay hidden."
    )
