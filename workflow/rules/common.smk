# What is to be run: the tier and the studies, loaded and checked; how jobs are started. See aqr_bench/study/plan.py.

import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from aqr_bench.cli.gpu_devices import hand_on_listing, limited, show_only, visible_gpus
from aqr_bench.cli.current import current_state, prepare_code, put_back, store_stale
from aqr_bench.data.digests import INFO_FILES
from aqr_bench.errors import UserError, is_file
from aqr_bench.records.source_files import raise_if_other_file
from aqr_bench.study import plan
from aqr_bench.study.layout import RESULTS
from aqr_bench.study.plan import ONE_PROCESS, launcher_of, name_or_path
from aqr_bench.study.requirements import require_gpus
from aqr_bench.study.runs import pretrain_runs
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.schema import schema_error

min_version("9.27")


def escaped(text):
    """Text in which Snakemake looks for no wildcard."""
    return text.replace("{", "{{").replace("}", "}}")


def constant(value):
    """A param that any characters may be in: what a function returns, Snakemake takes as it is."""
    return lambda wildcards: value


# Jobs use the interpreter that runs Snakemake, also where its environment is not activated.
# `logged FILE COMMAND`: all output goes to the file; of a failed command the last lines are shown.
# Text is UTF-8, whatever the locale.
shell.prefix(
    f"set -euo pipefail; export PYTHONUTF8=1; PATH={escaped(shlex.quote(str(Path(sys.executable).parent)))}:$PATH; "
    'logged() {{ local log="$1"; shift; "$@" > "$log" 2>&1 || {{ tail -n 3 "$log" >&2; exit 1; }}; }}; '
)


def names(value):
    """A list from the configuration, which may be written as one string with commas; or one file with commas in it."""
    if isinstance(value, str):
        file = value.endswith((".yaml", ".yml")) and is_file(Path(value))
        return [value] if file else [name.strip() for name in value.split(",")]
    return value


def load_selection(settings):
    """The selection that the configuration asks for; a mistake is one clear line."""
    try:
        problem = schema_error(settings, "config")
        if problem:
            raise UserError(f"--config {problem}")
        selection = plan.select(
            settings.get("tier", "quick"),
            names(settings.get("studies")),
            names(settings.get("suites")),
            settings.get("seeds"),
            names(settings.get("variants")),
            settings.get("results", RESULTS),
        )
        raise_if_other_file(selection, selection.results)
        return selection
    except UserError as err:
        raise WorkflowError(f"error: {err}")


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


def make_again(wildcards):
    """No input: an input function that has Snakemake make again what is there and not current.

    What is current is judged by what is in the records, see aqr_bench/cli/current.py, and never by times of files or by
    what Snakemake noted about earlier runs. This is called while Snakemake plans, whatever its target is.
    """
    if workflow.is_main_process:
        workflow.dag.forcefiles.update(STALE)
    return []


def by_content(*patterns):
    """Input files whose times do not count, only whether they are there; what is made again makes again what reads it."""

    def files(wildcards):
        names = [pattern.format(**wildcards) for pattern in patterns]
        marked = [name if name in STALE else ancient(name) for name in names]
        return marked[0] if len(marked) == 1 else marked

    return files


def store_what_is_made_again():
    """Snakemake deletes a job's outputs when the job starts: records go into the store before."""
    outputs = [Path(file) for job in workflow.dag.needrun_jobs() for file in job.output]
    store_stale(CURRENT, outputs)


def is_dry_run(words):
    """Whether nothing may be written: Snakemake itself knows that only after it has read this file."""
    return any(re.fullmatch("--dry-?run|-[a-zA-Z]*n[a-zA-Z]*", word) for word in words)


def another_run_is_at_work():
    locks = Path(".snakemake/locks")
    return locks.is_dir() and any(locks.iterdir())


def before_the_first_job(_log=None):
    refuse_missing_gpus()
    store_what_is_made_again()


onstart:
    before_the_first_job()


def behind(first):
    """``before_the_first_job`` after what another file has Snakemake do when it starts."""
    return lambda log: (first(log), before_the_first_job())


# Of a module Snakemake does not run onstart, but only that of the file that takes it.
if not workflow.modifier.is_main_snakefile():
    workflow._onstart = behind(workflow._onstart)


SELECTION = load_selection(config)
TIER, LAYOUT = SELECTION.tier, SELECTION.layout
STUDIES, SUITES = SELECTION.studies_by_name, SELECTION.suites_by_name
RECORDS = SELECTION.records
RESULTS_OF_TIER = f"{LAYOUT.results.as_posix()}/{{tier}}"  # in patterns
GPUS = limit_gpus(config.get("gpus"))
TIER_NAME = name_or_path(TIER.path)
DATA_ROOT = TIER.data_root or LAYOUT.world
# Jobs of this workflow parse it anew, and leave the files as they are.
CURRENT, STALE = None, frozenset()
if workflow.is_main_process:
    DRY_RUN = is_dry_run(sys.argv)
    if not DRY_RUN and not another_run_is_at_work():
        put_back(SELECTION, LAYOUT.results, every_target=True)
    CURRENT = current_state(
        SELECTION, LAYOUT.results, every_target=True, stored=DRY_RUN
    )
    STALE = frozenset(path.as_posix() for path in CURRENT.stale)
INFOS = {
    "infos": by_content(f"{RESULTS_OF_TIER}/infos/data.json"),
    "info_files": ancient([f"{RESULTS_OF_TIER}/infos/{name}" for name in INFO_FILES]),
    "stale": make_again,
}


def schedule_of(wildcards):
    return variant_schedule(TIER, STUDIES[wildcards.study], wildcards.variant)


def study_option(study):
    """The study of a job by name or file; none for a base model."""
    return ["--study", name_or_path(STUDIES[study].path)] if study in STUDIES else []


BASE_RECORD = f"{RESULTS_OF_TIER}/base/seed{{seed}}/train.jsonl"


def start_records(wildcards, init):
    """Trainings that a training starts from: of the base model, of the pretrained branches, or none."""
    if init == "base":
        return by_content(BASE_RECORD)(wildcards)
    if init == "features":
        records = [LAYOUT.train(run).as_posix() for run in pretrain_runs(TIER)]
        return by_content(*records)(wildcards)
    return []


def start_option(init, records):
    """The option of `aqr-bench train` for the records of ``start_records``."""
    records = [records] if isinstance(records, str) else records
    return [f"--{init}", *records] if records else []


def database_of(schedule):
    """The objects for GT sampling, where the tier's trainings need them and this is one."""
    if not TIER.database or schedule.iterations == 0:
        return []
    return by_content(LAYOUT.database.as_posix())({})


wildcard_constraints:
    tier=re.escape(TIER.name),
    study="|".join(map(re.escape, STUDIES)),
    variant="|".join(
        sorted({re.escape(v) for study in STUDIES.values() for v in study.variants})
    ),
    branch="|".join(map(re.escape, TIER.pretrain)) or "none",
    suite="|".join(map(re.escape, SUITES)),
    seed=r"\d+",
