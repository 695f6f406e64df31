"""A tier, a variant and a set of info files become one mmengine config: the same for every tier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError, nearest, require_file
from aqr_bench.overrides import check_overrides, config_entry
from aqr_bench.study import Schedule, Study, Tier, variant_schedule

CONFIGS = Path(__file__).parent / "cmt" / "configs"


@dataclass(frozen=True)
class DataSet:
    """Info files of a nuScenes root. ``root`` holds v1.0-*/, samples/ and sweeps/."""

    infos: Path
    root: Path
    version: str
    sha256: str


def load_data(infos: str | Path) -> DataSet:
    """Read the ``data.json`` that ``python -m aqr_bench.data`` left in a folder."""
    folder = Path(infos)
    path = require_file(folder / "data.json", "info summary", "Run: python -m aqr_bench.data --out " + str(folder))
    try:
        summary = json.loads(path.read_text())
        root = (folder / summary["root"]).resolve()
        return DataSet(folder.resolve(), root, summary["version"], summary["data_sha256"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}). Delete it and run python -m aqr_bench.data again.") from error


def base_config(tier: Tier, data: DataSet) -> Any:
    """The tier's model config with its data set filled in, before any override.

    The config file leaves ``data_root``, ``infos`` and ``dataset_version`` open; here they get their values in
    every data set, transform and evaluator that names them.
    """
    from mmengine.config import Config

    path = require_file(
        CONFIGS / f"{tier.model}.py", f"model config '{tier.model}'", f"Known configs lie in {CONFIGS}."
    )
    config = Config.fromfile(path)
    for loader in (config.train_dataloader, config.test_dataloader):
        fill_dataset(loader.dataset, data)
    if config.get("test_evaluator"):
        config.test_evaluator.data_root = str(data.root)
        config.test_evaluator.ann_file = str(data.infos / Path(config.test_evaluator.ann_file).name)
    return config


def inner_dataset(dataset: Any) -> Any:
    """The config of the data set itself: class-balanced and other wrappers hold it under ``dataset``."""
    while "ann_file" not in dataset:
        dataset = dataset["dataset"]
    return dataset


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
) -> Any:
    """The full mmengine config of one training.

    Args:
        study, variant: both None for the base model of the tier.
        pretrain: name of a branch of the tier that is trained alone; without study and variant.
    Raises:
        UserError: an override that names a key which the config does not have.
    """
    schedule, where = _schedule(tier, study, variant, pretrain)
    overrides = schedule.config
    config = base_config(tier, data)
    check_overrides(config.to_dict(), overrides, where)
    _merge(config, overrides)
    if schedule.iterations:
        _set_iterations(config, schedule.iterations)
    config.work_dir = str(work_dir)
    config.randomness = dict(seed=seed, deterministic=False)
    for hook in config.get("custom_hooks", []):
        if hook.type == "SeedIterations":
            hook.seed = seed
    return config


def _schedule(tier: Tier, study: Study | None, variant: str | None, pretrain: str | None) -> tuple[Schedule, Path]:
    if pretrain is not None:
        if pretrain not in tier.pretrain:
            raise UserError(f"{tier.path}: no pretrain '{pretrain}'{nearest(pretrain, tier.pretrain)}")
        entry = tier.pretrain[pretrain]
        return Schedule(entry.iterations, entry.config), tier.path
    if study is None or variant is None:
        return tier.base, tier.path
    return variant_schedule(tier, study, variant), study.path


def _merge(config: Any, overrides: Mapping[str, Any]) -> None:
    """Set dotted keys one by one: a mapping replaces what stood there, it is not merged into it."""
    for key, value in overrides.items():
        node = config._cfg_dict  # a Config is not a mapping itself
        *path, last = key.split(".")
        for part in path:
            node = node[config_entry(node, part)]
        node[config_entry(node, last)] = value


def _set_iterations(config: Any, iterations: int) -> None:
    """Fit the loop and every iteration-based schedule to the tier's number of iterations.

    The config's own schedule may be written for any length: positions are scaled with ``train_cfg.max_iters``.
    """
    loop = config.train_cfg
    if loop.get("by_epoch", False):
        raise UserError(f"{config.filename}: epoch-based training takes its length from max_epochs, not from a tier")
    scale = iterations / loop.max_iters
    loop.max_iters = iterations
    schedulers = config.get("param_scheduler", None) or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        for key in ("begin", "end", "total_steps", "T_max"):
            if key in scheduler and scheduler[key] is not None:
                scheduler[key] = max(1, round(scheduler[key] * scale)) if scheduler[key] else 0
