"""What is stored and could be made again: aqr-bench gc [--tier T ...] [--delete]."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from aqr_bench.console import add_json_option, print_json
from aqr_bench.errors import UserError, nearest
from aqr_bench.records.store import ASIDE, STORE
from aqr_bench.study.layout import FEATURES, results_folder


def main(argv: list[str] | None = None) -> int:
    """List stored records, checkpoints and features, or delete them. What is in place stays as it is.

    UserError: a tier without results.
    """
    parser = argparse.ArgumentParser(
        prog="aqr-bench gc",
        description="List records and checkpoints of earlier configs and code, which come back when asked for, and "
        "features of frozen branches, which save time.",
    )
    parser.add_argument("--tier", nargs="+", action="extend", help="names of tiers (default: all that have results)")
    parser.add_argument("--delete", action="store_true", help="delete them: what is asked for again is made again")
    parser.add_argument("--results", type=Path, metavar="DIR", help="default: results/ of the project folder")
    add_json_option(parser)
    args = parser.parse_args(argv)
    results = args.results or results_folder()
    known = sorted(path.name for path in results.glob("*") if path.is_dir())
    for tier in args.tier or ():
        if tier not in known:
            raise UserError(f"--tier: no results of '{tier}' in {results}{nearest(tier, known)}")
    entries = []
    for tier in dict.fromkeys(args.tier or known):
        work = results / tier / "work"
        for folder in (results / tier / STORE, work / ASIDE, work / FEATURES):
            for entry in stored_entries(folder):
                entries.append({"tier": tier, "path": entry, "bytes": freed_bytes(entry)})
                if not args.json:
                    print(f"{entries[-1]['bytes'] / 1e6:10.1f} MB  {entry}")
            if args.delete and folder.is_dir():
                shutil.rmtree(folder)
    total = sum(entry["bytes"] for entry in entries)
    if args.json:
        print_json({"deleted": args.delete, "bytes": total, "entries": entries})
    else:
        print(f"{total / 1e6:10.1f} MB {'deleted' if args.delete else 'in all; --delete removes them'}")
    return 0


def stored_entries(folder: Path) -> list[Path]:
    """Folders that hold one stored record file, one work folder, or features."""
    entries: list[Path] = []
    for path, folders, files in os.walk(folder):
        if files:
            entries.append(Path(path))
            folders.clear()
    return sorted(entries)


def freed_bytes(entry: Path) -> int:
    """Bytes that deleting a folder frees: files that are linked elsewhere count nothing."""
    states = [file.stat() for file in entry.rglob("*") if file.is_file()]
    return sum(state.st_size for state in states if state.st_nlink == 1)
