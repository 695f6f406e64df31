"""Write a synthetic world as a nuScenes root.

aqr-bench world --tier ablations/tiers/quick.yaml --out results/quick/world
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from aqr_bench.console import add_quiet_option, non_negative_int
from aqr_bench.errors import report_error
from aqr_bench.study.load import tier_path
from aqr_bench.world.spec import read_tier


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after a user's mistake (reported in one line on stderr)."""
    parser = argparse.ArgumentParser(prog="aqr-bench world", description="Write a synthetic nuScenes root.")
    parser.add_argument("--tier", required=True, help="name or file of a tier with a 'world' mapping")
    parser.add_argument("--out", required=True, help="folder to write; replaced if it holds another synthetic world")
    parser.add_argument("--workers", type=non_negative_int, default=0, help="processes (default: one per usable core)")
    add_quiet_option(parser)
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the workers: many small arrays, one thread each
    try:
        spec = read_tier(tier_path(args.tier))
        from aqr_bench.world.write import write_world  # late: a bad tier file is reported without waiting for OpenCV

        write_world(spec, args.out, args.workers or len(os.sched_getaffinity(0)), args.quiet)
    except Exception as error:
        return report_error(error, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
