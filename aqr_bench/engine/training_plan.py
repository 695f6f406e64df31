"""One training as it is asked for: what it starts from, what its result depends on, and its config."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aqr_bench.data.dataset import DataSet, load_data, require_train_split
from aqr_bench.engine.config import build_config, database_files, hashable, schedule_for
from aqr_bench.engine.config_facts import detection_classes
from aqr_bench.engine.initial_weights import initial_checkpoint, load_initial_weights
from aqr_bench.engine.weights import trained_checkpoint
from aqr_bench.errors import UserError
from aqr_bench.records.job import Job
from aqr_bench.records.record import read_records
from aqr_bench.records.request import Request, training_request
from aqr_bench.records.store import separate_work
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.settings import initial_file
from aqr_bench.study.spec import Run, Schedule, Study, Tier


@dataclass(frozen=True)
class TrainingPlan:
    """One training as it is asked for.

    Args:
        start_records: those of the trainings whose weights it starts from.
        config: see ``with_config``; None where the training is not started.
    """

    run: Run
    tier: Tier
    study: Study | None
    data: DataSet
    schedule: Schedule
    start_records: tuple[str, ...]
    work_root: Path
    config: Any = None

    @property
    def work(self) -> Path:
        return self.work_root / self.run.subfolder

    @property
    def model(self) -> str:
        return self.schedule.model or self.tier.model

    @property
    def only_takes_weights(self) -> bool:
        return self.run.pretrain is None and self.schedule.iterations == 0


@dataclass(frozen=True)
class Start:
    """The weights that a training starts from, later checkpoints first in force, and what its record tells of them."""

    job: Job
    files: Mapping[str, Path]
    checkpoints: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def plan_training(args: argparse.Namespace) -> TrainingPlan:
    """Load what the arguments name. UserError: options that do not go together, a start that is not given."""
    tier = load_tier(args.tier)
    study = load_study(args.study) if args.study else None
    if (args.study is None) != (args.variant is None):
        raise UserError("--study and --variant go together")
    if args.pretrain and (args.study or args.base or args.features):
        raise UserError("--pretrain trains a branch from scratch: it goes without --study, --base and --features")
    data, work_root = load_data(args.infos), Path(args.work)
    run = Run(tier.name, study and study.name, args.variant, args.seed, args.pretrain)
    schedule = schedule_for(tier, study, args.variant, args.pretrain)
    records = {"base": [args.base] if args.base else [], "features": args.features}
    if records.get(schedule.init) == []:
        what = "the base model" if schedule.init == "base" else "the pretrained branches"
        raise UserError(f"this training starts from {what} (tier '{tier.name}'): give --{schedule.init} TRAIN_RECORD")
    plan = TrainingPlan(run, tier, study, data, schedule, tuple(records.get(schedule.init, ())), work_root)
    if not plan.only_takes_weights:
        require_train_split(data)
    return plan


def with_config(plan: TrainingPlan) -> TrainingPlan:
    """The plan with its mmengine config, which imports mmdet3d."""
    run = plan.run
    config = build_config(plan.tier, plan.data, run.seed, plan.work, plan.study, run.variant, run.pretrain)
    return replace(plan, config=config)


def job_of(plan: TrainingPlan, processes: int) -> Job:
    """What the result of the training depends on, but for the files that it starts from."""
    config, databases = None, []
    if plan.config is not None:
        config = {**hashable(plan.config), **({"processes": processes} if processes > 1 else {})}
        databases = [path for path in database_files(plan.config) if path.is_file()]
    return Job(
        "train",
        config,
        plan.data.sha256,
        plan.data.infos_sha256,
        inputs=tuple(map(sha256_file, databases)),
        model=plan.model,
    )


def request_of(plan: TrainingPlan) -> Request:
    """What the record is asked to be, as the workflow computes it before anything runs."""
    starts = [read_records(path)[0].provenance.get("checkpoint_sha256") for path in plan.start_records]
    file = initial_file(plan.schedule)
    if file is not None:
        starts = [sha256_file(file) if file.is_file() else None]
    run = plan.run
    return training_request(plan.tier, plan.study, run.variant, run.pretrain, plan.data.infos_sha256, starts)


def resolve_start(plan: TrainingPlan, start: Start) -> Start:
    """Find and check the checkpoints to start from, and make the work folder ready for this very job.

    Raises:
        RuntimeError: an earlier training failed, or its checkpoint or the published file is not there or damaged.
    """
    checkpoints = [trained_checkpoint(path) for path in plan.start_records]
    file = initial_checkpoint(plan.tier, plan.schedule)
    inputs = [*checkpoints, file] if file else checkpoints
    job = replace(start.job, inputs=(*start.job.inputs, *map(sha256_file, inputs)))
    files = {**start.files, **{f"start {n}": path for n, path in enumerate(inputs, 1)}}
    separate_work(plan.work_root, plan.work, job.identity)
    if file is None:
        return Start(job, files, tuple(checkpoints))
    classes = detection_classes(plan.config)
    converted, facts = load_initial_weights(file, plan.schedule, plan.model, plan.work, classes)
    return Start(job, files, (converted,), {"start": facts, "trained": plan.schedule.iterations != 0})
