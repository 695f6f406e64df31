"""From record files to data frames: one row for every run the study asks for, also for those that failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from aqr_bench.metrics.bootstrap import SceneInterval
from aqr_bench.metrics.scoring_rules import rules_of
from aqr_bench.records.record import NOT_APPLICABLE, Record, fail_unchanged_inputs, read_records
from aqr_bench.records.request import code_versions, listed
from aqr_bench.report.rows import (
    TrainedRun,
    classes_frame,
    curves_frame,
    evaluations_frame,
    measures_frame,
    require_metric,
    routers_frame,
    trainings_frame,
)
from aqr_bench.report.scene_bootstrap import EvaluatedRun, evaluation_file, scene_intervals
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import known_suites, load_suite, loadable
from aqr_bench.study.runs import base_runs, matrix
from aqr_bench.study.spec import Run, Study, Suite, Tier

MISSING = "missing"
BASE = "base"


@dataclass(frozen=True)
class Results:
    """Records of one study, or of the base models, each at the path that the study expects.

    evaluations  ``evaluations_frame`` by variant, seed and condition
    classes      ClassRow by variant, seed, condition and class
    trainings    TrainingRow by variant and seed
    measures     MeasureRow by variant
    curves       LossRow by variant, seed and iteration
    routers      RouterRow by variant, seed, condition and group of queries, where there is a router
    records      all records that were read
    router_files every query's weights by (variant, seed, condition), where there is a router
    match_files  matched detections by (variant, seed, condition), where the evaluation wrote them
    scenes       scene bootstrap of the difference to the baseline by (variant, condition), where there is one
    """

    evaluations: pd.DataFrame
    classes: pd.DataFrame
    trainings: pd.DataFrame
    measures: pd.DataFrame
    curves: pd.DataFrame
    routers: pd.DataFrame
    records: tuple[Record, ...]
    router_files: Mapping[tuple[str, int, str], Path] = field(default_factory=dict)
    match_files: Mapping[tuple[str, int, str], Path] = field(default_factory=dict)
    scenes: Mapping[tuple[str, str], SceneInterval] = field(default_factory=dict)

    @cached_property
    def _rows(self) -> dict[tuple[str, str], list[int]]:
        rows: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(zip(self.evaluations["variant"], self.evaluations["condition"], strict=True)):
            rows.setdefault(key, []).append(row)
        return rows

    @cached_property
    def _status(self) -> list[str]:
        return self.evaluations["status"].tolist()

    def ok_rows(self, variant: str, condition: str) -> list[int]:
        """Row numbers of the evaluations that are ok, looked up: tables of a long suite ask thousands of times."""
        return [row for row in self._rows.get((variant, condition), []) if self._status[row] == "ok"]

    def not_applicable(self, variant: str, condition: str) -> bool:
        """Whether the condition cannot concern the variant's model, so that no score is wanted."""
        rows = self._rows.get((variant, condition), [])
        return bool(rows) and all(self._status[row] == NOT_APPLICABLE for row in rows)

    @property
    def problems(self) -> pd.DataFrame:
        """Every run that is missing or failed: kind, variant, seed, condition, status, reason."""
        parts = [
            frame.assign(kind=kind)[~frame["status"].isin(["ok", NOT_APPLICABLE])]
            for kind, frame in (("train", self.trainings), ("evaluate", self.evaluations), ("measure", self.measures))
        ]
        columns = ["kind", "variant", "seed", "condition", "status", "reason"]
        return pd.concat([p.reindex(columns=columns) for p in parts], ignore_index=True)


def collect_study(records: Path, tier: Tier, study: Study) -> Results:
    """Results of a study's variants below the folder ``records``."""
    runs = matrix(tier, [study])
    layout = RunLayout(tier.name, records)
    measures = {v: _last_record(layout.measure(study.name, v), "measure") for v in study.variants}
    return collect_runs(records, runs, [study.suite], measures, study)


def collect_base(records: Path, tier: Tier, studies: Sequence[Study]) -> Results:
    """Results of the base models the studies start from, under all of their suites."""
    suites = list({study.suite.name: study.suite for study in studies if not study.measure_only}.values())
    return collect_runs(records, base_runs(tier, studies), suites, {})


def further_suites(records: Path, tier: Tier, studies: Sequence[Study]) -> tuple[Suite, ...]:
    """Known suites that the studies have records of, beside their own suites."""
    own = {study.suite.name for study in studies}
    folders = [RunLayout(tier.name, records).root / study.name for study in studies]
    names = [
        name
        for name in known_suites()
        if name not in own and any(True for folder in folders for _ in folder.glob(f"*/seed*/evaluate.{name}.jsonl"))
    ]
    return tuple(loadable(load_suite, names)[0])


def collect_runs(
    records: Path,
    runs: Iterable[Run],
    suites: Sequence[Suite],
    measures: Mapping[str, Record],
    study: Study | None = None,
) -> Results:
    """Results of ``runs`` under ``suites``; ``measures`` by variant; scene intervals only with a ``study``."""
    trained: list[TrainedRun] = []
    evaluated: list[EvaluatedRun] = []
    read: list[Record] = []
    for run in runs:
        variant = run.variant or BASE
        train = _checked(_last_record(RunLayout(run.tier, records).train(run), "train"), run)
        trained.append(TrainedRun(variant, run.seed, train))
        read.append(train)
        for suite in suites:
            for record in _evaluations(RunLayout(run.tier, records).evaluate(run, suite.name), suite):
                record = _checked(record, run)
                read.append(record)
                files = (evaluation_file(records, run, record, kind) for kind in ("matches", "router"))
                evaluated.append(EvaluatedRun(variant, run.seed, record, *files))
    read += measures.values()
    if study is not None:
        require_metric(read, study.metric)
    return Results(
        evaluations=evaluations_frame(evaluated),
        classes=classes_frame(evaluated),
        trainings=trainings_frame(trained),
        measures=measures_frame(measures),
        curves=curves_frame(trained),
        routers=routers_frame(evaluated),
        records=tuple(r for r in read if r.status != MISSING),
        router_files={e.key: e.router for e in evaluated if e.router is not None},
        match_files={e.key: e.matches for e in evaluated if e.matches is not None},
        scenes=scene_intervals(study, evaluated) if study else {},
    )


def _missing(kind: str, condition: str | None = None) -> Record:
    return Record(kind, MISSING, "", condition=condition, reason="no record: not run yet, or its job failed")


def _last_record(path: Path, kind: str) -> Record:
    """The record of a train or measure file; one with status ``missing`` where there is no file."""
    return read_records(path)[-1] if path.is_file() else _missing(kind)


def _evaluations(path: Path, suite: Suite) -> list[Record]:
    """``evaluations_of`` a file, there or not."""
    return evaluations_of(read_records(path) if path.is_file() else [], suite)


def evaluations_of(records: Sequence[Record], suite: Suite) -> list[Record]:
    """One record per condition of the suite, in its order; a condition without one is failed if a line is damaged."""
    records = fail_unchanged_inputs(records, suite.conditions[0].name)
    by_condition = {record.condition: record for record in records}
    damaged = next((record for record in records if record.extra.get("damaged")), None)
    rows = []
    for condition in suite.conditions:
        record = by_condition.get(condition.name)
        if record is None and damaged is not None:
            record = Record("evaluate", "failed", damaged.tier, condition=condition.name, reason=damaged.reason)
        rows.append(record or _missing("evaluate", condition.name))
    return rows


def _checked(record: Record, run: Run) -> Record:
    """The record, or a failed one if it is of another run than its path."""
    if record.status == MISSING or record.reason is not None:
        return record
    actual = (record.tier, record.study, record.variant, record.seed)
    expected = (run.tier, run.study, run.variant, run.seed)
    if actual == expected:
        return record
    reason = f"record of another run: tier, study, variant, seed are {actual}, expected {expected}"
    return Record(record.kind, "failed", run.tier, condition=record.condition, reason=reason)


HASHED = (("data_sha256", "data sets"), ("infos_sha256", "sets of info files"))


def mixtures(records: Iterable[Record]) -> list[str]:
    """Warnings where compared records differ in code, data or machine."""
    warnings = []
    for kind in ("train", "evaluate", "measure"):
        rows = [r.provenance for r in records if r.kind == kind and r.ok]
        versions, files = code_versions(rows)
        if versions > 1:
            where = f" ({listed(files)})" if files else ""
            warnings.append(f"{kind} records come from {versions} different versions of the code{where}")
        for key, what in HASHED:
            values = {p.get(key) for p in rows} - {None}
            if len(values) > 1:
                warnings.append(f"{kind} records come from {len(values)} different {what}")
        if kind == "evaluate":
            rules = {rules_of(r.extra).text for r in records if r.kind == kind and r.ok}
            if len(rules) > 1:
                warnings.append(
                    f"scores are by {len(rules)} different rules ({'; '.join(sorted(filter(None, rules)))})"
                )
            elif any(rules):
                warnings.append(f"scores are not by nuScenes' rules ({rules.pop()}), so no official numbers")
        if kind == "measure":
            machines = {(p.get("machine") or {}).get("cpu") for p in rows} - {None}
            if len(machines) > 1:
                warnings.append(f"latencies were measured on {len(machines)} different processors")
    return warnings
