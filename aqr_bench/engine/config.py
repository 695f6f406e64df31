"""A tier, a variant and a set of info files become one mmengine config: the same for every tier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.adapt_config import CORRECTED_SWEEPS, IMPORTS, adapt, add_imports
from aqr_bench.engine.adapt_config import inner_dataset as inner_dataset
from aqr_bench.engine.config_facts import DEFAULT_SWEEPS, check_facts
from aqr_bench.engine.third_party import opening_config
from aqr_bench.errors import UserError, nearest
from aqr_bench.study.model_files import CONFIGS as CONFIGS
from aqr_bench.study.model_files import base_files, is_file_name, make_importable, model_file
from aqr_bench.study.overrides import check_overrides, config_entry
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Schedule, Study, Tier


def base_config(tier: Tier, data: DataSet, model: str | None = None, opened: Any = None) -> Any:
    """The tier's model config (or the one called ``model``) with its data set filled in, before any override.

    A config of mmdet3d is made one of ours, see :func:`aqr_bench.engine.adapt_config.adapt`. The config file leaves
    ``data_root``, ``infos`` and ``dataset_version`` open; here they get their values in every data set, transform and
    evaluator that names them. ``opened``: that config, where it is open already; it is changed.

    Raises:
        UserError: the config contradicts itself, see :func:`aqr_bench.engine.config_facts.check_facts`.
    """
    config = filled_config(tier, data, model, opened)
    check_facts(config.to_dict(), model or tier.model)
    return config


def filled_config(tier: Tier, data: DataSet, model: str | None = None, opened: Any = None) -> Any:
    """``base_config`` before it is checked: a tier or a study may put right what its values contradict."""
    config = open_config(model or tier.model) if opened is None else opened
    if tier.tf32:  # only then: a result that does not depend on it keeps its hash
        config.tf32 = True
    for loader in (config.train_dataloader, config.test_dataloader):
        fill_dataset(loader.dataset, data)
    if config.get("test_evaluator"):
        config.test_evaluator.data_root = str(data.root)
        config.test_evaluator.ann_file = str(data.infos / Path(config.test_evaluator.ann_file).name)
    return config


def open_config(model: str, import_modules: bool = True) -> Any:
    """The mmengine config of a model, by name or by file; UserError where there is none, or it cannot be evaluated.

    ``import_modules``: also those of ``custom_imports``, which a model needs and a look at its config does not.
    """
    config = _read_config(model, import_modules)
    from mmengine.utils import import_modules_from_strings

    path = model_file(model)
    # The Runner writes its config out four times, and laying that text out nicely took longer than the whole of a smoke
    # training. mmengine 0.10.7 has an option against it, format_python_code, which fromfile passes over.
    object.__setattr__(config, "_format_python_code", False)
    with opening_config(path):
        adapt(config, model)
        if import_modules:
            import_modules_from_strings(**config.custom_imports)  # what was added; the file's own are imported with it
    return config


def dataset_type(model: str) -> str | None:
    """Name of the data set class that the test loader of a config reads, None where it has none; see ``open_config``.

    Raises:
        UserError: the config cannot be read.
    """
    loader = _read_config(model, import_modules=False).get("test_dataloader") or {}
    kind = inner_dataset(loader.get("dataset") or {}).get("type")
    return getattr(kind, "__name__", kind)  # configs in pure Python name the class itself


def _read_config(model: str, import_modules: bool) -> Any:
    """The config as it is written."""
    from aqr_bench import compat

    compat.prepare()
    from mmengine.config import Config

    path = model_file(model)
    make_importable(model)
    with opening_config(path):
        config = Config.fromfile(path, import_custom_modules=import_modules)
        if is_file_name(model):
            # The list of a config replaces that of its base: a module of the user would put the others out.
            bases = [Config.fromfile(base, import_custom_modules=False) for base in base_files(model)]
            add_imports(config, *(base.get("custom_imports") for base in bases), {"imports": IMPORTS})
    return config


def fill_dataset(dataset: Any, data: DataSet) -> None:
    """Put a data set's folder, info file, version and database of objects (for GT sampling) into a loader's config."""
    dataset = inner_dataset(dataset)
    dataset.data_root = str(data.root)
    dataset.ann_file = str(data.infos / dataset.ann_file)
    dataset.metainfo.version = data.version
    for step in dataset.pipeline:
        if "db_sampler" in step:
            step.db_sampler.info_path = str(data.infos / Path(step.db_sampler.info_path).name)


def build_config(
    tier: Tier,
    data: DataSet,
    seed: int,
    work_dir: str | Path,
    study: Study | None,
    variant: str | None,
    pretrain: str | None = None,
    opened: Any = None,
) -> Any:
    """The full mmengine config of one training.

    Args:
        study, variant: both None for the base model of the tier.
        pretrain: name of a branch of the tier that is trained alone; without study and variant.
        opened: the model's config, where it is open already; it is changed.
    Raises:
        UserError: an override that names a key which the config does not have, or has another type; iterations for a
            config that trains by epochs, or the other way round; values that contradict one another; more sweeps than
            the info files have.
    """
    schedule, where = schedule_for(tier, study, variant, pretrain), (study or tier).path
    overrides = schedule.config
    config = filled_config(tier, data, schedule.model, opened)
    changed_by = str(where) if study is None else f"{where}: variants.{variant}"
    check_overrides(config.to_dict(), overrides, changed_by)
    _merge(config, overrides)
    check_facts(config.to_dict(), changed_by)
    _set_length(config, schedule, where)
    config.work_dir = str(work_dir)
    config.randomness = dict(seed=seed, deterministic=False)
    for hook in config.get("custom_hooks", []):
        if hook.type in ("SeedIterations", "SeedEpochs"):
            hook.seed = seed
    require_sweeps(config, data)
    return config


def schedule_for(tier: Tier, study: Study | None, variant: str | None, pretrain: str | None = None) -> Schedule:
    """The schedule of a base model, of a variant or of one branch (from scratch, without a memory limit)."""
    if pretrain is not None:
        if pretrain not in tier.pretrain:
            raise UserError(f"{tier.path}: no pretrain '{pretrain}'{nearest(pretrain, tier.pretrain)}")
        entry = tier.pretrain[pretrain]
        return Schedule(entry.iterations, entry.config)
    return tier.base if study is None or variant is None else variant_schedule(tier, study, variant)


def _merge(config: Any, overrides: Mapping[str, Any]) -> None:
    """Set dotted keys one by one: a mapping replaces what stood there, it is not merged into it."""
    for key, value in overrides.items():
        node = config._cfg_dict  # a Config is not a mapping itself
        *path, last = key.split(".")
        for part in path:
            node = node[config_entry(node, part)]
        node[config_entry(node, last)] = value


def _set_length(config: Any, schedule: Schedule, where: Path) -> None:
    """Fit the loop, its learning-rate schedules and hooks to the length that tier or study name; without one: as it is.

    The config's own schedule may be written for any length: positions are scaled with it.
    """
    loop = config.train_cfg
    by_epoch = loop.get("by_epoch", loop.get("type") == "EpochBasedTrainLoop")
    unit, other = ("epochs", "iterations") if by_epoch else ("iterations", "epochs")
    if getattr(schedule, other):
        name = Path(config.filename).stem
        raise UserError(f"{where}: {other}: {schedule.length} are asked for, but {name} trains by {unit}; give {unit}")
    length, key = getattr(schedule, unit), "max_epochs" if by_epoch else "max_iters"
    if not length:
        return
    scale = length / loop[key]
    loop[key] = length
    schedulers = config.get("param_scheduler", None) or []
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    _scale_positions([s for s in schedulers if s.get("by_epoch", True) == by_epoch], scale)
    for hook in config.get("custom_hooks", []):
        if hook.type == "StopObjectSample":
            hook.after_epoch = math.floor(hook.after_epoch * scale)


def _scale_positions(schedulers: list, scale: float) -> None:
    """Scale where schedules begin and end, to whole iterations or epochs.

    Where that leaves a schedule of no length (one epoch), fractions stay: mmengine turns them into iterations.
    """
    names = ("begin", "end", "total_steps", "T_max")
    exact = [{k: s[k] * scale for k in names if s.get(k)} for s in schedulers]
    rounded = [{k: max(1, round(v)) for k, v in positions.items()} for positions in exact]
    empty = any("end" in p and p["end"] <= p.get("begin", 0) for p in rounded)
    for scheduler, positions in zip(schedulers, exact if empty else rounded, strict=True):
        scheduler.update(positions)


def require_sweeps(
    config: Any, data: DataSet, loaders: Sequence[str] = ("train_dataloader", "test_dataloader")
) -> None:
    """Raise UserError where a pipeline merges more LiDAR sweeps than the info files were made with, and so fewer."""
    for loader in loaders:
        steps = inner_dataset(config[loader].dataset).pipeline
        asked = max(
            (step.get("sweeps_num", DEFAULT_SWEEPS) for step in steps if step["type"] == CORRECTED_SWEEPS), default=0
        )
        if data.max_sweeps is not None and asked > data.max_sweeps:
            raise UserError(
                f"{loader} merges {asked} LiDAR sweeps, the info files in {data.infos} have up to {data.max_sweeps}",
                f"Make them again: aqr-bench data --max-sweeps {asked}. Or set {CORRECTED_SWEEPS}.sweeps_num lower.",
            )


def files_of(tier: Tier, study: Study | None) -> dict[str, Path]:
    """The files that say what is to be run, by role, as provenance keeps them."""
    return {"tier": tier.path, **({} if study is None else {"study": study.path})}


def database_files(config: Any) -> list[Path]:
    """The objects for GT sampling that a training reads."""
    pipeline = inner_dataset(config.train_dataloader.dataset).pipeline
    return [Path(step["db_sampler"]["info_path"]) for step in pipeline if "db_sampler" in step]


def hashable(config: Any) -> dict:
    """The config without what does not change its result: where files lie, and who loads them."""
    plain = config.to_dict()
    plain.pop("work_dir", None)
    for loader in ("train_dataloader", "test_dataloader"):
        plain[loader].update(num_workers=0, persistent_workers=False)
        dataset = inner_dataset(plain[loader]["dataset"])
        dataset["data_root"], dataset["ann_file"] = None, Path(dataset["ann_file"]).name
        for step in dataset["pipeline"]:
            if "db_sampler" in step:
                step["db_sampler"]["info_path"] = Path(step["db_sampler"]["info_path"]).name
    plain.pop("test_evaluator", None)  # evaluation goes its own way; this one serves mmengine's own test command
    return plain
