"""Look at studies before running them.

aqr-bench studies list                            the studies, tiers and condition suites there are
aqr-bench studies check [STUDY ...]               load them, and name the first mistake
aqr-bench studies cost [STUDY ...] [--tier T]     what would be run, about how long it takes, and how much disk
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from aqr_bench.console import duration, positive
from aqr_bench.errors import UserError, run_main
from aqr_bench.study.load import known_studies, known_suites, known_tiers, load_study, load_suite, load_tier
from aqr_bench.study.runs import limit_seeds
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Study, Suite, Tier


def main(argv: list[str] | None = None) -> int:
    """Print what was asked for; UserError for the first mistake in a file."""
    args = _parser().parse_args(argv)
    if args.action == "cost":
        print("\n".join(cost_lines(args.study, args.tier, args.seeds, args.suites, args.cores, Path(args.records))))
        return 0
    studies = [load_study(name) for name in args.study or known_studies()]
    tiers = [] if args.study else [load_tier(name) for name in known_tiers()]
    suites = [] if args.study else [load_suite(name) for name in known_suites()]
    print("\n".join((check_lines if args.action == "check" else list_lines)(studies, tiers, suites)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aqr-bench studies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in ("list", "check"):
        part = actions.add_parser(action, help="see above")
        part.add_argument("study", nargs="*", help="names or files (default: all studies, tiers and suites)")
    cost = actions.add_parser("cost", help="what would be run, about how long it takes, and how much disk")
    cost.add_argument("study", nargs="*", help="names or files (default: all studies that the tier can run)")
    cost.add_argument("--tier", default="quick", help="name or file of a tier (default: quick)")
    cost.add_argument("--seeds", type=positive, help="so many of every study's seeds (default: as the tier says)")
    cost.add_argument("--suites", nargs="+", default=[], metavar="SUITE", help="further condition suites")
    cost.add_argument("--cores", type=positive, help="cores to use (default: those of this machine)")
    cost.add_argument("--records", default="results", help="results folder whose records tell how long things take")
    return parser


def check_lines(studies: Sequence[Study], tiers: Sequence[Tier], suites: Sequence[Suite]) -> list[str]:
    """One line that says what was loaded; a mistake has raised UserError before."""
    return [f"{len(studies)} studies, {len(tiers)} tiers, {len(suites)} condition suites: all well formed"]


def list_lines(studies: Sequence[Study], tiers: Sequence[Tier], suites: Sequence[Suite]) -> list[str]:
    """What there is, for people."""
    lines = []
    for study in studies:
        seeds = "cost only" if study.measure_only else counted(len(study.seeds), "seed")
        lines += [
            f"study {study.name}: {study.question}",
            f"    variants {', '.join(study.variants)}; baseline {study.baseline}; {seeds}; suite {study.suite.name}",
        ]
    lines += [f"tier {tier.name}: {tier.summary}" for tier in tiers]
    return lines + [f"suite {suite.name}: {', '.join(c.name for c in suite.conditions)}" for suite in suites]


def cost_lines(
    names: Sequence[str], tier_name: str, seeds: int | None, suites: Sequence[str], cores: int | None, records: Path
) -> list[str]:
    """Counts, time and disk of a run from nothing. UserError: an unknown name, or a study that the tier cannot run."""
    from aqr_bench.cli.estimate import JobGroup, known_times, plan, seconds, wall_seconds, workflow_jobs
    from aqr_bench.study.requirements import disk_needed

    tier = load_tier(tier_name)
    if names:
        studies = [limit_seeds(load_study(name), tier, seeds) for name in names]
    else:
        known = [study for study in map(load_study, known_studies()) if runnable(tier, study)]
        # Not every study names as many seeds as are asked for; one that is named here has to.
        studies = [limit_seeds(s, tier, min(seeds, len(s.seeds)) if seeds else None) for s in known]
    works = plan(tier, studies, [load_suite(name) for name in suites])
    times = known_times(tier, records)

    def line(work: JobGroup) -> str:
        each = seconds(work, times) if times else None
        if work.kind in ("world_s", "measure_s"):
            amount = ""
        else:
            unit = "condition" if work.kind == "evaluate_s" else "iteration"
            amount = ", by epochs" if None in work.counts else f", {counted(sum(work.counts), unit)}"
        shared = work.jobs - len(work.counts)
        took = "time unknown" if each is None else f"{duration(sum(each) * work.processes)} of one core"
        if each is not None and work.exclusive:
            took = f"{duration(sum(each))}, alone on the machine"
        return (
            f"  {work.what}: {work.jobs}"
            + (f" ({shared} of them taken over from a twin)" if shared else "")
            + f"{amount}; {took}"
        )

    cores = cores or os.cpu_count() or 1
    lines = [f"tier {tier.name}, {counted(len(studies), 'study')}: {', '.join(s.name for s in studies)}"]
    lines += [line(work) for work in works if work.jobs]
    lines.append(f"  jobs of the workflow: {workflow_jobs(works)}")
    if times is None:
        lines.append(f"time: unknown; tier {tier.name} has no records in {records} and assumes no costs")
    else:
        total, unknown = wall_seconds(works, times, max(1, cores // tier.threads))
        gap = f", without {', '.join(unknown)}" if unknown else ""
        lines.append(f"time: about {duration(total)} on {counted(cores, 'core')}{gap}, from {times.source}")
    lines.append(f"disk: at most {disk_needed(tier, studies) / 1e9:.1f} GB")
    return [*lines, "This counts a run from nothing; `aqr-bench run --dry-run` says what is left to do."]


def runnable(tier: Tier, study: Study) -> bool:
    """Whether the tier has all that the study's variants start from; published numbers are of nuScenes alone."""
    if study.published and tier.kind != "nuscenes":
        return False
    try:
        for variant in study.variants:
            variant_schedule(tier, study, variant)
    except UserError:
        return False
    return True


def counted(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``, ``3 studies``."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


if __name__ == "__main__":
    run_main(main)
