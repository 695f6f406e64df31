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
from aqr_bench.records.freshness import file_identity, read_provenance
from aqr_bench.records.record import read_records
from aqr_bench.study.hashes import canonical_json, sha256_file, sha256_text

STORE, ASIDE = "store", ".aside"
RECORD = "records.stored"
IDENTITY = "identity.json"
_DIGITS = 16

# ---------------------------------------------------------------- record files


def archive(root: Path, path: Path) -> Path | None:
    """Keep a record file of the tier's folder ``root`` in the store; it stays where it is. None if there is none."""
    identity = file_identity(path)
    if identity is None:
        return None
    entry = _entry(root, path, identity)
    reuse_file(path, entry / RECORD)
    for file in _detections(root, path):
        if file.is_file():
            reuse_file(file, entry / file.relative_to(root))
    return entry


def is_stored(root: Path, path: Path) -> bool:
    """Whether the store has anything of that path, of whatever identity."""
    return _entry(root, path, "").is_dir()


def restore(root: Path, path: Path, identity: str) -> bool:
    """Put the stored record file of this identity in place, with the files that it names; False if there is none.

    What is in place is stored first. A training comes back only with its checkpoint, and failures do not come back.
    """
    entry = _entry(root, path, identity)
    if not (entry / RECORD).is_file() or file_identity(entry / RECORD) != identity:
        return False
    if any(record.failed for record in read_records(entry / RECORD)):
        return False
    if not _restore_checkpoint(root, path, entry / RECORD):
        return False
    archive(root, path)
    for file in entry.rglob("*"):
        if file.is_file() and file.name != RECORD:
            reuse_file(file, root / file.relative_to(entry))
    reuse_file(entry / RECORD, path)
    return True


def _entry(root: Path, path: Path, identity: str) -> Path:
    return root / STORE / path.relative_to(root).with_suffix("") / identity[:_DIGITS]


def _detections(root: Path, path: Path) -> Iterator[Path]:
    """The files of detections that the evaluations of a record file name."""
    if not path.name.startswith("evaluate."):
        return
    folder = root / "work" / path.parent.relative_to(root) / "detections"
    for line in path.read_bytes().splitlines():
        try:
            data = json.loads(line)
            names = [part["file"] for part in data["extra"].values() if isinstance(part, dict) and "file" in part]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        yield from (folder / str(data["condition"]) / Path(name).name for name in names)


def _restore_checkpoint(root: Path, path: Path, record: Path) -> bool:
    """Have the checkpoint of a stored training in its place; False where it is lost. True of what has none."""
    rows = read_provenance(record)
    name, sha256 = rows[0][1].get("checkpoint"), rows[0][1].get("checkpoint_sha256")
    if path.name != "train.jsonl" or not name:
        return True
    checkpoint = path.parent / name
    if checkpoint.is_file() and sha256_file(checkpoint) == sha256:
        return True
    work = checkpoint.parent
    aside = aside_folder(root / "work", work)
    for candidate in sorted(aside.glob(f"*/{checkpoint.name}")):
        if sha256_file(candidate) == sha256:
            _swap(work, candidate.parent, aside)
            return True
    return False


# ---------------------------------------------------------------- work folders


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
