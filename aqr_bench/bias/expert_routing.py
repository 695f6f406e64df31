"""Hard routing after MoME (CVPR 2025): each query attends to both sensors, to LiDAR alone or to the cameras alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aqr_bench.bias.layout import MemoryLayout

EXPERTS = ("both", "lidar", "cameras")
# Which expert is right under a sensor state: 0 clean, 1 no LiDAR, 2 no cameras.
EXPERT_OF_STATE = (0, 2, 1)
# (LiDAR, camera) weight that stands for an expert: +1 is attended to, -1 is masked out.
WEIGHTS = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0))


def true_experts(sensor_state_B: Tensor) -> Tensor:
    """Index into EXPERTS that fits each sample's sensor state, long [B]."""
    return torch.tensor(EXPERT_OF_STATE, device=sensor_state_B.device)[sensor_state_B]


def choose_experts(logits_BQ3: Tensor, layout: MemoryLayout) -> Tensor:
    """The likeliest expert of each query, long [B, Q]; equal logits choose both sensors.

    A sensor of which the memory holds no key cannot be chosen by itself: such a query would attend to nothing.
    """
    absent = [False, not layout.num_bev, not layout.num_camera]
    return logits_BQ3.masked_fill(torch.tensor(absent, device=logits_BQ3.device), float("-inf")).argmax(-1)


def expert_weights(expert_BQ: Tensor, like: Tensor) -> Tensor:
    """(LiDAR, camera) of each query's expert, [B, Q, 2]: +1 attended to, -1 masked out."""
    return like.new_tensor(WEIGHTS)[expert_BQ]


def expert_mask(expert_BQ: Tensor, layout: MemoryLayout, like: Tensor) -> Tensor:
    """What is added to cross-attention's scores, [B, Q, K]: -inf at the keys of the other sensor, else 0."""
    is_camera_K = torch.arange(layout.num_keys, device=expert_BQ.device) >= layout.num_bev
    lidar, cameras = (expert_BQ[..., None] == EXPERTS.index(name) for name in ("lidar", "cameras"))
    closed = (lidar & is_camera_K) | (cameras & ~is_camera_K)
    return like.new_zeros(closed.shape).masked_fill(closed, float("-inf"))


def expert_loss(logits_BQ3: Tensor, sensor_state_B: Tensor) -> Tensor:
    """Cross-entropy of every query's choice against the expert of the sample's true sensor state, as in MoME."""
    target = true_experts(sensor_state_B.to(logits_BQ3.device))[:, None].expand(logits_BQ3.shape[:2])
    return nn.functional.cross_entropy(logits_BQ3.flatten(0, 1), target.flatten())
