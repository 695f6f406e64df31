"""Build the parts of a model from configs that carry official type names without a scope."""

from __future__ import annotations

from collections.abc import Sequence
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


def bev_range_3d(bev_range: Sequence[float] | None, pc_range: list[float]) -> list[float]:
    """(x0, y0, z0, x1, y1, z1) of the BEV map, from (x0, y0, x1, y1) or, by default, the point cloud range."""
    if bev_range is None:
        return pc_range
    if len(bev_range) != 4 or bev_range[0] >= bev_range[2] or bev_range[1] >= bev_range[3]:
        raise UserError(f"pts_bbox_head.bev_range is {list(bev_range)}; expected x0, y0, x1, y1 with x0 < x1, y0 < y1")
    x0, y0, x1, y1 = (float(v) for v in bev_range)
    return [x0, y0, pc_range[2], x1, y1, pc_range[5]]
