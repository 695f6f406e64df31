"""Which records are of what is asked for: judged from the records alone, not from file times or Snakemake's notes.

A record file is fresh if its records keep the very requests that tier, study and suite make now; else it is stale, with
the reasons in words. Trainings come before what starts from them: what follows from a stale record is stale as well.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from aqr_bench.study.spec import Run, Schedule, Study, Suite

FRESH, STALE, MISSING = "fresh", "stale", "missing"
NO_REQUEST = "record of an earlier version, which does not say what it was made from"


@dataclass(frozen=True)
class DataState:
    """The info files as they are.

    Args:
        infos_sha256: of the info files.
        rebuilt: why they are to be made again; None: they are up to date.
        digest: SHA-256 of a file that a training starts from.
    """

    infos_sha256: str
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
        name = f"{folder} seed {seed}" if seed else self.run.subfolder
        return f"{self.kind} {name}" + (f" {self.suite.name}" if self.suite else "")


@dataclass(frozen=True)
class Verdict:
    """What became of a record file. ``ask``: makes its requests; None while its upstream is not fresh."""

    asked: AskedFile
    state: str
    reasons: tuple[str, ...] = ()
    ask: Callable[[], Mapping[str | None, Request]] | None = None
    checkpoint_sha256: str | None = None  # of a fresh training

    @property
    def path(self) -> Path:
        return self.asked.path

    @functools.cached_property
    def requests(self) -> Mapping[str | None, Request] | None:
        """What is asked for, by condition. Made when needed: few of all targets of the workflow have records."""
        return None if self.ask is None else self.ask()

    @property
    def identity(self) -> str | None:
        """Of the file that is asked for."""
        return None if self.requests is None else requests_identity(self.requests)

    @property
    def code_alone(self) -> bool:
        """Stale, and only because code changed: that may be accepted."""
        return self.state == STALE and all(reason.startswith(CODE) for reason in self.reasons)


def judge(asked: Sequence[AskedFile], selection: Selection, data: DataState) -> dict[Path, Verdict]:
    """A verdict on each file, by path. ``asked``: trainings before what starts from them, as of ``asked_files``."""
    verdicts: dict[Path, Verdict] = {}
    for file in asked:
        verdicts[file.path] = _verdict(file, selection, data, verdicts)
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
    files = [AskedFile(layout.train(run), "train", run) for run in branches if uses_branches]
    files += [_training(layout, run, None, tier.base, branches) for run in bases]
    files += [_training(layout, run, s, variant_schedule(tier, s, run.variant), branches) for s, run in runs]
    suites = {s.suite.name: s.suite for s in studies if not s.measure_only}
    if every_target:
        suites |= {suite.name: suite for suite in further}
    evaluated: list[tuple[Study | None, Run, Suite]] = [
        (None, run, suite) for run in bases for suite in suites.values()
    ]
    for study, run in runs:
        own = {suite.name: suite for suite in [study.suite, *further]}
        evaluated += [(study, run, suite) for suite in own.values()]
    files += [
        AskedFile(layout.evaluate(run, suite.name), "evaluate", run, study, suite, (layout.train(run),), "checkpoint")
        for study, run, suite in evaluated
    ]
    return files + [
        AskedFile(layout.measure(study.name, variant), "measure", Run(tier.name, study.name, variant, 0), study)
        for study in studies
        for variant in study.variants
    ]


def _training(
    layout: RunLayout, run: Run, study: Study | None, schedule: Schedule, branches: Sequence[Run]
) -> AskedFile:
    upstream, start = (), "starting weights"
    if schedule.init == "base":
        upstream, start = (layout.train(Run(run.tier, None, None, run.seed)),), "base model"
    elif schedule.init == "features":
        upstream, start = tuple(layout.train(branch) for branch in branches), "pretrained branches"
    initial = initial_file(schedule)
    return AskedFile(
        layout.train(run), "train", run, study, None, upstream, "published file" if initial else start, initial
    )


def _verdict(file: AskedFile, selection: Selection, data: DataState, verdicts: Mapping[Path, Verdict]) -> Verdict:
    rows = read_provenance(file.path)
    upstream = [verdicts[path] for path in file.upstream]
    redone = [f"{verdict.asked.label} is done again" for verdict in upstream if verdict.state != FRESH]
    if data.rebuilt:
        redone.insert(0, data.rebuilt)
    starts = tuple(verdict.checkpoint_sha256 for verdict in upstream)
    if file.initial is not None:
        starts = (data.digest(file.initial) if file.initial.is_file() else None,)
    make = functools.cache(functools.partial(_requests, file, selection, data.infos_sha256, starts))
    ask = None if redone else make
    if rows is None:
        return Verdict(file, MISSING, ("no record yet",), ask)
    own = row_differences(make(), rows, file.start, starts_known=not redone)
    reasons = tuple(dict.fromkeys([*own, *redone]))
    checkpoint = rows[0][1].get("checkpoint_sha256") if file.kind == "train" else None
    return Verdict(file, STALE if reasons else FRESH, reasons, ask, None if reasons else checkpoint)


def _requests(
    file: AskedFile, selection: Selection, infos_sha256: str, starts: tuple[str | None, ...]
) -> dict[str | None, Request]:
    tier, run = selection.tier, file.run
    if file.kind == "measure":
        return {None: measurement_request(tier, file.study, run.variant, infos_sha256)}
    if file.kind == "train":
        return {None: training_request(tier, file.study, run.variant, run.pretrain, infos_sha256, starts)}
    return dict(evaluation_requests(tier, file.suite, file.study, run.variant, infos_sha256, starts[0]))


Rows = list[tuple[str | None, Mapping[str, Any]]]  # condition and provenance of each record of a file


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
    requests: Mapping[str | None, Request], rows: Rows, start: str, starts_known: bool = True
) -> Iterator[str]:
    """What sets the records of a file apart from the requests, each reason once."""
    by_condition = dict(rows)
    if any(provenance.get("damaged") for provenance in by_condition.values()):
        yield "damaged record"
        return
    for condition, request in requests.items():
        if condition not in by_condition:
            yield f"no record of condition {condition}"
            continue
        has = Request.from_provenance(by_condition[condition])
        if has is None:
            yield NO_REQUEST
            continue
        if not starts_known:  # nobody can say what they will be
            has = Request(has.settings, has.code, request.infos_sha256, request.starts)
        yield from differences(request, has, start)
    yield from (f"condition {name} is not asked for" for name in by_condition if name not in requests)


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


def page_identity(root: Path, studies: Sequence[Study]) -> str:
    """Of the page on some studies: what they say, their seeds, and all records in the tier's folder ``root``."""
    folders = [root / name for name in ("base", *sorted(study.name for study in studies))]
    files = sorted(file for folder in folders for file in folder.rglob("*.jsonl"))
    records = {file.relative_to(root).as_posix(): sha256_file(file) for file in files}
    seeds = {study.name: [study.seeds, list(study.variants)] for study in studies}
    conditions = [condition.settings for study in studies for condition in study.suite.conditions]
    code = code_parts("report", settings={"conditions": conditions})
    return config_hash({"studies": report_hash(studies), "seeds": seeds, "code": code, "records": records})


def pictures_identity(train: Path, evaluation: Path) -> str:
    """Of the pictures of one model's detections."""
    files = [sha256_file(path) if path.is_file() else None for path in (train, evaluation)]
    return config_hash({"code": code_parts("pictures"), "records": files})


def grouped_reasons(verdicts: Sequence[Verdict], max_jobs: int = 3) -> list[str]:
    """One line for each set of reasons, with the jobs that it concerns; those with a cause of their own first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for verdict in verdicts:
        if verdict.state != FRESH:
            groups.setdefault(verdict.reasons, []).append(verdict.asked.label)
    lines = []
    for reasons, labels in groups.items():
        more = f" and {len(labels) - max_jobs} more" if len(labels) > max_jobs else ""
        lines.append(f"{'; '.join(reasons)}: {', '.join(labels[:max_jobs])}{more}")
    return lines
