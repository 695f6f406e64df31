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


def count_files(files: Iterable[Path], kept_in: Path) -> Count:
    """Count of all ``files``; those that have not changed since are taken from the JSON file ``kept_in``."""
    known, fresh, total = _read(kept_in), {}, Count()
    for file in files:
        state = file.stat()
        key, stamp = str(file), [state.st_mtime_ns, state.st_size, state.st_ino]
        entry = known.get(key)
        if entry is None or entry["stamp"] != stamp:
            entry = {"stamp": stamp, "count": asdict(count_file(file))}
        fresh[key] = entry
        total += _count(entry["count"])
    if fresh != known:
        _write(kept_in, fresh)
    return total


def print_outcome(results: Path, kept_in: Path, places: Sequence[str], most: int = 10) -> bool:
    """Print how many records below ``results``/``places`` are ok and which are not; True if all are."""
    files = sorted(file for place in places for file in (results / place).rglob("*.jsonl"))
    count = count_files(files, kept_in)
    print(ok_of(count.ok, count.counted, count.not_applicable))
    for failure in count.failures[:most]:
        print(f"  {failure}")
    if len(count.failures) > most:
        print(f"  and {len(count.failures) - most} more; all are listed in the report")
    return not count.failures


def _count(kept: dict[str, Any]) -> Count:
    return Count(**{**kept, "failures": tuple(kept["failures"])})


def _read(kept_in: Path) -> dict[str, Any]:
    """What was kept; nothing if the file is missing, damaged or of another make: then all is counted anew."""
    try:
        kept = json.loads(kept_in.read_text(encoding="utf-8"))
        for entry in kept.values():
            _count(entry["count"])
            entry["stamp"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
    return kept


def _write(kept_in: Path, entries: dict[str, Any]) -> None:
    kept_in.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept_in, json.dumps(entries, default=list))
