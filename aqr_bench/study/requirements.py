"""What has to be there before anything runs: model configs, the nuScenes root, published checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from aqr_bench.errors import UserError, nearest
from aqr_bench.foreign_files import misplaced_tables
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.model_files import model_file
from aqr_bench.study.runs import base_runs, matrix
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import CUSTOM, Schedule, Study, Tier

# Of a tier that stores the features of frozen branches. The quick tier has 1.1 MB a sample: twice 1500 clouds (they are
# turned at random) and 1500 sets of images, and some evaluations.
FEATURES_BYTES = 3_000_000_000
PUBLISHED_BY = "junjie18/CMT and konyul/MoME on GitHub (links in their README.md); nothing is downloaded here"


def schedules(tier: Tier, studies: Iterable[Study]) -> list[Schedule]:
    """Of every base model and variant that the studies train or take over."""
    studies = list(studies)
    base = [tier.base] if base_runs(tier, studies) else []
    return base + [variant_schedule(tier, study, variant) for study in studies for variant in study.variants]


def require_inputs(tier: Tier, studies: Iterable[Study] = ()) -> None:
    """Raise UserError at once for a model config, a nuScenes root or checkpoints that are not there.

    A single missing checkpoint is no reason to stop: its training leaves a failed record. None at all is.
    """
    for problem in missing_inputs(tier, studies):
        raise problem


def require_gpus(tier: Tier, processes: int, gpus: int) -> None:
    """Raise UserError where a training starts more processes than there are GPUs for; without any it runs on CPUs."""
    if processes > gpus > 0:
        visible = "1 GPU is visible" if gpus == 1 else f"{gpus} GPUs are visible"
        raise UserError(
            f"{tier.path}: launcher.processes: {processes} processes need a GPU each, {visible}",
            "Lower it, make more GPUs visible (CUDA_VISIBLE_DEVICES, --gpus), or use none (--cpu; for snakemake: "
            "--config gpus=0).",
        )


def training_processes(tier: Tier, studies: Iterable[Study]) -> int:
    """Processes of the largest training; 1 where weights are only taken over."""
    return tier.launcher.processes if any(plan.iterations != 0 for plan in schedules(tier, studies)) else 1


def missing_inputs(tier: Tier, studies: Iterable[Study] = ()) -> Iterator[UserError]:
    """Everything that keeps the tier from starting."""
    studies = list(studies)
    named = {(tier.path, "model", tier.model), *((tier.path, "models", model) for model in tier.models)}
    named |= {(s.path, f"variants.{v.name}.model", v.model) for s in studies for v in s.variants.values() if v.model}
    for path, key, model in sorted(named):
        try:
            model_file(model)
        except UserError as error:
            yield UserError(f"{path}: {key}: {error.message}", error.remedy)
    misplaced = None if tier.data_root is None else misplaced_tables(tier.data_root, (tier.version,))
    if misplaced is not None:
        what = f"{tier.path}: data.root: no tables of {tier.version} in '{tier.data_root}': {misplaced.name}"
        yield UserError(what, misplaced.remedy)
    elif tier.data_root is not None and not (tier.data_root / tier.version).is_dir():
        yield UserError(
            f"{tier.path}: data.root: no nuScenes {tier.version} under '{tier.data_root}' (looked for the folder "
            f"'{tier.data_root / tier.version}')",
            "Unpack or link the data set there, or change data.root.",
        )
    files = {schedule.checkpoint for schedule in schedules(tier, studies) if schedule.init == "published"}
    if files and not any(file.is_file() for file in files):
        listed = ", ".join(sorted(map(str, files)))
        yield UserError(
            f"{tier.path}: models: none of the published checkpoints is there ({listed})",
            f"Get them from {PUBLISHED_BY}, or use a tier that trains the models.",
        )


def disk_needed(tier: Tier, studies: Sequence[Study], layout: RunLayout | None = None) -> int:
    """Rough upper bound in bytes: half a megabyte per synthetic frame, 60 MB of checkpoints per training.

    ``layout``: where results lie: the world and the trainings that are there need no more space.
    """
    world = {} if layout is not None and layout.world_marker.exists() else tier.world
    scenes = sum(int(world.get(key, 0)) for key in ("train_scenes", "val_scenes"))
    frames = scenes * int(world.get("frames_per_scene", 0))
    runs = [*matrix(tier, studies), *base_runs(tier, studies)]
    trainings = sum(layout is None or not layout.train(run).exists() for run in runs)
    rest = 200_000_000 if layout is None or frames or trainings else 20_000_000  # info files, records, the report
    return 500_000 * frames + 60_000_000 * trainings + rest


def require_metrics(tier: Tier, studies: Iterable[Study], numbers: Sequence[str] | None = None) -> None:
    """UserError for a study whose metric is a number that no custom metric of the tier gives.

    ``numbers``: what they give, where that is known; without it, only a tier that has no custom metric is refused.
    """
    for study in studies:
        name = study.metric.removeprefix(CUSTOM)
        if study.metric == name or (name in numbers if numbers is not None else tier.metrics):
            continue
        if tier.metrics:
            what = f"the metrics of tier {tier.name} give no '{name}'{nearest(name, numbers)}"
        else:
            what = f"tier {tier.name} has no custom metric"
        raise UserError(
            f"{study.path}: metric: {study.metric}: {what}",
            "Name a metric that gives it in the tier: evaluate: {metrics: [my_file.py:NAME]}.",
        )
