"""The jobs that studies need on a tier and about how long they take: reused results count once, times from records."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench.console import counted, duration
from aqr_bench.records.record import read_records
from aqr_bench.study.hashes import canonical_json
from aqr_bench.study.requirements import FEATURES_BYTES, disk_needed
from aqr_bench.study.runs import base_runs
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Study, Suite, Tier

# What times are known of: the start of an evaluation, the world, and by unit (iteration, condition, variant).
KINDS = ("start_s", "world_s", "pretrain_s", "base_s", "variant_s", "evaluate_s", "measure_s")


@dataclass(frozen=True)
class JobGroup:
    """Jobs of one rule of the workflow, which can run in parallel.

    Args:
        name: human-readable.
        rule: of the workflow.
        kind: which of KINDS is the time of a unit.
        counts: units of each job that computes its result: iterations, conditions. 0: hardly any work; None: not known
            before the data set is (a training by epochs).
        jobs: all jobs, with those that reuse the result of another.
        exclusive: one at a time, nothing runs beside it.
        processes: of each job (torchrun).
    """

    name: str
    rule: str
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


def job_groups(tier: Tier, studies: Sequence[Study], suites: Iterable[Suite] = ()) -> list[JobGroup]:
    """Everything from world to report, in the order of the workflow.

    ``suites``: further ones, as with ``aqr-bench run --suites``. Trainings of one config, schedule and seed, in
    whatever studies, are computed once, and so are their evaluations.
    """
    further = tuple(suites)
    bases = base_runs(tier, studies)
    trainings: dict[str, int | None] = {}
    evaluations: dict[str, int] = {}
    training_jobs = evaluation_jobs = 0
    needs_branches = bool(bases) and tier.base.init == "features"
    for study in studies:
        study_suites = {suite.name: suite for suite in (study.suite, *further)}.values()
        for variant in study.variants if study.seeds else ():
            schedule = variant_schedule(tier, study, variant)
            needs_branches |= schedule.init == "features"
            for seed in study.seeds:
                key = canonical_json(
                    [schedule.config, schedule.iterations, schedule.epochs, schedule.model, schedule.init, seed]
                )
                trainings[key] = schedule.iterations
                evaluations |= {f"{suite.name} {key}": len(suite.conditions) for suite in study_suites}
                training_jobs, evaluation_jobs = training_jobs + 1, evaluation_jobs + len(study_suites)
    base_counts = tuple({study.suite.name: len(study.suite.conditions) for study in studies}.values()) * len(bases)
    measured = sum(len(study.variants) for study in studies)
    branches = tuple(p.iterations for p in tier.pretrain.values()) if needs_branches else ()
    world = (1,) if tier.kind == "synthetic" else ()
    trained, evaluated = tuple(trainings.values()), (*evaluations.values(), *base_counts)
    base_iterations = (tier.base.iterations,) * len(bases)
    processes = tier.launcher.processes
    return [
        JobGroup("world", "world", "world_s", world, len(world), exclusive=True),
        JobGroup("pretrainings", "pretrain", "pretrain_s", branches, len(branches), processes=processes),
        JobGroup("base trainings", "train_base", "base_s", base_iterations, len(bases), processes=processes),
        JobGroup("variant trainings", "train_variant", "variant_s", trained, training_jobs, processes=processes),
        JobGroup("evaluations", "evaluate", "evaluate_s", evaluated, evaluation_jobs + len(base_counts)),
        JobGroup("measurements", "measure", "measure_s", (1,) * measured, measured, exclusive=True),
    ]


def workflow_jobs(groups: Sequence[JobGroup]) -> int:
    """Jobs of the workflow: with the info files, the report and, where a model is trained, pictures."""
    trained = any(group.jobs for group in groups if group.kind in ("pretrain_s", "base_s", "variant_s"))
    return sum(group.jobs for group in groups) + 2 + trained


def known_times(tier: Tier, results: Path) -> JobTimes | None:
    """Medians over the tier's records below ``results``; the rest as the tier assumes. None: nothing is known."""
    recorded: dict[str, list[float]] = {kind: [] for kind in KINDS}
    files = sorted((results / tier.name).rglob("*.jsonl"))
    for record in (r for file in files for r in read_records(file)):
        wall_s = record.cost.get("wall_s")
        if not record.ok or wall_s is None or "same_as" in record.extra:
            continue
        if record.kind == "train":
            kind = "pretrain_s" if "pretrain" in record.extra else "variant_s" if record.study else "base_s"
            iterations = record.cost.get("iterations")
            if iterations:
                recorded[kind].append(wall_s / iterations)
        else:
            recorded[f"{record.kind}_s"].append(wall_s)
    medians = {kind: statistics.median(values) for kind, values in recorded.items() if values}
    assumed = {kind: float(tier.costs[kind]) for kind in KINDS if kind in tier.costs and kind not in medians}
    if not medians and not assumed:
        return None
    sources = []
    if medians:
        sources.append(f"{sum(map(len, recorded.values()))} records in {results / tier.name}")
    if assumed:
        what = "" if not medians else " for " + ", ".join(kind.removesuffix("_s") for kind in assumed)
        sources.append(f"defaults of tier {tier.name}{what} ({tier.costs['measured_on']})")
    return JobTimes({**assumed, **medians}, "; ".join(sources))


def job_seconds(group: JobGroup, times: JobTimes) -> list[float] | None:
    """Estimated seconds of each job that computes its result; None if unknown."""
    if not group.counts:
        return []
    if group.kind not in times.seconds or None in group.counts:
        return None
    # Every other record's wall time includes its own start; that of an evaluation is of a condition alone.
    start = times.seconds.get("start_s", 0.0) if group.kind == "evaluate_s" else 0.0
    return [start + count * times.seconds[group.kind] for count in group.counts]


def wall_seconds(groups: Sequence[JobGroup], times: JobTimes, processes: int) -> tuple[float, list[str]]:
    """Estimated wall time, group after group with ``processes`` in parallel, and the names of groups left out."""
    total, unknown = 0.0, []
    for group in groups:
        each = job_seconds(group, times)
        if each is None:
            unknown.append(group.name)
        elif each:
            parallel_jobs = max(1, processes // group.processes)
            total += sum(each) if group.exclusive else max(max(each), sum(each) / parallel_jobs)
    return total, unknown


# ---------------------------------------------------------------- for a terminal and for programs


def cost_facts(
    tier: Tier, studies: Sequence[Study], suites: Sequence[Suite], cores: int | None, records: Path
) -> dict[str, Any]:
    """Counts, time and disk of a run from nothing. UserError: a study that the tier cannot run.

    ``suites``: further ones. ``cores``: None: those of this machine. ``records``: results folder that tells the times.
    """
    groups = job_groups(tier, studies, suites)
    times = known_times(tier, records)
    cores = cores or os.cpu_count() or 1
    total, unknown = wall_seconds(groups, times, max(1, cores // tier.threads)) if times else (None, [])
    features = FEATURES_BYTES if tier.cache_features else 0
    return {
        **dict(tier=tier.name, studies=[study.name for study in studies], jobs=workflow_jobs(groups)),
        "steps": [_step_facts(group, times) for group in groups if group.jobs],
        **dict(cores=cores, seconds=total, seconds_without=unknown, records=records),
        "times_from": None if times is None else times.source,
        "bytes": disk_needed(tier, studies) + features,
    }


def _step_facts(group: JobGroup, times: JobTimes | None) -> dict[str, Any]:
    """``units``: iterations or conditions of all jobs, None where they are counted by epochs; seconds None: unknown."""
    unit = {"world_s": None, "measure_s": None, "evaluate_s": "condition"}.get(group.kind, "iteration")
    each = job_seconds(group, times) if times else None
    return {
        **dict(name=group.name, jobs=group.jobs, reused=group.jobs - len(group.counts), unit=unit),
        "units": None if unit is None or None in group.counts else sum(group.counts),
        "core_seconds": None if each is None else sum(each) * (1 if group.exclusive else group.processes),
        "exclusive": group.exclusive,
    }


def cost_lines(facts: Mapping[str, Any]) -> list[str]:
    """``cost_facts`` to be read."""

    def line(step: Mapping[str, Any]) -> str:
        amount = ""
        if step["unit"]:
            amount = ", by epochs" if step["units"] is None else f", {counted(step['units'], step['unit'])}"
        where = "alone on the machine" if step["exclusive"] else "of one core"
        seconds = step["core_seconds"]
        took = "time unknown"
        if seconds is not None:
            took = f"{duration(seconds)}{',' if step['exclusive'] else ''} {where}"
        shared = f" ({step['reused']} of them reuse the result of another)" if step["reused"] else ""
        return f"  {step['name']}: {step['jobs']}{shared}{amount}; {took}"

    studies, tier = facts["studies"], facts["tier"]
    lines = [f"tier {tier}, {counted(len(studies), 'study')}: {', '.join(studies)}", *map(line, facts["steps"])]
    lines.append(f"  jobs of the workflow: {facts['jobs']}")
    if facts["times_from"] is None:
        lines.append(f"time: unknown; tier {tier} has no records in {facts['records']} and assumes no costs")
    else:
        gap = f", without {', '.join(facts['seconds_without'])}" if facts["seconds_without"] else ""
        cores = counted(facts["cores"], "core")
        lines.append(f"time: about {duration(facts['seconds'])} on {cores}{gap}, from {facts['times_from']}")
    lines.append(f"disk: at most {facts['bytes'] / 1e9:.1f} GB")
    return [*lines, "This counts a run from nothing; `aqr-bench run --dry-run` reports what is left to do."]
