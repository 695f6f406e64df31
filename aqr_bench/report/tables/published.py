"""Measured scores beside published ones: difference, tolerance, and whether it is met; in a section of the page.

Published numbers come from ``results/published``; a study lists under ``published`` which of them belong to which of
its variants and conditions. Numbers of other models are listed beside them without a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from aqr_bench.errors import UserError, require_file
from aqr_bench.folders import shipped
from aqr_bench.metrics.splits import OFFICIAL, evaluation_split
from aqr_bench.records.record import NOT_APPLICABLE, Record, read_records
from aqr_bench.report.collect import Results, collect_runs
from aqr_bench.report.score_statistics import number, summarise
from aqr_bench.report.tables.study import by_seed
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_suite
from aqr_bench.study.runs import matrix
from aqr_bench.study.spec import Study, Suite, Tier

METRICS = ("mAP", "NDS")  # published in percent
SPLIT, VERSION = "val", "v1.0-trainval"  # of published numbers
WEIGHTS = {"published": "published", "trained": "trained here"}
COLUMNS = ["variant", "condition", "metric", "measured", "published", "difference", "tolerance", "within", "weights"]
COLUMNS += ["source"]


def read_published(name: str) -> pd.DataFrame:
    """mAP and NDS on the validation split in ``results/published/<name>.csv``, each number once.

    Raises:
        UserError: there is no such file.
    """
    folder = shipped("results/published")
    known = ", ".join(sorted(p.stem for p in folder.glob("*.csv")))
    path = require_file(folder / f"{name}.csv", "published results", f"Known are: {known or 'none'}.")
    rows = pd.read_csv(path, dtype={"severity": str})
    rows = rows[(rows["split"] == SPLIT) & rows["metric"].isin(METRICS)]
    return rows.drop_duplicates(["model", "condition", "severity", "metric"])


def comparable(tier: Tier) -> bool:
    """Whether the tier has the data set of published numbers, and their split."""
    return tier.kind == "nuscenes" and tier.version == VERSION and evaluation_split(tier.data_root, VERSION) == SPLIT


def _data_of(tier: Tier) -> str:
    data, split = f"{tier.kind} {tier.version}", evaluation_split(tier.data_root, tier.version)
    return data if split == OFFICIAL[tier.version][1] else f"{data}, split '{split}'"


def published_rows(study: Study) -> pd.DataFrame:
    """One row per variant, condition of the study and metric that a number is published for: value and source.

    Raises:
        UserError: a variant's published name that is in none of the files.
    """
    settings = study.published
    tables = pd.concat([read_published(name) for name in settings["files"]], ignore_index=True)
    names = {published: name for name, published in settings["conditions"].items()}
    parts = []
    for variant in study.variants.values():
        if variant.published is None:
            continue
        rows = tables[tables["model"] == variant.published]
        if rows.empty:
            where = f"{study.path}: variants.{variant.name}.published"
            raise UserError(f"{where}: no '{variant.published}' in {', '.join(settings['files'])} of results/published")
        rows = rows[rows["condition"].isin(names)].assign(variant=variant.name)
        parts.append(rows.assign(condition=rows["condition"].map(names)))
    joined = pd.concat(parts) if parts else tables.head(0).assign(variant="")
    # The same number is in two files; the first one counts.
    joined = joined.drop_duplicates(["variant", "condition", "metric"])
    order = {c.name: i for i, c in enumerate(study.suite.conditions)}
    return joined.sort_values("condition", key=lambda c: c.map(order), kind="stable").reset_index(drop=True)


def weights_of(study: Study, tier: Tier, records: Path) -> dict[str, str]:
    """``published`` or ``trained`` by variant, from the train records that are ok."""
    weights = {}
    for run in matrix(tier, [study]):
        path = RunLayout(run.tier, records).train(run)
        train: Record | None = read_records(path)[-1] if path.is_file() else None
        if train is not None and train.ok:
            from_file = (train.extra.get("start") or {}).get("kind") == "published"
            weights[run.variant] = "published" if from_file and train.extra.get("trained") is False else "trained"
    return weights


def comparison_table(study: Study, tier: Tier, results: Results, records: Path) -> ReportTable:
    """Every published number of the study's models beside the measured one, in percentage points.

    The study may name conditions that are not the published ones: those are beside them without a difference.
    """
    weights, tolerance = weights_of(study, tier, records), study.published["tolerance"]
    others = study.published.get("not_comparable", {})
    rows = [
        _comparison_row(row, results, tier, weights.get(row.variant), tolerance, others.get(row.condition))
        for row in published_rows(study).itertuples()
    ]
    note = (
        f"Percent, nuScenes {SPLIT}. Tolerance: {tolerance['published']:g} points with published weights, "
        f"{tolerance['trained']:g} with weights trained here; chosen by the study, not by the source."
    )
    numeric = ["Measured", "Published", "Difference", "Tolerance"]
    columns = COLUMNS, [column.capitalize() for column in COLUMNS]
    return make_table(f"{study.name}_published", "Measured and published", rows, note, numeric, columns)


def _comparison_row(
    row: Any, results: Results, tier: Tier, source: str | None, tolerances: Mapping[str, float], deviation: str | None
) -> Row:
    """The row of one published number.

    Args:
        row: one of ``published_rows``.
        source: of the variant's weights, None where it was not trained.
        deviation: how the condition differs from the published one, None if it does not.
    """
    mean = summarise(list(by_seed(results, row.variant, row.condition, row.metric).values())).mean
    measured = None if mean is None else 100 * mean
    tolerance = tolerances[source] if source else None
    difference = None
    if measured is not None and source is not None and comparable(tier) and deviation is None:
        difference = measured - row.value
        # Scores are published to a tenth or a hundredth of a point: rounding must not decide.
        within = "yes" if abs(difference) <= tolerance + 1e-9 else "no"
    else:
        within = _why_not(results, row.variant, row.condition, measured, tier, deviation)
    data = {
        "variant": row.variant,
        "condition": row.condition,
        "metric": row.metric,
        "measured": measured,
        "published": row.value,
        "difference": difference,
        "tolerance": tolerance,
        "within": within,
        "weights": WEIGHTS.get(source),
        "source": row.source,
    }
    numbers = {
        "Measured": number(measured, 1),
        "Published": f"{row.value:g}",
        "Difference": number(difference, 2, sign=True),
        "Tolerance": number(tolerance, 1),
        "Weights": WEIGHTS.get(source, "–"),
    }
    text = {column.capitalize(): value for column, value in data.items()} | numbers
    return Row(data, text, within != "yes")


def _why_not(
    results: Results, variant: str, condition: str, measured: float | None, tier: Tier, deviation: str | None
) -> str:
    """Why a published number has no difference: not measured, failed, or measured on other data or otherwise."""
    if measured is not None and not comparable(tier):
        return f"not comparable: measured on {_data_of(tier)}"
    if measured is not None and deviation is not None:
        return f"not comparable: {deviation}"
    rows = results.evaluations
    rows = rows[(rows["variant"] == variant) & (rows["condition"] == condition)]
    states = list(rows["status"])
    if states and set(states) == {NOT_APPLICABLE}:
        return "not applicable"
    failed = [f"{s}: {r}" for s, r in zip(states, rows["reason"], strict=True) if s not in ("ok", NOT_APPLICABLE)]
    return failed[0] if failed else "not measured"


def comparison_sentence(table: ReportTable) -> str:
    """How many of the published numbers are met."""
    within = list(table.data["within"])
    yes, no, unmeasured = within.count("yes"), within.count("no"), int(table.data["measured"].isna().sum())
    rest = f"; {unmeasured} have no measured one beside them" if unmeasured else ""
    if others := len(within) - yes - no - unmeasured:
        rest += f"; {others} cannot be compared"
    return f"Of {len(within)} published numbers, {yes} are met within the tolerance and {no} missed{rest}."


def protocol_table(study: Study, tier: Tier, records: Path, entry: Mapping[str, Any]) -> ReportTable:
    """A published protocol of another model: its column beside those of the variants, and no difference.

    Conditions go by their name in the published file, or by ``name/severity`` where it has several severities.
    """
    suite, rows = load_suite(entry["suite"]), read_published(entry["file"])
    where = f"{study.path}: published.protocols"
    rows = rows[rows["model"] == entry["model"]]
    if rows.empty:
        raise UserError(f"{where}: no '{entry['model']}' in {entry['file']}")
    _check_names(study, suite, entry)
    measured = collect_runs(records, matrix(tier, [study]), [suite], {})
    full_name = rows["condition"] + ("/" + rows["severity"]).fillna("")
    column = f"{entry['model']} (published)"
    table_rows = []
    for name, published in entry["conditions"].items():
        named = rows[(rows["condition"] == published) | (full_name == published)]
        if named.empty:
            raise UserError(f"{where}: no condition '{published}' of {entry['model']} in {entry['file']}")
        for row in named.itertuples():
            values, texts = {}, {}
            for variant in study.variants:
                mean = summarise(list(by_seed(measured, variant, name, row.metric).values())).mean
                values[variant] = None if mean is None else 100 * mean
                skipped = measured.not_applicable(variant, name)
                texts[variant] = "not applicable" if skipped else number(values[variant], 1)
            data = {"condition": name, "metric": row.metric, **values, column: row.value, "source": row.source}
            text = {"Condition": name, "Metric": row.metric, **texts, column: f"{row.value:g}", "Source": row.source}
            table_rows.append(Row(data, text))
    if same := entry.get("variant"):
        who = f"{entry['model']} is the model of the variant {same}, under corruptions of other authors"
    else:
        who = f"{entry['model']} is another model, and nothing here is a variant of it"
    note = (
        f"Percent. {who}: no difference is taken, and no order follows. Conditions are ours, see docs/corruptions.md "
        "for where they differ from the published ones."
    )
    if not comparable(tier):
        note += f" Measured on {_data_of(tier)}, not on the data of the published column."
    name, title = f"{study.name}_published_{suite.name}", entry.get("title", f"The protocol of {entry['model']}")
    return make_table(name, title, table_rows, note, [*study.variants, column])


def _check_names(study: Study, suite: Suite, entry: Mapping[str, Any]) -> None:
    known = [condition.name for condition in suite.conditions]
    for name in entry["conditions"]:
        if name not in known:
            raise UserError(f"{study.path}: published.protocols: suite '{suite.name}' has no condition '{name}'")
    if entry.get("variant", study.baseline) not in study.variants:
        raise UserError(f"{study.path}: published.protocols: the study has no variant '{entry['variant']}'")


def published_tables(study: Study, tier: Tier, results: Results, records: Path) -> list[ReportTable]:
    """All tables of a study that is compared with published numbers; none where it is not, or scored by other rules."""
    if not study.published or not tier.scoring.official:
        return []
    others = study.published.get("protocols", [])
    first = comparison_table(study, tier, results, records)
    return [first, *(protocol_table(study, tier, records, entry) for entry in others)]
