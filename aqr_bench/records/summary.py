"""What a finished workflow left behind: how many records are ok and which are not, counted once per record file.

Reading tens of thousands of records takes many seconds, which a workflow with nothing to do must not cost. The count
of a file is therefore kept with the file's size and time of change, and the file is read anew when one of them differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aqr_bench.atomic import write_text
from aqr_bench.records.record import NOT_APPLICABLE, describe, ok_of, read_run


@dataclass(frozen=True)
class Count:
    """Records of one file, or of several: ok, all that count, not applicable ones, and a line for each failure."""

    ok: int = 0
    counted: int = 0
    not_applicable: int = 0
    failures: tuple[str, ...] = ()

    def __add__(self, other: Count) -> Count:
        return Count(
            self.ok + other.ok,
            self.counted + other.counted,
            self.not_applicable + other.not_applicable,
            self.failures + other.failures,
        )


def count_file(file: Path) -> Count:
    """Read a record file and count; a damaged line is a failed record."""
    records = read_run(file)
    failed = [record for record in records if record.failed]
    others = sum(record.status == NOT_APPLICABLE for record in records)
    return Count(
        ok=sum(record.ok for record in records),
        counted=len(records) - others,
        not_applicable=others,
        failures=tuple(f"{record.status}: {describe(record)}: {record.reason}" for record in failed),
    )


def count_files(files: Iterable[Path], counts_file: Path) -> Count:
    """Count of all ``files``; those that have not changed since are taken from the JSON file ``counts_file``."""
    cached, fresh, total = _read(counts_file), {}, Count()
    for file in files:
        state = file.stat()
        key, stamp = str(file), [state.st_mtime_ns, state.st_size, state.st_ino]
        entry = cached.get(key)
        if entry is None or entry["stamp"] != stamp:
            entry = {"stamp": stamp, "count": asdict(count_file(file))}
        fresh[key] = entry
        total += _count(entry["count"])
    if fresh != cached:
        _write(counts_file, fresh)
    return total


def print_outcome(results: Path, counts_file: Path, folders: Sequence[str], most: int = 10) -> bool:
    """Print how many records below ``results``/``folders`` are ok and which are not; True if all are."""
    files = sorted(file for folder in folders for file in (results / folder).rglob("*.jsonl"))
    count = count_files(files, counts_file)
    print(ok_of(count.ok, count.counted, count.not_applicable))
    for failure in count.failures[:most]:
        print(f"  {failure}")
    if len(count.failures) > most:
        print(f"  and {len(count.failures) - most} more; all are listed in the report")
    return not count.failures


def _count(entry: dict[str, Any]) -> Count:
    return Count(**{**entry, "failures": tuple(entry["failures"])})


def _read(counts_file: Path) -> dict[str, Any]:
    """The cached counts; nothing if the file is missing, damaged or of another make: then all is counted anew."""
    try:
        entries = json.loads(counts_file.read_text(encoding="utf-8"))
        for entry in entries.values():
            _count(entry["count"])
            entry["stamp"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
    return entries


def _write(counts_file: Path, entries: dict[str, Any]) -> None:
    counts_file.parent.mkdir(parents=True, exist_ok=True)
    write_text(counts_file, json.dumps(entries, default=list))
