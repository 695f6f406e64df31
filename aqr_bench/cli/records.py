"""Check what runs left behind: aqr-bench records check."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aqr_bench.records.record import NOT_APPLICABLE, describe, ok_of, read_run


def main(argv: list[str] | None = None) -> int:
    """``check``: 0 if every record is ok, 1 if any failed. Raises UserError for a missing file."""
    parser = argparse.ArgumentParser(prog="aqr-bench records", description="Check what runs left behind.")
    parser.add_argument("action", choices=["check"])
    parser.add_argument("records", nargs="+", type=Path, help="record files (.jsonl)")
    args = parser.parse_args(argv)
    records = [record for path in args.records for record in read_run(path)]
    failed = [r for r in records if r.failed]
    for record in failed:
        print(f"{record.status}: {describe(record)}: {record.reason}", file=sys.stderr)
    others = sum(r.status == NOT_APPLICABLE for r in records)
    print(ok_of(sum(r.ok for r in records), len(records) - others, others))
    return 1 if failed else 0
