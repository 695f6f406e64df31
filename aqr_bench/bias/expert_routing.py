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
    expert_of_state = [EXPERTS.index(EXPERT_OF_STATE[state]) for state in SensorState]
    return torch.tensor(expert_of_state, device=sensor_state_B.device)[sensor_state_B]


def choose_experts(logits_BQ3: Tensor, layout: MemoryLayout) -> Tensor:
    """The likeliest expert of each query, long [B, Q]; equal logits choose both sensors.

    A sensor of which the memory holds no key cannot be chosen by itself: such a query would attend to nothing.
    """
    absent = [False, not layout.num_bev, not layout.num_camera]
    return logits_BQ3.masked_fill(torch.tensor(absent, device=logits_BQ3.device), float("-inf")).argmax(-1)


def expert_weights(expert_BQ: Tensor, like: Tensor) -> RouterWeights:
    """Weights of each query's expert: +1 attended to, -1 masked out; dtype and device of ``like``."""
    return RouterWeights(*(like.new_tensor(weights)[expert_BQ] for weights in (LIDAR_WEIGHTS, CAMERA_WEIGHTS)))


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
