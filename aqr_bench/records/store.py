"""Results that are not asked for now, and come back when they are: records by identity, work folders by their job.

Records lie in ``results/<tier>/store/``, under the path that they have in the tier's folder, with the files that they
name. Checkpoints lie in ``results/<tier>/work/.aside/``. The name of stored records does not end in ``.jsonl``: nothing
that looks for records takes them for current ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from aqr_bench.atomic import write_text
from aqr_bench.records.cache import reuse_file
from aqr_bench.records.freshness import Rows, file_identity, read_provenance
from aqr_bench.records.record import read_records
from aqr_bench.study.hashes import canonical_json, sha256_file, sha256_text
from aqr_bench.study.layout import detections_file

STORE, ASIDE = "store", ".aside"
RECORD = "records.stored"
IDENTITY = "identity.json"
_DIGITS = 16

# ---------------------------------------------------------------- record files


def archive(root: Path, path: Path, into: Path | None = None) -> Path | None:
    """Keep a record file of the tier's folder ``root`` in the store; it stays where it is. None if there is none.

    ``into``: the tier's folder of other results, whose store it is.
    """
    identity = file_identity(path)
    if identity is None:
        return None
    entry = (into or root) / _entry(root, path, identity).relative_to(root)
    reuse_file(path, entry / RECORD)
    for file in detections(root, path):
        if file.is_file():
            reuse_file(file, entry / file.relative_to(root))
    return entry


def has_store(root: Path) -> bool:
    """Whether the tier's folder has any stored records."""
    return (root / STORE).is_dir()


def is_stored(root: Path, path: Path) -> bool:
    """Whether the store has anything of that path, of whatever identity."""
    return _entry(root, path, "").is_dir()


def stored_rows(root: Path, path: Path, identity: str) -> Rows | None:
    """The records of this identity as they are in the store, where they can be put back.

    None where there are none: a training comes back only with its checkpoint, and failures do not come back.
    """
    record = _entry(root, path, identity) / RECORD
    if not record.is_file() or file_identity(record) != identity:
        return None
    if any(stored.failed for stored in read_records(record)):
        return None
    rows = read_provenance(record)
    return rows if path.name != "train.jsonl" or _work_of(root, path, rows) is not None else None


def restore(root: Path, path: Path, identity: str) -> bool:
    """Put the stored record file of this identity in place, with the files that it names; False if it cannot be.

    What is in place is stored first.
    """
    rows, entry = stored_rows(root, path, identity), _entry(root, path, identity)
    if rows is None:
        return False
    if path.name == "train.jsonl":
        work = (path.parent / rows[0][1]["checkpoint"]).parent
        if (stored := _work_of(root, path, rows)) != work:
            _swap(work, stored, aside_folder(root / "work", work))
    archive(root, path)
    for file in entry.rglob("*"):
        if file.is_file() and file.name != RECORD:
            reuse_file(file, root / file.relative_to(entry))
    reuse_file(entry / RECORD, path)
    return True


def _entry(root: Path, path: Path, identity: str) -> Path:
    return root / STORE / path.relative_to(root).with_suffix("") / identity[:_DIGITS]


def detections(root: Path, path: Path) -> Iterator[Path]:
    """The files of detections that the evaluations of a record file name."""
    if not path.name.startswith("evaluate."):
        return
    work = root / "work" / path.parent.relative_to(root)
    for line in path.read_bytes().splitlines():
        try:
            data = json.loads(line)
            names = [part["file"] for part in data["extra"].values() if isinstance(part, dict) and "file" in part]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        yield from (detections_file(work, data["suite"], data["condition"], Path(name).name) for name in names)


def _work_of(root: Path, path: Path, rows: Rows) -> Path | None:
    """The work folder with the checkpoint of a stored training, in place or aside; None where it is lost."""
    name, sha256 = rows[0][1].get("checkpoint"), rows[0][1].get("checkpoint_sha256")
    if not name:
        return None
    checkpoint = path.parent / name
    aside = aside_folder(root / "work", checkpoint.parent)
    for candidate in [checkpoint, *sorted(aside.glob(f"*/{checkpoint.name}"))]:
        if candidate.is_file() and sha256_file(candidate) == sha256:
            return candidate.parent
    return None


# ---------------------------------------------------------------- work folders


def import_work(source: Path, root: Path, subfolder: str | Path, in_place: bool) -> None:
    """Take the work folder of a run from the tier's folder ``source`` of other results, in place or aside.

    What ``root`` has there of another job is moved aside first; files that it has of the same job stay.
    """
    work = source / "work" / subfolder
    identity = _identity_of(work)
    if identity is None:
        return
    target = root / "work" / subfolder
    if in_place:
        separate_work(root / "work", target, identity)
    elif _identity_of(target) != identity:
        target = aside_folder(root / "work", target) / _name(identity)
    for file in work.rglob("*"):
        if file.is_file() and not (target / file.relative_to(work)).exists():
            reuse_file(file, target / file.relative_to(work))


def aside_folder(work_root: Path, work: Path) -> Path:
    """Where the work folders of a run's other jobs are."""
    work_root, work = work_root.resolve(), work.resolve()
    return work_root / ASIDE / work.relative_to(work_root)


def separate_work(work_root: Path, work: Path, identity: list) -> None:
    """Make ``work`` the folder of this very job: one of another job is moved aside, and comes back with that job.

    Resuming from the checkpoints of another config, code, data set or base model would mix two experiments.
    """
    if _identity_of(work) == identity:
        return
    aside = aside_folder(work_root, work)
    _swap(work, aside / _name(identity), aside)
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / IDENTITY, json.dumps(identity))


def _swap(work: Path, wanted: Path, aside: Path) -> None:
    """Move ``work`` aside, and ``wanted`` into its place, if there is one. A folder that is no job's is removed."""
    if work.exists():
        identity = _identity_of(work)
        target = aside / _name(identity)
        if target.exists() or identity is None:
            shutil.rmtree(work)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            work.rename(target)
    if wanted.is_dir():
        work.parent.mkdir(parents=True, exist_ok=True)
        wanted.rename(work)


def _identity_of(work: Path) -> list | None:
    try:
        return json.loads((work / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # a new folder, or a marker that is damaged: whatever is in there, nothing says whose it is


def _name(identity: list | None) -> str:
    return sha256_text(canonical_json(identity))[:_DIGITS]
