"""The records of a finished workflow: how many are ok and which are not, counted once per record file.

Reading tens of thousands of records takes many seconds, which a workflow with nothing to do must not cost. The count
of a file is therefore cached with the file's size and time of change, and the file is read anew when one differs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aqr_bench.atomic import write_text
from aqr_bench.records.record import NOT_APPLICABLE, NOT_STARTED, Record, describe, ok_of, read_run


@dataclass(frozen=True)
class Failure:
    """A record that is not ok. ``record``: which one, see ``describe``; ``run``: ``smoke/cross seed 0``."""

    status: str
    record: str
    run: str
    reason: str

    @property
    def cause(self) -> str:
        """The first failure of a chain: an evaluation is not started for the reason that its training failed for."""
        return _CHAIN.sub("", self.reason)


_CHAIN = re.compile(rf"^((RuntimeError: )?({NOT_STARTED})?(training|base training|pretraining \S+) failed: )+")


@dataclass(frozen=True)
class Count:
    """Records of one file, or of several: ok, all that count, not applicable ones, and the failures."""

    ok: int = 0
    counted: int = 0
    not_applicable: int = 0
    failures: tuple[Failure, ...] = ()

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
        failures=tuple(Failure(r.status, describe(r), _run_name(r), str(r.reason)) for r in failed),
    )


def count_files(files: Iterable[Path], cache: Path) -> Count:
    """Count of all ``files``; those that have not changed since are taken from the JSON file ``cache``."""
    cached, fresh, total = _read(cache), {}, Count()
    for file in files:
        state = file.stat()
        key, stamp = str(file), [state.st_mtime_ns, state.st_size, state.st_ino]
        entry = cached.get(key)
        if entry is None or entry["stamp"] != stamp:
            entry = {"stamp": stamp, "count": asdict(count_file(file))}
        fresh[key] = entry
        total += _count(entry["count"])
    if fresh != cached:
        _write(cache, fresh)
    return total


def print_summary(results: Path, cache: Path, folders: Sequence[str], max_failures: int = 10) -> bool:
    """Print how many records below ``results``/``folders`` are ok, and the causes of the others; True if all are."""
    files = sorted(file for folder in folders for file in (results / folder).rglob("*.jsonl"))
    count = count_files(files, cache)
    print(ok_of(count.ok, count.counted, count.not_applicable))
    causes = grouped_failures(count.failures)
    for cause in causes[:max_failures]:
        print(f"  {cause}")
    if len(causes) > max_failures:
        print(f"  and {len(causes) - max_failures} more causes; all are listed in the report")
    return not count.failures


def grouped_failures(failures: Iterable[Failure]) -> list[str]:
    """A line for each cause, the most frequent first; it names the run where the cause is, and how many more there are.

    ``12 records failed: RuntimeError: ... (smoke/cross seed 0 and 11 more)``
    """
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(failure.cause, []).append(failure)
    lines = []
    for cause, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        first = next((failure for failure in group if failure.reason == cause), group[0])
        if len(group) == 1:
            lines.append(f"{first.status}: {first.record}: {first.reason}")
        else:
            status = "" if first.status == "failed" else f"{first.status}: "
            lines.append(f"{len(group)} records failed: {status}{cause} ({first.run} and {len(group) - 1} more)")
    return lines


def set_aside_failed(files: Iterable[Path], dry_run: bool = False) -> list[Path]:
    """Rename those of ``files`` that hold a failed record to ``<name>.failed``; returns their names before.

    A workflow runs their jobs again. Missing files are passed over; ``dry_run``: none is renamed.
    """
    failed = [file for file in files if file.is_file() and any(record.failed for record in read_run(file))]
    for file in failed if not dry_run else ():
        os.replace(file, file.with_name(f"{file.name}.failed"))
    return failed


def _run_name(record: Record) -> str:
    """``smoke/cross seed 0``, ``base seed 1``."""
    name = "/".join(filter(None, (record.study or record.extra.get("pretrain") or "base", record.variant)))
    return name if record.seed is None else f"{name} seed {record.seed}"


def _count(entry: dict[str, Any]) -> Count:
    return Count(**{**entry, "failures": tuple(Failure(**failure) for failure in entry["failures"])})


def _read(cache: Path) -> dict[str, Any]:
    """The cached counts; none if the file is missing, damaged or of another version: then all is counted anew."""
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
        for entry in entries.values():
            _count(entry["count"])
            entry["stamp"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
    return entries


def _write(cache: Path, entries: dict[str, Any]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_text(cache, json.dumps(entries, default=list))
