"""Builds the config of every training before anything runs: a mistake in a variant is found in seconds."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.config import build_config, filled_config, open_config, schedule_for
from aqr_bench.engine.config_facts import detection_classes
from aqr_bench.engine.third_party import build_model, building_model
from aqr_bench.errors import UserError
from aqr_bench.records.code_dependencies import code_hash_for, plugin_hashes
from aqr_bench.records.config_uses import config_uses
from aqr_bench.study.hashes import config_hash
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.model_files import is_foreign
from aqr_bench.study.overrides import type_conflict
from aqr_bench.study.requirements import require_metrics
from aqr_bench.study.runs import base_runs
from aqr_bench.study.settings import training_settings
from aqr_bench.study.spec import Study, Tier


def check_configs(tier: Tier, studies: Iterable[Study]) -> int:
    """Build the config of every pretraining, base model and variant; returns how many.

    Raises:
        UserError: the first mistake, with file and variant: a key that the model's config does not have, a value of
            another type than the one it replaces, values that contradict one another, an argument that a part of the
            head does not take; a metric that breaks its contract, or a study whose metric none gives; of a model that
            does not ship here, whatever opening or building it raises.
    """
    studies, numbers = list(studies), []
    if tier.metrics:
        from aqr_bench.metrics.custom import check_metric  # nuscenes-devkit, seconds

        numbers = [number for name in tier.metrics for number in check_metric(name)]
    require_metrics(tier, studies, numbers)
    opened: dict[str, Any] = {}  # configs of models; opening one takes longer than all the rest
    base_classes: list[str] | None = None
    count = 0
    for study, variant, pretrain in _trainings(tier, studies):
        model = _model(tier, study, variant, pretrain)
        if model not in opened:
            opened[model] = open_config(model, import_modules=is_foreign(model))
        config = variant_config(tier, study, variant, pretrain, opened=deepcopy(opened[model]))
        where = str(tier.path) if study is None else f"{study.path}: variants.{variant}"
        if is_foreign(model):
            with building_model(f"{where}: {model}"):
                build_model(config)
        else:  # our models are built in seconds, all of whose checks are in these arguments
            head, shipped = (of.model.get("pts_bbox_head") or {} for of in (config, opened[model]))
            _check_head(head, where)
            if head.get("image_points") not in (None, shipped.get("image_points")):
                _check_image_points(head, where)
        if study is not None and schedule_for(tier, study, variant).init == "base":
            if base_classes is None:
                base_classes = detection_classes(variant_config(tier, None, None, opened=deepcopy(opened[model])))
            _check_same_classes(detection_classes(config), base_classes, where)
        count += 1
    return count


def _check_same_classes(classes: Sequence[str], of_base: Sequence[str], where: str) -> None:
    """UserError where a variant starts from the weights of a base model whose labels mean other classes."""
    if classes != of_base:
        what = f"the classes are {', '.join(classes)}, those of the base model {', '.join(of_base)}"
        raise UserError(f"{where}: {what}", "Give both the same list, or let the variant start from scratch (init).")


def variant_config(
    tier: Tier, study: Study | None, variant: str | None, pretrain: str | None = None, opened: Any = None
) -> Any:
    """The config of a training of seed 0 with its files where the workflow has them, there or not."""
    opened = opened or open_config(_model(tier, study, variant, pretrain), import_modules=False)
    return build_config(tier, _data(tier), 0, RunLayout(tier.name).work, study, variant, pretrain, opened)


def model_config(tier: Tier, study: Study | None, variant: str | None) -> Any:
    """The config of the same training before tier and study change it; the data set's files are filled in."""
    opened = open_config(_model(tier, study, variant), import_modules=False)
    return filled_config(tier, _data(tier), opened=opened)


def _data(tier: Tier) -> DataSet:
    layout = RunLayout(tier.name)
    return DataSet(tier.data_root or layout.world, layout.infos, tier.version, "")


def _model(tier: Tier, study: Study | None, variant: str | None, pretrain: str | None = None) -> str:
    return schedule_for(tier, study, variant, pretrain).model or tier.model


def _trainings(tier: Tier, studies: list[Study]) -> Iterator[tuple[Study | None, str | None, str | None]]:
    yield from ((None, None, branch) for branch in tier.pretrain)
    if not studies or base_runs(tier, studies):
        yield None, None, None
    yield from ((study, variant, None) for study in studies for variant in study.variants)


def check_configs_once(tier: Tier, studies: Iterable[Study], folder: Path) -> None:
    """``check_configs``, unless tier, studies and code are as they were at an earlier success, noted in ``folder``."""
    studies = list(studies)
    settings = [training_settings(tier), *(training_settings(tier, pretrain=branch) for branch in tier.pretrain)]
    settings += [training_settings(tier, study, variant) for study in studies for variant in study.variants]
    settings.append({"metrics": tier.metrics, "asked": [study.metric for study in studies]})
    texts = config_uses((), {"settings": settings}).texts
    code = {"train": code_hash_for("train"), **plugin_hashes(texts)}
    marker = folder / config_hash({"settings": settings, "code": code})
    if marker.exists():
        return
    check_configs(tier, studies)
    if folder.parent.is_dir():  # not there before the first run
        with contextlib.suppress(OSError):  # a folder that is only to be looked at
            folder.mkdir(exist_ok=True)
            marker.touch()


def _check_head(head: Any, where: str | Path) -> None:
    """UserError for arguments of ``aqr`` and ``locality`` that these parts of the head do not take."""
    if not (head.get("aqr") or head.get("locality")):
        return
    from aqr_bench.bias.arguments import attention_bias, from_kwargs  # torch
    from aqr_bench.bias.custom_router import check_router
    from aqr_bench.bias.generator import ROUTERS, AttentionBias
    from aqr_bench.bias.locality_prior import LocalityPrior

    for key, part in (("aqr", AttentionBias), ("locality", LocalityPrior)):
        arguments, parameters = head.get(key) or {}, inspect.signature(part).parameters
        for name, value in arguments.items():
            default = parameters[name].default if name in parameters else None
            if conflict := type_conflict(default, value):
                raise UserError(f"{where}: pts_bbox_head.{key}.{name}: {conflict}")
        try:
            if key == "aqr" and arguments:
                width = head.get("hidden_dim", 128)
                bias = attention_bias(arguments, width)
                if bias.router_kind not in ROUTERS:
                    check_router(bias.router_kind, width, arguments.get("router_options"))
            elif arguments:  # with as many heads as the first list has numbers
                heads = [len(value) for value in arguments.values() if isinstance(value, list | tuple)]
                from_kwargs(part, key, arguments, num_heads=heads[0] if heads else 1)
        except UserError as error:
            raise UserError(f"{where}: {error.message}", error.remedy) from None


def _check_image_points(head: Any, where: str | Path) -> None:
    """UserError for arguments of ``image_points`` that its part of the head does not take."""
    from aqr_bench.bias.arguments import from_kwargs
    from aqr_bench.cmt.image_points import ImagePoints  # mmdet3d, seconds: where a variant changes them

    try:
        from_kwargs(ImagePoints, "image_points", dict(head["image_points"]), channels=head.get("hidden_dim", 128))
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.remedy) from None
