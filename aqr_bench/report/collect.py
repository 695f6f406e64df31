"""From record files to data frames: one row for every run the study asks for, also for those that failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from aqr_bench.errors import UserError, nearest
from aqr_bench.metrics.bootstrap import SceneInterval
from aqr_bench.metrics.scoring_rules import rules_of
from aqr_bench.records.record import NOT_APPLICABLE, Record, describe, fail_unchanged_inputs, read_records
from aqr_bench.records.request import code_versions, listed
from aqr_bench.report.scene_bootstrap import EvaluatedRun, evaluation_file, scene_intervals
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import known_suites, load_suite, loadable
from aqr_bench.study.runs import base_runs, matrix
from aqr_bench.study.spec import CUSTOM, Run, Study, Suite, Tier


class MetricChoices(tuple[str, ...]):
    """Metrics that an argument takes; ``custom.NAME`` is one of them, whatever the name."""

    def __contains__(self, text: object) -> bool:
        return super().__contains__(text) or str(text).startswith(CUSTOM)


METRICS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
MISSING = "missing"
BASE = "base"


# Rows of the frames in ``Results``: columns are the fields, those of floats are None (NaN in the frame) where a record
# has no such number.


@dataclass(frozen=True)
class EvaluationRow:
    variant: str
    seed: int
    condition: str | None
    status: str
    reason: str | None
    mAP: float | None
    NDS: float | None
    mATE: float | None
    mASE: float | None
    mAOE: float | None
    mAVE: float | None
    mAAE: float | None


@dataclass(frozen=True)
class ClassRow:
    variant: str
    seed: int
    condition: str | None
    class_name: str
    AP: float | None


@dataclass(frozen=True)
class TrainingRow:
    variant: str
    seed: int
    status: str
    reason: str | None
    minutes: float | None
    parameters: float | None


@dataclass(frozen=True)
class MeasureRow:
    variant: str
    status: str
    reason: str | None
    parameters: float | None
    latency_ms: float | None
    latency_p95_ms: float | None
    latency_ratio: float | None
    throughput_per_s: float | None
    peak_rss_mb: float | None


@dataclass(frozen=True)
class LossRow:
    variant: str
    seed: int
    iteration: float | None
    loss: float | None


@dataclass(frozen=True)
class RouterRow:
    """Weights of one ``group`` of queries (all, confident): mean, standard deviation and percentiles."""

    variant: str
    seed: int
    condition: str | None
    group: str
    queries: float | None
    lidar_mean: float | None
    lidar_sd: float | None
    lidar_p5: float | None
    lidar_p50: float | None
    lidar_p95: float | None
    camera_mean: float | None
    camera_sd: float | None
    camera_p5: float | None
    camera_p50: float | None
    camera_p95: float | None


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

    def not_applicable(self, variant: str, condition: str) -> bool:
        """Whether the condition cannot concern the variant's model, so that no score is wanted."""
        rows = self.evaluations
        statuses = rows[(rows["variant"] == variant) & (rows["condition"] == condition)]["status"]
        return bool(len(statuses)) and bool((statuses == NOT_APPLICABLE).all())

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
    """Known suites that the studies have records of, beside the suites of their own."""
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
    trained: list[tuple[str, int, Record]] = []
    evaluated: list[EvaluatedRun] = []
    read: list[Record] = []
    for run in runs:
        variant = run.variant or BASE
        train = _checked(_last_record(RunLayout(run.tier, records).train(run), "train"), run)
        trained.append((variant, run.seed, train))
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
        trainings=_frame(TrainingRow, (_training_row(*training) for training in trained)),
        measures=_frame(MeasureRow, (_measure_row(v, record) for v, record in measures.items())),
        curves=_frame(LossRow, (LossRow(v, s, i, loss) for v, s, record in trained for i, loss in record.curve)),
        routers=_frame(RouterRow, (row for e in evaluated for row in _router_rows(e))),
        records=tuple(r for r in read if r.status != MISSING),
        router_files={e.key: e.router for e in evaluated if e.router is not None},
        match_files={e.key: e.matches for e in evaluated if e.matches is not None},
        scenes=scene_intervals(study, evaluated) if study else {},
    )


def evaluations_frame(evaluated: Iterable[EvaluatedRun]) -> pd.DataFrame:
    """EvaluationRow of each evaluation, with a further column ``custom.NAME`` for each number of custom metrics."""
    evaluated = list(evaluated)
    names = dict.fromkeys(f"{CUSTOM}{name}" for e in evaluated for name in e.record.scores.get("custom", {}))
    custom = {name: pd.Series([e.record.score(name) for e in evaluated], dtype=float) for name in names}
    return _frame(EvaluationRow, map(_evaluation_row, evaluated)).assign(**custom)


def require_metric(records: Iterable[Record], metric: str) -> None:
    """UserError for the first evaluation that is ok and has no number of a custom metric, not even an undefined one."""
    for record in records if metric.startswith(CUSTOM) else ():
        custom = [f"{CUSTOM}{name}" for name in record.scores.get("custom", {})]
        if record.kind == "evaluate" and record.ok and metric not in custom:
            hint = nearest(metric, custom) if custom else "; it has no custom metric"
            raise UserError(
                f"no '{metric}' in the record of {describe(record)}{hint}",
                "Name the metric that gives it (in a tier evaluate: {metrics: [...]}, else evaluate --metrics) and "
                "evaluate again.",
            )


def classes_frame(evaluated: Iterable[EvaluatedRun]) -> pd.DataFrame:
    """ClassRow of each class of each evaluation that has scores."""
    rows = (
        ClassRow(e.variant, e.seed, e.record.condition, name, scores.get("AP"))
        for e in evaluated
        for name, scores in e.record.scores.get("classes", {}).items()
    )
    return _frame(ClassRow, rows)


def _frame(row: type, rows: Iterable[Any]) -> pd.DataFrame:
    """One column per field of the dataclass ``row``; those of floats have that type also where all are None."""
    frame = pd.DataFrame([vars(r) for r in rows], columns=[f.name for f in fields(row)])
    return frame.astype({f.name: float for f in fields(row) if f.type == "float | None"})


def _evaluation_row(run: EvaluatedRun) -> EvaluationRow:
    record = run.record
    scores = {metric: record.scores.get(metric) for metric in METRICS}
    return EvaluationRow(run.variant, run.seed, record.condition, record.status, record.reason, **scores)


def _training_row(variant: str, seed: int, record: Record) -> TrainingRow:
    wall_s = record.cost.get("wall_s")
    minutes = None if wall_s is None else wall_s / 60
    return TrainingRow(variant, seed, record.status, record.reason, minutes, record.cost.get("parameters"))


def _measure_row(variant: str, record: Record) -> MeasureRow:
    cost, latency = record.cost, record.cost.get("latency_ms") or {}
    return MeasureRow(
        variant,
        record.status,
        record.reason,
        parameters=cost.get("parameters"),
        latency_ms=latency.get("median"),
        latency_p95_ms=latency.get("p95"),
        latency_ratio=cost.get("latency_ratio"),
        throughput_per_s=cost.get("throughput_per_s"),
        # Of inference alone in records that have it, else of the measuring process.
        peak_rss_mb=cost.get("inference_peak_rss_mb", cost.get("peak_rss_mb")),
    )


def _router_rows(run: EvaluatedRun) -> Iterator[RouterRow]:
    """Router weights by group of queries; nothing where the record has none, or damaged ones."""
    for group in ("all", "confident"):
        entry = (run.record.extra.get("router") or {}).get(group) if run.record.ok else None
        if not isinstance(entry, dict) or not isinstance(entry.get("lidar"), dict):
            continue
        weights = {
            f"{sensor}_{statistic}": (entry.get(sensor) or {}).get(statistic)
            for sensor in ("lidar", "camera")
            for statistic in ("mean", "sd", "p5", "p50", "p95")
        }
        yield RouterRow(run.variant, run.seed, run.record.condition, group, entry.get("queries"), **weights)


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
