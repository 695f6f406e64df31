"""Stored records and work folders: nothing that was finished is lost, and what is asked for again comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aqr_bench.atomic import write_text
from aqr_bench.records.freshness import file_identity
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.records.store import ASIDE, RECORD, STORE, archive, restore, separate_work
from aqr_bench.study.hashes import sha256_file

FOLDER = Path("s/cross/seed0")
DETECTIONS = "detections/missing_sensors/clean/matches.npz"  # of evaluated()


def request(name: str) -> dict:
    return {"settings": {"name": name}, "code": {}, "infos_sha256": "i", "starts": []}


def trained(root: Path, name: str, status: str = "ok") -> Path:
    """A training with its checkpoint in the work folder of that very job."""
    work, path = root / "work" / FOLDER, root / FOLDER / "train.jsonl"
    separate_work(root / "work", work, [name])
    (work / "final.pth").write_text(f"weights of {name}")
    facts = {
        "checkpoint": "../../../work/s/cross/seed0/final.pth",
        "checkpoint_sha256": sha256_file(work / "final.pth"),
    }
    reason = None if status == "ok" else "ValueError: no"
    write_records(path, [_record("train", name, facts, status=status, reason=reason)])
    return path


def evaluated(root: Path, name: str) -> Path:
    file = root / "work" / FOLDER / DETECTIONS
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, f"matches of {name}")  # atomically, as all results: a stored file is linked
    path = root / FOLDER / "evaluate.missing_sensors.jsonl"
    row = {"condition": "clean", "suite": "missing_sensors", "extra": {"matches": {"file": "matches.npz"}}}
    write_records(path, [_record("evaluate", name, {}, **row)])
    return path


def _record(kind: str, name: str, facts: dict, status: str = "ok", **more) -> Record:
    return Record(kind, status, "t", "s", "cross", 0, provenance={**facts, "request": request(name)}, **more)


def checkpoint(root: Path) -> str:
    return (root / "work" / FOLDER / "final.pth").read_text()


def test_a_training_comes_back_with_its_checkpoint(tmp_path):
    path = trained(tmp_path, "first")
    first, identity = path.read_text(), file_identity(path)
    archive(tmp_path, path)
    assert path.read_text() == first  # a job that follows removes it
    trained(tmp_path, "second")
    second = file_identity(path)
    assert checkpoint(tmp_path) == "weights of second"
    assert restore(tmp_path, path, identity) and path.read_text() == first
    assert checkpoint(tmp_path) == "weights of first"
    assert restore(tmp_path, path, second) and checkpoint(tmp_path) == "weights of second"
    assert not [file for file in (tmp_path / STORE).rglob("*.jsonl")]


def test_a_training_without_its_checkpoint_stays_in_the_store(tmp_path):
    path = trained(tmp_path, "first")
    identity = file_identity(path)
    archive(tmp_path, path)
    trained(tmp_path, "second")
    shutil.rmtree(tmp_path / "work" / ASIDE)
    before = path.read_text()
    assert not restore(tmp_path, path, identity) and path.read_text() == before


def test_failures_and_damaged_entries_do_not_come_back(tmp_path):
    path = trained(tmp_path, "first", status="failed")
    identity = file_identity(path)
    entry = archive(tmp_path, path)
    assert not restore(tmp_path, path, identity)
    trained(tmp_path, "first")
    archive(tmp_path, path)
    assert restore(tmp_path, path, identity)
    (entry / RECORD).write_text("{cut\n")
    assert not restore(tmp_path, path, identity) and not restore(tmp_path, path, "0" * 64)


def test_an_evaluation_comes_back_with_the_files_that_it_names(tmp_path):
    path = evaluated(tmp_path, "first")
    identity = file_identity(path)
    archive(tmp_path, path)
    evaluated(tmp_path, "second")
    assert restore(tmp_path, path, identity) and read_records(path)[0].provenance["request"] == request("first")
    file = tmp_path / "work" / FOLDER / DETECTIONS
    assert file.read_text() == "matches of first"


def test_records_without_a_request_are_stored_by_their_bytes(tmp_path):
    path = evaluated(tmp_path, "first")
    record = json.loads(path.read_text())
    del record["provenance"]["request"]
    entries = set()
    for score in (1, 2):
        path.write_text(json.dumps(record | {"scores": {"mAP": score}}) + "\n")
        entries |= {archive(tmp_path, path), archive(tmp_path, path)}
    assert len(entries) == 2 and archive(tmp_path, path.with_name("none.jsonl")) is None


def test_a_work_folder_is_of_one_job(tmp_path):
    work = tmp_path / "work" / FOLDER
    work.mkdir(parents=True)
    (work / "init.pth").touch()  # nothing says whose it is
    for job, files in (("a", set()), ("b", set()), ("a", {"last.pth"}), ("a", {"last.pth"})):
        separate_work(tmp_path / "work", work, [job])
        assert {file.name for file in work.iterdir()} - {"identity.json"} == files
        (work / "last.pth").write_text(job)
    assert (work / "last.pth").read_text() == "a"


@pytest.mark.parametrize("gone", ["record", "store"])
def test_nothing_stored_is_nothing_restored(tmp_path, gone):
    path = trained(tmp_path, "first")
    identity = file_identity(path)
    if gone == "record":
        path.unlink()
    assert not restore(tmp_path, path, identity)
