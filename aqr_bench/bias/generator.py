"""The bias generator: router weights on local windows, scaled and clamped, for cross- and self-attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layout import MemoryLayout
from .router import QueryRouter, router_loss, sensor_weights
from .windows import PROFILES, WindowBias, bev_window, camera_window, self_window, window_offsets, window_profile

SITES = ("none", "cross", "self", "both")
ROUTERS = ("learned", "oracle", "constant")
SUPERVISIONS = ("none", "modality")
LAYERS = ("all", "first", "last")
MAX_BIAS = 5.0  # beyond it the softmax is saturated (the design note's clamp)


@dataclass(frozen=True)
class BiasOutput:
    """What one forward pass hands to the decoder. ``weights_BQ2`` are (LiDAR, camera) in [-1, 1]."""

    cross: WindowBias | None
    self_BQQ: Tensor | None
    weights_BQ2: Tensor
    logits_BQ2: Tensor | None


class AttentionBias(nn.Module):
    """Adaptive Query Router and bias generator (spec, parts 1 and 2).

    Args:
        embed_dims: width C of queries and memory.
        site: where the bias acts: none, cross, self or both.
        bev_window, camera_window: odd window sizes in cells; 0 leaves that modality unbiased.
        profile: uniform, gaussian, or hard (cross: -inf outside the windows).
        router: learned; oracle (true sensor state); constant (+1 for both).
        supervision: none (the detection loss alone) or modality (the true sensor state as target).
        scale, min_scale, max_scale, learnable_scale: the one scale number and its clamp.
        layers: decoder layers that see the bias: all, first, last.
        num_heads, ffn_dims: of the router's layer.
        loss_weight: weight of the supervision loss.
    Raises:
        ValueError: a value outside of those listed.
    """

    def __init__(
        self,
        embed_dims: int,
        site: str = "cross",
        bev_window: int = 5,
        camera_window: int = 5,
        profile: str = "uniform",
        router: str = "learned",
        supervision: str = "none",
        scale: float = 1.0,
        min_scale: float = 0.1,
        max_scale: float = 5.0,
        learnable_scale: bool = True,
        layers: str = "all",
        num_heads: int = 4,
        ffn_dims: int = 1024,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        _choice("site", site, SITES)
        _choice("profile", profile, PROFILES)
        _choice("router", router, ROUTERS)
        _choice("supervision", supervision, SUPERVISIONS)
        _choice("layers", layers, LAYERS)
        for name, size in (("bev_window", bev_window), ("camera_window", camera_window)):
            if size < 0 or (size and size % 2 == 0):
                raise ValueError(f"aqr.{name} must be 0 or odd, not {size}")
        if not 0 <= min_scale <= max_scale:
            raise ValueError(f"aqr: need 0 <= min_scale <= max_scale, not {min_scale} and {max_scale}")
        if supervision != "none" and router != "learned":
            raise ValueError(f"aqr.supervision '{supervision}' needs router 'learned', not '{router}'")
        self.site, self.profile, self.router_kind, self.supervision = site, profile, router, supervision
        self.bev_size, self.camera_size, self.layers = bev_window, camera_window, layers
        self.min_scale, self.max_scale, self.loss_weight = min_scale, max_scale, loss_weight
        scale_tensor = torch.tensor(float(scale))
        if learnable_scale:
            self.scale = nn.Parameter(scale_tensor)
        else:
            self.register_buffer("scale", scale_tensor)
        self.router = QueryRouter(embed_dims, num_heads, ffn_dims) if router == "learned" else None

    def forward(
        self,
        query_BQC: Tensor,
        query_pos_BQC: Tensor,
        memory_BKC: Tensor,
        memory_pos_BKC: Tensor,
        reference_BQ3: Tensor,
        lidar2img_BN44: Tensor | None,
        image_shape_BN2: Tensor | None,
        layout: MemoryLayout,
        sensor_state_B: Tensor | None = None,
    ) -> BiasOutput:
        """Bias of every query; ``reference_BQ3`` in metres (LiDAR frame), ``image_shape_BN2`` padded (h, w)."""
        batch, queries, _ = query_BQC.shape
        logits = None
        if self.router is not None:
            logits = self.router(query_BQC, query_pos_BQC, memory_BKC, memory_pos_BKC)
            weights = logits.tanh()
        elif self.router_kind == "oracle":
            if sensor_state_B is None:
                raise ValueError("aqr.router 'oracle' needs the sensor state of every sample")
            weights = sensor_weights(sensor_state_B.to(query_BQC.device)).to(query_BQC)[:, None].expand(-1, queries, -1)
        else:
            weights = query_BQC.new_ones(batch, queries, 2)
        cross = self_bias = None
        if self.site in ("cross", "both"):
            cross = self._cross(weights, reference_BQ3.detach(), lidar2img_BN44, image_shape_BN2, layout)
        if self.site in ("self", "both"):
            self_bias = self._self(weights, reference_BQ3.detach(), layout)
        return BiasOutput(cross, self_bias, weights, logits)

    def for_layer(self, out: BiasOutput, index: int, num_layers: int) -> tuple[WindowBias | None, Tensor | None]:
        """(cross bias, self bias) that decoder layer ``index`` of ``num_layers`` sees."""
        if (self.layers == "first" and index > 0) or (self.layers == "last" and index < num_layers - 1):
            return None, None
        return out.cross, out.self_BQQ

    def loss(self, out: BiasOutput, sensor_state_B: Tensor) -> dict[str, Tensor]:
        """``{"loss_router": ...}`` if supervised by the sensor state, else ``{}``."""
        if self.supervision == "none":
            return {}
        return {"loss_router": self.loss_weight * router_loss(out.logits_BQ2, sensor_state_B)}

    def _scaled(self, raw: Tensor) -> Tensor:
        limit = min(MAX_BIAS, self.max_scale)
        return (raw * self.scale.clamp(self.min_scale, self.max_scale)).clamp(-limit, limit)

    def _cross(self, weights, reference, lidar2img, image_shape, layout: MemoryLayout) -> WindowBias | None:
        parts = []
        if layout.num_bev and self.bev_size:
            index, valid = bev_window(reference, layout, self.bev_size)
            parts.append((index, valid, self._raw(weights[..., 0], self.bev_size, index.shape[-1])))
        if layout.num_camera and self.camera_size:
            index, valid = camera_window(reference, lidar2img, image_shape, layout, self.camera_size)
            parts.append((index, valid, self._raw(weights[..., 1], self.camera_size, index.shape[-1])))
        if not parts:
            return None
        index, valid, raw = (torch.cat(column, -1) for column in zip(*parts, strict=True))
        return WindowBias(index, valid, self._scaled(raw), layout.num_keys, hard=self.profile == "hard")

    def _raw(self, weight_BQ: Tensor, size: int, cells: int) -> Tensor:
        """Weight times profile on ``cells`` window cells: one or several windows of size x size."""
        shape = window_profile(window_offsets(size, weight_BQ.device), size, self.profile).to(weight_BQ)
        return weight_BQ[..., None] * shape.repeat(cells // (size * size))

    def _self(self, weights: Tensor, reference: Tensor, layout: MemoryLayout) -> Tensor | None:
        if not (layout.num_bev and self.bev_size):
            return None
        profile, valid = self_window(reference, layout, self.bev_size, self.profile)
        return self._scaled(weights[..., :1] * profile).masked_fill(~valid, 0)


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"aqr.{name} '{value}' is not known; choose one of {', '.join(known)}")
