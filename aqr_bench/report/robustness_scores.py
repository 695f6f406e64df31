"""Robustness of a study's variants under a suite of corruptions: data frames of scores over seeds, from records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from aqr_bench.corruptions import Corruption
from aqr_bench.errors import UserError
from aqr_bench.metrics.robustness import CLEAN, robustness
from aqr_bench.records.record import Record
from aqr_bench.report.collect import collect_runs, further_suites
from aqr_bench.report.score_statistics import paired_difference, summarise
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import known_suites, load_suite
from aqr_bench.study.spec import Run, Study, Suite, Tier

METRICS = ("mAP", "NDS")
SINGLE_SENSOR_SUITE, SINGLE_SENSOR = "missing_sensors", ("no_lidar", "no_cameras")
MISSING_COLUMNS = ["variant", "seed", "suite", "condition", "status", "reason"]


@dataclass(frozen=True)
class SuiteScores:
    """Robustness of the variants of one study under one suite.

    families     corruption -> severity -> condition; severity 0 where there is only one
    by_severity  one row per metric, variant, corruption and severity: score (mean over the seeds that have it), lowest
                 and highest seed
    corruptions  one row per metric, variant and corruption: seeds, score (mean over severities), RA, RRA, CE, each with
                 sd over seeds, reason
    summary      one row per metric and variant: seeds, clean, mRA, mRRA, mCE with sd over seeds, difference of mRA to
                 the baseline with its 95 % interval, score without LiDAR and without cameras, reason
    missing      evaluations that are missing, failed or without a score (MISSING_COLUMNS)
    left_out     variants without any record of the suite
    """

    study: str
    suite: str
    variants: tuple[str, ...]
    baseline: str | None
    seeds: tuple[int, ...]
    families: Mapping[str, Mapping[int, str]]
    by_severity: pd.DataFrame
    corruptions: pd.DataFrame
    summary: pd.DataFrame
    missing: pd.DataFrame
    left_out: tuple[str, ...]
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        return f"{self.study}_robustness_{self.suite}"


def families(suite: Suite) -> dict[str, dict[int, str]]:
    """Corruption -> severity -> condition of a suite, without its first condition, which must be the clean one.

    Derived conditions, which lack a sensor in addition, are left out: they are no corruptions of their own.

    A corruption is named like its conditions without ``_<severity>``; where a condition is not named so, like the
    registry's entry. The severity of several corruptions is the one that all of them have, else 0. UserError for a
    suite that has no clean score, or one severity twice.
    """
    if suite.conditions[0].corruption.key != CLEAN:
        raise UserError(f"{suite.path}: conditions: the first one must be '{CLEAN}', which robustness is relative to")
    groups: dict[str, dict[int, str]] = {}
    for condition in (c for c in suite.conditions[1:] if c.name not in suite.derived):
        severity = _severity(condition.corruption)
        suffix = f"_{severity}"
        if severity and condition.name.endswith(suffix):
            name = condition.name.removesuffix(suffix)
        else:
            name = condition.corruption.name if condition.corruption.severity else condition.name
        if severity in groups.setdefault(name, {}) or name == CLEAN:
            other = groups[name].get(severity, suite.conditions[0].name)
            raise UserError(f"{suite.path}: conditions: '{condition.name}' is the same corruption as '{other}'")
        groups[name][severity] = condition.name
    return groups


def _severity(corruption: Corruption) -> int:
    of_parts = {part.severity for part in corruption.parts}
    return of_parts.pop() if len(of_parts) == 1 else corruption.severity


def corrupts(suite: Suite) -> bool:
    """Whether the suite does more than take sensors away: it has a clean condition, and severities or corruptions."""
    first, *others = (condition.corruption for condition in suite.conditions)
    graded = any(corruption.severity or corruption.suite != SINGLE_SENSOR_SUITE for corruption in others)
    return graded and first.key == CLEAN


# ---------------------------------------------------------------- from records to scores


def collect_suite_scores(
    records: Path,
    tier: str,
    suite: Suite,
    study: str,
    variants: Sequence[str],
    baseline: str | None,
    seeds: Sequence[int],
    single_sensor_suite: Suite | None = None,
) -> SuiteScores | None:
    """The scores of one study from the files ``<records>/<tier>/<study>/<variant>/seed<N>/evaluate.<suite>.jsonl``.

    Args:
        seeds: that every variant should have.
        single_sensor_suite: suite with the conditions SINGLE_SENSOR; used where the study was evaluated under it.
    Returns:
        None if no variant has a record of the suite.
    """
    evaluated = [v for v in variants if _files(records, tier, study, v, seeds, suite)]
    if not evaluated:
        return None
    runs = [Run(tier, study, v, seed) for v in evaluated for seed in seeds]
    results = collect_runs(records, runs, [suite], {})
    single = _single_sensor_scores(records, runs, single_sensor_suite)
    scores = suite_scores(results.evaluations, suite, families(suite), study, baseline, single)
    return replace(
        scores,
        seeds=tuple(seeds),
        left_out=tuple(v for v in variants if v not in evaluated),
        records=tuple(r for r in results.records if r.kind == "evaluate"),
    )


def suite_scores(
    evaluations: pd.DataFrame,
    suite: Suite,
    groups: Mapping[str, Mapping[int, str]],
    study: str,
    baseline: str | None,
    single: pd.DataFrame,
) -> SuiteScores:
    """The scores of evaluations under a suite, by variant and seed in their order.

    Args:
        evaluations: EvaluationRow of every variant, seed and condition.
        groups: ``families`` of the suite, or some of them.
        single: EvaluationRow under the conditions SINGLE_SENSOR, as far as there are any.
    """
    group = {c: (name, s) for name, severities in groups.items() for s, c in severities.items()}
    group[suite.conditions[0].name] = (CLEAN, 0)
    cells = _cells(evaluations[evaluations["condition"].isin(group)], group)
    per_corruption, per_model = [], []
    for (metric, seed), part in cells.groupby(["metric", "seed"], sort=False):
        for frame, into in zip(robustness(part, baseline), (per_corruption, per_model), strict=True):
            into.append(frame.assign(metric=metric, seed=seed))
    by_corruption, by_model = pd.concat(per_corruption), pd.concat(per_model)
    keys = ["metric", "model", "corruption"]
    spread = {"score": "mean", "lowest": "min", "highest": "max"}
    by_severity = cells.groupby([*keys, "severity"], sort=False)["score"].agg(**spread).reset_index()
    corruptions = _over_seeds(by_corruption, keys, ["score", "RA", "RRA", "CE"])
    name = {"model": "variant"}
    return SuiteScores(
        study=study,
        suite=suite.name,
        variants=tuple(dict.fromkeys(evaluations["variant"])),
        baseline=baseline,
        seeds=tuple(dict.fromkeys(evaluations["seed"])),
        families=groups,
        by_severity=by_severity.rename(columns=name),
        corruptions=corruptions.rename(columns=name),
        summary=_summary(by_model, single, baseline).rename(columns=name),
        missing=pd.concat(
            [_missing_rows(evaluations, suite.name), _missing_rows(single, SINGLE_SENSOR_SUITE)],
            ignore_index=True,
        ),
        left_out=(),
        records=(),
    )


def _files(records: Path, tier: str, study: str, variant: str, seeds: Sequence[int], suite: Suite) -> list[Path]:
    runs = [Run(tier, study, variant, seed) for seed in seeds]
    paths = [RunLayout(tier, records).evaluate(run, suite.name) for run in runs]
    return [path for path in paths if path.is_file()]


def _cells(evaluations: pd.DataFrame, group: Mapping[str, tuple[str, int]]) -> pd.DataFrame:
    """One row per metric, seed, model, corruption and severity; NaN for an evaluation that is not ok."""
    ok = evaluations["status"] == "ok"
    parts = [
        pd.DataFrame(
            {
                "metric": metric,
                "seed": evaluations["seed"],
                "model": evaluations["variant"],
                "corruption": [group[c][0] for c in evaluations["condition"]],
                "severity": [group[c][1] for c in evaluations["condition"]],
                "score": evaluations[metric].where(ok),
            }
        )
        for metric in METRICS
    ]
    return pd.concat(parts, ignore_index=True)


def _over_seeds(frame: pd.DataFrame, keys: list[str], columns: list[str]) -> pd.DataFrame:
    """Mean and sd over the seeds that have the number; ``seeds``: those with a resistance; ``reason`` for the others.

    ``pairs``: seeds with a number relative to the baseline.
    """
    resistance, relative = (next(c for c in columns if c.endswith(end)) for end in ("RA", "CE"))
    rows = []
    for key, part in frame.groupby(keys, sort=False):
        row = {**dict(zip(keys, key, strict=True)), "seeds": int(part[resistance].notna().sum())}
        row["pairs"] = int(part[relative].notna().sum())
        for column in columns:
            summary = summarise(list(part[column]))
            row[column], row[f"{column}_sd"] = summary.mean, summary.sd
        reasons = [f"seed {s}: {r}" for s, r in zip(part["seed"], part["reason"], strict=True) if r]
        rows.append({**row, "reason": "; ".join(reasons)})
    numeric = [c for column in columns for c in (column, f"{column}_sd")]
    return pd.DataFrame(rows).astype(dict.fromkeys(numeric, float))


def _summary(by_model: pd.DataFrame, single: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """``_over_seeds`` of the means over corruptions, with the difference to the baseline and single-sensor scores."""
    frame = _over_seeds(by_model, ["metric", "model"], ["clean", "mRA", "mRRA", "mCE"])
    more = []
    for row in frame.itertuples():
        of_metric = by_model[by_model["metric"] == row.metric]
        scores, base = (_by_seed(of_metric[of_metric["model"] == m], "mRA") for m in (row.model, baseline))
        delta = None if row.model == baseline else paired_difference(scores, base)
        columns = {"difference": delta.mean, "low95": delta.low, "high95": delta.high} if delta else {}
        for condition in SINGLE_SENSOR:
            rows = single[(single["variant"] == row.model) & (single["condition"] == condition)]
            summary = summarise(list(rows[row.metric].where(rows["status"] == "ok")) if len(rows) else [])
            columns |= {condition: summary.mean, f"{condition}_seeds": summary.n}
        more.append(columns)
    names = ["difference", "low95", "high95", *(f"{c}{end}" for c in SINGLE_SENSOR for end in ("", "_seeds"))]
    return frame.join(pd.DataFrame(more, columns=names).astype(float))


def _by_seed(rows: pd.DataFrame, column: str) -> dict[int, float]:
    return {int(s): float(v) for s, v in zip(rows["seed"], rows[column], strict=True) if not math.isnan(v)}


def _single_sensor_scores(records: Path, runs: Sequence[Run], single_sensor_suite: Suite | None) -> pd.DataFrame:
    """Evaluations under the conditions SINGLE_SENSOR; no row of a variant that has no record of that suite."""
    if single_sensor_suite is None:
        return pd.DataFrame(columns=["variant", "seed", "condition", "status", "reason", *METRICS])
    suite = single_sensor_suite
    evaluated = {r.variant for r in runs if RunLayout(r.tier, records).evaluate(r, suite.name).is_file()}
    rows = collect_runs(records, [r for r in runs if r.variant in evaluated], [suite], {}).evaluations
    return rows[rows["condition"].isin(SINGLE_SENSOR)]


def _missing_rows(evaluations: pd.DataFrame, suite: str) -> pd.DataFrame:
    """Evaluations that are not ok, or that are and lack a score, with the reason."""
    rows = []
    for row in evaluations.itertuples():
        absent = [metric for metric in METRICS if math.isnan(getattr(row, metric))]
        if row.status != "ok" or absent:
            reason = f"no {' and no '.join(absent)}" if row.status == "ok" else row.reason
            rows.append((row.variant, row.seed, suite, row.condition, row.status, reason))
    return pd.DataFrame(rows, columns=MISSING_COLUMNS)


# ---------------------------------------------------------------- all suites of a study


def all_suite_scores(records: Path, tier: Tier, study: Study) -> list[SuiteScores]:
    """Scores of a study under its own suite, if that corrupts, and under every known one that it has records of."""
    suites = [suite for suite in (study.suite, *further_suites(records, tier, [study])) if corrupts(suite)]
    single = load_suite(SINGLE_SENSOR_SUITE) if SINGLE_SENSOR_SUITE in known_suites() else None
    variants = list(study.variants)
    all_scores = (
        collect_suite_scores(records, tier.name, s, study.name, variants, study.baseline, study.seeds, single)
        for s in suites
    )
    return [scores for scores in all_scores if scores is not None]
