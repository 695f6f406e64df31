"""The table of a paper: models by corruptions in percent, mean and sd over seeds, best in bold, marks of the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from aqr_bench.metrics.robustness import CLEAN
from aqr_bench.report.loose_records import LooseEvaluations
from aqr_bench.report.score_statistics import (
    MIN_DIFFERENCE,
    ScoreDifference,
    Summary,
    correct,
    number,
    paired_difference,
    summarise,
)
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.spec import CUSTOM

MARK = "*"
MEAN_RA = "mRA"


@dataclass(frozen=True)
class ColumnScores:
    """Score by seed of each model and column: clean, corruptions (mean over severities), mRA.

    A score of nuScenes is a fraction of 1, printed in percent, and higher is better. Of a custom metric neither is
    known: it is printed as it is, without mRA and bold type.
    """

    metric: str
    models: tuple[str, ...]
    columns: tuple[str, ...]
    by_seed: Mapping[tuple[str, str], Mapping[int, float]]

    @property
    def custom(self) -> bool:
        return self.metric.startswith(CUSTOM)

    @property
    def title(self) -> str:
        return self.metric if self.custom else f"{self.metric} in percent"

    def mean(self, model: str, column: str) -> float | None:
        return self.summary(model, column).mean

    def summary(self, model: str, column: str) -> Summary:
        return summarise(list(self.by_seed[model, column].values()))

    def cell(self, model: str, column: str) -> str:
        """``45.3 ± 0.4``; a dash for nothing."""
        summary = self.summary(model, column)
        spread = "" if summary.sd is None else f" ± {self.printed(summary.sd)}"
        return "–" if summary.mean is None else f"{self.printed(summary.mean)}{spread}"

    def printed(self, value: float) -> str:
        return number(value) if self.custom else number(100 * value, 1)


def paper_table(loose: LooseEvaluations, metric: str, baseline: str | None) -> ReportTable:
    """Models by corruptions: ``45.3 ± 0.4`` in percent. CSV: fractions, one row per model and column.

    Args:
        metric: mAP, NDS or ``custom.NAME``. ``baseline``: model that the marks of the others refer to; None: no marks.
    """
    scores = column_scores(loose, metric)
    deltas: dict[tuple[str, str], ScoreDifference | None] = {}
    for model in scores.models:
        if baseline is not None and model != baseline:
            for column in scores.columns:
                deltas[model, column] = paired_difference(
                    scores.by_seed[model, column], scores.by_seed[baseline, column]
                )
    deltas = correct(deltas)
    rows = [
        {"Model": model, **{c: _cell(scores, model, c, deltas.get((model, c))) for c in scores.columns}}
        for model in scores.models
    ]
    data = [
        {"model": model, "column": column, "metric": metric, **_numbers(scores, model, column, deltas)}
        for model in scores.models
        for column in scores.columns
    ]
    return ReportTable(
        f"table_{loose.suite.name}_{metric}",
        f"{scores.title}, {loose.suite.name}",
        pd.DataFrame(data),
        pd.DataFrame(rows),
        _note(loose, scores, deltas, baseline),
        numeric=frozenset(scores.columns),
        bold=frozenset(_best(scores)),
    )


def class_table(loose: LooseEvaluations) -> ReportTable:
    """AP of every class, without corruption and by corruption: mean over severities, then over seeds; fractions."""
    groups = {CLEAN: [loose.suite.conditions[0].name]}
    groups |= {name: list(severities.values()) for name, severities in loose.families().items()}
    rows = []
    for corruption, conditions in groups.items():
        part = loose.classes[loose.classes["condition"].isin(conditions)]
        for name in dict.fromkeys(part["class_name"]):
            means = {}
            for model in loose.models:
                of_model = part[(part["class_name"] == name) & (part["variant"] == model)]
                seeds = [list(of_seed["AP"]) for _, of_seed in of_model.groupby("seed")]
                means[model] = summarise([math.fsum(s) / len(s) for s in seeds if len(s) == len(conditions)]).mean
            text = {"Corruption": corruption, "Class": name, **{m: number(v) for m, v in means.items()}}
            rows.append(Row({"corruption": corruption, "class": name, **means}, text))
    columns = ["corruption", "class", *loose.models], ["Corruption", "Class", *loose.models]
    note = "Mean over severities, then over the seeds that have all of them."
    name = f"table_{loose.suite.name}_classes"
    return make_table(name, f"AP by class, {loose.suite.name}", rows, note, loose.models, columns)


def column_scores(loose: LooseEvaluations, metric: str) -> ColumnScores:
    """Scores by column of the models of some evaluations."""
    rows = loose.evaluations[loose.evaluations["status"] == "ok"]
    values = {
        (model, int(seed), condition): float(value)
        for model, seed, condition, value in zip(
            rows["variant"], rows["seed"], rows["condition"], rows.get(metric, ()), strict=True
        )
        if math.isfinite(value)
    }
    return scores_by_column(metric, values, loose.models, conditions_by_column(loose))


def conditions_by_column(loose: LooseEvaluations) -> dict[str, list[str]]:
    """Conditions that a column is the mean over, of ``clean`` and each corruption."""
    groups = {CLEAN: [loose.suite.conditions[0].name]}
    return groups | {name: list(severities.values()) for name, severities in loose.families().items()}


def scores_by_column(
    metric: str,
    values: Mapping[tuple[str, int, str], float],
    models: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> ColumnScores:
    """Means over the conditions of each column, and mRA, of the seeds that have all of them.

    Args:
        metric: mAP, NDS or ``custom.NAME``, which has no mRA.
        values: scores by model, seed and condition.
        groups: see ``conditions_by_column``.
    """
    by_seed: dict[tuple[str, str], dict[int, float]] = {}
    for model in models:
        seeds = sorted({seed for name, seed, _ in values if name == model})
        for column, conditions in groups.items():
            complete = [s for s in seeds if all((model, s, c) in values for c in conditions)]
            by_seed[model, column] = {
                s: math.fsum(values[model, s, c] for c in conditions) / len(conditions) for s in complete
            }
        clean, corrupted = by_seed[model, CLEAN], [by_seed[model, c] for c in groups if c != CLEAN]
        by_seed[model, MEAN_RA] = {
            s: math.fsum(scores[s] / clean[s] for scores in corrupted) / len(corrupted)
            for s in seeds
            if corrupted and clean.get(s) and all(s in scores for scores in corrupted)
        }
    resistance = [MEAN_RA] if len(groups) > 1 and not metric.startswith(CUSTOM) else []
    return ColumnScores(metric, tuple(models), (*groups, *resistance), by_seed)


def _cell(scores: ColumnScores, model: str, column: str, delta: ScoreDifference | None) -> str:
    return f"{scores.cell(model, column)}{MARK if delta is not None and delta.survives else ''}"


def _numbers(
    scores: ColumnScores, model: str, column: str, deltas: Mapping[tuple[str, str], ScoreDifference | None]
) -> dict[str, float | int | None]:
    summary, delta = scores.summary(model, column), deltas.get((model, column))
    numbers = {"seeds": summary.n, "mean": summary.mean, "sd": summary.sd}
    for name, field in (("difference", "mean"), ("low95", "low"), ("high95", "high"), ("p", "p"), ("p_holm", "p_holm")):
        numbers[name] = None if delta is None else getattr(delta, field)
    return numbers


def _best(scores: ColumnScores) -> list[tuple[int, str]]:
    """The cells with the highest mean of each column, as printed; none where all are alike, or of a custom metric."""
    cells = []
    for column in scores.columns if not scores.custom else ():
        means = {i: mean for i, m in enumerate(scores.models) if (mean := scores.mean(m, column)) is not None}
        printed = {i: scores.printed(mean) for i, mean in means.items()}
        if len(means) > 1:
            best = printed[max(means, key=means.__getitem__)]
            cells += [(i, column) for i, text in printed.items() if text == best and len(set(printed.values())) > 1]
    return cells


def _note(
    loose: LooseEvaluations,
    scores: ColumnScores,
    deltas: Mapping[tuple[str, str], ScoreDifference | None],
    baseline: str | None,
) -> str:
    """How to read the table: what a cell, bold type and a mark mean, and what is left out."""
    seeds = sorted({len(scores.by_seed[model, CLEAN]) for model in scores.models})
    words = f"{seeds[0]} seed{'s' * (seeds[0] != 1)}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    spread = "mean ± sd over" if seeds[-1] > 1 else "of"
    text = [f"{scores.title}, {spread} {words}; a corruption: mean over its severities."]
    if MEAN_RA in scores.columns:
        text.append(f"{MEAN_RA}: share of the clean score that is left, mean over corruptions.")
    if len(scores.models) > 1 and not scores.custom:
        text.append("Bold: the best of its column.")
    tested = [d for d in deltas.values() if d is not None and d.p is not None]
    if tested:
        text.append(
            f"{MARK}: differs from '{baseline}' beyond the noise (paired t-test over seeds, p < 0.05 after Holm's "
            f"correction for {len(tested)} comparisons, and by {MIN_DIFFERENCE:g} or more)."
        )
    elif deltas:
        text.append(f"No marks: a test against '{baseline}' needs two seeds that both have.")
    if left_out := loose.not_applicable:
        text.append(f"Left out, since they change no sensor of any of these models: {', '.join(left_out)}.")
    if any(not scores.by_seed[model, column] for model in scores.models for column in scores.columns):
        why = "undefined" if scores.custom else f"{MEAN_RA} of a clean score of 0"
        text.append(f"A dash: not evaluated, failed, not applicable, or {why}.")
    return " ".join(text)


def write_workbook(path: str, tables: Sequence[ReportTable]) -> None:
    """A spreadsheet (.xlsx) with a sheet per table, numbers as numbers. ImportError without openpyxl."""
    with pd.ExcelWriter(path, engine="openpyxl") as book:
        for number_, table in enumerate(tables, start=1):
            sheet = f"{number_} {table.title}".translate({ord(c): " " for c in r"[]:*?/\'"})
            table.data.to_excel(book, sheet_name=sheet[:31], index=False)  # Excel's limit
