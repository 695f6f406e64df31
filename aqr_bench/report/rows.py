"""Records as rows: one dataclass for each frame that tables and figures are made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from aqr_bench.errors import UserError, nearest
from aqr_bench.records.record import Record, describe
from aqr_bench.report.scene_bootstrap import EvaluatedRun
from aqr_bench.study.spec import CUSTOM


class MetricChoices(tuple[str, ...]):
    """Metrics that an argument takes; ``custom.NAME`` is one of them, whatever the name."""

    def __contains__(self, text: object) -> bool:
        return super().__contains__(text) or str(text).startswith(CUSTOM)


METRICS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")

# Columns of a frame are the fields of its rows; those of floats are None (NaN in the frame) where a record has no such
# number.


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


@dataclass(frozen=True)
class TrainedRun:
    """One training of a variant."""

    variant: str
    seed: int
    record: Record


def trainings_frame(trained: Iterable[TrainedRun]) -> pd.DataFrame:
    """TrainingRow of each training."""
    return _frame(TrainingRow, map(_training_row, trained))


def curves_frame(trained: Iterable[TrainedRun]) -> pd.DataFrame:
    """LossRow of each point of the loss curve of each training."""
    rows = (LossRow(t.variant, t.seed, i, loss) for t in trained for i, loss in t.record.curve)
    return _frame(LossRow, rows)


def measures_frame(measures: Mapping[str, Record]) -> pd.DataFrame:
    """MeasureRow of each variant's measurement."""
    return _frame(MeasureRow, (_measure_row(variant, record) for variant, record in measures.items()))


def routers_frame(evaluated: Iterable[EvaluatedRun]) -> pd.DataFrame:
    """RouterRow of each group of queries of each evaluation whose record has router weights."""
    return _frame(RouterRow, (row for e in evaluated for row in _router_rows(e)))


def _frame(row: type, rows: Iterable[Any]) -> pd.DataFrame:
    """One column per field of the dataclass ``row``; those of floats have that type also where all are None."""
    frame = pd.DataFrame([vars(r) for r in rows], columns=[f.name for f in fields(row)])
    return frame.astype({f.name: float for f in fields(row) if f.type == "float | None"})


def _evaluation_row(run: EvaluatedRun) -> EvaluationRow:
    record = run.record
    scores = {metric: record.scores.get(metric) for metric in METRICS}
    return EvaluationRow(run.variant, run.seed, record.condition, record.status, record.reason, **scores)


def _training_row(run: TrainedRun) -> TrainingRow:
    record, wall_s = run.record, run.record.cost.get("wall_s")
    minutes = None if wall_s is None else wall_s / 60
    return TrainingRow(run.variant, run.seed, record.status, record.reason, minutes, record.cost.get("parameters"))


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
