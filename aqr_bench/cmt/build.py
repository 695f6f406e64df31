"""Build the parts of a model from configs that carry official type names without a scope."""

from __future__ import annotations

from typing import Any

from mmdet.registry import MODELS as MMDET_MODELS
from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.registry import Registry

from aqr_bench.errors import UserError, nearest


def scoped(cfg: dict) -> dict:
    """A copy of ``cfg`` whose type mmdet3d can resolve: ``ResNet`` becomes ``mmdet.ResNet`` if only mmdet has it.

    Raises:
        UserError: neither mmdet3d nor mmdet knows the type.
    """
    cfg = dict(cfg)
    name = cfg.get("type")
    if not isinstance(name, str) or "." in name or MODELS.get(name) is not None:
        return cfg
    if MMDET_MODELS.get(name) is None:
        types = [*MODELS.module_dict, *MMDET_MODELS.module_dict]
        raise UserError(f"model config: type '{name}' is unknown{nearest(name, types)}")
    return {**cfg, "type": f"mmdet.{name}"}


def build_model(cfg: dict) -> Any:
    """Build a model part from mmdet3d's registry, or mmdet's for names that only mmdet has."""
    return MODELS.build(scoped(cfg))


def build_task_util(cfg: dict, registry: Registry = TASK_UTILS) -> Any:
    """Build a coder or an assigner; an unknown type is a UserError."""
    name = cfg.get("type")
    if isinstance(name, str) and registry.get(name) is None:
        raise UserError(f"model config: type '{name}' is unknown{nearest(name, registry.module_dict)}")
    return registry.build(dict(cfg))
