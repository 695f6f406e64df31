"""Measure the cost of a variant: aqr-bench measure --tier T --study S --variant V [--infos DIR] [--out REC].

In a fresh process, peak memory is measured first, then FLOPs, stages and throughput, with no other model loaded; at
last the variant and the study's baseline run alternately on the same samples, so that their ratio does not depend on
other load. The same for a training step. Prints a table; --out writes the record. See docs/cost.md.
"""

from __future__ import annotations

import argparse
import time
import traceback

from aqr_bench.console import add_quiet_option, hide_progress
from aqr_bench.cost.measurement import PARTS, check_parts, measure, status_of_measurement
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.config import build_config, files_of, hashable
from aqr_bench.engine.job import cost_since, one_line
from aqr_bench.errors import raise_if_disk_error, run_main
from aqr_bench.records.job import Job
from aqr_bench.records.provenance import provenance, utc_now
from aqr_bench.records.record import Record, status_of, write_records
from aqr_bench.records.request import measurement_request
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.schedule import model_of


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the record to --out; 0 also if the measurement failed, which the record reports."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tier", required=True)
    parser.add_argument("--study", required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--infos", help="folder that `aqr-bench data` wrote (default: results/TIER/infos)")
    parser.add_argument("--out", help="record file (.jsonl)")
    parser.add_argument("--parts", nargs="+", action="extend", metavar="PART", help=f"only these of {', '.join(PARTS)}")
    add_quiet_option(parser)
    args = parser.parse_args(argv)
    tier, study, parts = load_tier(args.tier), load_study(args.study), check_parts(args.parts or PARTS)
    data = load_data(args.infos or RunLayout(tier.name).infos)
    config = build_config(tier, data, 0, "", study, args.variant)
    model = model_of(tier, study, args.variant)
    request = measurement_request(tier, study, args.variant, data.infos_sha256)
    started, clock = utc_now(), (time.perf_counter(), time.process_time())
    try:
        with hide_progress(args.quiet):
            facts = measure(tier, study, args.variant, data, parts)
        status, reason = status_of_measurement(facts)
    except Exception as error:
        raise_if_disk_error(error)
        traceback.print_exc()
        facts, status, reason = {}, status_of(error), one_line(error)
    record = Record(
        kind="measure",
        status=status,
        reason=reason,
        tier=tier.name,
        study=study.name,
        variant=args.variant,
        cost={**cost_since(clock), **facts},
        provenance=provenance(
            Job("measure", hashable(config), data.sha256, data.infos_sha256, request.settings, model=model),
            request=request,
            started=started,
            files=files_of(tier, study),
            reason=reason,
        ),
    )
    if args.out:
        write_records(args.out, [record])
    from aqr_bench.cost.table import table

    print(table(record))
    return 0


if __name__ == "__main__":
    run_main(main)
