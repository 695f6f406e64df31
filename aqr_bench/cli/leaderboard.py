"""Models or variants ranked by one score, as a page and CSV; what the noise cannot tell apart shares a rank.

aqr-bench leaderboard results/quick --suite missing_sensors --out leaderboard
aqr-bench leaderboard a.jsonl b.jsonl --suite multicorrupt --metric NDS --by mRA --published multicorrupt_nds --out DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aqr_bench.atomic import write_text
from aqr_bench.console import counted, print_warning
from aqr_bench.errors import UserError, raise_if_disk_error, run_main
from aqr_bench.metrics.robustness import CLEAN
from aqr_bench.report.collect import mixtures
from aqr_bench.report.loose_records import LooseEvaluations, read_evaluations
from aqr_bench.report.robustness_scores import METRICS
from aqr_bench.report.section import ReportSection
from aqr_bench.report.tables.leaderboard import leaderboard_table, no_score_reasons, published_table
from aqr_bench.study.load import load_suite


def main(argv: list[str] | None = None) -> int:
    """Write page and tables.

    UserError: no such records, model, column or published file; records of other data; a page of others in the folder.
    """
    args = _arguments(argv)
    page_file = args.out / "index.html"
    if page_file.exists() and not any((args.out / "tables").glob("leaderboard_*.csv")):
        raise UserError(f"--out: {page_file} is no leaderboard's", "Name another folder.")
    loose = read_evaluations(args.records, load_suite(args.suite), args.models or ())
    _raise_if_other_data(loose)
    tables = [leaderboard_table(loose, args.metric, args.by)]
    if args.published:
        tables.append(published_table(loose, args.metric, args.by, args.published))
    # The template of the page takes part of a second to import.
    from aqr_bench.report.page import render_sections

    missing = [*loose.warnings, *no_score_reasons(loose)]
    text = f"{counted(len(loose.models), 'model')} under {counted(len(loose.suite.conditions), 'condition')}."
    text = f"{text} Without a score: {'; '.join(missing)}" if missing else text
    section = ReportSection("leaderboard", "Leaderboard", text, tuple(tables))
    try:
        (args.out / "tables").mkdir(parents=True, exist_ok=True)
        for table in tables:
            table.write(args.out / "tables")
        page = render_sections(f"leaderboard, {loose.suite.name}", loose.suite.summary, [section], loose.records)
        write_text(page_file, page)
    except OSError as error:
        raise_if_disk_error(error, args.out)
        raise
    for line in (*missing, *mixtures(loose.records)):
        print_warning(line)
    print(tables[0].markdown())
    print(f"leaderboard: {page_file.resolve()}")
    return 0


def _raise_if_other_data(loose: LooseEvaluations) -> None:
    """UserError where the models were evaluated on different data sets: their scores have no order."""
    by_data: dict[str, str] = {}
    for record in loose.records:
        if record.ok and (data := record.provenance.get("data_sha256")):
            by_data.setdefault(str(data), "/".join(filter(None, (record.tier, record.study, record.variant))))
    if len(by_data) > 1:
        names = "; ".join(f"{model}: {data[:12]}" for data, model in by_data.items())
        raise UserError(
            f"records of {len(by_data)} different data sets cannot be ranked together ({names})",
            "Name only the records of one of them.",
        )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="aqr-bench leaderboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", nargs="+", help="record files or folders of them; NAME=PATH names the model in it")
    parser.add_argument("--suite", required=True, help="condition suite, file or name")
    parser.add_argument("--out", type=Path, required=True, help="folder of index.html and tables")
    parser.add_argument("--models", nargs="+", action="extend", metavar="MODEL", help="those to rank (default: all)")
    parser.add_argument("--metric", default="mAP", choices=METRICS, help="mAP (default) or NDS")
    parser.add_argument(
        "--by", default=CLEAN, metavar="COLUMN", help=f"{CLEAN} (default), a corruption of the suite, or mRA"
    )
    parser.add_argument(
        "--published", nargs="+", action="extend", metavar="NAME", help="files of results/published, shown without rank"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
