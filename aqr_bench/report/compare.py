"""Two result folders side by side: what changed from A to B, and which differences are outside the noise.

aqr-bench compare results/quick ../before/results/quick --out differences.csv

As with diff, the exit code is 0 if nothing differs beyond the noise, 1 if something does, 2 for a mistake or for sets
that must not be compared. Something differs if a difference is outside the noise after the correction for the number of
comparisons (Holm, per study and metric), if a run is ok in one set and failed in the other, or if one set alone has a
variant, a condition, or a score of a run that is in both (NaN and null are no scores). Seeds that one set alone has,
and costs, make no difference by themselves. With --force, sets that must not be compared are shown side by side and
count as different. More than two sets: each is compared with the first.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from scipy import stats

from aqr_bench.atomic import write_text
from aqr_bench.errors import UserError, run_main, short
from aqr_bench.report.collect import METRICS
from aqr_bench.report.result_sets import (
    ResultSet,
    changes,
    cost_lines,
    incompatible,
    one_sided_values,
    other_inputs,
    outcomes,
    read_set,
    side_by_side,
    stale_lines,
)
from aqr_bench.report.score_statistics import (
    CONFIDENCE,
    FEW_SEEDS,
    ScoreDifference,
    Summary,
    correct,
    corrected_verdict,
    number,
    p_text,
    paired_difference,
    span,
    summarise,
    verdict,
)
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.spec import LOWER_IS_BETTER

DEFAULT_METRICS = ("mAP", "NDS")


@dataclass(frozen=True)
class ScoreKey:
    """What a score is of."""

    metric: str
    study: str
    variant: str
    suite: str
    condition: str


@dataclass(frozen=True)
class ScoreComparison:
    """One score of a variant under one condition in both sets.

    test       paired (by seed, paired t-test), identical, Welch (other seeds), or why there is no test
    delta      B - A; None where they are not compared
    verdict    better, worse, within the noise, identical, ... (B against A), each comparison by itself
    corrected  the same after the correction for the number of comparisons
    stale      why records behind it are not of what is asked for now; empty where they are
    """

    key: ScoreKey
    a: Summary
    b: Summary
    test: str
    delta: ScoreDifference | None
    verdict: str
    corrected: str
    stale: str = ""


def main(argv: list[str] | None = None) -> int:
    """Print the comparison. Raises UserError for missing folders, and for sets that must not be compared."""
    parser = argparse.ArgumentParser(prog="aqr-bench compare", description=__doc__.split("\n")[0])
    parser.add_argument("a", type=Path, help="results folder (results/quick), or a folder of records")
    parser.add_argument("b", type=Path, nargs="+", help="the other one, or several: each is compared with A, as B - A")
    parser.add_argument("--tier", help="which tier, where a folder holds several")
    parser.add_argument("--metric", nargs="+", default=list(DEFAULT_METRICS), choices=METRICS, metavar="METRIC")
    parser.add_argument("--out", type=Path, help="also write all differences (.csv) or the full comparison (.md)")
    parser.add_argument("--force", action="store_true", help="show sets that must not be compared, without differences")
    args = parser.parse_args(argv)
    if args.out is not None and args.out.suffix not in (".csv", ".md"):
        raise UserError(f"--out: '{args.out}' ends neither in .csv nor in .md")
    a = read_set(args.a, args.tier)
    pairs = [compare_sets(a, read_set(folder, args.tier), args.metric, args.force) for folder in args.b]
    print("\n\n".join(pair.text for pair in pairs))
    if args.out is not None:
        frames = [pair.table.data for pair in pairs]
        if len(pairs) > 1:
            frames = [frame.assign(b=str(folder)) for frame, folder in zip(frames, args.b, strict=True)]
        csv = pd.concat(frames).to_csv(index=False, lineterminator="\n")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, "\n".join(pair.markdown for pair in pairs) if args.out.suffix == ".md" else csv)
    return int(any(pair.different for pair in pairs))


@dataclass(frozen=True)
class SetComparison:
    """Two sets compared: for the terminal, as Markdown, and every score as a row of ``table``."""

    text: str
    markdown: str
    table: ReportTable
    different: bool


def compare_sets(a: ResultSet, b: ResultSet, metrics: Sequence[str], force: bool = False) -> SetComparison:
    """Everything on A and B. UserError: they must not be compared (unless ``force``), or have nothing in common."""
    reasons = incompatible(a, b)
    if reasons and not force:
        raise UserError(
            f"{a.label} and {b.label} must not be compared: {'; '.join(reasons)}. "
            "--force shows them side by side, without differences."
        )
    rows, costs = compare_scores(a, b, metrics, judge=not reasons), cost_lines(a, b)
    if not reasons and all(row.delta is None for row in rows) and not costs:
        raise UserError(f"nothing to compare: no score is in both of {a.label} and {b.label}")
    rows = [replace(row, stale=stale_reason(a, b, row.key)) for row in rows]
    table, failures, one_sided = differences_table(rows), outcomes(a, b), one_sided_values(a, b, metrics)
    notes = [f"not compared: {reason}" for reason in reasons] + [f"changed: {text}" for text in changes(a, b)]
    notes += [f"changed: {text}" for text in one_sided] + [f"cost: {text}" for text in costs]
    notes += [f"stale in {text}" for text in stale_lines(a, b)]
    ending = conclusion(rows, failures, reasons, one_sided)
    shown = table.text[[row.test != "identical" for row in rows]]
    lines = [*facts_lines(a, b), *([""] if notes else []), *notes]
    if len(shown):
        lines += ["", shown.to_string(index=False), "", table.note]
    parts = [facts_table(a, b).markdown(), *(f"- {note}" for note in notes), "", table.markdown(), ending, ""]
    different = bool(reasons or one_sided) or differs(rows, failures)
    return SetComparison("\n".join([*lines, "", ending]), "\n".join(parts), table, different)


# ---------------------------------------------------------------- the differences


def compare_scores(a: ResultSet, b: ResultSet, metrics: Sequence[str], judge: bool = True) -> list[ScoreComparison]:
    """Every score that is in either set; nothing is tested unless ``judge``, nor where the inputs differ."""
    unequal = other_inputs(a, b)[0]
    rows = []
    for metric in metrics:
        scores_a, scores_b = _scores(a, metric), _scores(b, metric)
        tests: dict[ScoreKey, tuple[str, ScoreDifference | None]] = {}
        for key in dict.fromkeys([*scores_a, *scores_b]):
            by_seed_a, by_seed_b = scores_a.get(key, {}), scores_b.get(key, {})
            if not judge:
                tests[key] = ("not compared", None)
            elif not by_seed_a or not by_seed_b:
                tests[key] = (f"only in {'A' if by_seed_a else 'B'}", None)
            elif (key.suite, key.condition) in unequal:
                tests[key] = ("other inputs", None)
            else:
                tests[key] = score_difference(by_seed_a, by_seed_b)
        for study in dict.fromkeys(key.study for key in tests):
            family = {k: d for k, (test, d) in tests.items() if k.study == study and test != "identical"}
            corrected = correct(family)
            rows += [
                _judged(k, scores_a.get(k, {}), scores_b.get(k, {}), *tests[k], corrected.get(k))
                for k in tests
                if k.study == study
            ]
    return rows


def score_difference(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[str, ScoreDifference | None]:
    """Name of the test and B - A: paired over the seeds that both have, else Welch's t-test.

    A set without some seed of the other must not differ by that alone: two common seeds are enough for pairs.
    """
    common = sorted(set(a) & set(b))
    if len(common) > 1 or set(a) == set(b):
        test = "paired" if set(a) == set(b) else f"paired, {len(common)} seeds"
        return ("identical" if all(a[s] == b[s] for s in common) else test), paired_difference(b, a)
    values_a, values_b = list(a.values()), list(b.values())
    summary_a, summary_b = summarise(values_a), summarise(values_b)
    mean, n = summary_b.mean - summary_a.mean, min(summary_a.n, summary_b.n)
    if n < 2:
        return "Welch", ScoreDifference(n, mean, None, None)
    if summary_a.sd == 0 and summary_b.sd == 0:  # the test divides by 0
        return "Welch", ScoreDifference(n, mean, mean, mean, p_seeds=0.0 if mean else 1.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss occurred")
        welch = stats.ttest_ind(values_b, values_a, equal_var=False)
    interval = welch.confidence_interval(CONFIDENCE)
    return "Welch", ScoreDifference(n, mean, float(interval.low), float(interval.high), p_seeds=float(welch.pvalue))


def stale_reason(a: ResultSet, b: ResultSet, key: ScoreKey) -> str:
    """``A: aqr.bev_window 5 -> 3`` where records of a score are not of what is asked for now; else empty."""
    of = (key.study, key.variant, key.suite, key.condition)
    reasons = {name: results.stale_scores.get(of) for name, results in (("A", a), ("B", b))}
    return "; ".join(f"{name}: {why}" for name, why in reasons.items() if why)


def _scores(results: ResultSet, metric: str) -> dict[ScoreKey, dict[int, float]]:
    """Finite scores by seed of every variant and condition."""
    scores: dict[ScoreKey, dict[int, float]] = {}
    for (_, study, variant, seed, suite, condition), record in results.of("evaluate").items():
        value = record.scores.get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            scores.setdefault(ScoreKey(metric, study, variant, suite, condition), {})[seed or 0] = float(value)
    return scores


def _judged(
    key: ScoreKey,
    a: Mapping[int, float],
    b: Mapping[int, float],
    test: str,
    plain: ScoreDifference | None,
    corrected: ScoreDifference | None,
) -> ScoreComparison:
    summaries = summarise(list(a.values())), summarise(list(b.values()))
    if plain is None or test == "identical":
        return ScoreComparison(key, *summaries, test, plain, test, test)
    delta, higher = corrected or plain, key.metric not in LOWER_IS_BETTER
    return ScoreComparison(key, *summaries, test, delta, verdict(delta, higher), corrected_verdict(delta, higher))


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
    numeric = {"A", "B", "B - A", "95 %", "p, Holm"}
    table = make_table("differences", "Differences", [_difference_row(row) for row in rows], note, numeric)
    if not any(row.stale for row in rows):
        return table
    stale = [f"stale: {row.stale}" if row.stale else "" for row in rows]
    text = table.text.assign(Stale=[short(reason, 120) for reason in stale])
    return replace(table, data=table.data.assign(stale=stale), text=text)


def _difference_row(row: ScoreComparison) -> Row:
    delta = row.delta
    tested = delta if row.test != "identical" else None
    few = " (few)" if delta is not None and delta.n < FEW_SEEDS else ""
    data = {
        **vars(row.key),
        **dict(a_mean=row.a.mean, a_sd=row.a.sd, a_seeds=row.a.n),
        **dict(b_mean=row.b.mean, b_sd=row.b.sd, b_seeds=row.b.n),
        "test": row.test,
        "difference": delta.mean if delta else None,
        "low95": delta.low if delta else None,
        "high95": delta.high if delta else None,
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
        "B - A": number(delta.mean, 4, sign=True) if delta else "–",
        "95 %": span(tested.low, tested.high) if tested else "–",
        "Seeds": f"{row.a.n}, {row.b.n}{few}",
        "Test": row.test,
        "p, Holm": p_text(delta.p_holm) if delta else "–",
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
