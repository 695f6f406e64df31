"""Score detections that were made elsewhere, without their model: aqr-bench score results_nusc.json --root ROOT ...

Each submission (a file, or every .json in a folder) becomes one record of an evaluation, with mAP, NDS, errors, classes
and, beside the records, the matches that intervals and slices are computed from. The condition that it was detected
under is the file's name (clean.json, fog_3.json), unless --condition gives it, or the --manifest of written data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aqr_bench.console import add_quiet_option, hide_progress, print_line
from aqr_bench.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Write the records. UserError: a file that is no submission of the split, a condition that the suite lacks."""
    args = _arguments(argv)
    # Imports of the devkit take seconds: only once the arguments are known to be good.
    from aqr_bench.engine.score_submission import find_submissions, find_target, score_submissions
    from aqr_bench.metrics.scoring_rules import ScoringRules, parse_ranges
    from aqr_bench.study.load import load_suite

    suite = None if args.suite is None else load_suite(args.suite)
    submissions = find_submissions(args.submissions, args.condition, suite, args.manifest)
    target = find_target(args.root, args.version, args.split)
    first = args.submissions[0].resolve()
    name = args.name or (first if first.is_dir() else first.parent).name
    rules = ScoringRules(parse_ranges(args.ranges), args.classes)
    rules.class_range()  # raises for what is no class
    if not rules.official:
        print_line(f"not nuScenes' rules, so no official numbers: {rules.text}")
    with hide_progress(args.quiet):
        score_submissions(submissions, target, name, suite, args.out, rules)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    summary, _, text = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="aqr-bench score", description=f"{summary.partition(':')[0]}. {text}")
    parser.add_argument(
        "submissions",
        nargs="+",
        type=Path,
        metavar="SUBMISSION",
        help="nuScenes submission (.json), or a folder",
    )
    parser.add_argument("--root", required=True, type=Path, help="data set, with the tables in ROOT/VERSION")
    parser.add_argument("--version", help="v1.0-trainval or v1.0-mini (default: the one in ROOT)")
    parser.add_argument("--split", help="default: val, mini_val, or the split of splits.json whose name ends in val")
    parser.add_argument("--condition", metavar="NAME", help="condition of one submission (default: its file's name)")
    parser.add_argument(
        "--manifest", type=Path, metavar="DIR", help="what 'corruptions write' wrote: a condition, or one for each file"
    )
    parser.add_argument("--suite", help="condition suite, file or name, that has the conditions")
    parser.add_argument("--name", metavar="MODEL", help="name of the model (default: the folder of the submissions)")
    parser.add_argument(
        "--classes",
        choices=["all", "present"],
        default="all",
        help="the mean is over nuScenes' ten classes, or over those that the split has objects of",
    )
    parser.add_argument(
        "--ranges",
        nargs="+",
        action="extend",
        default=[],
        metavar="CLASS=METRES",
        help="other ranges than nuScenes' for some classes",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="RECORDS", help="record file to write (.jsonl)")
    add_quiet_option(parser)
    args = parser.parse_args(argv)
    if args.out.suffix != ".jsonl":
        raise UserError(f"--out: '{args.out}' does not end in .jsonl")
    return args
