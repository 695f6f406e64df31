"""What studies will run on a tier, and about how long that takes: counts after twins are shared, times from records."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aqr_bench.records.record import read_records
from aqr_bench.study.hashes import canonical_json
from aqr_bench.study.runs import base_runs
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Study, Suite, Tier

# What times are known by: the start of an evaluation, the world, and per unit of work (iteration, condition, variant).
KINDS = ("start_s", "world_s", "pretrain_s", "base_s", "variant_s", "evaluate_s", "measure_s")


@dataclass(frozen=True)
class Work:
    """Jobs of one sort that can run side by side.

    Args:
        what: name for people.
        kind: which of KINDS tells how long a unit takes.
        units: of each job that has to be worked through: iterations, conditions; 0 for hardly any work, None where it
            is not known before the data set is (a training by epochs).
        jobs: all jobs, with those that take over the result of a twin.
        alone: one at a time, with the machine to itself.
        processes: of each job (torchrun); it takes the place of so many others.
    """

    what: str
    kind: str
    units: tuple[int | None, ...]
    jobs: int
    alone: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Times:
    """Seconds by KINDS (those that are known), and where they come from."""

    seconds: Mapping[str, float]
    source: str


def plan(tier: Tier, studies: Sequence[Study], suites: Iterable[Suite] = ()) -> list[Work]:
    """Everything from world to report, in the order of the workflow.

    ``suites``: further ones, as with ``aqr-bench run --suites``. Trainings of one config, schedule and seed, in
    whatever studies, are worked through once, and so are their evaluations.
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
        Work("world", "world_s", world, len(world), alone=True),
        Work("pretrainings", "pretrain_s", branches, len(branches), processes=processes),
        Work("base trainings", "base_s", (tier.base.iterations,) * len(bases), len(bases), processes=processes),
        Work("variant trainings", "variant_s", tuple(trainings.values()), runs, processes=processes),
        Work("evaluations", "evaluate_s", (*evaluations.values(), *base_units), judged + len(base_units)),
        Work("measurements", "measure_s", (1,) * measured, measured, alone=True),
    ]


def workflow_jobs(works: Sequence[Work]) -> int:
    """Jobs of the whole workflow: with the information files, the report and, where a model is trained, pictures."""
    trained = any(work.jobs for work in works if work.what.endswith("trainings"))
    return sum(work.jobs for work in works) + 2 + trained


def known_times(tier: Tier, results: Path) -> Times | None:
    """Medians over the tier's records below ``results``; the rest as the tier assumes. None: nothing is known."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    files = sorted((results / tier.name).rglob("*.jsonl"))
    for record in (r for file in files for r in read_records(file)):
        wall = record.cost.get("wall_s")
        if not record.ok or wall is None or "same_as" in record.extra:
            continue
        if record.kind == "train":
            branch = "pretrain_s" if "pretrain" in record.extra else "variant_s" if record.study else "base_s"
            iterations = record.cost.get("iterations")
            if iterations:
                found[branch].append(wall / iterations)
        else:
            found[f"{record.kind}_s"].append(wall)
    own = {kind: statistics.median(values) for kind, values in found.items() if values}
    assumed = {kind: float(tier.costs[kind]) for kind in KINDS if kind in tier.costs and kind not in own}
    if not own and not assumed:
        return None
    sources = []
    if own:
        counted = sum(len(values) for values in found.values())
        sources.append(f"{counted} records in {results / tier.name}")
    if assumed:
        what = "" if not own else " for " + ", ".join(kind.removesuffix("_s") for kind in assumed)
        sources.append(f"defaults of tier {tier.name}{what} ({tier.costs['measured_on']})")
    return Times({**assumed, **own}, "; ".join(sources))


def seconds(work: Work, times: Times) -> list[float] | None:
    """Estimated seconds of each job that works something through; None if unknown."""
    if not work.units:
        return []
    if work.kind not in times.seconds or None in work.units:
        return None
    # Every other record's wall time holds its own start; that of an evaluation is of a condition alone.
    start = times.seconds.get("start_s", 0.0) if work.kind == "evaluate_s" else 0.0
    return [start + units * times.seconds[work.kind] for units in work.units]


def wall_seconds(works: Sequence[Work], times: Times, side_by_side: int) -> tuple[float, list[str]]:
    """Estimated wall time, sort after sort with ``side_by_side`` processes at once, and what is left out as unknown."""
    total, unknown = 0.0, []
    for work in works:
        each = seconds(work, times)
        if each is None:
            unknown.append(work.what)
        elif each:
            lanes = max(1, side_by_side // work.processes)
            total += sum(each) if work.alone else max(max(each), sum(each) / lanes)
    return total, unknown
