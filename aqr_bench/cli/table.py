"""The table of a paper from bare records, without tier or study: models by corruptions, RA, RRA, mCE, classes.

aqr-bench table results/checkpoint/evaluate.jsonl --suite multicorrupt
aqr-bench table ours=a.jsonl theirs=b.jsonl --suite multicorrupt --format latex --out tables --excel table.xlsx
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from aqr_bench.console import print_warning
from aqr_bench.errors import UserError, nearest, run_main
from aqr_bench.report.collect import mixtures
from aqr_bench.report.loose_records import read_evaluations
from aqr_bench.report.robustness_scores import METRICS
from aqr_bench.report.rows import MetricChoices, require_metric
from aqr_bench.report.tables.paper import class_table, paper_table, write_workbook
from aqr_bench.report.tables.robustness import corruptions_table, missing_table, summary_table
from aqr_bench.study.load import load_suite


def main(argv: list[str] | None = None) -> int:
    """Print the table, and write it with those behind it. UserError: no such records, model or baseline."""
    args = _arguments(argv)
    if args.excel and find_spec("openpyxl") is None:
        raise UserError("--excel needs openpyxl, which is not installed", "Install it: pip install openpyxl.")
    loose = read_evaluations(args.records, load_suite(args.suite), args.models or ())
    baseline = args.baseline or (loose.models[0] if len(loose.models) > 1 else None)
    if baseline is not None and baseline not in loose.models:
        raise UserError(f"--baseline: no model '{baseline}'{nearest(baseline, loose.models)}")
    for line in (*loose.warnings, *mixtures(loose.records)):
        print_warning(line)
    require_metric(loose.records, args.metric)
    paper = paper_table(loose, args.metric, baseline)
    scores = loose.robustness(baseline)
    tables = [paper, summary_table(scores), corruptions_table(scores), class_table(loose)]
    if len(scores.missing):
        tables.append(missing_table(scores))
    if args.format == "markdown":
        print("\n".join(table.markdown() for table in tables[:2]))
    else:
        print(paper.latex() if args.format == "latex" else paper.csv(), end="")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        for table in tables:
            table.write(args.out)
    if args.excel:
        args.excel.parent.mkdir(parents=True, exist_ok=True)
        write_workbook(str(args.excel), tables)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="aqr-bench table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", nargs="+", help="record files or folders of them; NAME=PATH names the model in it")
    parser.add_argument("--suite", required=True, help="condition suite, file or name")
    parser.add_argument(
        "--models", nargs="+", action="extend", metavar="MODEL", help="those to show, in this order (default: all)"
    )
    parser.add_argument("--baseline", help="what RRA, mCE and marks are relative to (default: the first of several)")
    parser.add_argument(
        "--metric", default="NDS", choices=MetricChoices(METRICS), metavar="METRIC",
        help="of the table that is printed: mAP, NDS, or custom.NAME of a custom metric (default: NDS)",
    )  # fmt: skip
    parser.add_argument("--format", default="markdown", choices=["markdown", "latex", "csv"], help="what is printed")
    parser.add_argument("--out", type=Path, help="folder for all tables, each as .md, .tex and .csv")
    parser.add_argument("--excel", type=Path, metavar="FILE", help="all tables in one spreadsheet (.xlsx)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
