"""The gate before any study: do fixed biases on the trained base models move anything? aqr-bench gate --tier quick

Runs the study ``fixed_bias`` (no training: the base models as they are) and says whether some bias moves mAP under a
missing sensor by more than two standard deviations over seeds. If none does, no trained router can: change the base.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aqr_bench.console import positive_int
from aqr_bench.errors import UserError, run_main
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.runs import limit_seeds

STUDY = "fixed_bias"


def main(argv: list[str] | None = None) -> int:
    """Run what is missing and print the verdict. 0: passed, 1: not passed or not run to the end."""
    parser = argparse.ArgumentParser(prog="aqr-bench gate", description=__doc__)
    parser.add_argument("--tier", default="quick", help="name or file of a tier (default: quick)")
    parser.add_argument("--study", default=STUDY, help=f"a study with 'gate: true' (default: {STUDY})")
    parser.add_argument("--seeds", type=positive_int, help="so many of the study's seeds (default: as the tier says)")
    parser.add_argument("--cores", type=positive_int, help="cores to use (default: what the profile says)")
    args = parser.parse_args(argv)
    tier, study = load_tier(args.tier), load_study(args.study)
    if not study.gate:
        raise UserError(f"{study.path}: this study is no gate: it has no 'gate: true'")
    from aqr_bench.cli.run import run_workflow

    if run_workflow(args.tier, [args.study], args.cores, dry_run=False, strict=False, verbose=False, seeds=args.seeds):
        return 1
    from aqr_bench.report.collect import collect_study
    from aqr_bench.report.gate import gate, gate_sentence

    study = limit_seeds(study, tier, args.seeds)
    rows = gate(collect_study(Path("results"), tier, study), study)
    print(gate_sentence(rows, study))
    return 0 if any(row.passed for row in rows) else 1


if __name__ == "__main__":
    run_main(main)
