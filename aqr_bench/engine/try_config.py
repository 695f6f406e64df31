"""Which detectors written elsewhere can be evaluated here: each config is opened, built and run on one small sample."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aqr_bench.compat import MissingOperatorError
from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.config import base_config, dataset_type
from aqr_bench.engine.evaluate_checkpoint import adhoc_tier
from aqr_bench.engine.loader import build_loader
from aqr_bench.engine.third_party import build_model, building_model
from aqr_bench.errors import UserError, short
from aqr_bench.study.load import resolve_condition
from aqr_bench.study.model_files import configs_below, is_package_config

WORKS, NEEDS_OPERATOR, REFUSED, FAILS = "works", "needs compiled mmcv", "refused", "fails"
NUSCENES = "NuScenesDataset"
SCORE_THRESHOLDS = ("score_thr", "score_threshold")


@dataclass(frozen=True)
class ConfigTrial:
    """What becomes of a config: ``result`` is one of the four above, ``reason`` is empty where it works."""

    model: str
    result: str
    reason: str = ""


def nuscenes_configs(names: Iterable[str]) -> list[str]:
    """The configs that names stand for; of folders and packages those that read nuScenes.

    A config that cannot be read is one of them, unless it is a package's: mmdet3d 1.4 has one without its base.

    Raises:
        UserError: see :func:`aqr_bench.study.model_files.configs_below`.
    """
    return [m for name in names for m in configs_below(name) if m == name or _may_read_nuscenes(m)]


def _may_read_nuscenes(model: str) -> bool:
    try:
        return dataset_type(model) == NUSCENES
    except UserError:
        return not is_package_config(model)


def try_config(model: str, data: DataSet) -> ConfigTrial:
    """Open and build a config, and detect on the first sample of the val split with random weights, on this machine.

    Thresholds on scores are set to 0, so that the suppression of overlapping boxes is reached.
    """
    import torch
    from mmengine.device import get_device

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            config = base_config(adhoc_tier(model, data), data)
            _accept_all_scores(config.model)
            config.test_dataloader.update(num_workers=0, persistent_workers=False)
            torch.manual_seed(0)
            with building_model(model):
                detector = build_model(config).to(get_device()).eval()
            batch = next(iter(build_loader(config, resolve_condition("clean"), 1)))
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):
                detector.test_step(batch)
    except MemoryError:
        raise
    except Exception as error:
        return _failed_trial(model, error)
    return ConfigTrial(model, WORKS)


def _failed_trial(model: str, error: Exception) -> ConfigTrial:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MissingOperatorError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return ConfigTrial(model, NEEDS_OPERATOR, f"calls {cause.operator}")
    if isinstance(error, UserError):
        return ConfigTrial(model, REFUSED, error.message.removeprefix(f"{model}: "))
    return ConfigTrial(model, FAILS, f"{type(error).__name__}: {short(' '.join(str(error).split()), 160)}")


def _accept_all_scores(node: Any) -> None:
    """Set every threshold on scores in a part of a config to 0, in place."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in SCORE_THRESHOLDS and isinstance(value, int | float):
                node[key] = 0.0
            else:
                _accept_all_scores(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _accept_all_scores(value)


def markdown_row(trial: ConfigTrial) -> str:
    """A line of a Markdown table: config, result, reason."""
    return f"| `{trial.model}` | {trial.result} | {trial.reason.replace('|', '/')} |"
