"""A report on models that belong to no tier: scores of submissions, and of checkpoints that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aqr_bench.atomic import write_text
from aqr_bench.errors import UserError, join_names
from aqr_bench.metrics.bootstrap import Resampled, paired_scene_bootstrap
from aqr_bench.records.record import Record
from aqr_bench.report.collect import MISSING
from aqr_bench.report.diagnosis import diagnose
from aqr_bench.report.loose_records import MODELS, LooseEvaluations
from aqr_bench.report.page import render_sections
from aqr_bench.report.result_sets import ResultSet, incompatible, read_set
from aqr_bench.report.robustness_scores import SINGLE_SENSOR, corrupts
from aqr_bench.report.rows import METRICS, classes_frame, evaluations_frame
from aqr_bench.report.scene_bootstrap import EvaluatedRun, matches_beside, resampled_run
from aqr_bench.report.score_statistics import number, span
from aqr_bench.report.section import ReportSection
from aqr_bench.report.sensor_worth import ScoredInput, worth_rows
from aqr_bench.report.slice_scores import load_slices, slice_rows
from aqr_bench.report.tables.diagnosis import calibration_table, error_types_table
from aqr_bench.report.tables.robustness import corruptions_table, summary_table
from aqr_bench.report.tables.sensor_worth import worth_table
from aqr_bench.report.tables.slices import table_of_slices
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.load import load_suite

SEED = 0  # models are given, not trained: each is one run


@dataclass(frozen=True)
class Model:
    """A model's evaluations by suite and condition, with the matches of each, where they are."""

    name: str
    records: Mapping[tuple[str, str], Record]
    matches: Mapping[tuple[str, str], Path | None]


def build_models_report(paths: Sequence[Path], out: Path) -> Path:
    """Write tables and a page on the models of record files or folders; the first is what others are compared with.

    Raises:
        UserError: records of a tier, several models in one, two of one name, or other data than the first.
    """
    sets = [read_set(path) for path in paths]
    for results in sets:
        if not results.without_tier:
            raise UserError(f"{results.label}: records of tier '{results.tier}': name it with --tier, and its studies")
        if data := [reason for reason in incompatible(sets[0], results) if "different" in reason]:
            raise UserError(f"{sets[0].label} and {results.label} cannot be in one report: {data[0]}")
    models = [_model(results) for results in sets]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise UserError(f"two models of one name: {join_names(names)}", "Score one of them again with another --name.")
    sections = [_section(models, suite) for suite in dict.fromkeys(s for model in models for s, _ in model.records)]
    folder = out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for table in (table for section in sections for table in section.tables):
        table.write(folder)
    records = [record for model in models for record in model.records.values()]
    return write_text(out / "index.html", render_sections(MODELS, "Models without a tier.", sections, records))


def _model(results: ResultSet) -> Model:
    keys = {key: (str(record.suite), str(record.condition)) for key, record in results.records.items()}
    matches = {
        keys[key]: matches_beside(results.files[key], results.records[key]) for key in keys if key in results.files
    }
    return Model(results.tier, {keys[key]: record for key, record in results.records.items()}, matches)


def _section(models: Sequence[Model], suite: str) -> ReportSection:
    """Scores, robustness, slices, types of errors, calibration and the worth of sensors under one suite."""
    conditions = list(dict.fromkeys(c for model in models for s, c in model.records if s == suite))
    diagnoses = {
        (model.name, SEED, c): diagnosis
        for c in conditions
        for model in models
        if (diagnosis := diagnose(model.matches.get((suite, c)))) is not None
    }
    name = f"{MODELS}_{suite}"
    further = [
        _slices(models, suite, conditions[0]),
        error_types_table(f"{name}_errors", diagnoses, "Model"),
        calibration_table(f"{name}_calibration", diagnoses, "Model"),
        _worth(models, suite),
    ]
    tables = [scores_table(models, suite, conditions), *_robustness(models, suite)]
    text = f"Models under {len(conditions)} conditions; differences are to {models[0].name}."
    return ReportSection(suite, f"Suite {suite}", text, (*tables, *(table for table in further if len(table))))


def scores_table(models: Sequence[Model], suite: str, conditions: Sequence[str]) -> ReportTable:
    """Condition by model: all metrics, and mAP with its interval over scenes and its difference to the first model."""
    rows = []
    for condition in conditions:
        first: Resampled | None = None
        for model in models:
            record, drawn = model.records.get((suite, condition)), None
            score = record.scores.get("mAP") if record else None
            if score is not None:
                drawn = resampled_run(model.matches.get((suite, condition)), score)
            first = drawn if model is models[0] else first
            rows.append(_score_row(condition, model.name, record, drawn, None if model is models[0] else first))
    note = (
        "mAP with its 95 % interval over scenes, and the difference of mAP to the first model, paired by scene "
        "(scene bootstrap; none with fewer than eight scenes, or where the matches are not beside the records)."
    )
    numeric = [column for column in rows[0].text if column not in ("Condition", "Model", "Status")]
    return make_table(f"{MODELS}_{suite}_scores", "Scores by condition and model", rows, note, numeric)


def _score_row(
    condition: str, model: str, record: Record | None, drawn: Resampled | None, first: Resampled | None
) -> Row:
    scores = record.scores if record else {}
    low = high = None
    if drawn is not None:
        low, high = map(float, np.percentile(drawn.draws, [2.5, 97.5]))
    delta = paired_scene_bootstrap({SEED: drawn}, {SEED: first}) if drawn and first else None
    status = MISSING if record is None else record.status
    data = {"condition": condition, "model": model, "status": status, **{m: scores.get(m) for m in METRICS}}
    data |= {"scenes_low95": low, "scenes_high95": high, "difference": delta.mean if delta else None}
    data |= {"difference_low95": delta.low if delta else None, "difference_high95": delta.high if delta else None}
    text = {
        "Condition": condition,
        "Model": model,
        **{metric: number(scores.get(metric)) for metric in METRICS},
        "mAP, 95 %, scenes": span(low, high, sign=False),
        "Difference": number(delta.mean, sign=True) if delta else "–",
        "Difference, 95 %, scenes": span(delta.low, delta.high) if delta else "–",
        "Status": status,
    }
    return Row(data, text, status != "ok")


def _robustness(models: Sequence[Model], name: str) -> list[ReportTable]:
    """Robustness scores, where the suite is one that is here, and corrupts."""
    try:
        suite = load_suite(name)
    except UserError:  # a file that was given by its path, or conditions without a suite
        return []
    if not corrupts(suite):
        return []
    evaluated = [model for model in models if any(s == name for s, _ in model.records)]
    runs = [_run(model, name, condition.name) for model in evaluated for condition in suite.conditions]
    loose = LooseEvaluations(suite, evaluations_frame(runs), classes_frame(runs), ())
    scores = loose.robustness(evaluated[0].name, evaluations_frame(_single_sensor(evaluated)))
    return [summary_table(scores), corruptions_table(scores)]


def _run(model: Model, suite: str, condition: str) -> EvaluatedRun:
    record = model.records.get((suite, condition))
    missing = Record("evaluate", MISSING, model.name, condition=condition, reason="no record")
    return EvaluatedRun(model.name, SEED, record or missing, None, None)


def _single_sensor(models: Sequence[Model]) -> list[EvaluatedRun]:
    return [
        EvaluatedRun(model.name, SEED, record, None, None)
        for model in models
        for (_, condition), record in model.records.items()
        if condition in SINGLE_SENSOR
    ]


def _worth(models: Sequence[Model], name: str) -> ReportTable:
    """What each sensor is worth by mAP, where the suite is one that is here; no row where no condition lacks one."""
    try:
        corruptions = {condition.name: condition.corruption for condition in load_suite(name).conditions}
    except UserError:
        corruptions = {}
    inputs = [
        ScoredInput(model.name, SEED, condition, corruptions[condition], score, model.matches.get((suite, condition)))
        for model in models
        for (suite, condition), record in model.records.items()
        if suite == name and condition in corruptions and (score := record.scores.get("mAP")) is not None
    ]
    against = {model.name: models[0].name for model in models[1:]}
    note = f"mAP. Changes are to {models[0].name}."
    return worth_table(f"{MODELS}_{name}_worth", "mAP", worth_rows(inputs, against), note, "Model")


def _slices(models: Sequence[Model], suite: str, condition: str) -> ReportTable:
    """mAP by slice under one condition, of the models whose matches hold slices."""
    scores = {}
    for model in models:
        record = model.records.get((suite, condition))
        slices = load_slices(model.matches.get((suite, condition)), record.scores.get("mAP")) if record else None
        if slices is not None:
            scores[model.name] = {SEED: slices}
    against = {name: models[0].name for name in scores if name != models[0].name}
    name, note = f"{MODELS}_{suite}_slices", f"mAP under {condition}. Differences are to {models[0].name}. "
    return table_of_slices(name, f"mAP by slice, {condition}", slice_rows(scores, against), note, "Model")
