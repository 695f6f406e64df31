"""Hard routing after MoME (CVPR 2025): each query attends to both sensors, to LiDAR alone or to the cameras alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aqr_bench.bias.layout import MemoryLayout
from aqr_bench.bias.router import RouterWeights
from aqr_bench.sensor_state import SensorState

EXPERTS = ("both", "lidar", "cameras")
EXPERT_OF_STATE = {SensorState.CLEAN: "both", SensorState.NO_LIDAR: "cameras", SensorState.NO_CAMERAS: "lidar"}
# Of each of EXPERTS: +1 is attended to, -1 is masked out.
LIDAR_WEIGHTS, CAMERA_WEIGHTS = (1.0, 1.0, -1.0), (1.0, -1.0, 1.0)


def true_experts(sensor_state_B: Tensor) -> Tensor:
    """Index into EXPERTS that fits each sample's sensor state, long [B]."""
    expert_B = torch.zeros_like(sensor_state_B)
    for state, name in EXPERT_OF_STATE.items():
        expert_B = torch.where(sensor_state_B == state, EXPERTS.index(name), expert_B)
    return expert_B


def choose_experts(logits_BQ3: Tensor, layout: MemoryLayout) -> Tensor:
    """The likeliest expert of each query, long [B, Q]; equal logits choose both sensors.

    A sensor of which the memory holds no key cannot be chosen by itself: such a query would attend to nothing.
    """
    logits_BQ3 = logits_BQ3.detach().clone()
    for name, keys in (("lidar", layout.num_bev), ("cameras", layout.num_camera)):
        if not keys:
            logits_BQ3[..., EXPERTS.index(name)].fill_(float("-inf"))
    return logits_BQ3.argmax(-1)


def expert_weights(expert_BQ: Tensor, like: Tensor) -> RouterWeights:
    """Weights of each query's expert: +1 attended to, -1 masked out; dtype and device of ``like``."""
    weights = []
    for weight_of_expert in (LIDAR_WEIGHTS, CAMERA_WEIGHTS):
        weight_BQ = like.new_zeros(expert_BQ.shape)
        for index, weight in enumerate(weight_of_expert):
            weight_BQ = torch.where(expert_BQ == index, weight, weight_BQ)
        weights.append(weight_BQ)
    return RouterWeights(*weights)


def expert_mask(expert_BQ: Tensor, layout: MemoryLayout, like: Tensor) -> Tensor:
    """Mask added to cross-attention's scores, [B, Q, K]: -inf at the keys of the other sensor, else 0."""
    is_camera_K = torch.arange(layout.num_keys, device=expert_BQ.device) >= layout.num_bev
    lidar, cameras = (expert_BQ[..., None] == EXPERTS.index(name) for name in ("lidar", "cameras"))
    masked = (lidar & is_camera_K) | (cameras & ~is_camera_K)
    return like.new_zeros(masked.shape).masked_fill(masked, float("-inf"))


def expert_loss(logits_BQ3: Tensor, sensor_state_B: Tensor) -> Tensor:
    """Cross-entropy of every query's choice against the expert of the sample's true sensor state, as in MoME."""
    target = true_experts(sensor_state_B.to(logits_BQ3.device))[:, None].expand(logits_BQ3.shape[:2])
    return nn.functional.cross_entropy(logits_BQ3.flatten(0, 1), target.flatten())
