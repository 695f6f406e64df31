"""aqr-bench data --tier T | --version V --root ROOT --out DIR: write the info files of a nuScenes root.

With --database, also crop the objects of the train split from points and images, for ground-truth sampling.

aqr-bench data check --root ROOT: is a nuScenes root complete and consistent?
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from aqr_bench.atomic import write_text
from aqr_bench.console import add_quiet_option, non_negative_int, positive_int, print_warning
from aqr_bench.data.check.before_infos import validate_root
from aqr_bench.data.complete_scenes import incomplete_scenes, require_files, without_scenes
from aqr_bench.data.dataset import data_summary
from aqr_bench.data.infos import CHECK, build_infos, open_nuscenes, write_infos
from aqr_bench.errors import UserError, join_names, reading, require_file, run_main
from aqr_bench.metrics.detection import evaluated_truth
from aqr_bench.metrics.scoring_rules import OFFICIAL_RULES
from aqr_bench.metrics.splits import TEST, VERSIONS
from aqr_bench.study.load import load_tier
from aqr_bench.study.vocabulary import Vocabulary

ACTIONS = {"check": "aqr_bench.data.check.check"}  # with an entry and options of their own


def main(argv: list[str] | None = None) -> int:
    """Write infos_train.pkl, infos_val.pkl and data.json (what they hold); return 0. ``check`` is another entry."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in ACTIONS:
        return importlib.import_module(ACTIONS[argv[0]]).main(argv[1:])
    parser = argparse.ArgumentParser(
        prog="aqr-bench data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tier", help="tier file or name; it has the version")
    which.add_argument("--version", choices=sorted(VERSIONS), help="version of the tables, without a tier")
    parser.add_argument("--root", required=True, help="nuScenes root: v1.0-*/, samples/, sweeps/")
    parser.add_argument("--out", required=True, help="folder for the info files")
    parser.add_argument("--max-sweeps", type=non_negative_int, default=10)
    parser.add_argument("--database", action="store_true", help="also crop the objects for ground-truth sampling")
    parser.add_argument("--database-only", action="store_true", help="only that, from existing info files")
    parser.add_argument("--workers", type=positive_int, default=1, help="processes of --database (default: 1)")
    parser.add_argument("--skip-missing", action="store_true", help="leave out scenes that lack files of their sensors")
    parser.add_argument("--code", help="hash to be noted in data.json, by which a workflow knows who made it")
    add_quiet_option(parser)
    args = parser.parse_args(argv)
    if args.database_only:
        remedy = "Run the same command without --database-only first."
        path = require_file(Path(args.out) / "data.json", "info summary", remedy)
        summary = json.loads(path.read_text(encoding="utf-8"))
        objects = _database(args, min(args.max_sweeps, summary.get("max_sweeps", args.max_sweeps)))
        summary |= {"database": {"objects": objects}}
        write_text(path, json.dumps(summary, indent=1))
        print(f"ground-truth database: {sum(objects.values())} objects -> {args.out}")
        return 0
    tier = load_tier(args.tier) if args.tier else None
    version, vocabulary = (args.version, Vocabulary()) if tier is None else (tier.version, tier.vocabulary)
    nusc = open_nuscenes(args.root, version, vocabulary)
    skip = args.skip_missing or (tier is not None and tier.skip_missing)
    with reading(f"{args.root} ({version})", "the nuScenes tables", CHECK):
        skipped = incomplete_scenes(nusc, args.max_sweeps) if skip else []
        if not skip and (warning := require_files(nusc)):
            print_warning(warning)
        for warning in validate_root(nusc):
            print_warning(warning)
    infos = build_infos(without_scenes(nusc, skipped), args.max_sweeps, args.quiet)
    with reading(f"{args.root} ({version})", "the nuScenes tables", CHECK):
        if version == TEST:
            print(f"{version} has no annotations: an evaluation writes leaderboard files, and has no score")
        else:
            rules = OFFICIAL_RULES if tier is None else tier.scoring
            evaluated_truth(nusc, rules=rules)  # what is scored after all trainings is there
    paths = write_infos(infos, args.out, version, vocabulary)
    further = {
        **({"vocabulary": vocabulary.as_dict()} if vocabulary.as_dict() else {}),
        **({"code": args.code} if args.code else {}),
        **({"skipped_scenes": skipped} if skipped else {}),
    }
    summary = data_summary(args.root, version, args.out, infos, paths, args.max_sweeps, **further)
    if args.database:
        summary["database"] = {"objects": _database(args, args.max_sweeps)}
    write_text(Path(args.out) / "data.json", json.dumps(summary, indent=1))
    counts = ", ".join(f"{split} {len(entries)} samples" for split, entries in infos.items())
    print(f"infos of {version}: {counts} -> {args.out}")
    if skip:
        print(f"{len(skipped)} of {len(nusc.scene)} scenes lack files and are left out: {join_names(skipped)}")
    if args.database:
        print(f"ground-truth database: {sum(summary['database']['objects'].values())} objects -> {args.out}")
    return 0


def _database(args: argparse.Namespace, sweeps: int) -> dict[str, int]:
    """Write the database beside the info files, which have so many sweeps; return the number of objects by class."""
    from aqr_bench.data.gt_database import build_database
    from aqr_bench.data.raw_frames import BadFrameError

    try:
        return build_database(args.out, args.root, args.out, args.workers, sweeps, args.quiet)
    except BadFrameError as error:
        raise UserError(str(error), "Restore the file and run the same command again.") from error


if __name__ == "__main__":
    run_main(main)
