"""Check what runs left behind: which failed, and which are of another config or code than is asked for now."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aqr_bench.console import add_json_option, print_json
from aqr_bench.data.digests import known_infos_digest
from aqr_bench.errors import UserError, join_names
from aqr_bench.records.freshness import causes
from aqr_bench.records.loose import record_path, stale_reasons
from aqr_bench.records.record import NOT_APPLICABLE, Record, describe, distinct_record_files, ok_of, read_run
from aqr_bench.study.layout import RunLayout


def main(argv: list[str] | None = None) -> int:
    """``check``: 0 if every record is ok, also where some are stale, 1 if any failed. UserError: a missing file."""
    parser = argparse.ArgumentParser(prog="aqr-bench records", description="Check what runs left behind.")
    parser.add_argument("action", choices=["check"])
    parser.add_argument("records", nargs="+", type=Path, help="record files (.jsonl), or folders of them")
    add_json_option(parser)
    args = parser.parse_args(argv)
    by_file = {path: read_run(path) for path in distinct_record_files(args.records)}
    if not by_file:
        raise UserError(f"no record file in {join_names(args.records)}. Run a step that writes one first.")
    records = [record for of_file in by_file.values() for record in of_file]
    failed = [(path, record) for path, of_file in by_file.items() for record in of_file if record.failed]
    ok, others = sum(r.ok for r in records), sum(r.status == NOT_APPLICABLE for r in records)
    if args.json:
        counts = {"records": len(records), "records_ok": ok, "not_applicable": others}
        failures = [
            {"file": path, "record": describe(record), "status": record.status, "reason": record.reason}
            for path, record in failed
        ]
        stale = [{"reason": why, "files": files} for why, files in stale_files(by_file).items()]
        print_json({"ok": not failed, **counts, "failed": failures, "stale": stale})
        return 1 if failed else 0
    for _, record in failed:
        print(f"{record.status}: {describe(record)}: {record.reason}", file=sys.stderr)
    for line in stale_lines(by_file):
        print(f"stale: {line}", file=sys.stderr)
    print(ok_of(ok, len(records) - others, others))
    return 1 if failed else 0


def stale_lines(by_file: Mapping[Path, Sequence[Record]]) -> list[str]:
    """A line for each reason why records are not of what is asked for now, with the files."""
    groups = stale_files(by_file).items()
    return [f"{why}: {', '.join(files[:3])}{_more(len(files) - 3)}" for why, files in groups]


def stale_files(by_file: Mapping[Path, Sequence[Record]]) -> dict[str, list[str]]:
    """Files of records that are not of what is asked for now, by the reason; see ``records.loose``."""
    roots: dict[Path, list[Record]] = {}
    for path, records in by_file.items():
        depth = len(record_path(records[0]).parts) - len(RunLayout(records[0].tier).root.parts)
        parents = path.absolute().parents
        roots.setdefault(parents[min(depth, len(parents)) - 1], []).extend(records)
    groups: dict[str, dict[str, None]] = {}
    for root, records in roots.items():
        reasons = stale_reasons(records, known_infos_digest(RunLayout(root.name, root.parent).infos))
        for (path, _), why in reasons.items():
            groups.setdefault("; ".join(causes(why)), {})[path.as_posix()] = None
    return {why: list(files) for why, files in groups.items()}


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""
