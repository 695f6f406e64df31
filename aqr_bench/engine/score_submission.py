"""Score detections that were made elsewhere: nuScenes submissions become records like those of an evaluation.

No model, no info files and no torch are needed, only the tables of the data set.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aqr_bench.console import print_progress, print_warning
from aqr_bench.data.digests import table_digests, tables_digest
from aqr_bench.data.infos import open_nuscenes
from aqr_bench.data.manifest import MANIFEST, Manifest, read_manifest
from aqr_bench.engine.condition_cache import condition_line
from aqr_bench.engine.job import cost_since
from aqr_bench.errors import UserError, join_names, nearest
from aqr_bench.metrics.detection import evaluated_truth, metric_engine, score_detections
from aqr_bench.metrics.scoring_rules import OFFICIAL_RULES, ScoringRules
from aqr_bench.metrics.splits import OFFICIAL, evaluation_split, require_split
from aqr_bench.records.job import Job
from aqr_bench.records.provenance import portable_path, provenance, utc_now
from aqr_bench.records.record import Record, write_records
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.model_files import model_slug
from aqr_bench.study.spec import Suite

NO_SUITE = "submissions"  # the suite of records whose conditions belong to none
CLEAN = "clean"


@dataclass(frozen=True)
class Submission:
    """A file of detections, and the condition that they were made under.

    ``written``: the data that they were made on, where that is known (``aqr-bench corruptions write``), and the SHA-256
    of its manifest.
    """

    condition: str
    path: Path
    written: tuple[Manifest, str] | None = None


@dataclass(frozen=True)
class Target:
    """What submissions are scored on: a split of the tables in ``root``."""

    root: Path
    version: str
    split: str


def find_submissions(
    paths: Sequence[Path], condition: str | None, suite: Suite | None, written: Path | None = None
) -> list[Submission]:
    """The submissions among files and folders (all ``*.json`` in them), the reference condition first.

    Args:
        condition: of a single file; None: each file's name without ``.json``.
        suite: that has the conditions, in its order; None: any name, ``clean`` first.
        written: a written condition, which names that of a single file; or a folder with one for each file.
    Raises:
        UserError: no file, a condition that the suite does not have, two files of one condition; no manifest, or one of
            another condition.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path}: no submission in it", "Give a folder of files such as clean.json and fog_3.json.")
        files += inside
    if condition is not None and len(files) > 1:
        raise UserError(f"--condition {condition}: there are {len(files)} submissions; each is named after its file")
    submissions = [_submission(file, condition, written) for file in files]
    names = [submission.condition for submission in submissions]
    for submission in submissions:
        name = submission.condition
        if Path(name).name != name:
            raise UserError(f"--condition: '{name}' is no name of a condition: it must not have a slash")
        if names.count(name) > 1:
            same = [str(s.path) for s in submissions if s.condition == name]
            raise UserError(f"two submissions of condition '{name}': {join_names(same)}")
    order = [CLEAN] if suite is None else [c.name for c in suite.conditions]
    if suite is not None:
        for submission in submissions:
            if submission.condition not in order:
                hint = nearest(submission.condition, order)
                raise UserError(
                    f"{submission.path}: suite '{suite.name}' has no condition '{submission.condition}'{hint}"
                )
            conditions = {c.name: dict(c.settings) for c in suite.conditions}
            if submission.written is not None and submission.written[0].settings != conditions[submission.condition]:
                what = f"'{submission.condition}' of suite '{suite.name}'"
                raise UserError(f"--manifest: {what} has other settings than the written condition of that name")
    rank = {name: i for i, name in enumerate(order)}
    return sorted(submissions, key=lambda s: (rank.get(s.condition, len(rank)), s.condition))


def _submission(file: Path, condition: str | None, written: Path | None) -> Submission:
    """With the manifest of its condition, which is in ``written`` or in a folder there that is named after it."""
    if written is None:
        return Submission(condition or file.stem, file)
    here = (written / MANIFEST).is_file()
    manifest, sha256 = read_manifest(written if here else written / (condition or file.stem))
    if condition not in (None, manifest.condition):
        raise UserError(f"--condition: '{condition}' is not '{manifest.condition}', which the manifest names")
    return Submission(manifest.condition, file, (manifest, sha256))


def find_target(root: Path, version: str | None, split: str | None) -> Target:
    """The split to score on; by default the val split of the only version that is there. UserError where unclear."""
    if version is None:
        there = [name for name in OFFICIAL if (root / name).is_dir()]
        fitting = [name for name in there if split is None or split in OFFICIAL[name]] or there
        if len(fitting) > 1:
            raise UserError(f"{root} has {' and '.join(fitting)}: choose one with --version")
        version = fitting[0] if fitting else next(iter(OFFICIAL))
    if version not in OFFICIAL:
        raise UserError(f"--version: no annotations of '{version}'{nearest(version, OFFICIAL)}")
    if split is None:
        return Target(root, version, evaluation_split(root, version))
    return Target(root, version, require_split(root, version, split))


def score_submissions(
    submissions: Sequence[Submission],
    target: Target,
    model: str,
    suite: Suite | None,
    out: Path,
    rules: ScoringRules = OFFICIAL_RULES,
) -> list[Record]:
    """Score all, print a line for each, and write their records to ``out``; matches go beside it (matches_folder).

    Raises:
        UserError: a file is no submission, or one that does not fit the split; nothing is written then.
    """
    nusc = open_nuscenes(target.root, target.version, scoring=True)
    data_sha256 = tables_digest(table_digests(target.root, target.version))
    # What is wrong with the tables is not to be blamed on a submission.
    tokens = evaluated_truth(nusc, target.split, rules).samples.tokens
    for submission in submissions:
        _require_manifest_fits(submission, target, data_sha256, tokens)
    records: list[Record] = []
    for submission in submissions:
        started, clock = utc_now(), (time.perf_counter(), time.process_time())
        sha256 = sha256_file(submission.path) if submission.path.is_file() else ""
        matches = matches_folder(out) / submission.condition / "matches.npz"
        scores = score_detections(
            submission.path, nusc, matches.parent, matches=matches, split=target.split, rules=rules
        )
        manifest, manifest_sha256 = submission.written or (None, "")
        inputs = (sha256, manifest_sha256) if manifest else (sha256,)
        job = Job("score", None, data_sha256, None, {"split": target.split, **rules.entry()}, inputs)
        facts = provenance(
            job,
            started=started,
            predictions_sha256=sha256,
            files={} if suite is None else {"suite": suite.path},
        )
        source = {"file": portable_path(submission.path), "version": target.version, "split": target.split}
        if manifest is not None:
            source["manifest_sha256"] = manifest_sha256
        record = Record(
            "evaluate",
            "ok",
            model_slug(model),
            condition=submission.condition,
            suite=suite.name if suite is not None else manifest.suite if manifest is not None else NO_SUITE,
            scores=scores,
            cost={**cost_since(clock), "samples": len(tokens)},
            provenance=facts,
            extra={"matches": {"file": matches.name}, "metric": metric_engine(), "submission": source, **rules.entry()},
        )
        records.append(record)
        print_progress(condition_line(record, len(records), len(submissions)))
    write_records(out, records)
    for line in _remarks(records, suite):
        print_warning(line)
    return records


def _require_manifest_fits(submission: Submission, target: Target, data_sha256: str, tokens: Sequence[str]) -> None:
    """UserError where a submission cannot be of the written data: other tables, or samples that were not written.

    A submission that is scored has detections of all samples of the split, and of no others.
    """
    if submission.written is None:
        return
    manifest, _ = submission.written
    what = f"{submission.path}: the manifest of '{manifest.condition}' is"
    if data_sha256 not in (manifest.source_sha256, manifest.data_sha256):
        raise UserError(f"{what} of other tables than {target.root / target.version}", "Give the --root written from.")
    missing = [token for token in tokens if token not in manifest.samples]
    if missing:
        count = f"{len(missing)} of {len(tokens)} samples of split '{target.split}'"
        raise UserError(f"{what} of split '{manifest.split}', and lacks {count}, the first is {missing[0]}")


def matches_folder(records: Path) -> Path:
    """Where the matches of a file of scored submissions are, a folder for each condition."""
    return records.with_suffix("")


def _remarks(records: Sequence[Record], suite: Suite | None) -> Iterator[str]:
    """Files that are copies of the first one, and conditions of the suite without one."""
    first, *others = records
    for record in others:
        if record.provenance["predictions_sha256"] == first.provenance["predictions_sha256"]:
            yield f"{record.condition}: the submission is the same file as that of '{first.condition}'"
    if suite is not None:
        scored = {record.condition for record in records}
        missing = [c.name for c in suite.conditions if c.name not in scored]
        if missing:
            yield f"suite '{suite.name}': no submission of {join_names(missing)}"
