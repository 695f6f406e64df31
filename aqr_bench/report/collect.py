"""From record files to data frames: one row for every run the study asks for, also for those that failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from aqr_bench.metrics.bootstrap import SceneInterval
from aqr_bench.records.record import NOT_APPLICABLE, Record, fail_unchanged_inputs, read_records
from aqr_bench.report.scene_bootstrap import kept_file, scene_intervals
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.runs import base_runs, matrix
from aqr_bench.study.spec import Run, Study, Suite, Tier

METRICS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
MISSING = "missing"
BASE = "base"


@dataclass(frozen=True)
class Results:
    """Records of one study, or of the base models, each exactly where the study expects it.

    evaluations  one row per variant, seed and condition: status, reason, the metrics (NaN where there is none)
    classes      one row per variant, seed, condition and class: AP
    trainings    one row per variant and seed: status, reason, minutes, parameters
    measures     one row per variant: status, reason, latency and memory
    curves       one row per variant, seed and iteration: loss
    routers      one row per variant, seed, condition and group of queries (all, confident) where there is a router:
                 mean, standard deviation and percentiles of the LiDAR and the camera weight
    records      all records that were read
    router_files every query's weights by (variant, seed, condition), where there is a router
    match_files  matched detections by (variant, seed, condition), where they were kept
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
        here = rows[(rows["variant"] == variant) & (rows["condition"] == condition)]
        return bool(len(here)) and bool((here["status"] == NOT_APPLICABLE).all())

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
    measures = {v: _one(RunLayout(tier.name, records).measure(study.name, v), "measure") for v in study.variants}
    return collect_runs(records, runs, [study.suite], measures, study)


def collect_base(records: Path, tier: Tier, studies: Sequence[Study]) -> Results:
    """Results of the base models the studies start from, under all of their suites."""
    suites = list({study.suite.name: study.suite for study in studies if not study.measure_only}.values())
    return collect_runs(records, base_runs(tier, studies), suites, {})


def collect_runs(
    records: Path,
    runs: Iterable[Run],
    suites: Sequence[Suite],
    measures: dict[str, Record],
    study: Study | None = None,
) -> Results:
    evaluations, classes, trainings, curves, routers, matched = [], [], [], [], [], []
    seen: list[Record] = []
    router_files: dict[tuple[str, int, str], Path] = {}
    for run in runs:
        key = {"variant": run.variant or BASE, "seed": run.seed}
        train = _checked(_one(RunLayout(run.tier, records).train(run), "train"), run)
        seen.append(train)
        trainings.append({**key, **_state(train), **_training_cost(train)})
        curves += [{**key, "iteration": i, "loss": loss} for i, loss in train.curve]
        for suite in suites:
            for record in _evaluations(RunLayout(run.tier, records).evaluate(run, suite.name), suite):
                record = _checked(record, run)
                seen.append(record)
                here = {**key, "condition": record.condition}
                evaluations.append({**here, **_state(record), **{m: record.scores.get(m) for m in METRICS}})
                score = record.scores.get("mAP") if record.ok else None
                matched.append((*here.values(), score, kept_file(records, run, record, "matches")))
                weights = kept_file(records, run, record, "router")
                if weights is not None:
                    router_files[key["variant"], run.seed, record.condition] = weights
                routers += [{**here, **row} for row in _router(record)]
                for name, scores in record.scores.get("classes", {}).items():
                    classes.append({**here, "class": name, "AP": scores.get("AP")})
    seen += measures.values()
    measured = [{"variant": v, **_state(record), **_measured(record)} for v, record in measures.items()]
    return Results(
        evaluations=_frame(evaluations, ["variant", "seed", "condition", "status", "reason", *METRICS], METRICS),
        classes=_frame(classes, ["variant", "seed", "condition", "class", "AP"], ["AP"]),
        trainings=_frame(
            trainings, ["variant", "seed", "status", "reason", "minutes", "parameters"], ["minutes", "parameters"]
        ),
        measures=_frame(measured, ["variant", "status", "reason", *MEASURED], MEASURED),
        curves=_frame(curves, ["variant", "seed", "iteration", "loss"], ["iteration", "loss"]),
        routers=_frame(routers, ["variant", "seed", "condition", "group", "queries", *ROUTER], ["queries", *ROUTER]),
        records=tuple(r for r in seen if r.status != MISSING),
        router_files=router_files,
        match_files={tuple(key): path for *key, _, path in matched if path is not None},
        scenes=scene_intervals(study, matched) if study else {},
    )


def _frame(rows: list[dict], columns: Sequence[str], numeric: Sequence[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({name: float for name in numeric})


def _missing(kind: str, condition: str | None = None) -> Record:
    return Record(kind, MISSING, "", condition=condition, reason="no record: not run yet, or its job failed")


def _one(path: Path, kind: str) -> Record:
    """The single record of a train or measure file."""
    return read_records(path)[-1] if path.is_file() else _missing(kind)


def _evaluations(path: Path, suite: Suite) -> list[Record]:
    """One record per condition of the suite, in its order; damaged lines stand in for what they hide."""
    found = read_records(path) if path.is_file() else []
    found = fail_unchanged_inputs(found, suite.conditions[0].name)
    by_condition = {record.condition: record for record in found}
    damaged = next((record for record in found if record.extra.get("damaged")), None)
    rows = []
    for condition in suite.conditions:
        record = by_condition.get(condition.name)
        if record is None and damaged is not None:
            record = Record("evaluate", "failed", damaged.tier, condition=condition.name, reason=damaged.reason)
        rows.append(record or _missing("evaluate", condition.name))
    return rows


def _checked(record: Record, run: Run) -> Record:
    """The record, or a failed one if it belongs to another run than the one whose place it is in."""
    if record.status == MISSING or record.reason is not None:
        return record
    theirs, ours = (
        (record.tier, record.study, record.variant, record.seed),
        (run.tier, run.study, run.variant, run.seed),
    )
    if theirs == ours:
        return record
    reason = f"record of another run: tier, study, variant, seed are {theirs}, expected {ours}"
    return Record(record.kind, "failed", run.tier, condition=record.condition, reason=reason)


def _state(record: Record) -> dict:
    return {"status": record.status, "reason": record.reason}


def _training_cost(record: Record) -> dict:
    wall = record.cost.get("wall_s")
    return {"minutes": None if wall is None else wall / 60, "parameters": record.cost.get("parameters")}


MEASURED = ("parameters", "latency_ms", "latency_p95_ms", "latency_ratio", "throughput_per_s", "peak_rss_mb")


def _measured(record: Record) -> dict:
    latency = record.cost.get("latency_ms") or {}
    plain = {name: record.cost.get(name) for name in MEASURED}
    # Inference alone, where it was told apart from the rest of the process' life.
    plain["peak_rss_mb"] = record.cost.get("inference_peak_rss_mb", plain["peak_rss_mb"])
    return {**plain, "latency_ms": latency.get("median"), "latency_p95_ms": latency.get("p95")}


ROUTER = tuple(f"{m}_{s}" for m in ("lidar", "camera") for s in ("mean", "sd", "p5", "p50", "p95"))


def _router(record: Record) -> list[dict]:
    """What an evaluation says about its router's weights, by group of queries; nothing where it is damaged."""
    rows = []
    for group in ("all", "confident"):
        found = (record.extra.get("router") or {}).get(group) if record.ok else None
        if not isinstance(found, dict) or not isinstance(found.get("lidar"), dict):
            continue
        weights = {f"{m}_{s}": (found.get(m) or {}).get(s) for m in ("lidar", "camera") for s in found["lidar"]}
        rows.append({"group": group, "queries": found.get("queries"), **weights})
    return rows


HASHED = (("code_sha256", "versions of the code"), ("data_sha256", "data sets"), ("infos_sha256", "sets of info files"))


def mixtures(records: Iterable[Record]) -> list[str]:
    """Sentences on what should be one and is not: code, data or machine differing between compared records."""
    found = []
    for kind in ("train", "evaluate", "measure"):
        rows = [r.provenance for r in records if r.kind == kind and r.ok]
        for key, what in HASHED:
            values = {p.get(key) for p in rows} - {None}
            if len(values) > 1:
                found.append(f"{kind} records come from {len(values)} different {what}")
        if kind == "measure":
            machines = {(p.get("machine") or {}).get("cpu") for p in rows} - {None}
            if len(machines) > 1:
                found.append(f"latencies were measured on {len(machines)} different processors")
    return found
