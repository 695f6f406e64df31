"""Tables of robustness: summary, corruptions, missing evaluations, and published numbers by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from aqr_bench.folders import shipped
from aqr_bench.metrics.robustness import robustness
from aqr_bench.records.record import Record
from aqr_bench.report.figures.robustness import draw_robustness
from aqr_bench.report.robustness_scores import (
    METRICS,
    SINGLE_SENSOR,
    SINGLE_SENSOR_SUITE,
    SuiteScores,
    all_suite_scores,
)
from aqr_bench.report.score_statistics import number, span
from aqr_bench.report.section import Output, ReportFigure
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.spec import Study, Tier

MAX_MISSING = 3  # missing conditions that are named in one cell
PUBLISHED = {"multicorrupt": ("multicorrupt_nds.csv", "BEVfusion")}  # suite -> scores, baseline
DIFFERENCE, INTERVAL = "mRA difference", "95 %, seeds"


def summary_table(scores: SuiteScores) -> ReportTable:
    """One row per variant and metric: clean score, mRA, mRRA, mCE, and the scores with a single sensor."""
    rows = []
    for variant in scores.variants:
        for row in _of(scores.summary, variant=variant).to_dict("records"):
            data = {"study": scores.study, "suite": scores.suite, "variant": variant, "baseline": scores.baseline}
            text = {
                "Variant": f"{variant} (baseline)" if variant == scores.baseline else variant,
                "Metric": row["metric"],
                "Clean": number(row["clean"]),
                "mRA": number(row["mRA"]),
                "sd": number(row["mRA_sd"]),
                DIFFERENCE: number(row["difference"], sign=True),
                INTERVAL: "–" if math.isnan(row["low95"]) else span(row["low95"], row["high95"]),
                "mRRA, %": number(row["mRRA"], 1, sign=True),
                "mCE": number(row["mCE"]),
                **{c: number(row[c]) for c in SINGLE_SENSOR},
                "Seeds": f"{row['seeds']} of {len(scores.seeds)}",
                "Missing": _missing(scores, variant),
            }
            rows.append(Row({**data, "wanted": len(scores.seeds), **row}, text, row["seeds"] < len(scores.seeds)))
    title, texts = f"Robustness, {scores.suite}", {"Variant", "Metric", "Seeds", "Missing"}
    return _table(scores.name, title, rows, summary_note(scores), texts)


def _table(name: str, title: str, rows: Sequence[Row], note: str, texts: Set[str]) -> ReportTable:
    """A table without the column ``Missing`` where nothing is missing; ``texts``: columns that are not numeric."""
    table = make_table(name, title, rows, note)
    text = table.text.fillna("")
    if not (text["Missing"] != "").any():
        text = text.drop(columns="Missing")
    return replace(table, text=text, numeric=frozenset(text.columns) - texts)


def summary_note(scores: SuiteScores) -> str:
    """How to read the summary, and missing evaluations."""
    base = "no baseline, so without numbers here" if scores.baseline is None else f"'{scores.baseline}'"
    many = f"{len(scores.families)} corruptions ({scores.suite})"
    text = [
        f"Mean and sd over seeds. mRA: share of the clean score that is left, mean over {many}, each the mean over its "
        f"severities; 1: nothing lost. Relative to {base}, same seeds: the difference of mRA, with a Student t "
        "interval over seeds alone; mRRA: percent of score more or less; mCE: what is missing to a perfect score, 1: "
        f"alike, lower is better. {' and '.join(SINGLE_SENSOR)}: score of the same model with a single sensor; a high "
        "mRA means little for a model that hardly uses the corrupted sensor, so look at the scores, too."
    ]
    if scores.summary[list(SINGLE_SENSOR)].isna().any(axis=None):
        text.append(f"A dash there: not evaluated under the suite {SINGLE_SENSOR_SUITE}.")
    missing = len(scores.missing)
    if missing:
        are = "s are" if missing > 1 else " is"
        text.append(f"{missing} evaluation{are} missing or failed: a seed that lacks a number is left out of its mean.")
    if scores.left_out:
        text.append(f"Not evaluated under {scores.suite} ({scores.study}): {', '.join(scores.left_out)}.")
    return " ".join(text)


def corruptions_table(scores: SuiteScores) -> ReportTable:
    """One row per corruption and variant: mean over severities of mAP and NDS, every severity, RA, RRA and CE."""
    rows = [_corruption_row(scores, c, variant) for c in scores.families for variant in scores.variants]
    base = "no baseline" if scores.baseline is None else f"'{scores.baseline}'"
    note = (
        "Mean over seeds of the mean over severities; by severity: mild to severe. RA: score divided by the clean one. "
        f"RRA, CE: relative to {base}, over all severities. The CSV has sd, and RRA and CE of mAP."
    )
    title, texts = f"Corruption by corruption, {scores.suite}", {"Corruption", "Variant", "Seeds", "Missing"}
    return _table(f"{scores.name}_corruptions", title, rows, note, texts)


def _corruption_row(scores: SuiteScores, corruption: str, variant: str) -> Row:
    severities = scores.families[corruption]
    by_metric = _of(scores.corruptions, corruption=corruption, variant=variant).set_index("metric")
    seeds = int(by_metric["seeds"].min())
    data = {"corruption": corruption, "variant": variant, "severities": len(severities)}
    data |= {"seeds": seeds, "wanted": len(scores.seeds), "pairs": int(by_metric["pairs"].min())}
    text = {"Corruption": corruption, "Variant": variant}
    for metric in METRICS:
        row = by_metric.loc[metric]
        data |= {metric: row["score"], f"{metric}_sd": row["score_sd"]}
        data |= {f"{key}_{metric}{sd}": row[f"{key}{sd}"] for key in ("RA", "RRA", "CE") for sd in ("", "_sd")}
        graded = _of(scores.by_severity, metric=metric, variant=variant, corruption=corruption)
        by_severity = dict(zip(graded["severity"], graded["score"], strict=True))
        data |= {f"{metric}_severity_{s}": by_severity[s] for s in severities if s}
        text[metric] = number(row["score"])
        if any(severities):
            text[f"{metric} by severity"] = " / ".join(number(by_severity[s]) for s in sorted(severities))
        text[f"RA {metric}"] = number(row["RA"])
    text["RRA NDS, %"] = number(by_metric.loc["NDS", "RRA"], 1, sign=True)
    text["CE NDS"] = number(by_metric.loc["NDS", "CE"])
    text |= {"Seeds": f"{seeds} of {len(scores.seeds)}", "Missing": _missing(scores, variant, corruption)}
    data["reason"] = "; ".join(dict.fromkeys(r for r in by_metric["reason"] if r))
    return Row(data, text, seeds < len(scores.seeds))


def missing_table(scores: SuiteScores) -> ReportTable:
    """Every evaluation that is missing for a number, with its reason."""
    text = scores.missing.map(str)
    text.columns = [c.capitalize() for c in text.columns]
    return ReportTable(f"{scores.name}_gaps", f"Missing or failed evaluations, {scores.suite}", scores.missing, text)


def published_table(suite: str) -> ReportTable | None:
    """Published scores of other models under a suite, in the order of the source; None where there are none.

    RA and RRA are recomputed from the published scores (``results/published``), against the source's baseline.
    """
    if suite not in PUBLISHED:
        return None
    file, baseline = PUBLISHED[suite]
    path = shipped("results/published") / file
    if not path.is_file():
        return None
    scores = pd.read_csv(path).rename(columns={"condition": "corruption", "value": "score"})
    _, data = robustness(scores.assign(score=scores["score"] / 100), baseline)
    data = data.drop(columns="reason").assign(metric="NDS", source=scores["source"].iloc[0])
    text = pd.DataFrame(
        {
            "Model": data["model"],
            "Clean NDS": data["clean"].map(number),
            "mRA": data["mRA"].map(number),
            "mRRA, %": [number(v, 1, sign=True) for v in data["mRRA"]],
            "mCE": data["mCE"].map(number),
        }
    )
    note = (
        f"Not measured here: {data['source'].iloc[0]}, NDS on the nuScenes val split; relative to its {baseline}. "
        "mCE is computed here from the same scores. Other data, models, schedules and code of the corruptions than in "
        "this benchmark: for context, not to be ranked with the measured numbers."
    )
    title = f"Published by others, {suite}"
    return ReportTable(f"published_{suite}", title, data, text, note, numeric=frozenset(text.columns) - {"Model"})


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class RobustnessPart:
    """Tables and figures of one suite on the page; ``records`` are those that the study's own results do not have."""

    tables: tuple[ReportTable, ...]
    figures: tuple[ReportFigure, ...]
    records: tuple[Record, ...]


def robustness_parts(records: Path, tier: Tier, study: Study, output: Output) -> list[RobustnessPart]:
    """Write tables and figures of every suite of corruptions that a study has records of."""
    parts = []
    for scores in all_suite_scores(records, tier, study):
        suites = {scores.suite, SINGLE_SENSOR_SUITE}
        tables = [summary_table(scores), corruptions_table(scores)]
        tables = [output.stale.mark(table, study, "evaluate", suites) for table in tables]
        if len(scores.missing):
            tables.append(missing_table(scores))
        # Beside the page, not on it: published numbers must not be read as further rows.
        published = published_table(scores.suite)
        for table in (*tables, *([] if published is None else [published])):
            table.write(output.tables, output.footer)
        further = () if scores.suite == study.suite.name else scores.records
        figures = draw_robustness(scores, output.figures, output.footer)
        parts.append(RobustnessPart(tuple(tables), tuple(figures), further))
    return parts


# ---------------------------------------------------------------- cells


def _of(frame: pd.DataFrame, **values: str) -> pd.DataFrame:
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def _missing(scores: SuiteScores, variant: str, corruption: str | None = None) -> str:
    """Conditions of the suite that the variant lacks, with the seeds: all, or those of one corruption."""
    missing = _of(scores.missing, variant=variant, suite=scores.suite)
    if corruption is not None:
        missing = missing[missing["condition"].isin(scores.families[corruption].values())]
    names = [
        f"{condition} (seed {', '.join(str(s) for s in sorted(rows['seed']))})"
        for condition, rows in missing.groupby("condition", sort=False)
    ]
    more = [f"{len(names) - MAX_MISSING} more"] if len(names) > MAX_MISSING else []
    return ", ".join([*names[:MAX_MISSING], *more])
