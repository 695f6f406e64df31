"""Results of several machines into one folder: aqr-bench merge A B ... [--into RESULTS]."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from aqr_bench.console import add_json_option, counted, print_json
from aqr_bench.data.digests import known_infos_digest
from aqr_bench.errors import UserError
from aqr_bench.records.cache import reuse_file
from aqr_bench.records.merge import EQUAL, PLACED, MergeStep, apply_merge, plan_merge, read_files
from aqr_bench.study.layout import RunLayout, results_folder

MAX_LINES = 10  # for one folder


def main(argv: list[str] | None = None) -> int:
    """Merge and print what came from where. UserError, and nothing written: the same work with different results."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench merge",
        description="Records, checkpoints and detections of several results folders into one. Records of what is asked "
        "for now go in place, others into the store, from which they come back when they are asked for.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="results folders, or those of a tier")
    parser.add_argument("--into", type=Path, metavar="RESULTS", help="default: results/ of the project folder")
    add_json_option(parser)
    args = parser.parse_args(argv)
    args.into = args.into or results_folder()
    for folder in args.folders:
        if not folder.is_dir():
            raise UserError(f"no folder '{folder}': give results folders such as results or results/quick")
    sources = [folder for folder in args.folders if folder.resolve() != args.into.resolve()]
    infos = {source: _info_folders(source) for source in [args.into, *sources]}

    def digest(tier: str) -> str | None:
        """Of the info files in place, else of those that come first: records of other ones are stale."""
        folders = (by_tier[tier] for by_tier in infos.values() if tier in by_tier)
        return next((known for folder in folders if (known := known_infos_digest(folder))), None)

    if not sources:
        raise UserError(f"{args.into} is the folder to merge into", "Name the folders of other machines.")
    others = [file for source in sources for file in read_files(source, digest)]
    if not others:
        raise UserError(f"no records in {', '.join(map(str, sources))}", "Give results folders such as results.")
    steps = plan_merge(read_files(args.into, digest) if args.into.is_dir() else [], others)
    apply_merge(steps, args.into)
    for tier in {step.file.target.parts[0] for step in steps}:
        _copy_infos([by_tier[tier] for by_tier in infos.values() if tier in by_tier], RunLayout(tier, args.into).infos)
    by_source = {source: [step for step in steps if step.file.source == source] for source in (*sources, args.into)}
    if args.json:
        print_json({"into": args.into, "folders": [_facts(source, of) for source, of in by_source.items() if of]})
    else:
        for source, of in by_source.items():
            _print_steps(source, of)
    return 0


def _info_folders(source: Path) -> dict[str, Path]:
    """Folders of info files below a results folder, or in that of a tier, by the name of the tier."""
    folders = [*source.glob("*/infos"), source / "infos"]
    return {folder.absolute().parent.name: folder for folder in folders if folder.is_dir()}


def _copy_infos(folders: list[Path], target: Path) -> None:
    """Info files, where there are none: without them, those who run on cannot tell that nothing changed."""
    if known_infos_digest(target) is None:
        for file in (file for folder in folders[:1] for file in folder.iterdir() if file.is_file()):
            reuse_file(file, target / file.name)


def _facts(source: Path, steps: list[MergeStep]) -> dict[str, Any]:
    """How many record files of a folder were taken, stored and so on, and what became of each of them."""
    files = [{"file": s.file.target, "action": s.action, "reason": s.reason or None} for s in steps]
    return {"folder": source, "counts": Counter(step.action for step in steps), "files": files}


def _print_steps(source: Path, steps: list[MergeStep]) -> None:
    if not steps:
        return
    counts, noun = Counter(step.action for step in steps), "record file"
    print(f"{source}: {', '.join(f'{counted(n, noun)} {action}' for action, n in counts.items())}")
    lines = [f"  {s.action}: {s.file.target}: {s.reason}" for s in steps if s.action not in (PLACED, EQUAL)]
    more = [f"  and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    print("\n".join([*lines[:MAX_LINES], *more]), end="\n" if lines else "")
