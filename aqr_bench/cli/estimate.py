"""Jobs of studies on a tier, and estimates of their time: equal runs count once, times are from records."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aqr_bench.records.provenance import canonical_json
from aqr_bench.records.record import read_records
from aqr_bench.study.runs import base_runs
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Study, Suite, Tier

# Estimated times: start of an evaluation, world, and time per unit (iteration, condition, variant).
KINDS = ("start_s", "world_s", "pretrain_s", "base_s", "variant_s", "evaluate_s", "measure_s")


@dataclass(frozen=True)
class JobGroup:
    """Jobs of one kind that can run in parallel.

    Args:
        what: name.
        kind: which of KINDS is the time of a unit.
        counts: units of each job that has to run (iterations, conditions); None where that depends on the data set
            (a training by epochs).
        jobs: all jobs, with those that reuse the result of an equal one.
        exclusive: one at a time, with no other job.
        processes: of each job (torchrun), which replaces as many other jobs.
    """

    what: str
    kind: str
    counts: tuple[int | None, ...]
    jobs: int
    exclusive: bool = False
    processes: int = 1


@dataclass(frozen=True)
class JobTimes:
    """Seconds by KINDS (where known), and their source."""

    seconds: Mapping[str, float]
    source: str


def plan(tier: Tier, studies: Sequence[Study], suites: Iterable[Suite] = ()) -> list[JobGroup]:
    """Everything from world to report, in the order of the workflow.

    ``suites``: further ones, as with ``aqr-bench run --suites``. Trainings of one config, schedule and seed, in
    any studies, run once, and so do their evaluations.
    """
    further = tuple(suites)
    bases = base_runs(tier, studies)
    trainings: dict[str, int | None] = {}
    evaluations: dict[str, int] = {}
    runs = judged = 0
    needs_branches = bool(bases) and tier.base.init == "features"
    for study in studies:
        asked = {suite.name: suite for suite in (study.suite, *further)}.values()
        for variant in study.variants if study.seeds else ():
            schedule = variant_schedule(tier, study, variant)
            needs_branches |= schedule.init == "features"
            for seed in study.seeds:
                key = canonical_json(
                    [schedule.config, schedule.iterations, schedule.epochs, schedule.model, schedule.init, seed]
                )
                trainings[key] = schedule.iterations
                evaluations |= {f"{suite.name} {key}": len(suite.conditions) for suite in asked}
                runs, judged = runs + 1, judged + len(asked)
    own_suites = {study.suite.name: len(study.suite.conditions) for study in studies}
    base_units = tuple(own_suites.values()) * len(bases)
    measured = sum(len(study.variants) for study in studies)
    branches = tuple(p.iterations for p in tier.pretrain.values()) if needs_branches else ()
    world = (1,) if tier.kind == "synthetic" else ()
    processes = tier.launcher.processes
    return [
        JobGroup("world", "world_s", world, len(world), exclusive=True),
        JobGroup("pretrainings", "pretrain_s", branches, len(branches), processes=processes),
        JobGroup("base trainings", "base_s", (tier.base.iterations,) * len(bases), len(bases), processes=processes),
        JobGroup("variant trainings", "variant_s", tuple(trainings.values()), runs, processes=processes),
        JobGroup("evaluations", "evaluate_s", (*evaluations.values(), *base_units), judged + len(base_units)),
        JobGroup("measurements", "measure_s", (1,) * measured, measured, exclusive=True),
    ]


def workflow_jobs(groups: Sequence[JobGroup]) -> int:
    """Jobs of the whole workflow: with the info files, the report and, where a model is trained, pictures."""
    trained = any(group.jobs for group in groups if group.what.endswith("trainings"))
    return sum(group.jobs for group in groups) + 2 + trained


def known_times(tier: Tier, results: Path) -> JobTimes | None:
    """Medians over the tier's records below ``results``; the rest as the tier assumes. None: neither."""
    walls: dict[str, list[float]] = {kind: [] for kind in KINDS}
    files = sorted((results / tier.name).rglob("*.jsonl"))
    for record in (r for file in files for r in read_records(file)):
        wall = record.cost.get("wall_s")
        if not record.ok or wall is None or "same_as" in record.extra:
            continue
        if record.kind == "train":
            branch = "pretrain_s" if "pretrain" in record.extra else "variant_s" if record.study else "base_s"
            iterations = record.cost.get("iterations")
            if iterations:
                walls[branch].append(wall / iterations)
        else:
            walls[f"{record.kind}_s"].append(wall)
    measured = {kind: statistics.median(values) for kind, values in walls.items() if values}
    assumed = {kind: float(tier.costs[kind]) for kind in KINDS if kind in tier.costs and kind not in measured}
    if not measured and not assumed:
        return None
    sources = []
    if measured:
        counted = sum(len(values) for values in walls.values())
        sources.append(f"{counted} records in {results / tier.name}")
    if assumed:
        what = "" if not measured else " for " + ", ".join(kind.removesuffix("_s") for kind in assumed)
        sources.append(f"defaults of tier {tier.name}{what} ({tier.costs['measured_on']})")
    return JobTimes({**assumed, **measured}, "; ".join(sources))


def seconds(group: JobGroup, times: JobTimes) -> list[float] | None:
    """Estimated seconds of each job that has to run; None if unknown."""
    if not group.counts:
        return []
    if group.kind not in times.seconds or None in group.counts:
        return None
    # Wall times of records include the start, but those of evaluations, which are per condition.
    start = times.seconds.get("start_s", 0.0) if group.kind == "evaluate_s" else 0.0
    return [start + count * times.seconds[group.kind] for count in group.counts]


def wall_seconds(groups: Sequence[JobGroup], times: JobTimes, max_parallel: int) -> tuple[float, list[str]]:
    """Estimated wall time, group after group with ``max_parallel`` processes at once, and groups of unknown time."""
    total, unknown = 0.0, []
    for group in groups:
        each = seconds(group, times)
        if each is None:
            unknown.append(group.what)
        elif each:
            parallel_jobs = max(1, max_parallel // group.processes)
            total += sum(each) if group.exclusive else max(max(each), sum(each) / parallel_jobs)
    return total, unknown
