"""Tables, figures and the page from records.

aqr-bench report --tier quick --study bias_site --records results --out results/quick/report
aqr-bench report --records scores/cmt.jsonl scores/mome.jsonl --out scores/report
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from aqr_bench.atomic import write_text
from aqr_bench.console import positive_int
from aqr_bench.errors import UserError, raise_if_disk_error, run_main
from aqr_bench.folders import project_folder
from aqr_bench.records.freshness import page_identity, page_records
from aqr_bench.study.layout import RESULTS, RunLayout
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.plan import unique, with_variants
from aqr_bench.study.runs import limit_seeds


def main(argv: list[str] | None = None) -> int:
    """Build the report; 0 also where runs failed or are missing, which the page lists. Raises UserError."""
    parser = argparse.ArgumentParser(prog="aqr-bench report", description="Report on one or more studies.")
    parser.add_argument("--tier", help="name or file of the tier")
    parser.add_argument("--study", nargs="+", action="extend", help="names or files (default: the tier's)")
    parser.add_argument(
        "--records",
        "--results",
        dest="records",
        type=Path,
        nargs="+",
        action="extend",
        help="results folder, with a folder per tier in it (default: results/ of the project folder); without --tier: "
        "record files of models, which are compared with the first",
    )
    parser.add_argument(
        "--out", type=Path, help="folder of index.html, tables and figures (default: report/ of the tier's results)"
    )
    parser.add_argument("--seeds", type=positive_int, help="number of seeds of every study (default: that of the tier)")
    parser.add_argument("--variants", nargs="+", action="extend", metavar="VARIANT", help="these, and each baseline")
    args = parser.parse_args(argv)
    if not args.tier and not args.study and args.records and args.out:
        from aqr_bench.report.models import build_models_report

        print(f"report: {build_models_report(args.records, args.out).resolve()}")
        return 0
    if not args.tier or len(args.records or ()) > 1:
        raise UserError("report needs --tier and one results folder, or --records with files of models, and --out")
    (records,) = args.records or [project_folder() / RESULTS]
    tier = load_tier(args.tier)
    studies = unique("study", [limit_seeds(load_study(name), tier, args.seeds) for name in args.study or tier.studies])
    studies = with_variants(studies, args.variants) if args.variants else studies
    if not records.is_dir():
        raise UserError(f"--records: no folder '{records}'. Run a study first, or name its results folder.")
    layout = RunLayout(tier.name, records)
    out = args.out or layout.report
    # Drawing libraries take seconds to import: only once the arguments are known to be good.
    from aqr_bench.report.page import build_report
    from aqr_bench.report.stale import find_stale
    from aqr_bench.report.tables.speed import speed_section

    try:
        page = build_report(tier, studies, records, out, [speed_section])
    except OSError as error:
        raise_if_disk_error(error, out)
        raise
    stale = find_stale(records, tier, studies).lines()
    for line in stale:
        print(line)
    note = {"identity": page_identity(layout.root, studies, stale), "studies": [study.name for study in studies]}
    note["records"] = page_records(layout.root, studies)
    write_text(out / layout.page_note.name, json.dumps(note))
    print(f"report: {page.resolve()}")
    return 0


if __name__ == "__main__":
    run_main(main)
