"""Two result folders side by side: what changed from A to B, and which differences are outside the noise.

aqr-bench compare results/quick ../before/results/quick --out differences.csv

As with diff, the exit code is 0 if nothing differs beyond the noise, 1 if something does, 2 for a mistake or for sets
that must not be compared. Something differs if a difference is outside the noise after the correction for the number of
comparisons (Holm, per study and metric), if a run is ok in one set and failed in the other, or if one set alone has a
variant, a condition, or a score of a run that is in both (NaN and null are no scores). Seeds that one set alone has,
and costs, make no difference by themselves. Models that were trained elsewhere (aqr-bench score, evaluate --config) are
compared whatever they are called. --slices adds mAP by light, rain, range, speed, size, LiDAR points and visibility,
where both sets have matches that hold them, with intervals over scenes. With --force, sets that must not be compared
are shown side by side and count as different. More than two sets: each is compared with the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from aqr_bench.atomic import write_text
from aqr_bench.console import add_json_option, print_json
from aqr_bench.errors import UserError, run_main, short
from aqr_bench.report.result_sets import (
    ResultSet,
    changes,
    cost_lines,
    incompatible,
    one_sided_values,
    outcomes,
    read_set,
    side_by_side,
    stale_lines,
)
from aqr_bench.report.rows import METRICS, MetricChoices
from aqr_bench.report.score_comparison import ScoreComparison, ScoreKey, compare_scores, compare_slices
from aqr_bench.report.score_statistics import FEW_SEEDS, difference_data, difference_text, number
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.spec import CUSTOM

DEFAULT_METRICS = ("mAP", "NDS")
SCENES = "95 %, scenes"  # column, where there are slices


def main(argv: list[str] | None = None) -> int:
    """Print the comparison. Raises UserError for missing folders, and for sets that must not be compared."""
    parser = argparse.ArgumentParser(prog="aqr-bench compare", description=__doc__.split("\n")[0])
    parser.add_argument("a", type=Path, help="results folder (results/quick), or a folder of records")
    parser.add_argument("b", type=Path, nargs="+", help="the other one, or several: each is compared with A, as B - A")
    parser.add_argument("--tier", help="which tier, where a folder holds several")
    parser.add_argument(
        "--metric", nargs="+", action="extend", choices=MetricChoices(METRICS), metavar="METRIC",
        help=f"{', '.join(METRICS)}, or custom.NAME of a custom metric (default: {' '.join(DEFAULT_METRICS)})",
    )  # fmt: skip
    parser.add_argument(
        "--slices", action="store_true", help="also mAP by slice of the data, with intervals over scenes"
    )
    parser.add_argument("--out", type=Path, help="also write all differences (.csv) or the full comparison (.md)")
    parser.add_argument("--force", action="store_true", help="show sets that must not be compared, without differences")
    add_json_option(parser)
    args = parser.parse_args(argv)
    if args.out is not None and args.out.suffix not in (".csv", ".md"):
        raise UserError(f"--out: '{args.out}' ends neither in .csv nor in .md")
    a = read_set(args.a, args.tier)
    pairs = [
        compare_sets(a, read_set(folder, args.tier), args.metric or list(DEFAULT_METRICS), args.force, args.slices)
        for folder in args.b
    ]
    if args.out is not None:
        frames = [pair.table.data for pair in pairs]
        if len(pairs) > 1:
            frames = [frame.assign(b=str(folder)) for frame, folder in zip(frames, args.b, strict=True)]
        csv = pd.concat(frames).to_csv(index=False, lineterminator="\n")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, "\n".join(pair.markdown for pair in pairs) if args.out.suffix == ".md" else csv)
    if args.json:
        differ = any(pair.different for pair in pairs)
        print_json({"different": differ, "comparisons": [pair.facts for pair in pairs]})
    else:
        print("\n\n".join(pair.text for pair in pairs))
    return int(any(pair.different for pair in pairs))


@dataclass(frozen=True)
class SetComparison:
    """Two sets compared: for the terminal, as Markdown, and every score as a row of ``table``; ``facts``: as JSON."""

    text: str
    markdown: str
    table: ReportTable
    different: bool
    facts: dict[str, Any]


def compare_sets(
    a: ResultSet, b: ResultSet, metrics: Sequence[str], force: bool = False, slices: bool = False
) -> SetComparison:
    """Everything on A and B. UserError: they must not be compared (unless ``force``), or have nothing in common.

    ``slices``: also mAP by slice, which reads the matches of all evaluations.
    """
    reasons = incompatible(a, b)
    if reasons and not force:
        raise UserError(
            f"{a.label} and {b.label} must not be compared: {'; '.join(reasons)}. "
            "--force shows them side by side, without differences."
        )
    rows, costs = compare_scores(a, b, metrics, judge=not reasons), cost_lines(a, b)
    for metric in metrics:
        if metric.startswith(CUSTOM) and all(row.key.metric != metric for row in rows):
            raise UserError(f"--metric: no record in {a.label} or {b.label} has '{metric}'")
    if slices:
        rows += compare_slices(a, b, judge=not reasons)
    if not reasons and all(row.delta is None for row in rows) and not costs:
        raise UserError(f"nothing to compare: no score is in both of {a.label} and {b.label}")
    rows = [replace(row, stale=stale_reason(a, b, row.key)) for row in rows]
    table, failures, one_sided = differences_table(rows), outcomes(a, b), one_sided_values(a, b, metrics)
    changed, stale = [*changes(a, b), *one_sided], stale_lines(a, b)
    notes = [f"not compared: {reason}" for reason in reasons] + [f"changed: {text}" for text in changed]
    notes += [f"cost: {text}" for text in costs] + [f"stale in {text}" for text in stale]
    ending = conclusion(rows, failures, reasons, one_sided)
    shown = table.text[[row.test != "identical" for row in rows]]
    lines = [*facts_lines(a, b), *([""] if notes else []), *notes]
    if len(shown):
        lines += ["", shown.to_string(index=False), "", table.note]
    parts = [facts_table(a, b).markdown(), *(f"- {note}" for note in notes), "", table.markdown(), ending, ""]
    different = bool(reasons or one_sided) or differs(rows, failures)
    facts = {
        **dict(a=a.label, b=b.label, different=different, not_compared=reasons, changed=changed, cost=costs),
        "stale": stale,
        "sides": [{"name": name, "a": first, "b": second} for name, first, second in side_by_side(a, b)],
        "scores": table.data.astype(object).where(table.data.notna(), None).to_dict("records"),
        "conclusion": ending,
    }
    return SetComparison("\n".join([*lines, "", ending]), "\n".join(parts), table, different, facts)


# ---------------------------------------------------------------- the differences


def stale_reason(a: ResultSet, b: ResultSet, key: ScoreKey) -> str:
    """``A: aqr.bev_window 5 -> 3`` where records of a score are not of what is asked for now; else empty."""
    of = (key.study, key.variant, key.suite, key.condition)
    reasons = {name: results.stale_scores.get(of) for name, results in (("A", a), ("B", b))}
    return "; ".join(f"{name}: {why}" for name, why in reasons.items() if why)


def differs(rows: Sequence[ScoreComparison], failures: Sequence[str]) -> bool:
    """True if anything is outside the noise after correction or in one set only, or if a run is ok in one set only."""
    judged = any(row.corrected in ("better", "worse") for row in rows)
    return bool(failures) or judged or any(row.test.startswith("only in") for row in rows)


# ---------------------------------------------------------------- as text


def facts_table(a: ResultSet, b: ResultSet) -> ReportTable:
    """Facts on both sets, side by side."""
    frame = pd.DataFrame(side_by_side(a, b), columns=["", "A", "B"])
    return ReportTable("compared", "A and B", frame, frame)


def facts_lines(a: ResultSet, b: ResultSet) -> list[str]:
    """The same for a terminal: one line where both agree, else one for each."""
    rows = side_by_side(a, b)
    width = max(len(label) for label, _, _ in rows)
    lines = []
    for label, first, second in rows:
        parts = [("  ", first)] if first == second else [("A ", first), ("B ", second)]
        lines += [f"{label if i == 0 else '':{width}}  {name}{text}" for i, (name, text) in enumerate(parts)]
    return lines


def differences_table(rows: Sequence[ScoreComparison]) -> ReportTable:
    """One row per score, as numbers and as text."""
    note = (
        "B - A with its 95 % interval over seeds: paired over the seeds that both have, Welch's t-test where these are "
        "fewer than two. "
        "B is: each comparison by itself. Corrected: for the number of comparisons of its study and metric (Holm). "
        "few: fewer than three seeds, so the interval is very wide."
    )
    numeric = {"A", "B", "B - A", "95 %", SCENES, "p, Holm"}
    table = make_table("differences", "Differences", [_difference_row(row) for row in rows], note, numeric)
    if not any(row.delta is not None and row.delta.scenes is not None for row in rows):
        columns = ["scenes_low95", "scenes_high95"]
        table = replace(
            table,
            data=table.data.drop(columns=columns, errors="ignore"),
            text=table.text.drop(columns=SCENES, errors="ignore"),
        )
    if not any(row.stale for row in rows):
        return table
    stale = [f"stale: {row.stale}" if row.stale else "" for row in rows]
    text = table.text.assign(Stale=[short(reason, 120) for reason in stale])
    return replace(table, data=table.data.assign(stale=stale), text=text)


def _difference_row(row: ScoreComparison) -> Row:
    delta = row.delta
    difference, _, _, p = difference_text(delta, digits=4)
    _, over_seeds, over_scenes, _ = difference_text(delta if row.test != "identical" else None)
    few = " (few)" if delta is not None and delta.n < FEW_SEEDS else ""
    data = {
        **vars(row.key),
        **dict(a_mean=row.a.mean, a_sd=row.a.sd, a_seeds=row.a.n),
        **dict(b_mean=row.b.mean, b_sd=row.b.sd, b_seeds=row.b.n),
        "test": row.test,
        **difference_data(delta),
        "p": delta.p if delta else None,
        "p_holm": delta.p_holm if delta else None,
        "verdict": row.verdict,
        "verdict_holm": row.corrected,
    }
    text = {
        "Metric": row.key.metric,
        "Study": row.key.study,
        "Variant": row.key.variant,
        "Condition": row.key.condition,
        "A": number(row.a.mean),
        "B": number(row.b.mean),
        "B - A": difference,
        "95 %": over_seeds,
        SCENES: over_scenes,
        "Seeds": f"{row.a.n}, {row.b.n}{few}",
        "Test": row.test,
        "p, Holm": p,
        "B is": row.verdict,
        "Corrected": row.corrected,
    }
    return Row(data, text)


def conclusion(
    rows: Sequence[ScoreComparison], failures: Sequence[str], reasons: Sequence[str], one_sided: Sequence[str] = ()
) -> str:
    """What is outside the noise, in one sentence or two."""
    if reasons:
        return "Nothing was compared."
    tested = [r for r in rows if r.delta is not None]
    single = [r for r in tested if r.verdict in ("better", "worse")]
    sure = [r for r in tested if r.corrected in ("better", "worse")]
    counts = [
        (sum(r.test == "identical" for r in tested), "identical"),
        (len(single), f"outside the noise one by one, of which {len(sure)} after correction"),
        (sum(r.verdict.startswith("one seed") for r in tested), "without an estimate of the noise (one seed)"),
        (sum(r.delta is None for r in rows), "not compared"),
    ]
    parts = ", ".join(f"{n} {what}" for n, what in counts if n)
    text = f"{len(rows)} scores: {parts or 'all within the noise'}."
    names = [
        f"{r.key.metric} of {r.key.study}/{r.key.variant} under {r.key.condition} is {r.corrected} in B" for r in sure
    ]
    text += f" Outside the noise: {'; '.join(names)}." if names else " Nothing is outside the noise after correction."
    if failures:
        text += f" {len(failures)} run{'s are' if len(failures) != 1 else ' is'} ok in one set only."
    alone = sum(r.test.startswith("only in") for r in rows)
    if alone or one_sided:
        text += f" In one set only: {alone} scores of all seeds, {len(one_sided)} variants or scores of single runs."
    return text


if __name__ == "__main__":
    run_main(main)
