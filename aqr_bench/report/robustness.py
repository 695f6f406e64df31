"""Robustness of a study's variants under a suite of corruptions: scores over seeds, tables, and the command line.

python -m aqr_bench.report.robustness --records results --tier quick --suite multicorrupt --out results/quick/robustness

Works on record files alone; a study file, where there is one, gives the order of the variants and the baseline.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aqr_bench.errors import UserError, nearest, run_main
from aqr_bench.metrics.robustness import CLEAN, robustness
from aqr_bench.record import Record
from aqr_bench.report.collect import collect_runs
from aqr_bench.report.statistics import paired_difference, summarise
from aqr_bench.study import RESERVED, Run, Study, Suite, Tier, known_studies, known_suites, load_study, load_suite

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
    paths = [records / run.folder / f"evaluate.{suite.name}.jsonl" for run in runs]
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
    there = {r.variant for r in runs if (records / r.folder / f"evaluate.{floor.name}.jsonl").is_file()}
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


def found_sheets(
    records: Path, tier: str, suites: Sequence[Suite], studies: Sequence[str] = (), baseline: str | None = None
) -> list[Sheet]:
    """Sheets of all studies (or of those named) that left records of the suites below ``<records>/<tier>``.

    Args:
        baseline: variant that takes the place of the baselines which the study files name.
    Raises:
        UserError: no folder, no records, an unknown study or baseline.
    """
    folder = records / tier
    if not folder.is_dir():
        hint = nearest(tier, [p.name for p in records.iterdir() if p.is_dir()]) if records.is_dir() else ""
        raise UserError(f"--records, --tier: no folder '{folder}'{hint}")
    every = {p.name: _on_disk(p) for p in sorted(folder.iterdir()) if p.is_dir() and p.name not in RESERVED}
    every = {name: variants for name, variants in every.items() if variants}
    for name in studies:
        if name not in every:
            raise UserError(f"--study: no records of '{name}' in {folder}{nearest(name, every)}")
    chosen = {name: every[name] for name in studies or every}
    variants = sorted({v for found in chosen.values() for v in found})
    if baseline is not None and baseline not in variants:
        raise UserError(f"--baseline: no records of a variant '{baseline}'{nearest(baseline, variants)}")
    floor, sheets = _floor_suite(), []
    for name, found in chosen.items():
        order, base = _order(name, list(found))
        base = (baseline if baseline in found else None) if baseline else base
        seeds = sorted({seed for s in found.values() for seed in s})
        sheets += [make_sheet(records, tier, suite, name, order, base, seeds, floor) for suite in suites]
    sheets = [sheet for sheet in sheets if sheet is not None]
    if not sheets:
        wanted = " or ".join(f"evaluate.{suite.name}.jsonl" for suite in suites)
        raise UserError(f"no {wanted} of a study in {folder}. Evaluate trained variants under the suite first.")
    return sheets


def _on_disk(study: Path) -> dict[str, list[int]]:
    """Seeds by variant of the runs below a study's folder."""
    found: dict[str, list[int]] = {}
    for path in sorted(study.glob("*/seed*")):
        number = path.name.removeprefix("seed")
        if path.is_dir() and number.isdigit():
            found.setdefault(path.parent.name, []).append(int(number))
    return found


def _order(study: str, variants: list[str]) -> tuple[list[str], str | None]:
    """Variants in the order of the study file, and its baseline; as they are, and None, where there is no such file."""
    if study not in known_studies():
        return variants, None
    known = load_study(study)
    return [*known.variants, *(v for v in variants if v not in known.variants)], known.baseline


def _floor_suite() -> Suite | None:
    return load_suite(FLOOR_SUITE) if FLOOR_SUITE in known_suites() else None


def main(argv: list[str] | None = None) -> int:
    """Write tables and figures; 0 also where evaluations are missing or failed, since the tables say so."""
    parser = argparse.ArgumentParser(prog="python -m aqr_bench.report.robustness", description=__doc__.splitlines()[0])
    parser.add_argument("--records", required=True, type=Path, help="results folder, with a folder per tier in it")
    parser.add_argument("--tier", required=True, help="name of the tier")
    parser.add_argument("--suite", required=True, nargs="+", help="names or files of the suites")
    parser.add_argument("--study", nargs="+", default=[], help="names of the studies (default: all with such records)")
    parser.add_argument("--baseline", help="variant that RRA and CE are relative to (default: as the study file says)")
    parser.add_argument("--out", required=True, type=Path, help="folder to write tables/ and figures/ to")
    args = parser.parse_args(argv)
    suites = [load_suite(name) for name in args.suite]
    sheets = found_sheets(args.records, args.tier, suites, args.study, args.baseline)
    # Drawing libraries take seconds to import: only once there is something to draw.
    from aqr_bench.report.robustness_tables import write_sheets

    for path in write_sheets(sheets, args.out):
        print(path)
    return 0


if __name__ == "__main__":
    run_main(main)
