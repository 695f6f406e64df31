"""The table of slices of a study: where its variants are strong or weak, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aqr_bench.metrics.bootstrap import MIN_SCENES
from aqr_bench.metrics.slices import ALL, Key, SliceScore
from aqr_bench.report.collect import Results
from aqr_bench.report.score_statistics import (
    corrected_verdict,
    difference_data,
    difference_text,
    number,
    span,
    verdict,
)
from aqr_bench.report.slice_scores import METRIC, SliceRow, load_slices, slice_rows
from aqr_bench.report.tables.study import (
    FINDINGS,
    HOLM_VERDICT,
    SCENES_INTERVAL,
    SEEDS_INTERVAL,
    by_seed,
    comparison_target,
)
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.spec import Study

RULE = (
    "Detections are matched with all objects, once. A slice counts its objects, the detections matched to them, and "
    "false positives: by their own range, speed and size, or by their scene; by LiDAR points and visibility, which a "
    "detection does not have, all false positives count in every slice, so that these AP are lower bounds. Mean AP "
    "over the classes that have an object in the slice; all: the metric itself."
)
INTERVALS = (
    f"Intervals over scenes: scene bootstrap; none where fewer than {MIN_SCENES} scenes have an object of the slice."
)


def slices_table(study: Study, results: Results) -> ReportTable:
    """Slice by variant under the suite's first condition; no row where the evaluations recorded no slices."""
    condition = study.suite.conditions[0].name
    scores: dict[str, dict[int, Mapping[Key, SliceScore]]] = {}
    lacking = 0
    for variant in study.variants:
        for seed, score in by_seed(results, variant, condition, METRIC).items():
            slices = load_slices(results.match_files.get((variant, seed, condition)), score)
            if slices is None:
                lacking += 1
            else:
                scores.setdefault(variant, {})[seed] = slices
    against = {name: study.compared_with(name) for name in study.variants if name != study.baseline}
    note = f"{METRIC} under {condition}. Differences are to {comparison_target(study)}, paired by seed and by scene. "
    if lacking:
        note += f"{lacking} evaluations without slices are left out: they are older, or their matches are missing. "
    return table_of_slices(f"{study.name}_slices", f"{METRIC} by slice, {condition}", slice_rows(scores, against), note)


def table_of_slices(name: str, title: str, rows: Sequence[SliceRow], note: str, who: str = "Variant") -> ReportTable:
    """A table of slices; ``note``: what they are of. ``who``: heading of the column of models."""
    texts = {"Criterion", "Slice", who, "Verdict", HOLM_VERDICT}
    table_rows = [_slice_row(row, who) for row in rows]
    numeric = [column for column in (table_rows[0].text if table_rows else ()) if column not in texts]
    return make_table(name, title, table_rows, f"{note}{RULE} {INTERVALS}", numeric)


def _slice_row(row: SliceRow, who: str) -> Row:
    delta = row.difference
    difference, over_seeds, over_scenes, p = difference_text(delta)
    single, corrected = (rule(delta, True) if delta else "–" for rule in (verdict, corrected_verdict))
    data = {
        "criterion": row.key[0],
        "slice": row.key[1],
        who.lower(): row.model,
        "objects": row.objects,
        "scenes": row.scenes,
        "classes": row.classes,
        "seeds": row.summary.n,
        f"{METRIC}_mean": row.summary.mean,
        f"{METRIC}_sd": row.summary.sd,
        "scenes_low95": row.low,
        "scenes_high95": row.high,
        **difference_data(delta, "difference_scenes"),
        "p_holm": delta.p_holm if delta else None,
        "verdict": single,
        "verdict_holm": corrected,
    }
    text = {
        "Criterion": row.key[0].replace("_", " "),
        "Slice": row.key[1],
        who: row.model,
        METRIC: number(row.summary.mean),
        SCENES_INTERVAL: span(row.low, row.high, sign=False),
        "Difference": difference,
        f"Difference, {SEEDS_INTERVAL}": over_seeds,
        f"Difference, {SCENES_INTERVAL}": over_scenes,
        "Verdict": single,
        HOLM_VERDICT: corrected if single in FINDINGS and row.key != ALL else "–",
        "p, Holm": p,
        "Objects": str(row.objects),
        "Scenes": str(row.scenes),
        "Classes": str(row.classes),
        "Seeds": str(row.summary.n),
    }
    return Row(data, text)
