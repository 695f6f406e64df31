"""A run leaves a record: one JSON object per line, written atomically, and never lost when damaged."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aqr_bench.atomic import atomic_write
from aqr_bench.errors import UserError, require_file
from aqr_bench.records.provenance import portable_path
from aqr_bench.study.layout import NOT_RECORDS
from aqr_bench.study.schema import schema_error
from aqr_bench.study.spec import CUSTOM, Run

SCHEMA_VERSION = 1
NOT_APPLICABLE = "not_applicable"
NOT_STARTED = "not started: "  # begins the reason of a job that needs the result of a failed one


@dataclass(frozen=True)
class Record:
    """One training, evaluation or measurement. ``study`` and ``variant`` are None for a base model."""

    kind: str  # train | evaluate | measure
    status: str  # ok | failed | oom | timeout | diverged | not_applicable
    tier: str
    study: str | None = None
    variant: str | None = None
    seed: int | None = None
    condition: str | None = None
    suite: str | None = None
    reason: str | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    curve: Sequence[Sequence[float]] = ()  # [iteration, loss] pairs
    extra: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def run(self) -> Run:
        """The run that it is of; a measurement is of none, and comes out as that of seed 0."""
        return Run(self.tier, self.study, self.variant, self.seed or 0, self.extra.get("pretrain"))

    @property
    def without_tier(self) -> bool:
        """Whether it is of a model that was trained elsewhere; ``tier`` is the name of that model then."""
        return self.kind == "evaluate" and self.study is None and self.seed is None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def failed(self) -> bool:
        """Not ok, and not a question that does not arise (a LiDAR condition for a model without LiDAR)."""
        return self.status not in ("ok", NOT_APPLICABLE)

    def score(self, metric: str) -> Any:
        """A score by name: of nuScenes, or ``custom.NAME`` of a custom metric. None: undefined, or not there."""
        if metric.startswith(CUSTOM):
            return self.scores.get("custom", {}).get(metric.removeprefix(CUSTOM))
        return self.scores.get(metric)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinities become None, empty ``curve`` and ``extra`` are left out."""
        data = plain_json(asdict(self))
        for key in ("curve", "extra"):
            if not data[key]:
                del data[key]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Inverse of ``to_dict``; raises UserError naming the key where the record's schema is violated."""
        version = data.get("schema_version") if isinstance(data, Mapping) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:  # whose keys may be unknown here
            raise UserError(f"record: schema version {version} is newer than {SCHEMA_VERSION}", "Update aqr-bench.")
        problem = schema_error(data, "record")
        if problem:
            raise UserError(f"record: {problem}")
        return cls(**data)


def plain_json(value: Any) -> Any:
    """Nested JSON values from dicts, sequences, numpy scalars and arrays; a number that is not finite becomes None.

    None stays None: a missing score is never turned into 0.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return value.as_posix()
    return value


def status_of(error: BaseException) -> str:
    """Which failure an exception is: oom, timeout, diverged or failed."""
    text = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "oom"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, FloatingPointError):
        return "diverged"
    return "failed"


def write_records(path: str | Path, records: Iterable[Record]) -> Path:
    """Write records as JSON lines under a temporary name, flush them to disk, then rename.

    Every record is checked first: UserError names the key, and nothing is written.
    """
    path = Path(path)
    lines = []
    for record in records:
        data = record.to_dict()
        problem = schema_error(data, "record")
        if problem:
            raise UserError(f"{path}: record: {problem}")
        lines.append(json.dumps(data, ensure_ascii=False, allow_nan=False))
    if not lines:
        raise UserError(f"{path}: no record to write; a run that fails writes a record of its failure")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def read_records(path: str | Path) -> list[Record]:
    """All records of a file. A damaged line becomes a failed record that names file and line.

    Raises UserError only if the file does not exist.
    """
    path = require_file(path, "record file", "Run the step that writes it first.")
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            data = json.loads(line.decode("utf-8"), parse_constant=lambda name: None)
            records.append(Record.from_dict(data))
        except (ValueError, UserError) as err:
            # UnicodeDecodeError and JSONDecodeError are ValueErrors.
            records.append(_damaged(path, f"damaged record, line {number}: {err}"))
    return records or [_damaged(path, "damaged record: the file is empty")]


def record_files(path: Path) -> list[Path]:
    """Record files below a folder, but for folders of a tier that hold others; a file as it is."""
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("*.jsonl"))
    return [file for file in files if not NOT_RECORDS & set(file.relative_to(path).parts[:-1])]


def distinct_record_files(paths: Iterable[Path]) -> list[Path]:
    """Record files of several folders; one that several paths lead to comes once, by the first of them."""
    files: dict[str, Path] = {}
    for path in paths:
        for file in record_files(path):
            files.setdefault(os.path.realpath(file), file)
    return list(files.values())


_RECORD_PATH = re.compile(
    # The greedy start makes the match as short as possible: folders above the results folder do not count.
    r".*/(?P<tier>[^/]+)/(?:base|(?P<study>[^/]+)/(?P<variant>(?!seed\d+/)[^/]+))(?:/seed(?P<seed>\d+))?"
    r"/(?P<kind>train|measure|evaluate\.(?P<suite>[^/]+))\.jsonl$"
)


def _damaged(path: Path, reason: str) -> Record:
    """A failed record for a line that cannot be read; its path tells which run it was."""
    match = _RECORD_PATH.search(path.absolute().as_posix())
    fields = match.groupdict() if match else {}
    kind = (fields.get("kind") or "train").partition(".")[0]
    return Record(
        kind=kind,
        status="failed",
        reason=f"{portable_path(path)}: {reason}",
        tier=fields.get("tier") or "unknown",
        study=fields.get("study"),
        variant=fields.get("variant"),
        seed=int(fields["seed"]) if fields.get("seed") else None,
        condition="unknown" if kind == "evaluate" else None,
        suite=fields.get("suite") or ("unknown" if kind == "evaluate" else None),
        extra={"damaged": True},
    )


def fail_unchanged_inputs(records: Sequence[Record], reference: str) -> list[Record]:
    """Turn a corrupted evaluation into a failed one if its inputs equal those of the ``reference`` condition.

    A corruption that changes nothing must not count as robustness. Records are matched within one file, that is
    within one trained model.
    """
    clean = {r.provenance.get("input_sha256") for r in records if r.condition == reference} - {None}
    checked = []
    for record in records:
        same = record.condition != reference and record.provenance.get("input_sha256") in clean
        if record.kind == "evaluate" and record.ok and same:
            reason = f"condition '{record.condition}' left the inputs equal to '{reference}'"
            record = Record(**{**vars(record), "status": "failed", "reason": reason, "scores": {}})
        checked.append(record)
    return checked


def read_run(path: str | Path) -> list[Record]:
    """``read_records``, with ``fail_unchanged_inputs`` against the first condition of the file."""
    records = read_records(path)
    reference = next((r.condition for r in records if r.condition is not None), None)
    return records if reference is None else fail_unchanged_inputs(records, reference)


def describe(record: Record) -> str:
    """One line that says which run a record is of."""
    pretrain = record.extra.get("pretrain")
    words = [record.kind, record.tier, f"pretrain {pretrain}" if pretrain else record.study or "base", record.variant]
    words += [None if record.seed is None else f"seed {record.seed}", record.condition]
    return " ".join(str(w) for w in words if w is not None)


def not_started_reason(what: str, record: Record) -> str | None:
    """Reason of a job that needs the result of ``record`` (``what``: "base training"); None if that is ok.

    In a chain of jobs the first failure is named, once.
    """
    if record.ok:
        return None
    reason = str(record.reason)
    return reason if reason.startswith(NOT_STARTED) else f"{NOT_STARTED}{what} failed: {reason}"


def ok_of(ok: int, counted: int, not_applicable: int = 0) -> str:
    """``7 of 8 records ok``; those that are not applicable count on neither side and are named."""
    return f"{ok} of {counted} records ok" + (f", {not_applicable} not applicable" if not_applicable else "")
