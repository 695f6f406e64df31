"""The fault campaign: kills, full disks, damaged files and other mishaps in every stage; writes a table of the results.

python tests/faults/campaign.py --folder DIR [--out results/faults] [--only CASE ...] [--jobs 2] [--short] [--list]

The folder holds one undisturbed run, from whose pieces every try starts; it must lie outside the repository. Cases that
it has rows of are not tried again. Full disks and read-only folders need root, to mount them; the clock needs faketime.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fault_damage import DAMAGE_CASES
from fault_disks import DISK_CASES
from fault_kills import KILL_CASES
from fault_others import OTHER_CASES
from fault_processes import REPOSITORY, preload
from fault_stages import Reference, prepare
from fault_table import NO, Row, add_row, read_rows, summary, write_tables

from aqr_bench.records.code_dependencies import code_hash

CASES: dict[str, Callable[[Reference], Row]] = {**KILL_CASES, **DISK_CASES, **DAMAGE_CASES, **OTHER_CASES}
SHORT = ("SIGKILL_pretrain", "SIGTERM_world", "full_info_files", "cut_checkpoint", "cut_image_evaluate", "nan_loss")


def main(argv: list[str] | None = None) -> int:
    """Run the cases that are missing; 1 if one of all went otherwise than promised."""
    args = _arguments(argv)
    if args.list:
        print("\n".join(CASES))
        return 0
    folder = Path(args.folder or tempfile.mkdtemp(prefix="aqr-faults-")).resolve()
    if folder.is_relative_to(REPOSITORY):
        raise SystemExit(f"error: --folder {folder} lies in the repository, whose own results it would take")
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)

    preload()
    reference, file = prepare(folder, say), folder / "rows.jsonl"
    there = read_rows(file)
    wanted = args.only or [case for case in (SHORT if args.short else CASES) if case not in there]

    def attempt(case: str) -> None:
        say(case)
        try:
            row = CASES[case](replace(reference, case=case))
        except Exception as error:
            traceback.print_exc()
            row = Row(case, "", "", f"the campaign itself failed: {type(error).__name__}: {error}"[:300], NO)
        add_row(file, case, row, (folder, REPOSITORY))
        say(f"{case}: {row.held}: {row.seen}")

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(attempt, wanted))
    tried = read_rows(file)
    rows = [tried[case] for case in CASES if case in tried]
    write_tables(rows, args.out, f"aqr_bench {code_hash(['.'])[:12]} (code hash)")
    print(f"{summary(rows)} -> {args.out}")
    if args.folder is None:
        shutil.rmtree(folder)
    return int(any(row.held == NO for row in rows))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="working folder (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results" / "faults", help="folder of the table")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help="these cases, again if need be")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (default: 2)")
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--list", action="store_true", help="name the cases")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
