"""The folded parts of a study on the page: what a sensor is worth, types of errors, and confidence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from aqr_bench.report.alarms import Alarm
from aqr_bench.report.collect import Results
from aqr_bench.report.diagnosis import diagnose_study
from aqr_bench.report.figures.diagnosis import (
    ERRORS_CAPTION,
    RELIABILITY_CAPTION,
    WEIGHTS_CAPTION,
    errors_figure,
    reliability_figure,
    weights_figure,
)
from aqr_bench.report.figures.sensor_worth import CAPTION, worth_figure
from aqr_bench.report.figures.style import colours, save, theme
from aqr_bench.report.routers import weight_reliability
from aqr_bench.report.scene_bootstrap import METRIC
from aqr_bench.report.section import Output, ReportFigure, ReportSection
from aqr_bench.report.sensor_worth import study_inputs, worth_alarms, worth_rows, worth_sentence
from aqr_bench.report.tables.diagnosis import calibration_table, error_types_table
from aqr_bench.report.tables.sensor_worth import worth_table
from aqr_bench.report.tables.study import comparison_target
from aqr_bench.report.tables.table import ReportTable
from aqr_bench.study.spec import Study, Tier


def folded_sections(
    records: Path, tier: Tier, study: Study, results: Results, output: Output
) -> tuple[tuple[ReportSection, ...], tuple[Alarm, ...]]:
    """Write the tables and figures of a study's folded parts; the parts that have a table, and notices from them."""
    theme("whitegrid", palette="colorblind")
    worth, notices = _worth(records, tier, study, results, output)
    parts = (worth, *_diagnosis(study, results, output))
    return tuple(part for part in parts if part.tables), notices


def _worth(
    records: Path, tier: Tier, study: Study, results: Results, output: Output
) -> tuple[ReportSection, tuple[Alarm, ...]]:
    """What each sensor is worth, also under further suites that the study has records of."""
    metric = study.metric if study.higher_is_better else METRIC
    against = {name: study.compared_with(name) for name in study.variants if name != study.baseline}
    rows = worth_rows(study_inputs(records, tier, study, results, metric), against)
    note = f"{metric}. Changes are to {comparison_target(study)}."
    table = worth_table(f"{study.name}_worth", metric, rows, note)
    figure = worth_figure(rows, colours(study), metric)
    section = _section(
        study, output, "worth", "What a sensor is worth", worth_sentence(rows, against, metric), [table],
        [("worth", CAPTION, figure)], None,
    )  # fmt: skip
    return section, tuple(worth_alarms(rows, study.name, metric))


def _diagnosis(study: Study, results: Results, output: Output) -> list[ReportSection]:
    """Types of errors, and reliability of scores and router weights, under the study's own suite."""
    diagnoses, palette = diagnose_study(study, results), colours(study)
    errors = error_types_table(f"{study.name}_errors", diagnoses)
    calibration = calibration_table(f"{study.name}_calibration", diagnoses)
    suites = {study.suite.name}
    drawn_errors = errors_figure(diagnoses, palette) if len(errors) else None
    reliability = reliability_figure(diagnoses, palette) if len(calibration) else None
    weights = weights_figure(weight_reliability(study, results.router_files), palette)
    return [
        _section(
            study, output, "errors", "Types of errors", "", [errors], [("errors", ERRORS_CAPTION, drawn_errors)], suites
        ),
        _section(
            study, output, "confidence", "Can scores be believed", "", [calibration],
            [("reliability", RELIABILITY_CAPTION, reliability), ("weight_reliability", WEIGHTS_CAPTION, weights)],
            suites,
        ),
    ]  # fmt: skip


def _section(
    study: Study,
    output: Output,
    name: str,
    title: str,
    text: str,
    tables: Iterable[ReportTable],
    figures: Iterable[tuple[str, str, Figure | None]],
    suites: set[str] | None,
) -> ReportSection:
    """Write tables that have a row, marked where stale, and figures (name, caption, figure) that are there."""
    written = [output.stale.mark(table, study, "evaluate", suites) for table in tables if len(table)]
    for table in written:
        table.write(output.tables, output.footer)
    drawn = [
        ReportFigure(caption, save(figure, output.figures, f"{study.name}_{key}", output.footer))
        for key, caption, figure in figures
        if figure is not None
    ]
    return ReportSection(name, title, text, tuple(written), tuple(drawn))
