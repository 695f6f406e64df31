"""Records of several results folders as one: what goes in place, what into the store, and what must not be merged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aqr_bench.errors import UserError
from aqr_bench.records.cache import reuse_file
from aqr_bench.records.diff import compare
from aqr_bench.records.freshness import NO_REQUEST, causes, file_identity
from aqr_bench.records.loose import Key, record_path, stale_reasons
from aqr_bench.records.record import Record, read_run, record_files
from aqr_bench.records.store import archive, detections, import_work
from aqr_bench.study.layout import RESULTS

PLACED, STORED, EQUAL, LEFT_OUT, DAMAGED = "taken", "stored", "there already", "left out", "damaged"
MAX_NAMES = 5


@dataclass(frozen=True)
class MergedFile:
    """A record file of one of the folders.

    Args:
        source: the folder as it was given.
        root: the tier's folder in it.
        path: of the file.
        target: where it belongs, below the results folder.
        reasons: why it is stale; none: it is current, or nothing here says what is asked for.
    """

    source: Path
    root: Path
    path: Path
    target: Path
    records: tuple[Record, ...]
    reasons: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return any(record.failed for record in self.records)

    @property
    def stale(self) -> bool:
        return bool(self.reasons)

    @property
    def damage(self) -> str:
        """Why a line of it cannot be read; empty: all can."""
        return next((str(record.reason) for record in self.records if record.extra.get("damaged")), "")

    def same_results(self, other: MergedFile) -> bool:
        """Equal bit for bit; times and machines do not count."""
        first, second = ({r.condition: r for r in file.records} for file in (self, other))
        return first.keys() == second.keys() and all(compare(first[name], second[name]).same for name in first)


@dataclass(frozen=True)
class MergeStep:
    """What becomes of a file, and why."""

    file: MergedFile
    action: str  # PLACED | STORED | EQUAL | LEFT_OUT | DAMAGED
    reason: str = ""


def read_files(source: Path, infos_sha256: Callable[[str], str | None]) -> list[MergedFile]:
    """The record files of a results folder, or of a tier's, with what makes them stale here.

    UserError: one that is not in its run's place. Folders of other names are passed over.

    ``infos_sha256``: of the info files by the name of the tier; None: not known.
    """
    files = []
    for path in record_files(source):
        records = tuple(read_run(path))
        target = record_path(records[0]).relative_to(RESULTS)
        below, parts = target.parts[1:], path.relative_to(source).parts
        if parts[0] not in (target.parts[0], below[0]):
            continue  # kept by hand in a results folder, such as reference/ and faults/
        if parts not in (target.parts, below):
            raise UserError(f"{path}: holds the record of {Path(*below)}", "Move it there, or leave it out.")
        files.append(MergedFile(source, path.parents[len(below) - 1], path, target, records))
    stale: dict[Key, tuple[str, ...]] = {}
    for tier in {file.target.parts[0] for file in files}:
        records = [record for file in files if file.target.parts[0] == tier for record in file.records]
        stale |= stale_reasons(records, infos_sha256(tier))
    return [replace(file, reasons=_reasons(file.records, stale)) for file in files]


def _reasons(records: Iterable[Record], stale: Mapping[Key, tuple[str, ...]]) -> tuple[str, ...]:
    keys = [(record_path(record), record.condition) for record in records]
    return tuple(dict.fromkeys(reason for key in keys for reason in stale.get(key, ())))


def plan_merge(there: Iterable[MergedFile], others: Iterable[MergedFile]) -> list[MergeStep]:
    """What becomes of each of the ``others``, and of those ``there`` that another one replaces.

    Current ones go in place and stale ones into the store. Of the same work twice, one is enough; where its results
    differ, UserError names both.
    """
    chosen = {file.target: file for file in there}
    steps: dict[Path, MergeStep] = {}
    conflicts: list[str] = []
    for file in others:
        other = chosen.get(file.target)
        action, reason = _action(file, other)
        if action == "":
            conflicts.append(f"{other.path} and {file.path}")
            continue
        steps[file.path] = MergeStep(file, action, reason)
        if action == PLACED:
            if other is not None:
                why = "; ".join(causes(other.reasons)) or other.damage or "failed"
                steps[other.path] = MergeStep(other, STORED, why)
            chosen[file.target] = file
    if conflicts:
        more = f" and {len(conflicts) - MAX_NAMES} more" if len(conflicts) > MAX_NAMES else ""
        raise UserError(
            f"the same work with different results: {'; '.join(conflicts[:MAX_NAMES])}{more}",
            "Nothing was merged. aqr-bench compare shows the differences; leave out or delete one of each.",
        )
    return list(steps.values())


def _action(file: MergedFile, other: MergedFile | None) -> tuple[str, str]:
    """Action and reason; an empty action: the two must not be merged. ``other``: the one in that place."""
    why = "; ".join(causes(file.reasons))
    if file.damage:
        return DAMAGED, file.damage
    if other is None:
        # Records of earlier versions could not come back from the store, which goes by what they were made from.
        return (STORED, why) if file.stale and NO_REQUEST not in file.reasons else (PLACED, "")
    if other.damage:
        return PLACED, ""
    if file_identity(file.path) != file_identity(other.path):
        if other.stale and not file.stale:
            return PLACED, ""
        return STORED, why or f"of other settings than {other.path}"
    if file.same_results(other) and file.records[0].kind != "measure":
        return EQUAL, ""
    if file.failed or other.failed:
        return (LEFT_OUT, "failed") if file.failed else (PLACED, "")
    if file.records[0].kind == "measure":
        same = file.path.read_bytes() == other.path.read_bytes()
        return (EQUAL, "") if same else (LEFT_OUT, f"measured in {other.source} as well")
    return "", ""


def apply_merge(steps: Sequence[MergeStep], results: Path) -> None:
    """Link or copy the files below ``results``, with checkpoints and the detections that records name.

    Of a record that is there already, the checkpoint and the detections that are not.
    """
    for step in (step for action in (STORED, PLACED, EQUAL) for step in steps if step.action == action):
        file, target = step.file, results / step.file.target
        root = results / file.target.parts[0]
        if os.path.realpath(file.path) == os.path.realpath(target):
            if step.action == STORED:  # replaced by another one
                archive(root, target)
            continue
        if file.records[0].kind == "train":
            work = file.path.parent.relative_to(file.root)
            absent = step.action == EQUAL and not (root / "work" / work).exists()
            import_work(file.root, root, work, step.action == PLACED or absent)
        if step.action == STORED:
            archive(file.root, file.path, root)
            continue
        if step.action == PLACED and target.is_file():
            archive(root, target)
        for detected in detections(file.root, file.path):
            copy = root / detected.relative_to(file.root)
            if detected.is_file() and (step.action == PLACED or not copy.exists()):
                reuse_file(detected, copy)
        if step.action == PLACED:
            reuse_file(file.path, target)
