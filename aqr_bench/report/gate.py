"""The gate: does a fixed bias move the score more than another seed would? If not, no design of the bias can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aqr_bench.report.collect import Results
from aqr_bench.report.score_statistics import MIN_DIFFERENCE, number, seeds_text, summarise
from aqr_bench.report.tables.study import by_seed, differences
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.spec import Study

SPREADS = 2  # standard deviations over seeds that a move has to exceed


@dataclass(frozen=True)
class GateRow:
    """Moves of the score under one condition, means over seeds of the paired differences.

    variant, move    the largest move in either direction, with its sign, and its variant; None: no pair
    best, gain       the largest improvement, likewise; None if no variant improves on the baseline
    bar              two standard deviations over seeds of the baseline's score or of the moved variant's, whichever is
                     larger (a baseline that learns nothing has no spread); None for fewer than two seeds of either
    seeds            finished seeds of the baseline
    passed           the largest move, in either direction, exceeds the bar; None where that is unknown. A loss counts:
                     it shows that there is attention to be moved.
    """

    condition: str
    variant: str | None
    move: float | None
    best: str | None
    gain: float | None
    bar: float | None
    seeds: int
    passed: bool | None


def gate(results: Results, study: Study) -> list[GateRow]:
    """One row per condition of the study's suite."""
    deltas = differences(study, results)
    sign = 1 if study.higher_is_better else -1
    rows = []
    for condition in (c.name for c in study.suite.conditions):
        moves = {v: d.mean for (v, where), d in deltas.items() if where == condition and d is not None}
        largest = max(moves, key=lambda v: abs(moves[v]), default=None)
        judged = [study.baseline, *([] if largest is None else [largest])]
        scores = [summarise(list(by_seed(results, v, condition, study.metric).values())) for v in judged]
        baseline, spreads = scores[0], [score.sd for score in scores]
        bar = None if None in spreads else SPREADS * max(spreads)
        best = max(moves, key=lambda v: sign * moves[v], default=None)
        if best is not None and sign * moves[best] <= 0:
            best = None
        move = None if largest is None else moves[largest]
        gain = None if best is None else moves[best]
        # A baseline that scores 0 with every seed has no spread: a move below the last printed digit does not pass.
        passed = None if move is None or bar is None else abs(move) > max(bar, MIN_DIFFERENCE)
        rows.append(GateRow(condition, largest, move, best, gain, bar, baseline.n, passed))
    return rows


def gate_passed(rows: Sequence[GateRow]) -> bool | None:
    """True if any condition passed, None if none did and one is unknown (or there is none)."""
    verdicts = [row.passed for row in rows]
    if any(verdicts):
        return True
    return None if None in verdicts or not verdicts else False


def gate_sentence(rows: Sequence[GateRow], study: Study) -> str:
    """The verdict with its evidence."""
    passed = gate_passed(rows)
    judged = [row for row in rows if row.passed is not None]
    if passed is None:
        missing = ", ".join(f"'{row.condition}'" for row in rows if row.passed is None) or "any condition"
        return f"No verdict: under {missing} there is no finished variant to compare, or fewer than two seeds."
    # The condition with the largest move for its bar, and the one with the largest gain for its bar.
    row = max(judged, key=lambda r: abs(r.move) / max(r.bar, MIN_DIFFERENCE))
    best = max(judged, key=lambda r: abs(r.gain or 0) / max(r.bar, MIN_DIFFERENCE))
    better = (row.move > 0) == study.higher_is_better
    evidence = (
        f"'{row.variant}' moves {study.metric} by {number(row.move, sign=True)} under '{row.condition}' "
        f"({'better' if better else 'worse'}), two standard deviations over {row.seeds} seeds are "
        f"{number(row.bar)}"
    )
    if best.gain is None:
        gain = "No fixed bias improves it."
    else:
        size = "beyond" if abs(best.gain) > max(best.bar, MIN_DIFFERENCE) else "within"
        gain = (
            f"The best gain is {number(best.gain, sign=True)} ('{best.best}' under '{best.condition}'), {size} two "
            f"standard deviations ({number(best.bar)})."
        )
    if passed:
        return f"Passed: {evidence}. {gain}"
    return (
        f"Not passed: no fixed bias moves {study.metric} beyond the noise of the seeds; the closest: {evidence}. {gain}"
    )


def gate_table(rows: Sequence[GateRow], study: Study) -> ReportTable:
    """The rows as a table."""
    verdicts = {True: "passed", False: "not passed", None: "no verdict"}

    def named(value: float | None, variant: str | None) -> str:
        return "–" if value is None else f"{number(value, sign=True)} ({variant})"

    table_rows = [
        Row(
            vars(row),
            {
                "Condition": row.condition,
                "Largest move": named(row.move, row.variant),
                "Best gain": named(row.gain, row.best),
                "2 sd over seeds": number(row.bar),
                "Baseline seeds": seeds_text(row.seeds),
                "Gate": verdicts[row.passed],
            },
            row.passed is None,
        )
        for row in rows
    ]
    note = (
        f"Moves are means over seeds of the paired difference to '{study.baseline}' in {study.metric}. The gate is "
        "passed if under at least one condition the largest move, in either direction, exceeds two standard deviations "
        "over seeds (of the baseline's score or of the variant's, whichever is larger): then there is something that a "
        "bias can move. The best gain is the most that a fixed bias improves."
    )
    title, numeric = "Gate: do fixed biases move anything?", {"Largest move", "Best gain", "2 sd over seeds"}
    columns = list(GateRow.__dataclass_fields__), None
    return make_table(f"{study.name}_gate", title, table_rows, note, numeric, columns)
