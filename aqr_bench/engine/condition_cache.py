"""Finished conditions of an evaluation, written one by one, so that a killed suite resumes with the next condition."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from aqr_bench.atomic import write_text
from aqr_bench.engine.leaderboard import LEADERBOARD
from aqr_bench.errors import UserError
from aqr_bench.records.job import Job
from aqr_bench.records.record import Record
from aqr_bench.study.hashes import config_hash, sha256_file
from aqr_bench.study.layout import detections_folder
from aqr_bench.study.spec import Condition, Suite


class ConditionCache:
    """One JSON line a condition in the work folder of a run; failed conditions are not in it, they are tried again.

    A line counts for the same model, data, code and settings of that condition, as long as the files that the record
    names are unchanged. What else is in the suite does not matter.
    """

    def __init__(self, work: Path, suite: Suite, job: Job) -> None:
        self.work, self.path = work, work / f"evaluate.{suite.name}.conditions.jsonl"
        jobs = {condition.name: job.under(condition) for condition in suite.conditions}
        self._identity = {name: config_hash({"job": part.identity}) for name, part in jobs.items()}

    def load(self) -> dict[str, Record]:
        """Finished records by condition. Lines of other jobs, and one that a kill left half-written, are removed."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        records, lines = {}, []
        for line in text.splitlines():
            record = self._valid(line)
            if record is not None and record.condition not in records:
                records[str(record.condition)] = record
                lines.append(line)
        valid = "".join(f"{line}\n" for line in lines)
        if valid != text:
            write_text(self.path, valid)
        return records

    def add(self, record: Record, files: Iterable[Path]) -> None:
        """Append a finished condition. ``files``: those that the record names, relative to the work folder."""
        entry = {
            "identity": self._identity[str(record.condition)],
            "files": {file.as_posix(): sha256_file(self.work / file) for file in files},
            "record": record.to_dict(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def discard(self, conditions: Iterable[str]) -> None:
        """Forget finished conditions, so that another call evaluates them again."""
        if (gone := set(conditions)) and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            remaining = [line for line in lines if json.loads(line)["record"]["condition"] not in gone]
            write_text(self.path, "".join(f"{line}\n" for line in remaining))

    def remove(self) -> None:
        """Remove the file, once the records of the suite are written."""
        self.path.unlink(missing_ok=True)

    def _valid(self, line: str) -> Record | None:
        try:
            entry = json.loads(line)
            record = Record.from_dict(entry["record"])
            if entry["identity"] != self._identity.get(str(record.condition)):
                return None
            if any(sha256_file(self.work / file) != digest for file, digest in entry["files"].items()):
                return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, UserError):
            return None
        return record


def files_of(records: Sequence[Record]) -> list[Path]:
    """The files that evaluations name in their records, relative to the work folder of the run."""
    return [
        detections_folder(Path(), record.suite, record.condition) / part["file"]
        for record in records
        for part in record.extra.values()
        if isinstance(part, dict) and "file" in part
    ]


def condition_line(record: Record, done: int, total: int, work: Path = Path()) -> str:
    """``snow: mAP 0.312, NDS 0.287, 12.3 s (4 of 31)``, or the reason of a failure instead of the numbers.

    ``work``: folder of the run, in which a leaderboard file is.
    """
    numbers = [f"{name} {record.scores[name]:.3f}" for name in ("mAP", "NDS") if record.ok]
    if LEADERBOARD in record.extra:
        (file,) = files_of([record])
        numbers = [f"{record.reason}: {work / file}"]
    seconds = [f"{record.cost['wall_s']:.1f} s"] if record.cost.get("wall_s") is not None else []
    return f"{record.condition}: {', '.join([*numbers, *seconds]) or record.reason} ({done} of {total})"


def conditions_left(suite: Suite, finished: Iterable[str]) -> list[Condition]:
    """Conditions that are still to evaluate, in the suite's order."""
    finished = set(finished)
    return [condition for condition in suite.conditions if condition.name not in finished]
