"""What of a tier's results is current, and what is to be done: for the workflow, ``aqr-bench run`` and ``gc``.

Everything is judged by its contents. Files that are not current are made again, after their records are put into the
store; stored records that are asked for again are put back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aqr_bench.atomic import write_text
from aqr_bench.data.digests import read_json
from aqr_bench.records.cache import replace_in_identity
from aqr_bench.records.code_dependencies import hash_of_parts
from aqr_bench.records.freshness import (
    FRESH,
    MISSING,
    STALE,
    AskedFile,
    Rows,
    Verdict,
    asked_files,
    grouped_reasons,
    judge,
    page_identity,
    pictures_identity,
    read_provenance,
)
from aqr_bench.records.provenance import utc_now
from aqr_bench.records.request import CODE
from aqr_bench.records.store import archive, has_store, is_stored, restore, stored_rows
from aqr_bench.report.data_state import data_reasons, data_state, prepare_code
from aqr_bench.study.layout import RESULTS, RunLayout
from aqr_bench.study.plan import Selection


@dataclass(frozen=True)
class Current:
    """Of one selection in one results folder.

    Args:
        verdicts: on record files, trainings first.
        others: why world, info files, database, pictures or page are to be made again, by file.
    """

    selection: Selection
    results: Path
    verdicts: tuple[Verdict, ...]
    others: Mapping[Path, str] = field(default_factory=dict)

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.selection.tier.name, self.results)

    @property
    def stale(self) -> list[Path]:
        """Files that are there and to be made again."""
        records = [verdict.path for verdict in self.verdicts if verdict.state == STALE]
        return [*records, *(path for path in self.others if path.exists())]

    @property
    def stale_records(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.state == STALE]

    @property
    def reasons(self) -> list[str]:
        """Why there is anything to do, human-readable: a line for each cause, with the jobs that it concerns."""
        return [*(f"{why}: {path.name}" for path, why in self.others.items()), *grouped_reasons(self.verdicts)]

    @property
    def reasons_by_job(self) -> list[str]:
        """A line for each job to do."""
        jobs = [f"{v.asked.label}: {'; '.join(v.reasons)}" for v in self.verdicts if v.state != FRESH]
        return [*jobs, *(f"{path.name}: {why}" for path, why in self.others.items())]


def current_state(
    selection: Selection, results: Path = RESULTS, every_target: bool = False, stored: bool = False
) -> Current:
    """Hold what is in the results folder against what is asked for.

    Args:
        every_target: judge all studies and suites that the workflow has as targets, as far as there are records.
        stored: judge as if ``put_back`` had been called, without an effect on the disk.
    """
    layout = RunLayout(selection.tier.name, results)
    others = data_reasons(selection.tier, layout)
    files = asked_files(selection, results, every_target)
    read = _with_stored(selection, results, files) if stored else None
    verdicts = judge(files, selection.tier, data_state(layout, others), read)
    others |= _summary_reasons(selection, layout, verdicts)
    chosen = [v for v in verdicts.values() if not every_target or v.state != MISSING]
    return Current(selection, results, tuple(chosen), others)


def _summary_reasons(selection: Selection, layout: RunLayout, verdicts: Mapping[Path, Verdict]) -> dict[Path, str]:
    """Why pictures and page are to be made again."""
    reasons = {}
    if selection.trained and (pictures := read_json(layout.pictures)) is not None:
        run, suite = selection.pictured_run(), selection.trained[0].suite
        shown = layout.train(run), layout.evaluate(run, suite.name)
        states = [verdicts[path].state for path in shown if path in verdicts]
        if set(states) != {FRESH} or pictures.get("identity") != pictures_identity(*shown):
            reasons[layout.pictures] = "records of the pictured model changed"
    if layout.page.is_file():
        note = read_json(layout.page_note) or {}
        asked = {Path(path) for path in selection.records}
        states = {v.state for v in verdicts.values() if selection.results / v.path.relative_to(layout.results) in asked}
        if reasons or states - {FRESH} or note.get("identity") != page_identity(layout.root, selection.studies):
            reasons[layout.page] = "records, studies or the code of the report changed"
    return reasons


# ---------------------------------------------------------------- the store


def put_back(selection: Selection, results: Path = RESULTS, every_target: bool = False) -> int:
    """Put stored records that are asked for back in place; returns how many files. Nothing is lost by it."""
    root, count = RunLayout(selection.tier.name, results).root, 0
    if not has_store(root):
        return 0
    while True:  # what starts from a training can be asked for by identity once that training is back
        files = asked_files(selection, results, every_target)
        state = _judge_again(selection, results, files)
        back = [v for v in _in_store(root, state) if v.identity and restore(root, v.path, v.identity)]
        if not back:
            return count
        count += len(back)


def _with_stored(selection: Selection, results: Path, files: list) -> Callable[[Path], Rows | None]:
    """The records of a file as ``put_back`` would leave them."""
    root, back = RunLayout(selection.tier.name, results).root, {}
    if not has_store(root):
        return read_provenance

    def read(path: Path) -> Rows | None:
        return back[path] if path in back else read_provenance(path)

    while True:
        asked = [v for v in _in_store(root, _judge_again(selection, results, files, read)) if v.identity]
        more = {v.path: rows for v in asked if (rows := stored_rows(root, v.path, v.identity))}
        if not more:
            return read
        back |= more


def _in_store(root: Path, verdicts: Mapping[Path, Verdict]) -> list[Verdict]:
    """Those that the store may have a record of; what is asked for need not be worked out for the others."""
    return [verdict for verdict in verdicts.values() if verdict.state != FRESH and is_stored(root, verdict.path)]


def _judge_again(
    selection: Selection, results: Path, files: list, read: Callable[[Path], Rows | None] | None = None
) -> dict[Path, Verdict]:
    layout = RunLayout(selection.tier.name, results)
    return judge(files, selection.tier, data_state(layout, data_reasons(selection.tier, layout)), read)


def store_stale(current: Current, paths: Iterable[Path]) -> None:
    """Put those record files into the store that are about to be made again."""
    stale = {verdict.path for verdict in current.stale_records}
    for path in stale & set(paths):
        archive(current.layout.root, path)


# ---------------------------------------------------------------- accepting code


def accept_code(selection: Selection, results: Path = RESULTS) -> list[Path]:
    """Let records count as those of the code as it is, where code alone has changed; each of them notes it.

    Returns the record files. Never a change of config, data or starting weights.
    """
    layout, accepted = RunLayout(selection.tier.name, results), []
    summary = read_json(layout.info_summary) or {}
    if data_reasons(selection.tier, layout).get(layout.info_summary, "").startswith(CODE):
        note = {"date": utc_now(), "code": summary["code"]}
        summary |= {"code": prepare_code(), "accepted": [*summary.get("accepted", ()), note]}
        write_text(layout.info_summary, json.dumps(summary, indent=1))
    while True:  # what starts from an accepted training is judged by its own code then
        files = asked_files(selection, results)
        alike = [verdict for verdict in _judge_again(selection, results, files).values() if verdict.code_alone]
        if not alike:
            return accepted
        for verdict in alike:
            _accept(verdict.asked, layout, verdict.code)
            accepted.append(verdict.path)


def _accept(asked: AskedFile, layout: RunLayout, code: Mapping[str | None, Mapping[str, str]]) -> None:
    """Let the records of a file be of this code, by condition, and what other studies reuse of their run."""
    rows, before, after = [], {}, {}
    for line in asked.path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        provenance = record["provenance"]
        then, now = provenance["request"]["code"], dict(code[record["condition"]])
        note = {"date": utc_now(), "code": {file: v for file, v in then.items() if now.get(file) != v}}
        provenance["accepted"] = [*provenance.get("accepted", ()), note]
        provenance["request"]["code"] = now
        before, after = before | then, after | now
        rows.append(json.dumps(record, ensure_ascii=False))
    write_text(asked.path, "\n".join(rows) + "\n")
    # Of a shipped model alone: the entry of a custom one has a hash of its sources too, so it does not match.
    name = asked.path.name.removesuffix(".jsonl")
    replace_in_identity(layout.work / asked.run.subfolder, name, hash_of_parts(before, {}), hash_of_parts(after, {}))
