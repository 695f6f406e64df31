"""Records wherever they lie, in part or copied: judged by the tier, study and suite that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from aqr_bench.errors import UserError
from aqr_bench.records.freshness import (
    STALE,
    AskedFile,
    DataState,
    Rows,
    evaluated_file,
    judge,
    measured_file,
    trained_file,
)
from aqr_bench.records.record import Record
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.runs import pretrain_runs
from aqr_bench.study.spec import Run, Study, Suite, Tier

T = TypeVar("T", Tier, Study, Suite)
Key = tuple[Path, str | None]  # path below a results folder, condition


def record_path(record: Record) -> Path:
    """The file below ``results/`` that a record belongs in."""
    layout = RunLayout(record.tier)
    if record.kind == "measure":
        return layout.measure(str(record.study), str(record.variant))
    return layout.train(record.run) if record.kind == "train" else layout.evaluate(record.run, str(record.suite))


def stale_reasons(records: Iterable[Record], infos_sha256: str | None = None) -> dict[Key, tuple[str, ...]]:
    """Why records are not of what their tier, study and suite ask for now; nothing on those that are.

    Nothing either on records whose tier, study or suite is not here. What others start from may lie elsewhere.
    ``infos_sha256``: of the info files beside them; None: not known.
    """
    by_tier: dict[str, list[Record]] = {}
    for record in records:
        # A damaged one is a failure, which is reported as such; nothing asks for one without a tier.
        if not record.extra.get("damaged") and not record.without_tier:
            by_tier.setdefault(record.tier, []).append(record)
    reasons: dict[Key, tuple[str, ...]] = {}
    for of_tier in by_tier.values():
        tier = _load(load_tier, of_tier, "tier", of_tier[0].tier)
        if tier is not None:
            reasons |= _reasons_of_tier(tier, of_tier, infos_sha256)
    return reasons


def _reasons_of_tier(tier: Tier, records: Sequence[Record], infos_sha256: str | None) -> dict[Key, tuple[str, ...]]:
    rows: dict[Path, Rows] = {}
    for record in records:
        rows.setdefault(record_path(record), []).append((record.condition, record.provenance))
    files, reasons = _files(tier, records)
    verdicts = judge(files, tier, DataState(infos_sha256), rows.get, complete=False)
    for path, verdict in verdicts.items():
        if verdict.state == STALE:
            reasons |= {(path, name): why for name, _ in rows[path] if (why := verdict.by_condition.get(name))}
    return reasons


def _files(tier: Tier, records: Sequence[Record]) -> tuple[list[AskedFile], dict[Key, tuple[str, ...]]]:
    """The files that the records belong in, after those that they follow from; and why others are not asked for."""
    layout, loaded = RunLayout(tier.name), _Loaded(records)
    trained = {run: trained_file(layout, tier, run) for run in pretrain_runs(tier)}
    for seed in dict.fromkeys(record.seed or 0 for record in records):
        run = Run(tier.name, None, None, seed)
        trained[run] = trained_file(layout, tier, run)
    later: dict[Path, AskedFile] = {}
    unasked: dict[Key, tuple[str, ...]] = {}
    for record in records:
        study, path = loaded.study(record), record_path(record)
        if record.study and study is None:
            continue
        if study and record.variant not in study.variants:
            unasked[path, record.condition] = (f"{study.path.name} has no variant {record.variant}",)
            continue
        if record.run.pretrain not in (None, *tier.pretrain):
            unasked[path, record.condition] = (f"{tier.path.name} has no branch {record.run.pretrain}",)
            continue
        if record.kind == "measure" and study:
            later[path] = measured_file(layout, study, str(record.variant))
            continue
        try:
            trained.setdefault(record.run, trained_file(layout, tier, record.run, study))
        except UserError as error:  # a tier that the study cannot be run on any more
            unasked[path, record.condition] = (str(error),)
            continue
        suite = loaded.suite(record)
        if record.kind == "evaluate" and suite is not None:
            later[path] = evaluated_file(layout, record.run, study, suite)
    return [*trained.values(), *later.values()], unasked


class _Loaded:
    """Studies and suites of some records, each loaded once."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._cache: dict[tuple[str, str], Study | Suite | None] = {}

    def study(self, record: Record) -> Study | None:
        return self._get(load_study, "study", record.study, [r for r in self._records if r.study == record.study])

    def suite(self, record: Record) -> Suite | None:
        study = self.study(record)
        if study is not None and study.suite.name == record.suite:
            return study.suite
        return self._get(load_suite, "suite", record.suite, [r for r in self._records if r.suite == record.suite])

    def _get(self, load: Callable[[str], T], role: str, name: str | None, records: Sequence[Record]) -> T | None:
        if name is not None and (role, name) not in self._cache:
            self._cache[role, name] = _load(load, records, role, name)
        return None if name is None else self._cache[role, name]


def _load(load: Callable[[str], T], records: Sequence[Record], role: str, name: str) -> T | None:
    """By the file that a record names, else by name; None where there is none here, or one of another name."""
    files = (record.provenance.get("files") for record in records)
    entries = (file.get(role) for file in files if isinstance(file, Mapping))
    paths = {str(entry.get("path")) for entry in entries if isinstance(entry, Mapping)}
    for place in [*(path for path in sorted(paths) if Path(path).is_file()), name]:
        try:
            loaded = load(place)
        except UserError:
            continue
        if loaded.name == name:
            return loaded
    return None
