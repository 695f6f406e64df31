"""Tables of the robustness sheets: summary, corruptions, gaps, and published numbers by themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aqr_bench.metrics.robustness import robustness
from aqr_bench.records.record import Record
from aqr_bench.report.figures.robustness import draw_sheet
from aqr_bench.report.robustness import FLOOR, FLOOR_SUITE, METRICS, Sheet, study_sheets
from aqr_bench.report.statistics import number, span
from aqr_bench.report.tables.study import Table
from aqr_bench.study.schema import repository_root
from aqr_bench.study.spec import Study, Tier

MOST_NAMED = 3  # at most so many names of what is missing in one cell
PUBLISHED = {"multicorrupt": ("multicorrupt_nds.csv", "BEVfusion")}  # suite -> scores, baseline
DIFFERENCE, INTERVAL = "mRA difference", "95 %, seeds"


def summary_table(sheet: Sheet) -> Table:
    """One row per variant and metric: clean score, mRA, mRRA, mCE, and the scores with one sensor alone."""
    rows, shown, marked = [], [], set()
    for variant in sheet.variants:
        for row in _of(sheet.summary, variant=variant).to_dict("records"):
            if row["seeds"] < len(sheet.seeds):
                marked.add(len(rows))
            place = {"study": sheet.study, "suite": sheet.suite, "variant": variant, "baseline": sheet.baseline}
            rows.append({**place, "wanted": len(sheet.seeds), **row})
            shown.append(
                {
                    "Variant": f"{variant} (baseline)" if variant == sheet.baseline else variant,
                    "Metric": row["metric"],
                    "Clean": number(row["clean"]),
                    "mRA": number(row["mRA"]),
                    "sd": number(row["mRA_sd"]),
                    DIFFERENCE: number(row["difference"], sign=True),
                    INTERVAL: "–" if math.isnan(row["low95"]) else span(row["low95"], row["high95"]),
                    "mRRA, %": number(row["mRRA"], 1, sign=True),
                    "mCE": number(row["mCE"]),
                    **{c: number(row[c]) for c in FLOOR},
                    "Seeds": f"{row['seeds']} of {len(sheet.seeds)}",
                    "Missing": _missing(sheet, variant),
                }
            )
    show = pd.DataFrame(shown)
    if not (show["Missing"] != "").any():
        show = show.drop(columns="Missing")
    numeric = frozenset(show.columns) - {"Variant", "Metric", "Seeds", "Missing"}
    title = f"Robustness, {sheet.suite}"
    return Table(sheet.name, title, pd.DataFrame(rows), show, summary_note(sheet), frozenset(marked), numeric)


def summary_note(sheet: Sheet) -> str:
    """How to read the summary, and what was not evaluated."""
    base = "no baseline, so without numbers here" if sheet.baseline is None else f"'{sheet.baseline}'"
    many = f"{len(sheet.families)} corruptions ({sheet.suite})"
    text = [
        f"Mean and sd over seeds. mRA: share of the clean score that is left, mean over {many}, each the mean over its "
        f"severities; 1: nothing lost. Relative to {base}, same seeds: the difference of mRA, with a Student t "
        "interval over seeds alone; mRRA: percent of score more or less; mCE: what is missing to a perfect score, 1: "
        f"alike, lower is better. {' and '.join(FLOOR)}: score of the same model with one sensor alone; a high mRA "
        "says little of a model that hardly uses the sensor that is corrupted, so look at the scores, too."
    ]
    if sheet.summary[list(FLOOR)].isna().any(axis=None):
        text.append(f"A dash there: not evaluated under the suite {FLOOR_SUITE}.")
    gaps = len(sheet.gaps)
    if gaps:
        are = "s are" if gaps > 1 else " is"
        text.append(f"{gaps} evaluation{are} missing or failed: a seed that lacks a number is left out of its mean.")
    if sheet.left_out:
        text.append(f"Not evaluated under {sheet.suite} ({sheet.study}): {', '.join(sheet.left_out)}.")
    return " ".join(text)


def corruptions_table(sheet: Sheet) -> Table:
    """One row per corruption and variant: mean over severities of mAP and NDS, every severity, RA, RRA and CE."""
    rows, shown, marked = [], [], set()
    for corruption, severities in sheet.families.items():
        for variant in sheet.variants:
            found = _of(sheet.corruptions, corruption=corruption, variant=variant).set_index("metric")
            seeds = int(found["seeds"].min())
            missing = _missing(sheet, variant, corruption)
            if seeds < len(sheet.seeds):
                marked.add(len(rows))
            row = {"corruption": corruption, "variant": variant, "severities": len(severities)}
            row |= {"seeds": seeds, "wanted": len(sheet.seeds), "pairs": int(found["pairs"].min())}
            show = {"Corruption": corruption, "Variant": variant}
            for metric in METRICS:
                here = found.loc[metric]
                row |= {metric: here["score"], f"{metric}_sd": here["score_sd"]}
                row |= {f"{key}_{metric}{sd}": here[f"{key}{sd}"] for key in ("RA", "RRA", "CE") for sd in ("", "_sd")}
                of = _of(sheet.by_severity, metric=metric, variant=variant, corruption=corruption)
                by = dict(zip(of["severity"], of["score"], strict=True))
                row |= {f"{metric}_severity_{s}": by[s] for s in severities if s}
                show[metric] = number(here["score"])
                if any(severities):
                    show[f"{metric} by severity"] = " / ".join(number(by[s]) for s in sorted(severities))
                show[f"RA {metric}"] = number(here["RA"])
            show["RRA NDS, %"] = number(found.loc["NDS", "RRA"], 1, sign=True)
            show["CE NDS"] = number(found.loc["NDS", "CE"])
            show |= {"Seeds": f"{seeds} of {len(sheet.seeds)}", "Missing": missing}
            rows.append({**row, "reason": "; ".join(dict.fromkeys(r for r in found["reason"] if r))})
            shown.append(show)
    frame = pd.DataFrame(shown).fillna("")
    if not (frame["Missing"] != "").any():
        frame = frame.drop(columns="Missing")
    note = (
        "Mean over seeds of the mean over severities; by severity: mild to severe. RA: score divided by the clean one. "
        f"RRA, CE: relative to {_quoted(sheet.baseline)}, over all severities. The CSV has sd, and RRA and CE of mAP."
    )
    return Table(
        f"{sheet.name}_corruptions",
        f"Corruption by corruption, {sheet.suite}",
        pd.DataFrame(rows),
        frame,
        note,
        frozenset(marked),
        frozenset(frame.columns) - {"Corruption", "Variant", "Seeds", "Missing"},
    )


def gaps_table(sheet: Sheet) -> Table:
    """Every evaluation that a number of the sheet lacks, with its reason."""
    shown = sheet.gaps.map(str)
    shown.columns = [c.capitalize() for c in shown.columns]
    return Table(f"{sheet.name}_gaps", f"Missing or failed evaluations, {sheet.suite}", sheet.gaps, shown)


def _published(suite: str) -> list[Table]:
    table = published_table(suite)
    return [] if table is None else [table]


def published_table(suite: str) -> Table | None:
    """Published scores of other models under a suite, in the order of the source; None where there are none.

    RA and RRA are recomputed from the published scores (``results/published``), against the source's own baseline.
    """
    if suite not in PUBLISHED:
        return None
    file, baseline = PUBLISHED[suite]
    path = repository_root() / "results" / "published" / file
    if not path.is_file():
        return None
    scores = pd.read_csv(path).rename(columns={"condition": "corruption", "value": "score"})
    _, data = robustness(scores.assign(score=scores["score"] / 100), baseline)
    data = data.drop(columns="reason").assign(metric="NDS", source=scores["source"].iloc[0])
    shown = pd.DataFrame(
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
    return Table(f"published_{suite}", title, data, shown, note, numeric=frozenset(shown.columns) - {"Model"})


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class Part:
    """What the page shows of one sheet."""

    tables: tuple[Table, ...]
    figures: tuple[tuple[str, Path], ...]  # caption, PNG
    records: tuple[Record, ...]


def study_parts(records: Path, tier: Tier, study: Study, tables_dir: Path, figures_dir: Path) -> list[Part]:
    """Write tables and figures of every suite of corruptions that a study has records of; nothing where none is."""
    parts = []
    for sheet in study_sheets(records, tier, study):
        tables = [summary_table(sheet), corruptions_table(sheet)]
        if len(sheet.gaps):
            tables.append(gaps_table(sheet))
        # Beside the page, not on it: published numbers are not to be read as one more row.
        for table in (*tables, *_published(sheet.suite)):
            table.write(tables_dir)
        # Records of the study's own suite are the page's already.
        extra = () if sheet.suite == study.suite.name else sheet.records
        parts.append(Part(tuple(tables), tuple(draw_sheet(sheet, figures_dir)), extra))
    return parts


# ---------------------------------------------------------------- cells


def _of(frame: pd.DataFrame, **values: str) -> pd.DataFrame:
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def _missing(sheet: Sheet, variant: str, corruption: str | None = None) -> str:
    """Conditions of the suite that the variant lacks, with the seeds: all, or those of one corruption."""
    gaps = _of(sheet.gaps, variant=variant, suite=sheet.suite)
    if corruption is not None:
        gaps = gaps[gaps["condition"].isin(sheet.families[corruption].values())]
    names = [
        f"{condition} (seed {', '.join(str(s) for s in sorted(rows['seed']))})"
        for condition, rows in gaps.groupby("condition", sort=False)
    ]
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])


def _quoted(baseline: str | None) -> str:
    return "no baseline" if baseline is None else f"'{baseline}'"
