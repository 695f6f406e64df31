# What is to be run: the tier and the studies, loaded and checked, and the names of their records.

import functools
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from aqr_bench.errors import UserError
from aqr_bench.cli.gpu_devices import hand_on_listing, limited, show_only, visible_gpus
from aqr_bench.study.requirements import require_gpus, require_inputs
from aqr_bench.study.model_files import own_sources
from aqr_bench.records.code_dependencies import code_hash, code_hash_for
from aqr_bench.records.provenance import config_hash
from aqr_bench.study.load import (
    known_studies,
    known_suites,
    load_study,
    load_suite,
    load_tier,
)
from aqr_bench.study.runs import base_runs, limit_seeds, matrix, pretrain_runs
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.schema import repository_root, schema_error
from aqr_bench.study.spec import Launcher

min_version("9.27")

# Jobs use the interpreter that runs Snakemake, also where its environment is not activated.
shell.prefix(
    f"set -euo pipefail; PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)


def can_run(tier, study):
    """Whether the tier has all that the study's variants start from."""
    try:
        base_runs(tier, [study])
    except UserError:
        return False
    return True


def listed(value):
    """A list from the configuration, which may be written as one string with commas."""
    return (
        [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    )


def load_selection(settings):
    """The tier, the chosen studies, every known study by name, and the further suites; a mistake is one clear line."""
    try:
        problem = schema_error(settings, "config")
        if problem:
            raise UserError(f"--config {problem}")
        tier = load_tier(settings.get("tier", "quick"))
        names = listed(settings.get("studies", tier.studies))
        chosen = [load_study(name) for name in names]
        suites = settings.get("suites", [] if "studies" in settings else tier.suites)
        further = [load_suite(suite) for suite in listed(suites)]
        known = {study.name: study for study in map(load_study, known_studies())}
        chosen = [limit_seeds(study, tier, settings.get("seeds")) for study in chosen]
        base_runs(tier, chosen)  # a study that this tier cannot run is refused here
        known = {name: study for name, study in known.items() if can_run(tier, study)}
        require_inputs(tier, chosen)
    except UserError as err:
        raise WorkflowError(f"error: {err}")
    return tier, chosen, {**known, **{study.name: study for study in chosen}}, further


@functools.cache
def reference(path):
    """How a job names a tier, study or suite: by name if the repository ships it, by path otherwise."""
    shipped = path.resolve().is_relative_to((repository_root() / "ablations").resolve())
    return path.stem if shipped else path.as_posix()


def train_record(run):
    return f"results/{run.folder}/train.jsonl"


def base_records(studies):
    """Trainings and evaluations of the base models that the studies start from."""
    runs = base_runs(TIER, studies)
    suites = sorted({study.suite.name for study in studies if not study.measure_only})
    return [train_record(run) for run in runs] + [
        f"results/{run.folder}/evaluate.{suite}.jsonl"
        for run in runs
        for suite in suites
    ]


def study_records(study):
    """Trainings, evaluations and measurements of one study."""
    runs = matrix(TIER, [study])
    suites = dict.fromkeys([study.suite.name, *(suite.name for suite in FURTHER)])
    return (
        [train_record(run) for run in runs]
        + [
            f"results/{run.folder}/evaluate.{suite}.jsonl"
            for run in runs
            for suite in suites
        ]
        + [
            f"results/{TIER.name}/{study.name}/{variant}/measure.jsonl"
            for variant in study.variants
        ]
    )


def dataset_marker(wildcards):
    """A file that exists once the data set does."""
    if TIER.kind == "synthetic":
        return f"results/{wildcards.tier}/world/world.json"
    return f"{TIER.data_root}/{TIER.version}/scene.json"


def schedule_of(wildcards):
    return variant_schedule(TIER, STUDIES[wildcards.study], wildcards.variant)


def base_record(wildcards):
    """The base training a variant starts from; none where it starts elsewhere."""
    if schedule_of(wildcards).init != "base":
        return []
    return f"results/{wildcards.tier}/base/seed{wildcards.seed}/train.jsonl"


def feature_records(init):
    """The pretrained branches a training starts from; none where it starts elsewhere."""
    if init != "features":
        return []
    return [train_record(run) for run in pretrain_runs(TIER)]


def option(flag, files):
    """A command-line option with its values, or nothing without values."""
    files = [files] if isinstance(files, str) else list(files)
    return " ".join([flag, *files]) if files else ""


def model_settings(model):
    """A model by name; for a config of one's own also what is in its files, which no hash of ours covers."""
    sources = own_sources(model)
    return {
        "model": model,
        **({"sources": code_hash([], sources)} if sources else {}),
        **({"tf32": True} if TIER.tf32 else {}),
    }


def variant_settings(wildcards, variant=None):
    """Everything in the tier and the study that one variant depends on, and nothing else."""
    schedule = variant_schedule(
        TIER, STUDIES[wildcards.study], variant or wildcards.variant
    )
    settings = model_settings(schedule.model or TIER.model)
    return {**settings, "model": schedule.model, "config": schedule.config}


def launcher_of(schedule):
    """How a training is started; weights that are taken as they are need but one process."""
    return ONE_PROCESS if schedule.iterations == 0 else TIER.launcher


def limit_gpus(count):
    """Show the first ``count`` visible GPUs to the jobs (None: all), by the environment that they inherit."""
    try:
        gpus = limited(visible_gpus(), count, "--config gpus")
    except UserError as err:
        raise WorkflowError(f"error: {err}")
    if count is not None:
        show_only(gpus, os.environ)
    hand_on_listing(os.environ)
    return gpus


def gpus_of(launcher):
    """GPUs of a job that starts so many processes. Taken by aqr_bench.cli.gpu_slots, which takes none where there are none.

    A resource and no param: on how many GPUs a result came to be is no reason to do it again.
    """
    if config.get("gpus") == 0 or (on_cluster() and not TIER.cluster_gpu):
        return 0
    return launcher.processes


def on_cluster():
    """Whether jobs run elsewhere, which is known once a job is planned: the GPUs of this machine do not count then."""
    return workflow.remote_exec or workflow.non_local_exec


def refuse_missing_gpus():
    """A job that needs more GPUs than are visible is refused before the first one starts, not when its turn comes."""
    if on_cluster():
        if config.get("gpus"):
            raise WorkflowError(
                "error: --config gpus: on a cluster only 0 is taken; the tier's launcher says how many a job asks for"
            )
        return
    needed = [job.resources.get("gpu", 0) for job in workflow.dag.needrun_jobs()]
    try:
        require_gpus(TIER, max(needed, default=0), len(GPUS))
    except UserError as err:
        raise WorkflowError(f"error: {err}")


onstart:
    refuse_missing_gpus()


ONE_PROCESS = Launcher()


def launcher_settings(launcher):
    """Processes split the batch, and what is normalised per batch with it: another number, another training."""
    return {} if launcher.processes == 1 else {"launcher": vars(launcher)}


def schedule_settings(schedule):
    """How long a training takes and what it starts from; a published file that comes or changes is another start."""
    file = {"published": schedule.checkpoint, "scratch": schedule.backbone}.get(
        schedule.init
    )
    facts = file.stat() if file is not None and file.is_file() else None
    return {
        "iterations": schedule.iterations,
        "init": schedule.init,
        **launcher_settings(launcher_of(schedule)),
        **({"epochs": schedule.epochs} if schedule.epochs else {}),
        **(
            {"file": [file, facts and [facts.st_size, facts.st_mtime_ns]]}
            if file
            else {}
        ),
    }


def database_of(schedule):
    """The objects for GT sampling, where the tier's trainings need them and this is one."""
    if not TIER.database or schedule.iterations == 0:
        return []
    return f"results/{TIER.name}/infos/dbinfos_train.pkl"


def schedule_hash(wildcards):
    schedule = schedule_of(wildcards)
    return config_hash(
        {
            **variant_settings(wildcards),
            **schedule_settings(schedule),
            **memory_setting(schedule),
        }
    )


def memory_setting(schedule):
    """A training that ran out of a memory limit is to run again with another limit."""
    limit = schedule.memory_limit_mb
    return {} if limit is None else {"memory_limit_mb": limit}


def measure_hash(wildcards):
    """A variant is measured in turns with the baseline, hence the baseline's config."""
    baseline = STUDIES[wildcards.study].baseline
    overrides = variant_settings(wildcards, baseline)["config"]
    settings = {"baseline": overrides, "measure": vars(TIER.measure)}
    return config_hash({**variant_settings(wildcards), **settings})


def suite_hash(wildcards):
    conditions = [
        condition.settings for condition in SUITES[wildcards.suite].conditions
    ]
    return config_hash(
        {
            "conditions": conditions,
            "batch_size": TIER.evaluate_batch_size,
            **({"tf32": True} if TIER.tf32 else {}),
        }
    )


def study_option(wildcards):
    """The study file of a variant's run; a base model belongs to none."""
    study = wildcards.run.partition("/")[0]
    return f"--study {reference(STUDIES[study].path)}" if study in STUDIES else ""


def pictured_run():
    """The model whose detections are drawn: a base model, or a baseline, of the first study that trains any."""
    first = TRAINED[0]
    runs = base_runs(TIER, [first]) or [
        run for run in matrix(TIER, [first]) if run.variant == first.baseline
    ]
    return runs[0]


def records_under(suite):
    """Evaluations of the chosen studies, and of the base models they start from, under one suite."""
    runs = matrix(TIER, CHOSEN) + base_runs(TIER, CHOSEN)
    return [f"results/{run.folder}/evaluate.{suite}.jsonl" for run in runs]


def variant_records(study, variant):
    """Trainings, evaluations and the measurement of one variant."""
    return [
        record
        for record in study_records(study)
        if record.startswith(f"results/{TIER.name}/{study.name}/{variant}/")
    ]


TIER, CHOSEN, STUDIES, FURTHER = load_selection(config)
GPUS = limit_gpus(config.get("gpus"))
TRAINED = [study for study in CHOSEN if not study.measure_only]
RECORDS = [
    record for study in CHOSEN for record in study_records(study)
] + base_records(CHOSEN)
SEEDS = config.get("seeds")
SUITES = {name: load_suite(name) for name in known_suites()}
SUITES |= {study.suite.name: study.suite for study in STUDIES.values()}
SUITES |= {suite.name: suite for suite in FURTHER}


wildcard_constraints:
    tier=re.escape(TIER.name),
    study="|".join(map(re.escape, STUDIES)),
    variant="|".join(
        sorted({re.escape(v) for study in STUDIES.values() for v in study.variants})
    ),
    branch="|".join(map(re.escape, TIER.pretrain)) or "none",
    suite="|".join(map(re.escape, SUITES)),
    seed=r"\d+",
