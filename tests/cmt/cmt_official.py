"""The official CMT head configs and the rule that fills weights and inputs of the golden outputs."""

from __future__ import annotations

import copy
import zlib

import torch

PC_RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
CLASSES = [
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
]  # fmt: skip
CODE_WEIGHTS = [2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2]


def head_config(kind: str = "CmtHead", voxel: float = 0.1, grid: int = 1024, **changes) -> dict:
    """The ``pts_bbox_head`` of an official config, with its train and test settings, as plain dicts."""
    kernel = 3 if kind == "CmtLidarHead" else 1
    transformer = {"CmtHead": "CmtTransformer", "CmtLidarHead": "CmtLidarTransformer"}.get(kind, "CmtImageTransformer")
    attention = dict(embed_dims=256, num_heads=8, dropout=0.1)
    config = dict(
        type=kind,
        in_channels=512,
        hidden_dim=256,
        downsample_scale=8,
        common_heads=dict(center=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        tasks=[dict(num_class=10, class_names=CLASSES)],
        bbox_coder=dict(
            type="MultiTaskBBoxCoder",
            post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            pc_range=PC_RANGE,
            max_num=300,
            voxel_size=[voxel, voxel, 0.2],
            num_classes=10,
        ),
        separate_head=dict(type="SeparateTaskHead", init_bias=-2.19, final_kernel=kernel),
        transformer=dict(
            type=transformer,
            decoder=dict(
                type="PETRTransformerDecoder",
                return_intermediate=True,
                num_layers=6,
                transformerlayers=dict(
                    type="PETRTransformerDecoderLayer",
                    attn_cfgs=[
                        dict(type="MultiheadAttention", **attention),
                        dict(type="PETRMultiheadFlashAttention", **attention),
                    ],
                    ffn_cfgs=dict(
                        type="FFN",
                        embed_dims=256,
                        feedforward_channels=1024,
                        num_fcs=2,
                        ffn_drop=0.0,
                        act_cfg=dict(type="ReLU", inplace=True),
                    ),
                    feedforward_channels=1024,
                    operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
                ),
            ),
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2, alpha=0.25, reduction="mean", loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", reduction="mean", loss_weight=0.25),
        loss_heatmap=dict(type="GaussianFocalLoss", reduction="mean", loss_weight=1.0),
        train_cfg=dict(
            assigner=dict(
                type="HungarianAssigner3D",
                cls_cost=dict(type="FocalLossCost", weight=2.0),
                reg_cost=dict(type="BBox3DL1Cost", weight=0.25),
                iou_cost=dict(type="IoUCost", weight=0.0),
                pc_range=PC_RANGE,
                code_weights=CODE_WEIGHTS,
            ),
            grid_size=[grid, grid, 40],
            code_weights=CODE_WEIGHTS,
        ),
        test_cfg=dict(grid_size=[grid, grid, 40], max_num=200),
    )
    return copy.deepcopy({**config, **changes})


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
