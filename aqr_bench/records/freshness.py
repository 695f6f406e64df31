"""Which records are of what is asked for: judged from the records alone, not from file times or Snakemake's notes.

A record file is fresh if its records keep the very requests that tier, study and suite make now; else it is stale, with
the reasons in words. Trainings come before what starts from them: what follows from a stale record is stale as well.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aqr_bench.records.blamed_file import blamed_file_change
from aqr_bench.records.code_dependencies import code_parts
from aqr_bench.records.request import (
    CODE,
    Request,
    differences,
    evaluation_requests,
    measurement_request,
    training_request,
)
from aqr_bench.study.hashes import config_hash, sha256_file
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.plan import Selection
from aqr_bench.study.runs import base_runs, matrix, pretrain_runs
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.settings import initial_file, report_hash
from aqr_bench.study.spec import Run, Study, Suite, Tier

FRESH, STALE, MISSING = "fresh", "stale", "missing"
NO_REQUEST = "record of an earlier version, which does not say what it was made from"
DONE_AGAIN = " is done again"  # ends the reason of what follows from a stale record
Rows = list[tuple[str | None, Mapping[str, Any]]]  # condition and provenance of each record of a file


@dataclass(frozen=True)
class DataState:
    """The info files as they are.

    Args:
        infos_sha256: of the info files; None: there are none here, and nothing is said about those of a record.
        rebuilt: why they are to be made again; None: they are up to date.
        digest: SHA-256 of a file that a training starts from.
    """

    infos_sha256: str | None
    rebuilt: str | None = None
    digest: Callable[[Path], str] = sha256_file


@dataclass(frozen=True)
class AskedFile:
    """A record file that is asked for. ``upstream``: train records that it follows from, ``start`` their name."""

    path: Path
    kind: str  # train | evaluate | measure
    run: Run
    study: Study | None = None
    suite: Suite | None = None
    upstream: tuple[Path, ...] = ()
    start: str = "starting weights"
    initial: Path | None = None

    @property
    def label(self) -> str:
        """``evaluate smoke/cross seed 0 missing_sensors``"""
        if self.kind == "measure":
            return f"measure {self.run.study}/{self.run.variant}"
        folder, _, seed = self.run.subfolder.rpartition("/seed")
        name = f"{folder} seed {seed}" if folder else self.run.subfolder
        return f"{self.kind} {name}" + (f" {self.suite.name}" if self.suite else "")


@dataclass(frozen=True)
class Verdict:
    """What became of a record file.

    Args:
        ask: makes what is asked for, by condition. When needed: few of all targets of the workflow have records.
        known: whether info files and starting weights are known; not if they are missing or to be made again.
        reasons: why it is not fresh, each once; ``by_condition``: those of each record of an evaluation.
        checkpoint_sha256: of a fresh training.
    """

    asked: AskedFile
    state: str
    ask: Callable[[], Mapping[str | None, Request]] = field(compare=False)
    known: bool
    reasons: tuple[str, ...] = ()
    checkpoint_sha256: str | None = None
    by_condition: Mapping[str | None, tuple[str, ...]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.asked.path

    def reasons_of(self, condition: str | None = None) -> tuple[str, ...]:
        """Why the record under a condition is not fresh; None: any record of the file."""
        return self.reasons if condition is None else self.by_condition.get(condition, ())

    @property
    def requests(self) -> Mapping[str | None, Request] | None:
        """What is asked for, by condition; None while not all of it is known."""
        return self.ask() if self.known else None

    @property
    def code(self) -> dict[str | None, Mapping[str, str]]:
        """Hashes of the code that is asked for, by condition; always known."""
        return {condition: request.code for condition, request in self.ask().items()}

    @property
    def identity(self) -> str | None:
        """Of the file that is asked for."""
        return None if self.requests is None else requests_identity(self.requests)

    @property
    def code_alone(self) -> bool:
        """Stale, and only because code changed: that may be accepted."""
        return self.state == STALE and all(reason.startswith(CODE) for reason in self.reasons)


def judge(
    asked: Sequence[AskedFile],
    tier: Tier,
    data: DataState,
    read: Callable[[Path], Rows | None] | None = None,
    complete: bool = True,
) -> dict[Path, Verdict]:
    """A verdict on each file, by path.

    Args:
        asked: trainings before what starts from them, as of ``asked_files``.
        read: the records of a file, None where it is not there; by default those on disk.
        complete: False where further records may lie elsewhere: nothing follows from those that are missing.
    """
    verdicts: dict[Path, Verdict] = {}
    for file in asked:
        rows = (read or read_provenance)(file.path)
        verdicts[file.path] = _verdict(file, tier, data, rows, [verdicts[path] for path in file.upstream], complete)
    return verdicts


def asked_files(selection: Selection, results: Path, every_target: bool = False) -> list[AskedFile]:
    """The record files that a selection asks for; trainings first.

    Args:
        every_target: also those of the studies and suites that the workflow has as targets.
    """
    layout, tier = RunLayout(selection.tier.name, results), selection.tier
    studies = list(selection.studies_by_name.values() if every_target else selection.studies)
    further = list(selection.suites_by_name.values() if every_target else selection.suites)
    bases, runs = base_runs(tier, studies), [(s, run) for s in studies for run in matrix(tier, [s])]
    branches = pretrain_runs(tier)
    uses_branches = bases and tier.base.init == "features"
    uses_branches = uses_branches or any(variant_schedule(tier, s, r.variant).init == "features" for s, r in runs)
    files = [trained_file(layout, tier, run) for run in branches if uses_branches]
    files += [trained_file(layout, tier, run) for run in bases]
    files += [trained_file(layout, tier, run, study) for study, run in runs]
    suites = {s.suite.name: s.suite for s in studies if not s.measure_only}
    if every_target:
        suites |= {suite.name: suite for suite in further}
    evaluated: list[tuple[Study | None, Run, Suite]] = [
        (None, run, suite) for run in bases for suite in suites.values()
    ]
    for study, run in runs:
        own = {suite.name: suite for suite in [study.suite, *further]}
        evaluated += [(study, run, suite) for suite in own.values()]
    files += [evaluated_file(layout, run, study, suite) for study, run, suite in evaluated]
    return files + [measured_file(layout, study, variant) for study in studies for variant in study.variants]


def evaluated_file(layout: RunLayout, run: Run, study: Study | None, suite: Suite) -> AskedFile:
    """Of a base model's or variant's evaluation under a suite."""
    path = layout.evaluate(run, suite.name)
    return AskedFile(path, "evaluate", run, study, suite, (layout.train(run),), "checkpoint")


def measured_file(layout: RunLayout, study: Study, variant: str) -> AskedFile:
    """Of a variant's measurement."""
    return AskedFile(layout.measure(study.name, variant), "measure", Run(layout.tier, study.name, variant, 0), study)


def trained_file(layout: RunLayout, tier: Tier, run: Run, study: Study | None = None) -> AskedFile:
    """Of the training of a branch, of a base model or, with its study, of a variant."""
    if run.pretrain is not None:
        return AskedFile(layout.train(run), "train", run)
    schedule = variant_schedule(tier, study, run.variant) if study else tier.base
    upstream, start = (), "starting weights"
    if schedule.init == "base":
        upstream, start = (layout.train(Run(run.tier, None, None, run.seed)),), "base model"
    elif schedule.init == "features":
        upstream, start = tuple(layout.train(branch) for branch in pretrain_runs(tier)), "pretrained branches"
    initial = initial_file(schedule)
    return AskedFile(
        layout.train(run), "train", run, study, None, upstream, "published file" if initial else start, initial
    )


def _verdict(
    file: AskedFile,
    tier: Tier,
    data: DataState,
    rows: Rows | None,
    upstream: Sequence[Verdict],
    complete: bool,
) -> Verdict:
    missing = any(verdict.state == MISSING for verdict in upstream)
    redone = [f"{v.asked.label}{DONE_AGAIN}" for v in upstream if v.state == STALE or (complete and v.state == MISSING)]
    if data.rebuilt:
        redone.insert(0, data.rebuilt)
    starts = tuple(verdict.checkpoint_sha256 for verdict in upstream)
    if file.initial is not None:
        starts = (data.digest(file.initial) if file.initial.is_file() else None,)
    ask = functools.cache(functools.partial(_requests, file, tier, data.infos_sha256 or "", starts))
    # Info files and starting weights that are to be made again: nobody can say what they will be.
    known = {"infos_sha256": data.infos_sha256 is not None and not redone, "starts": not redone and not missing}
    if rows is None:
        return Verdict(file, MISSING, ask, all(known.values()), ("no record yet",))
    rows_differ = row_differences(ask(), rows, file.start, frozenset(key for key in known if not known[key]))
    by_condition = {name: tuple(dict.fromkeys([*reasons, *redone])) for name, reasons in rows_differ.items()}
    reasons = tuple(dict.fromkeys(reason for own in [*rows_differ.values(), redone] for reason in own))
    checkpoint = rows[0][1].get("checkpoint_sha256") if file.kind == "train" else None
    state = STALE if reasons else FRESH
    return Verdict(file, state, ask, all(known.values()), reasons, None if reasons else checkpoint, by_condition)


def _requests(
    file: AskedFile, tier: Tier, infos_sha256: str, starts: tuple[str | None, ...]
) -> dict[str | None, Request]:
    run = file.run
    if file.kind == "measure":
        return {None: measurement_request(tier, file.study, run.variant, infos_sha256)}
    if file.kind == "train":
        return {None: training_request(tier, file.study, run.variant, run.pretrain, infos_sha256, starts)}
    return dict(evaluation_requests(tier, file.suite, file.study, run.variant, infos_sha256, starts[0]))


def read_provenance(path: Path) -> Rows | None:
    """Condition and provenance of each record of a file, unchecked; ``{}`` of a damaged one, None without a file."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return None
    rows: Rows = []
    for line in lines:
        try:
            data = json.loads(line)
            provenance = data["provenance"]
            rows.append((data["condition"], provenance if isinstance(provenance, Mapping) else {}))
        except (ValueError, KeyError, TypeError):
            rows.append((None, {"damaged": True}))
    return rows or [(None, {"damaged": True})]


def row_differences(
    requests: Mapping[str | None, Request], rows: Rows, start: str, unknown: Collection[str] = ()
) -> dict[str | None, list[str]]:
    """What sets the records of a file apart from the requests, by condition; ``unknown``: fields that are no request's.

    A damaged line may be of any of them. A failure whose sensor file has changed since is not what it would be now.
    """
    by_condition = dict(rows)
    if any(provenance.get("damaged") for provenance in by_condition.values()):
        return {name: ["damaged record"] for name in [*requests, *by_condition]}
    reasons: dict[str | None, list[str]] = {}
    for condition, request in requests.items():
        if condition not in by_condition:
            reasons[condition] = [f"no record of condition {condition}"]
            continue
        has = Request.from_provenance(by_condition[condition])
        if has is None:
            reasons[condition] = [NO_REQUEST]
            continue
        has = replace(has, **{name: getattr(request, name) for name in unknown})
        changed = blamed_file_change(by_condition[condition])
        reasons[condition] = [*differences(request, has, start), *([changed] if changed else [])]
    return reasons | {name: [f"condition {name} is not asked for"] for name in by_condition if name not in requests}


def requests_identity(requests: Mapping[str | None, Request]) -> str:
    """Of a record file, by the requests of its records."""
    return config_hash({str(condition): request.identity for condition, request in requests.items()})


def file_identity(path: Path) -> str | None:
    """Of what a record file holds; by its bytes where its records keep no request, None without a file."""
    rows = read_provenance(path)
    if rows is None:
        return None
    requests = {condition: Request.from_provenance(provenance) for condition, provenance in rows}
    if None in requests.values():
        return sha256_file(path)
    return requests_identity(requests)


def page_records(root: Path, studies: Sequence[Study]) -> dict[str, str]:
    """SHA-256 of the record files of a page on some studies, by their path in the tier's folder ``root``."""
    folders = [root / name for name in ("base", *sorted(study.name for study in studies))]
    files = sorted(file for folder in folders for file in folder.rglob("*.jsonl"))
    return {file.relative_to(root).as_posix(): sha256_file(file) for file in files}


def page_identity(root: Path, studies: Sequence[Study], stale: Sequence[str] = ()) -> str:
    """Of the page on some studies: what they say, their seeds, and all records in the tier's folder ``root``.

    ``stale``: what the page says of records that are not of what was asked for.
    """
    records = page_records(root, studies)
    seeds = {study.name: [study.seeds, list(study.variants)] for study in studies}
    conditions = [condition.settings for study in studies for condition in study.suite.conditions]
    code = code_parts("report", settings={"conditions": conditions})
    return config_hash(
        {"studies": report_hash(studies), "seeds": seeds, "code": code, "records": records}
        | ({"stale": list(stale)} if stale else {})
    )


def pictures_identity(train: Path, evaluation: Path) -> str:
    """Of the pictures of one model's detections."""
    files = [sha256_file(path) if path.is_file() else None for path in (train, evaluation)]
    return config_hash({"code": code_parts("pictures"), "records": files})


def causes(reasons: Iterable[str]) -> tuple[str, ...]:
    """The reasons without those that only follow from another record's, unless there are no others."""
    reasons = tuple(reasons)
    return tuple(reason for reason in reasons if not reason.endswith(DONE_AGAIN)) or reasons


def grouped_reasons(verdicts: Sequence[Verdict], max_jobs: int = 3) -> list[str]:
    """One line for each set of causes, with the jobs that it concerns; what only follows from others has one line."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for verdict in verdicts:
        if verdict.state != FRESH:
            groups.setdefault(causes(verdict.reasons), []).append(verdict.asked.label)
    follow = [reasons for reasons in groups if all(reason.endswith(DONE_AGAIN) for reason in reasons)]
    if len(follow) > 1:
        groups[(f"what they start from{DONE_AGAIN}",)] = [label for reasons in follow for label in groups.pop(reasons)]
    lines = []
    for reasons, labels in groups.items():
        more = f" and {len(labels) - max_jobs} more" if len(labels) > max_jobs else ""
        lines.append(f"{'; '.join(reasons)}: {', '.join(labels[:max_jobs])}{more}")
    return lines
