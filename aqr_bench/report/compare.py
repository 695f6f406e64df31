"""Two result folders side by side: what changed from A to B, and which differences are outside the noise.

aqr-bench compare results/quick ../before/results/quick --out differences.csv

As with diff, the exit code is 0 if nothing differs beyond the noise, 1 if something does, 2 for a mistake or for sets
that must not be compared. Something differs if a difference is outside the noise after the correction for the number of
comparisons (Holm, per study and metric), or if a run is ok in one set and failed in the other. With --force, sets that
must not be compared are shown side by side and count as different.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from scipy import stats

from aqr_bench.atomic import write_text
from aqr_bench.errors import UserError, run_main
from aqr_bench.report.collect import METRICS
from aqr_bench.report.result_sets import (
    ResultSet,
    changes,
    incompatible,
    other_inputs,
    outcomes,
    read_set,
    side_by_side,
)
from aqr_bench.report.statistics import (
    CONFIDENCE,
    FEW,
    Difference,
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
from aqr_bench.report.tables.study import Table
from aqr_bench.study.spec import LOWER_IS_BETTER

DEFAULT_METRICS = ("mAP", "NDS")
Place = tuple[str, str, str, str, str]  # metric, study, variant, suite, condition


@dataclass(frozen=True)
class Compared:
    """One score of a variant under one condition in both sets.

    how        paired (by seed, paired t-test), identical, Welch (other seeds), or why there is no test
    delta      B - A; None where they are not compared
    said       better, worse, within the noise, identical, ... (B against A), each comparison by itself
    corrected  the same after the correction for the number of comparisons
    """

    place: Place
    a: Summary
    b: Summary
    how: str
    delta: Difference | None
    said: str
    corrected: str


def main(argv: list[str] | None = None) -> int:
    """Print the comparison. Raises UserError for folders that are none, or that must not be compared."""
    parser = argparse.ArgumentParser(prog="aqr-bench compare", description=__doc__.split("\n")[0])
    parser.add_argument("a", type=Path, help="results folder (results/quick), or a folder of records")
    parser.add_argument("b", type=Path, help="the other one; differences are B - A")
    parser.add_argument("--tier", help="which tier, where a folder holds several")
    parser.add_argument("--metric", nargs="+", default=list(DEFAULT_METRICS), choices=METRICS, metavar="METRIC")
    parser.add_argument("--out", type=Path, help="also write all differences (.csv) or the whole comparison (.md)")
    parser.add_argument("--force", action="store_true", help="show sets that must not be compared, without differences")
    args = parser.parse_args(argv)
    if args.out is not None and args.out.suffix not in (".csv", ".md"):
        raise UserError(f"--out: '{args.out}' ends neither in .csv nor in .md")
    a, b = read_set(args.a, args.tier), read_set(args.b, args.tier)
    reasons = incompatible(a, b)
    if reasons and not args.force:
        raise UserError(
            f"{a.label} and {b.label} must not be compared: {'; '.join(reasons)}. "
            "--force shows them side by side, without differences."
        )
    rows = compare(a, b, args.metric, judge=not reasons)
    if not reasons and all(row.delta is None for row in rows):
        raise UserError(f"nothing to compare: no score is in both of {a.label} and {b.label}")
    table, failures = differences_table(rows), outcomes(a, b)
    notes = [f"not compared: {reason}" for reason in reasons] + [f"changed: {text}" for text in changes(a, b)]
    ending = conclusion(rows, failures, reasons)
    told = table.shown[[row.how != "identical" for row in rows]]
    print(*facts_lines(a, b), *([""] if notes else []), *notes, sep="\n")
    if len(told):
        print("", told.to_string(index=False), "", table.note, sep="\n")
    print("", ending, sep="\n")
    if args.out is not None:
        parts = [facts_table(a, b).markdown(), *(f"- {note}" for note in notes), "", table.markdown(), ending, ""]
        text = "\n".join(parts) if args.out.suffix == ".md" else table.data.to_csv(index=False, lineterminator="\n")
        _write(args.out, text)
    return 1 if reasons or differs(rows, failures) else 0


# ---------------------------------------------------------------- the differences


def compare(a: ResultSet, b: ResultSet, metrics: Sequence[str], judge: bool = True) -> list[Compared]:
    """Every score that is in either set; nothing is judged unless ``judge``, or where the inputs were not the same."""
    unequal = other_inputs(a, b)[0]
    rows = []
    for metric in metrics:
        mine, theirs = _scores(a, metric), _scores(b, metric)
        found: dict[Place, tuple[str, Difference | None]] = {}
        for place in dict.fromkeys([*mine, *theirs]):
            one, two = mine.get(place, {}), theirs.get(place, {})
            if not judge:
                found[place] = ("not compared", None)
            elif not one or not two:
                found[place] = (f"only in {'A' if one else 'B'}", None)
            elif place[3:] in unequal:
                found[place] = ("other inputs", None)
            else:
                found[place] = difference(one, two)
        for study in dict.fromkeys(place[1] for place in found):
            family = {p: d for p, (how, d) in found.items() if p[1] == study and how != "identical"}
            corrected = correct(family)
            rows += [_judged(p, mine, theirs, *found[p], corrected.get(p)) for p in found if p[1] == study]
    return rows


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[str, Difference | None]:
    """How B - A was tested, and what came out: paired over the seeds that both have, else Welch's t-test.

    One set that lacks a seed of the other must not differ by that alone: two seeds in common are enough for pairs.
    """
    common = sorted(set(a) & set(b))
    if len(common) > 1 or set(a) == set(b):
        how = "paired" if set(a) == set(b) else f"paired, {len(common)} seeds"
        return ("identical" if all(a[s] == b[s] for s in common) else how), paired_difference(b, a)
    first, second = (list(s.values()) for s in (a, b))
    one, two = summarise(first), summarise(second)
    mean, n = two.mean - one.mean, min(one.n, two.n)
    if n < 2:
        return "Welch", Difference(n, mean, None, None)
    if one.sd == 0 and two.sd == 0:  # the test divides by 0
        return "Welch", Difference(n, mean, mean, mean, p_seeds=0.0 if mean else 1.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss occurred")
        test = stats.ttest_ind(second, first, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return "Welch", Difference(n, mean, float(interval.low), float(interval.high), p_seeds=float(test.pvalue))


def _scores(results: ResultSet, metric: str) -> dict[Place, dict[int, float]]:
    """Finite scores by seed of every variant and condition."""
    found: dict[Place, dict[int, float]] = {}
    for (_, study, variant, seed, suite, condition), record in results.of("evaluate").items():
        value = record.scores.get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            found.setdefault((metric, study, variant, suite, condition), {})[seed or 0] = float(value)
    return found


def _judged(
    place: Place, mine: Mapping, theirs: Mapping, how: str, plain: Difference | None, corrected: Difference | None
) -> Compared:
    summaries = [summarise(list(s.get(place, {}).values())) for s in (mine, theirs)]
    if plain is None or how == "identical":
        return Compared(place, *summaries, how, plain, how, how)
    delta, higher = corrected or plain, place[0] not in LOWER_IS_BETTER
    return Compared(place, *summaries, how, delta, verdict(delta, higher), corrected_verdict(delta, higher))


def differs(rows: Sequence[Compared], failures: Sequence[str]) -> bool:
    """True if anything is outside the noise after correction, or if a run is ok in one set only."""
    return bool(failures) or any(row.corrected in ("better", "worse") for row in rows)


# ---------------------------------------------------------------- for people


def facts_table(a: ResultSet, b: ResultSet) -> Table:
    """What both sets are, side by side."""
    frame = pd.DataFrame(side_by_side(a, b), columns=["", "A", "B"])
    return Table("compared", "A and B", frame, frame)


def facts_lines(a: ResultSet, b: ResultSet) -> list[str]:
    """The same for a terminal: one line where both agree, else one for each."""
    rows = side_by_side(a, b)
    width = max(len(label) for label, _, _ in rows)
    lines = []
    for label, first, second in rows:
        parts = [("  ", first)] if first == second else [("A ", first), ("B ", second)]
        lines += [f"{label if i == 0 else '':{width}}  {name}{text}" for i, (name, text) in enumerate(parts)]
    return lines


def differences_table(rows: Sequence[Compared]) -> Table:
    """One row per score, as numbers and as text."""
    data, shown = [], []
    for row in rows:
        metric, study, variant, suite, condition = row.place
        delta = row.delta
        data.append(
            {
                **dict(metric=metric, study=study, variant=variant, suite=suite, condition=condition),
                **dict(a_mean=row.a.mean, a_sd=row.a.sd, a_seeds=row.a.n),
                **dict(b_mean=row.b.mean, b_sd=row.b.sd, b_seeds=row.b.n),
                "test": row.how,
                "difference": delta.mean if delta else None,
                "low95": delta.low if delta else None,
                "high95": delta.high if delta else None,
                "p": delta.p if delta else None,
                "p_holm": delta.p_holm if delta else None,
                "verdict": row.said,
                "verdict_holm": row.corrected,
            }
        )
        tested = delta if row.how != "identical" else None
        few = " (few)" if delta is not None and delta.n < FEW else ""
        shown.append(
            {
                "Metric": metric,
                "Study": study,
                "Variant": variant,
                "Condition": condition,
                "A": number(row.a.mean),
                "B": number(row.b.mean),
                "B - A": number(delta.mean, 4, sign=True) if delta else "–",
                "95 %": span(tested.low, tested.high) if tested else "–",
                "Seeds": f"{row.a.n}, {row.b.n}{few}",
                "Test": row.how,
                "p, Holm": p_text(delta.p_holm) if delta else "–",
                "B is": row.said,
                "Corrected": row.corrected,
            }
        )
    note = (
        "B - A with its 95 % interval over seeds: paired over the seeds that both have, Welch's t-test where these are "
        "fewer than two. "
        "B is: each comparison by itself. Corrected: for the number of comparisons of its study and metric (Holm). "
        "few: fewer than three seeds, so the interval is very wide."
    )
    frames = [pd.DataFrame(part) for part in (data, shown)]
    return Table(
        "differences",
        "Differences",
        *frames,
        note,
        numeric=frozenset({"A", "B", "B - A", "95 %", "p, Holm"}),
    )


def conclusion(rows: Sequence[Compared], failures: Sequence[str], reasons: Sequence[str]) -> str:
    """What is outside the noise, in one sentence or two."""
    if reasons:
        return "Nothing was compared."
    tested = [r for r in rows if r.delta is not None]
    plain = [r for r in tested if r.said in ("better", "worse")]
    sure = [r for r in tested if r.corrected in ("better", "worse")]
    counts = [
        (sum(r.how == "identical" for r in tested), "identical"),
        (len(plain), f"outside the noise one by one, of which {len(sure)} after correction"),
        (sum(r.said.startswith("one seed") for r in tested), "without an estimate of the noise (one seed)"),
        (sum(r.delta is None for r in rows), "not compared"),
    ]
    told = ", ".join(f"{n} {what}" for n, what in counts if n)
    text = f"{len(rows)} scores: {told or 'all within the noise'}."
    names = [f"{r.place[0]} of {r.place[1]}/{r.place[2]} under {r.place[4]} is {r.corrected} in B" for r in sure]
    text += f" Outside the noise: {'; '.join(names)}." if names else " Nothing is outside the noise after correction."
    if failures:
        text += f" {len(failures)} run{'s are' if len(failures) != 1 else ' is'} ok in one set only."
    return text


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


if __name__ == "__main__":
    run_main(main)
