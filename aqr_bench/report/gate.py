"""The gate: does a fixed bias on a trained base move the score under missing sensors more than another seed would?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from aqr_bench.report.collect import Results
from aqr_bench.report.statistics import RESOLUTION, number, summarise
from aqr_bench.report.tables.study import Table, by_seed, differences
from aqr_bench.study.spec import Study

SPREADS = 2  # standard deviations over seeds that a move has to exceed


@dataclass(frozen=True)
class GateRow:
    """Moves of the score under one missing-sensor condition, means over seeds of the paired differences.

    variant, move    the largest move in either direction, with its sign, and the variant that made it; None: no pair
    best, gain       the largest improvement, likewise; None if no variant improves on the baseline
    bar              two standard deviations over seeds of the baseline's score; None for fewer than two seeds
    seeds            finished seeds of the baseline
    passed           the largest move, in either direction, exceeds the bar; None where that cannot be told. Harm
                     counts: it shows that there is attention to be moved. What there is to win, the gain says.
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
    """One row per condition of the suite but the first, which misses no sensor."""
    deltas = differences(study, results)
    sign = 1 if study.higher_is_better else -1
    rows = []
    for condition in (c.name for c in study.suite.conditions[1:]):
        moves = {v: d.mean for (v, where), d in deltas.items() if where == condition and d is not None}
        baseline = summarise(list(by_seed(results, study.baseline, condition, study.metric).values()))
        bar = None if baseline.sd is None else SPREADS * baseline.sd
        largest = max(moves, key=lambda v: abs(moves[v]), default=None)
        best = max(moves, key=lambda v: sign * moves[v], default=None)
        if best is not None and sign * moves[best] <= 0:
            best = None
        move = None if largest is None else moves[largest]
        # A baseline that scores 0 with every seed has no spread: what the tables cannot show passes no gate.
        gain = None if best is None else moves[best]
        passed = None if move is None or bar is None else abs(move) > max(bar, RESOLUTION)
        rows.append(GateRow(condition, largest, move, best, gain, bar, baseline.n, passed))
    return rows


def gate_passed(rows: Sequence[GateRow]) -> bool | None:
    """True if any condition passed, None if none did and one could not be told (or there is none)."""
    verdicts = [row.passed for row in rows]
    if any(verdicts):
        return True
    return None if None in verdicts or not verdicts else False


def gate_sentence(rows: Sequence[GateRow], study: Study) -> str:
    """The verdict with the move it rests on."""
    passed = gate_passed(rows)
    known = [row for row in rows if row.passed is not None]
    if passed is None:
        missing = ", ".join(f"'{row.condition}'" for row in rows if row.passed is None) or "any missing sensor"
        return f"No verdict: under {missing} there is no finished variant to compare, or fewer than two baseline seeds."
    # The condition with the largest move for its bar, and the one with the largest gain for its bar.
    row = max(known, key=lambda r: abs(r.move) / max(r.bar, RESOLUTION))
    best = max(known, key=lambda r: abs(r.gain or 0) / max(r.bar, RESOLUTION))
    better = (row.move > 0) == study.higher_is_better
    evidence = (
        f"'{row.variant}' moves {study.metric} by {number(row.move, sign=True)} under '{row.condition}' "
        f"({'better' if better else 'worse'}), two standard deviations over {row.seeds} baseline seeds are "
        f"{number(row.bar)}"
    )
    if best.gain is None:
        won = "No fixed bias improves it under a missing sensor."
    else:
        size = "beyond" if abs(best.gain) > max(best.bar, RESOLUTION) else "within"
        won = (
            f"The best gain is {number(best.gain, sign=True)} ('{best.best}' under '{best.condition}'), {size} two "
            f"standard deviations ({number(best.bar)})."
        )
    if passed:
        return f"Passed: {evidence}. {won}"
    return (
        f"Not passed: no fixed bias moves {study.metric} beyond the noise of the seeds; the closest: {evidence}. {won}"
    )


def gate_table(rows: Sequence[GateRow], study: Study) -> Table:
    """The rows as a table."""
    words = {True: "passed", False: "not passed", None: "no verdict"}

    def named(value: float | None, variant: str | None) -> str:
        return "–" if value is None else f"{number(value, sign=True)} ({variant})"

    shown = [
        {
            "Condition": row.condition,
            "Largest move": named(row.move, row.variant),
            "Best gain": named(row.gain, row.best),
            "2 sd of baseline": number(row.bar),
            "Baseline seeds": f"{row.seeds}, fewer than three" if row.seeds < 3 else str(row.seeds),
            "Gate": words[row.passed],
        }
        for row in rows
    ]
    return Table(
        f"{study.name}_gate",
        "Gate: do fixed biases move anything?",
        pd.DataFrame([vars(row) for row in rows], columns=list(GateRow.__dataclass_fields__)),
        pd.DataFrame(shown),
        f"Moves are means over seeds of the paired difference to '{study.baseline}' in {study.metric}. The gate is "
        "passed if under one condition at least the largest move, in either direction, exceeds two standard deviations "
        "over seeds of the baseline: then there is attention that a bias can move. The best gain says whether there is "
        "anything to win by it.",
        frozenset(i for i, row in enumerate(rows) if row.passed is None),
        frozenset({"Largest move", "Best gain", "2 sd of baseline"}),
    )
