"""Robustness of a study's variants under a suite of corruptions: data frames of scores over seeds, from records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aqr_bench.errors import UserError
from aqr_bench.metrics.robustness import CLEAN, robustness
from aqr_bench.records.record import Record
from aqr_bench.report.collect import collect_runs
from aqr_bench.report.statistics import paired_difference, summarise
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import known_suites, load_suite
from aqr_bench.study.spec import Run, Study, Suite, Tier

METRICS = ("mAP", "NDS")
FLOOR_SUITE, FLOOR = "missing_sensors", ("no_lidar", "no_cameras")
GAP_COLUMNS = ["variant", "seed", "suite", "condition", "status", "reason"]


@dataclass(frozen=True)
class Sheet:
    """Robustness of the variants of one study under one suite.

    families     corruption -> severity -> condition; severity 0 where there is only one
    by_severity  one row per metric, variant, corruption and severity: score (mean over the seeds that have it), lowest
                 and highest seed
    corruptions  one row per metric, variant and corruption: seeds, score (mean over severities), RA, RRA, CE, each with
                 sd over seeds, reason
    summary      one row per metric and variant: seeds, clean, mRA, mRRA, mCE with sd over seeds, difference of mRA to
                 the baseline with its 95 % interval, score without LiDAR and without cameras, reason
    gaps         evaluations that are missing, failed or without a score (GAP_COLUMNS)
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
    gaps: pd.DataFrame
    left_out: tuple[str, ...]
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        return f"{self.study}_robustness_{self.suite}"


def families(suite: Suite) -> dict[str, dict[int, str]]:
    """Corruption -> severity -> condition of a suite, without its first condition, which must be the clean one.

    A corruption is named like its conditions without ``_<severity>``; where a condition is not named so, like the
    registry's entry. UserError for a suite that has no clean score, or one severity twice.
    """
    if suite.conditions[0].corruption.key != CLEAN:
        raise UserError(f"{suite.path}: conditions: the first one must be '{CLEAN}', which robustness is relative to")
    found: dict[str, dict[int, str]] = {}
    for condition in suite.conditions[1:]:
        severity = condition.corruption.severity
        suffix = f"_{severity}"
        if severity and condition.name.endswith(suffix):
            name = condition.name.removesuffix(suffix)
        else:
            name = condition.corruption.name if severity else condition.name
        if severity in found.setdefault(name, {}) or name == CLEAN:
            other = found[name].get(severity, suite.conditions[0].name)
            raise UserError(f"{suite.path}: conditions: '{condition.name}' is the same corruption as '{other}'")
        found[name][severity] = condition.name
    return found


def corrupts(suite: Suite) -> bool:
    """Whether the suite does more than take sensors away: it has a clean condition, and severities or corruptions."""
    first, *others = (condition.corruption for condition in suite.conditions)
    graded = any(corruption.severity or corruption.suite != FLOOR_SUITE for corruption in others)
    return graded and first.key == CLEAN


# ---------------------------------------------------------------- from records to a sheet


def make_sheet(
    records: Path,
    tier: str,
    suite: Suite,
    study: str,
    variants: Sequence[str],
    baseline: str | None,
    seeds: Sequence[int],
    floor: Suite | None = None,
) -> Sheet | None:
    """The sheet of one study from the files ``<records>/<tier>/<study>/<variant>/seed<N>/evaluate.<suite>.jsonl``.

    Args:
        seeds: that every variant should have.
        floor: suite with the conditions FLOOR; taken where the study was evaluated under it.
    Returns:
        None if no variant has a record of the suite.
    """
    groups = families(suite)
    evaluated = [v for v in variants if _files(records, tier, study, v, seeds, suite)]
    if not evaluated:
        return None
    runs = [Run(tier, study, v, seed) for v in evaluated for seed in seeds]
    results = collect_runs(records, runs, [suite], {})
    place = {c: (name, s) for name, severities in groups.items() for s, c in severities.items()}
    place[suite.conditions[0].name] = (CLEAN, 0)
    cells = _cells(results.evaluations, place)
    per_corruption, per_model = [], []
    for (metric, seed), part in cells.groupby(["metric", "seed"], sort=False):
        for frame, into in zip(robustness(part, baseline), (per_corruption, per_model), strict=True):
            into.append(frame.assign(metric=metric, seed=seed))
    by_corruption, by_model = pd.concat(per_corruption), pd.concat(per_model)
    single = _floor(records, runs, floor)
    keys = ["metric", "model", "corruption"]
    spread = {"score": "mean", "lowest": "min", "highest": "max"}
    by_severity = cells.groupby([*keys, "severity"], sort=False)["score"].agg(**spread).reset_index()
    corruptions = _over_seeds(by_corruption, keys, ["score", "RA", "RRA", "CE"])
    name = {"model": "variant"}
    return Sheet(
        study=study,
        suite=suite.name,
        variants=tuple(evaluated),
        baseline=baseline,
        seeds=tuple(seeds),
        families=groups,
        by_severity=by_severity.rename(columns=name),
        corruptions=corruptions.rename(columns=name),
        summary=_summary(by_model, single, baseline).rename(columns=name),
        gaps=pd.concat([_gaps(results.evaluations, suite.name), _gaps(single, FLOOR_SUITE)], ignore_index=True),
        left_out=tuple(v for v in variants if v not in evaluated),
        records=tuple(r for r in results.records if r.kind == "evaluate"),
    )


def _files(records: Path, tier: str, study: str, variant: str, seeds: Sequence[int], suite: Suite) -> list[Path]:
    runs = [Run(tier, study, variant, seed) for seed in seeds]
    paths = [RunLayout(tier, records).evaluate(run, suite.name) for run in runs]
    return [path for path in paths if path.is_file()]


def _cells(evaluations: pd.DataFrame, place: Mapping[str, tuple[str, int]]) -> pd.DataFrame:
    """One row per metric, seed, model, corruption and severity; NaN for an evaluation that is not ok."""
    ok = evaluations["status"] == "ok"
    parts = [
        pd.DataFrame(
            {
                "metric": metric,
                "seed": evaluations["seed"],
                "model": evaluations["variant"],
                "corruption": [place[c][0] for c in evaluations["condition"]],
                "severity": [place[c][1] for c in evaluations["condition"]],
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
        said = [f"seed {s}: {r}" for s, r in zip(part["seed"], part["reason"], strict=True) if r]
        rows.append({**row, "reason": "; ".join(said)})
    numeric = [c for column in columns for c in (column, f"{column}_sd")]
    return pd.DataFrame(rows).astype(dict.fromkeys(numeric, float))


def _summary(by_model: pd.DataFrame, single: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """``_over_seeds`` of the means over corruptions, with the difference to the baseline and the scores FLOOR."""
    frame = _over_seeds(by_model, ["metric", "model"], ["clean", "mRA", "mRRA", "mCE"])
    more = []
    for row in frame.itertuples():
        here = by_model[by_model["metric"] == row.metric]
        own, base = (_by_seed(here[here["model"] == m], "mRA") for m in (row.model, baseline))
        delta = None if row.model == baseline else paired_difference(own, base)
        found = {"difference": delta.mean, "low95": delta.low, "high95": delta.high} if delta else {}
        for condition in FLOOR:
            rows = single[(single["variant"] == row.model) & (single["condition"] == condition)]
            scores = list(rows[row.metric].where(rows["status"] == "ok")) if len(rows) else []
            summary = summarise(scores)
            found |= {condition: summary.mean, f"{condition}_seeds": summary.n}
        more.append(found)
    columns = ["difference", "low95", "high95", *(f"{c}{end}" for c in FLOOR for end in ("", "_seeds"))]
    return frame.join(pd.DataFrame(more, columns=columns).astype(float))


def _by_seed(rows: pd.DataFrame, column: str) -> dict[int, float]:
    return {int(s): float(v) for s, v in zip(rows["seed"], rows[column], strict=True) if not math.isnan(v)}


def _floor(records: Path, runs: Sequence[Run], floor: Suite | None) -> pd.DataFrame:
    """Evaluations under the conditions FLOOR of the runs; no row of a variant that has no record of that suite."""
    if floor is None:
        return pd.DataFrame(columns=["variant", "seed", "condition", "status", "reason", *METRICS])
    there = {r.variant for r in runs if RunLayout(r.tier, records).evaluate(r, floor.name).is_file()}
    found = collect_runs(records, [r for r in runs if r.variant in there], [floor], {}).evaluations
    return found[found["condition"].isin(FLOOR)]


def _gaps(evaluations: pd.DataFrame, suite: str) -> pd.DataFrame:
    """Evaluations that are not ok, or that are and lack a score, with the reason."""
    rows = []
    for row in evaluations.itertuples():
        absent = [metric for metric in METRICS if math.isnan(getattr(row, metric))]
        if row.status != "ok" or absent:
            reason = f"no {' and no '.join(absent)}" if row.status == "ok" else row.reason
            rows.append((row.variant, row.seed, suite, row.condition, row.status, reason))
    return pd.DataFrame(rows, columns=GAP_COLUMNS)


# ---------------------------------------------------------------- what there is


def study_sheets(records: Path, tier: Tier, study: Study) -> list[Sheet]:
    """Sheets of a study under its own suite, where that corrupts, and under every known one that it has records of."""
    names = [name for name in known_suites() if name != study.suite.name]
    suites = [suite for suite in (study.suite, *map(load_suite, names)) if corrupts(suite)]
    floor = _floor_suite()
    sheets = (
        make_sheet(records, tier.name, s, study.name, list(study.variants), study.baseline, study.seeds, floor)
        for s in suites
    )
    return [sheet for sheet in sheets if sheet is not None]


def _floor_suite() -> Suite | None:
    return load_suite(FLOOR_SUITE) if FLOOR_SUITE in known_suites() else None
