"""Heads out of the official configs, and the rule that fills weights and inputs of the golden outputs."""

from __future__ import annotations

import zlib

import torch
from mmengine.config import Config

from aqr_bench.study.model_files import CONFIGS

CONFIG_OF = {
    "CmtHead": "cmt_voxel0100_r50_800x320_cbgs",
    "CmtLidarHead": "cmt_lidar_voxel0075_cbgs",
    "CmtImageHead": "cmt_camera_vov_1600x640_cbgs",
}

PC_RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
CLASSES = [
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
]  # fmt: skip
CODE_WEIGHTS = [2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2]


def head_config(kind: str = "CmtHead", **changes) -> dict:
    """The ``pts_bbox_head`` of the official config with a head of that kind, its train and test settings filled in."""
    model = Config.fromfile(CONFIGS / f"{CONFIG_OF[kind]}.py").model.to_dict()
    settings = dict(train_cfg=model["train_cfg"]["pts"], test_cfg=model["test_cfg"]["pts"])
    return {**model["pts_bbox_head"], **settings, **changes}


def golden_head_config(kind: str = "CmtHead", **changes) -> dict:
    """The same as the golden outputs were made with: 50 queries, a grid of 128 x 128 cells."""
    config = head_config(kind, num_query=50, **changes)
    for settings in (config["train_cfg"], config["test_cfg"]):
        settings["grid_size"] = [128, 128, 40]
    return config


def generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode("utf-8")))


@torch.no_grad()
def fill(module: torch.nn.Module) -> torch.nn.Module:
    """Fill parameters and buffers by name, as the golden outputs were made."""
    for name, value in module.state_dict().items():
        g = generator(name)
        if name.endswith("num_batches_tracked"):
            value.zero_()
        elif name == "reference_points.weight":
            value.copy_(torch.rand(value.shape, generator=g))
        elif name.endswith("running_var"):
            value.copy_(1 + 0.05 * torch.rand(value.shape, generator=g))
        elif name.endswith(".weight") and value.dim() == 1:
            value.copy_(1 + 0.05 * torch.randn(value.shape, generator=g))
        else:
            value.copy_(0.05 * torch.randn(value.shape, generator=g))
    return module


def golden_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """BEV features [2, 512, 16, 16] and image features [12, 256, 8, 20]."""
    x = torch.randn(2, 512, 16, 16, generator=generator("input.x"))
    return x, torch.randn(12, 256, 8, 20, generator=generator("input.x_img"))
