"""Which rows of the report are of another identity than tier, study and suite ask for now, with the reason."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from aqr_bench.errors import short
from aqr_bench.records.freshness import MISSING, STALE, Verdict, asked_files, causes, grouped_reasons, judge
from aqr_bench.report.collect import further_suites
from aqr_bench.report.data_state import data_reasons, data_state
from aqr_bench.report.tables.table import ReportTable
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.plan import Selection
from aqr_bench.study.spec import Study, Tier

BASELINE_SUFFIX = " (baseline)"  # of a variant in some tables
MAX_LINES = 5


@dataclass(frozen=True)
class StaleRecords:
    """Verdicts on the record files of a report that are there, the current ones included."""

    judged: tuple[Verdict, ...] = ()

    @functools.cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """On the stale ones."""
        return tuple(verdict for verdict in self.judged if verdict.state == STALE)

    def of_study(self, name: str) -> StaleRecords:
        """Those of one study and of the base models."""
        return StaleRecords(tuple(v for v in self.judged if v.asked.run.study in (None, name)))

    def lines(self) -> list[str]:
        """What is stale and why, human-readable; nothing where all is current."""
        if not self.verdicts:
            return []
        groups = grouped_reasons(self.verdicts)
        more = [f"and {len(groups) - MAX_LINES} more reasons"] if len(groups) > MAX_LINES else []
        counts = f"{len(self.verdicts)} of {len(self.judged)} record files"
        head = f"{counts} are not of what is asked for now, and marked as stale"
        return [head, *(f"stale: {line}" for line in groups[:MAX_LINES]), *more]

    def reasons(
        self,
        kind: str,
        study: str | None,
        variant: str | None,
        seed: int | None = None,
        condition: str | None = None,
        suites: Collection[str] | None = None,
    ) -> list[str]:
        """Why records of a variant (None: of the base models) are stale; None of the others: any."""
        reasons: dict[str, None] = {}
        for verdict in self._by_run.get((kind, study, variant), ()):
            asked = verdict.asked
            if seed in (None, asked.run.seed) and (suites is None or (asked.suite and asked.suite.name in suites)):
                reasons |= dict.fromkeys(verdict.reasons_of(condition))
        return list(causes(reasons))

    @functools.cached_property
    def _by_run(self) -> dict[tuple[str, str | None, str | None], list[Verdict]]:
        groups: dict[tuple[str, str | None, str | None], list[Verdict]] = {}
        for verdict in self.verdicts:
            run = verdict.asked.run
            groups.setdefault((verdict.asked.kind, run.study, run.variant), []).append(verdict)
        return groups

    def mark(
        self, table: ReportTable, study: Study | None, kind: str, suites: Collection[str] | None = None
    ) -> ReportTable:
        """The table with a column of reasons where a row has a stale number; rows by variant, or columns by variant.

        ``study``: None for a table of the base models. ``suites``: whose evaluations it shows; None: any.
        """
        if not self.verdicts:
            return table
        marks = functools.partial(self._marks, study=study, kind=kind, suites=suites)
        data, text = marks(table.data), [short(mark, 200) for mark in marks(table.text)]
        if not any(data):
            return table
        return replace(table, data=table.data.assign(stale=data), text=table.text.assign(Stale=text))

    def _marks(self, frame: pd.DataFrame, study: Study | None, kind: str, suites: Collection[str] | None) -> list[str]:
        """``stale: <reasons>`` for each row, and those of the variant that it is compared with; empty where current."""
        names = {str(column).lower(): column for column in frame.columns}
        marks = []
        for _, row in frame.iterrows():
            values = {key: row[names[key]] for key in ("variant", "seed", "condition") if key in names}
            seed, condition = values.get("seed"), values.get("condition")
            of = functools.partial(
                self.reasons,
                kind,
                study and study.name,
                seed=None if seed is None else int(seed),
                condition=condition,
                suites=suites,
            )
            marks.append(_text(_reasons_by_variant(values, frame.columns, study, of)))
        return marks


def _reasons_by_variant(
    values: Mapping[str, Any], columns: Collection[Any], study: Study | None, of: functools.partial
) -> Iterator[tuple[str | None, list[str]]]:
    """Variants whose numbers are in a row, None for the row's own, with the reasons."""
    if study is None:
        yield None, of(None)
    elif "variant" not in values:
        yield from ((name, of(name)) for name in columns if name in study.variants)
    else:
        name = str(values["variant"]).removesuffix(BASELINE_SUFFIX)
        own = of(name)
        yield None, own
        if name in study.variants and (other := study.compared_with(name)) != name:
            yield other, [reason for reason in of(other) if reason not in own]


def _text(reasons: Iterator[tuple[str | None, list[str]]]) -> str:
    parts = [f"{'stale' if name is None else f'stale ({name})'}: {'; '.join(why)}" for name, why in reasons if why]
    return "; ".join(parts)


def find_stale(records: Path, tier: Tier, studies: Sequence[Study]) -> StaleRecords:
    """Judge the records of the studies below ``records/<tier>``, under every known suite that they have records of."""
    layout = RunLayout(tier.name, records)
    further = further_suites(records, tier, studies)
    selection = Selection(tier, tuple(studies), {study.name: study for study in studies}, further)
    state = data_state(layout, data_reasons(tier, layout))
    verdicts = judge(asked_files(selection, records), tier, state).values()
    return StaleRecords(tuple(verdict for verdict in verdicts if verdict.state != MISSING))
