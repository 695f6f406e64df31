"""A leaderboard: models in the order of one score, with ranks that the noise allows; published numbers apart.

The rank of a model is 1 + the number of models that are better beyond the noise, so that models between which the noise
does not decide share a rank. All pairs are one family of comparisons. Where A is better than C beyond the noise, and B
is not told apart from either, A and B are first and C, which one model is better than, is second and names B as a tie.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from aqr_bench.errors import UserError, join_names, nearest
from aqr_bench.metrics.bootstrap import SceneInterval, paired_scene_bootstrap
from aqr_bench.report.collect import MISSING
from aqr_bench.report.loose_records import LooseEvaluations
from aqr_bench.report.scene_bootstrap import METRIC, resampled_run
from aqr_bench.report.score_comparison import score_difference
from aqr_bench.report.score_statistics import ScoreDifference, correct, scene_p_value
from aqr_bench.report.tables.paper import ColumnScores, column_scores, conditions_by_column, scores_by_column
from aqr_bench.report.tables.published import SPLIT, read_published
from aqr_bench.report.tables.table import ReportTable, Row, make_table

Pair = tuple[str, str]
RULE = (
    "Rank: 1 + the number of models that are better beyond the noise. Models that the noise cannot tell apart share a "
    "rank, unless a third one is better than one of them alone; the last column names them all the same. Beyond the "
    "noise: the difference, paired by seed (t-test; Welch's for other seeds) and, for mAP under one condition, also by "
    "scene (bootstrap), with p < 0.05 after Holm's correction for the number of pairs. Of models that were trained "
    "elsewhere, one run each, scenes alone decide; one seed of a model trained here decides nothing."
)


@dataclass(frozen=True)
class Standing:
    """Rank of a model, None where it has no score; ``tied``: those that the noise does not tell it from."""

    model: str
    rank: int | None
    tied: tuple[str, ...]


def leaderboard_table(loose: LooseEvaluations, metric: str, column: str) -> ReportTable:
    """Models by rank in ``column`` (clean, a corruption, mRA) of ``metric``, with their scores in all columns.

    UserError: no such column.
    """
    scores = column_scores(loose, metric)
    if column not in scores.columns:
        raise UserError(f"--by: no column '{column}' under '{loose.suite.name}'{nearest(column, scores.columns)}")
    columns = [column, *(c for c in scores.columns if c != column)]
    rows = [
        Row(
            {
                "rank": standing.rank,
                "model": standing.model,
                "metric": metric,
                "by": column,
                "seeds": scores.summary(standing.model, column).n,
                "sd": scores.summary(standing.model, column).sd,
                "within_noise_of": "; ".join(standing.tied),
                **{c: scores.mean(standing.model, c) for c in columns},
            },
            {
                "Rank": "–" if standing.rank is None else str(standing.rank),
                "Model": standing.model,
                **{c: scores.cell(standing.model, c) for c in columns},
                "Seeds": str(scores.summary(standing.model, column).n),
                "Within the noise of": ", ".join(standing.tied) or "–",
            },
            standing.rank is None,
        )
        for standing in standings(scores, column, pair_differences(loose, scores, metric, column))
    ]
    note = f"{metric} in percent, ranked by {column}. {RULE}"
    table = make_table(_name(loose), f"{metric}, by {column}", rows, note, {"Rank", "Seeds", *columns})
    return replace(table, data=table.data.astype({"rank": "Int64"}))


def standings(scores: ColumnScores, column: str, differences: Mapping[Pair, ScoreDifference | None]) -> list[Standing]:
    """Models by rank, of one rank by score; those without a score last.

    ``differences``: first model - second model of each pair, corrected.
    """
    scored = [model for model in scores.models if scores.mean(model, column) is not None]
    better: dict[str, set[str]] = {model: set() for model in scored}  # than the model
    worse: dict[str, set[str]] = {model: set() for model in scored}
    for (a, b), delta in differences.items():
        if delta is not None and delta.survives:
            winner, loser = (a, b) if delta.mean > 0 else (b, a)
            better[loser].add(winner)
            worse[winner].add(loser)
    order = sorted(scored, key=lambda model: (len(better[model]), -scores.mean(model, column)))
    tied = {m: tuple(o for o in order if o not in {m} | better[m] | worse[m]) for m in order}
    return [
        *(Standing(m, 1 + len(better[m]), tied[m]) for m in order),
        *(Standing(model, None, ()) for model in scores.models if model not in better),
    ]


def pair_differences(
    loose: LooseEvaluations, scores: ColumnScores, metric: str, column: str
) -> dict[Pair, ScoreDifference | None]:
    """First - second model of each pair, corrected for the number of pairs; None where there is no test."""
    conditions = conditions_by_column(loose).get(column, [])
    # Only mAP under one condition is recomputed on draws of scenes.
    condition = conditions[0] if metric == METRIC and len(conditions) == 1 else None
    return correct(
        {
            (a, b): _difference(loose, scores.by_seed[a, column], scores.by_seed[b, column], (a, b), condition)
            for a, b in itertools.combinations(loose.models, 2)
        }
    )


def _difference(
    loose: LooseEvaluations, a: Mapping[int, float], b: Mapping[int, float], pair: Pair, condition: str | None
) -> ScoreDifference | None:
    if not a or not b:
        return None
    scenes = None if condition is None else _scene_interval(loose, a, b, pair, condition)
    if loose.given.issuperset(pair):
        if scenes is None:
            return None
        return ScoreDifference(1, scenes.mean, scenes.low, scenes.high, scenes=scenes, p_seeds=scene_p_value(scenes))
    delta = score_difference(b, a)[1]
    return None if delta is None else replace(delta, scenes=scenes)


def _scene_interval(
    loose: LooseEvaluations, a: Mapping[int, float], b: Mapping[int, float], pair: Pair, condition: str
) -> SceneInterval | None:
    """Over the seeds of both; None where one of them has no matches that belong to its score."""
    sides = [
        {seed: resampled_run(loose.matches.get((model, seed, condition)), score) for seed, score in by_seed.items()}
        for model, by_seed in zip(pair, (a, b), strict=True)
    ]
    common = set(sides[0]) & set(sides[1])
    if not common or any(side[seed] is None for side in sides for seed in common):
        return None
    return paired_scene_bootstrap(*({seed: side[seed] for seed in common} for side in sides))


def published_table(loose: LooseEvaluations, metric: str, column: str, files: Sequence[str]) -> ReportTable:
    """Published scores of other models in the columns of the leaderboard, without rank.

    Columns go by the names of conditions and severities in the published files; a mean without one of its severities,
    or an mRA without one of its corruptions, is a dash. UserError: no such file, or none with a number for a column.
    """
    groups = conditions_by_column(loose)
    ours = {(name, str(severity or "")): c for name, by in loose.families().items() for severity, c in by.items()}
    ours["clean", ""] = groups["clean"][0]
    rows = pd.concat([read_published(name) for name in files], ignore_index=True)
    rows = rows[rows["metric"] == metric].fillna({"severity": ""})
    rows["ours"] = [ours.get(key) for key in zip(rows["condition"], rows["severity"], strict=True)]
    rows = rows.dropna(subset="ours").drop_duplicates(["model", "ours"])
    values = {(row.model, 0, row.ours): row.value / 100 for row in rows.itertuples()}
    scores = scores_by_column(metric, values, list(dict.fromkeys(rows["model"])), groups)
    columns = [column, *(c for c in scores.columns if c != column)]
    models = [m for m in scores.models if any(scores.mean(m, c) is not None for c in columns)]
    if not models:
        raise UserError(f"--published: no {metric} under conditions of '{loose.suite.name}' in {', '.join(files)}")
    sources = rows.groupby("model")["source"].agg(lambda of: "; ".join(dict.fromkeys(of)))
    table_rows = [
        Row(
            {"model": m, "published": True, **{c: scores.mean(m, c) for c in columns}, "source": sources[m]},
            {"Model": f"{m} (published)", **{c: scores.cell(m, c) for c in columns}, "Source": sources[m]},
        )
        for m in sorted(models, key=lambda m: -(scores.mean(m, column) or 0))
    ]
    note = (
        f"{metric} in percent, nuScenes {SPLIT}, as published: no rank, and no order with the models above, which were "
        "measured here, on other machines, with other code and perhaps on other data. Noise: unknown, one number each."
    )
    return make_table(f"{_name(loose)}_published", "Published, for reference", table_rows, note, columns)


def no_score_reasons(loose: LooseEvaluations) -> list[str]:
    """Why scores are missing, a line for each model and reason."""
    rows = loose.evaluations[loose.evaluations["status"].isin(["failed", "oom", "timeout", "diverged", MISSING])]
    groups = rows.groupby(["variant", "reason"], sort=False, dropna=False)["condition"]
    return [f"{model}: {join_names(dict.fromkeys(names))}: {reason}" for (model, reason), names in groups]


def _name(loose: LooseEvaluations) -> str:
    return f"leaderboard_{loose.suite.name}"
