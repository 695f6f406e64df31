"""The bias generator: router weights on local windows, scaled and clamped, for cross- and self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aqr_bench.bias.expert_routing import (
    EXPERTS,
    choose_experts,
    expert_loss,
    expert_mask,
    expert_weights,
    true_experts,
)
from aqr_bench.bias.layout import MemoryLayout
from aqr_bench.bias.router import QueryRouter, router_loss, sensor_weights
from aqr_bench.bias.windows import (
    PROFILES,
    GridWindow,
    WindowBias,
    grid_windows,
    has_windows,
    self_window,
    window_bias,
    window_offsets,
    window_profile,
)

SITES = ("none", "cross", "self", "both")
ROUTERS = ("learned", "oracle", "constant")
SUPERVISIONS = ("none", "modality")
LAYERS = ("all", "first", "last")
ROUTINGS = ("bias", "mask")
MAX_BIAS = 5.0  # beyond it the softmax is saturated (the design note's clamp)


@dataclass(frozen=True)
class BiasOutput:
    """What one forward pass hands to the decoder.

    Args:
        cross: bias of cross-attention, queries by memory cells; with routing ``mask`` a dense one of 0 and -inf.
        own: bias of self-attention, queries by queries.
        weights_BQ2: (LiDAR, camera) in [-1, 1].
        logits_BQ2: what they are the tanh of; None without a learned router.
        experts_BQ3: with routing ``mask``, the learned router's logits of both sensors, LiDAR alone, cameras alone.
    """

    cross: WindowBias | Tensor | None
    own: WindowBias | None
    weights_BQ2: Tensor
    logits_BQ2: Tensor | None
    experts_BQ3: Tensor | None = None


class AttentionBias(nn.Module):
    """Adaptive Query Router and bias generator (spec, parts 1 and 2).

    Args:
        embed_dims: width C of queries and memory.
        site: where the bias acts: none, cross, self or both.
        bev_window, camera_window: odd window sizes in cells; 0 leaves that modality unbiased.
        profile: uniform, gaussian, or hard (cross: -inf outside the windows).
        router: learned; oracle (true sensor state); constant (``constant_weights`` for every query).
        supervision: none (the detection loss alone) or modality (the true sensor state as target).
        scale, min_scale, max_scale, learnable_scale: the one scale number and its clamp.
        layers: decoder layers that see the bias: all, first, last.
        num_heads, ffn_dims: of the router's layer.
        router_bev_window, router_camera_window: odd sizes of the windows that the router's own attention is restricted
            to (MoME: 5 and 15); both 0: it sees the whole memory.
        loss_weight: weight of the supervision loss.
        constant_weights: (LiDAR, camera) in [-1, 1], of router constant.
        routing: ``bias`` (all of the above) or ``mask``, after MoME: the router chooses for every query between both
            sensors, LiDAR alone and the cameras alone, and what it leaves out is masked with -inf in cross-attention.
            The choice has no gradient, so the router is ``oracle``, or ``learned`` with supervision ``modality``.
            There is no bias then: windows of the bias, profile and scale mean nothing.
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
        router_bev_window: int = 0,
        router_camera_window: int = 0,
        loss_weight: float = 1.0,
        constant_weights: Sequence[float] = (1.0, 1.0),
        routing: str = "bias",
    ) -> None:
        super().__init__()
        _choice("site", site, SITES)
        _choice("profile", profile, PROFILES)
        _choice("router", router, ROUTERS)
        _choice("supervision", supervision, SUPERVISIONS)
        _choice("layers", layers, LAYERS)
        _choice("routing", routing, ROUTINGS)
        self.router_windows = (router_bev_window, router_camera_window)
        sizes = dict(bev_window=bev_window, camera_window=camera_window)
        sizes.update(router_bev_window=router_bev_window, router_camera_window=router_camera_window)
        for name, size in sizes.items():
            if size < 0 or (size and size % 2 == 0):
                raise ValueError(f"aqr.{name} must be 0 or odd, not {size}")
        if not 0 <= min_scale <= max_scale:
            raise ValueError(f"aqr: need 0 <= min_scale <= max_scale, not {min_scale} and {max_scale}")
        if len(constant_weights) != 2 or not all(-1 <= weight <= 1 for weight in constant_weights):
            raise ValueError(f"aqr.constant_weights must be two numbers in [-1, 1], not {constant_weights!r}")
        self.constant_weights = tuple(float(weight) for weight in constant_weights)
        if any(self.router_windows) and router != "learned":
            raise ValueError(f"aqr.router_bev_window and router_camera_window need router 'learned', not '{router}'")
        if supervision != "none" and router != "learned":
            raise ValueError(f"aqr.supervision '{supervision}' needs router 'learned', not '{router}'")
        if routing == "mask" and (site != "cross" or router == "constant"):
            raise ValueError("aqr.routing 'mask' needs site 'cross' and router 'learned' or 'oracle'")
        if routing == "mask" and router == "learned" and supervision == "none":
            raise ValueError("aqr.routing 'mask' has no gradient: a learned router needs supervision 'modality'")
        self.routing = routing
        self.site, self.profile, self.router_kind, self.supervision = site, profile, router, supervision
        self.bev_size, self.camera_size, self.layers = bev_window, camera_window, layers
        self.min_scale, self.max_scale, self.loss_weight = min_scale, max_scale, loss_weight
        scale_tensor = torch.tensor(float(scale))
        if learnable_scale and routing == "bias":
            self.scale = nn.Parameter(scale_tensor)
        else:
            self.register_buffer("scale", scale_tensor)
        outputs = len(EXPERTS) if routing == "mask" else 2
        self.router = QueryRouter(embed_dims, num_heads, ffn_dims, outputs) if router == "learned" else None

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
        where = (reference_BQ3.detach(), lidar2img_BN44, image_shape_BN2, layout)
        logits = None
        if self.router is not None:
            local = None
            if has_windows(layout, *self.router_windows):
                windows = grid_windows(*where, *self.router_windows)
                nothing = query_BQC.new_zeros(batch, queries, sum(w.size**2 for w in windows))
                local = window_bias(windows, nothing, layout.num_keys, hard=True)
            logits = self.router(query_BQC, query_pos_BQC, memory_BKC, memory_pos_BKC, local)
        if self.routing == "mask":
            return self._masked(logits, query_BQC, layout, sensor_state_B)
        if logits is not None:
            weights = logits.tanh()
        elif self.router_kind == "oracle":
            weights = (
                sensor_weights(_known(sensor_state_B).to(query_BQC.device))
                .to(query_BQC)[:, None]
                .expand(-1, queries, -1)
            )
        else:
            weights = query_BQC.new_tensor(self.constant_weights).expand(batch, queries, 2)
        cross = own = None
        if self.site in ("cross", "both") and has_windows(layout, self.bev_size, self.camera_size):
            cross = self._cross(weights, grid_windows(*where, self.bev_size, self.camera_size), layout.num_keys)
        if self.site in ("self", "both"):
            own = self._self(weights, where[0], layout)
        return BiasOutput(cross, own, weights, logits)

    def for_layer(
        self, out: BiasOutput, index: int, num_layers: int
    ) -> tuple[WindowBias | Tensor | None, WindowBias | None]:
        """(cross bias, self bias) that decoder layer ``index`` of ``num_layers`` sees."""
        if (self.layers == "first" and index > 0) or (self.layers == "last" and index < num_layers - 1):
            return None, None
        return out.cross, out.own

    def loss(self, out: BiasOutput, sensor_state_B: Tensor) -> dict[str, Tensor]:
        """``{"loss_router": ...}`` if supervised by the sensor state, else ``{}``."""
        if self.supervision == "none":
            return {}
        if self.routing == "mask":
            return {"loss_router": self.loss_weight * expert_loss(out.experts_BQ3, sensor_state_B)}
        return {"loss_router": self.loss_weight * router_loss(out.logits_BQ2, sensor_state_B)}

    def _masked(
        self, logits: Tensor | None, query_BQC: Tensor, layout: MemoryLayout, sensor_state_B: Tensor | None
    ) -> BiasOutput:
        """Routing ``mask``: the keys that each query's expert does not attend to are masked out."""
        if logits is None:
            right_B = true_experts(_known(sensor_state_B).to(query_BQC.device))
            certain = torch.nn.functional.one_hot(right_B, len(EXPERTS)).to(query_BQC)
            expert = choose_experts(certain[:, None].expand(-1, query_BQC.shape[1], -1), layout)
        else:
            expert = choose_experts(logits, layout)
        mask = expert_mask(expert, layout, query_BQC)
        return BiasOutput(mask, None, expert_weights(expert, query_BQC), None, logits)

    def _scaled(self, raw: Tensor) -> Tensor:
        limit = min(MAX_BIAS, self.max_scale)
        return (raw * self.scale.clamp(self.min_scale, self.max_scale)).clamp(-limit, limit)

    def _cross(self, weights: Tensor, windows: tuple[GridWindow, ...], num_keys: int) -> WindowBias:
        raw = [weights[..., int(w.is_camera), None] * self._profile(w.size, weights) for w in windows]
        raw = raw or [weights[..., :0]]
        return window_bias(windows, self._scaled(torch.cat(raw, -1)), num_keys, hard=self.profile == "hard")

    def _profile(self, size: int, like: Tensor) -> Tensor:
        return window_profile(window_offsets(size, like.device), size, self.profile).to(like)

    def _self(self, weights: Tensor, reference: Tensor, layout: MemoryLayout) -> WindowBias | None:
        if not (layout.num_bev and self.bev_size):
            return None
        index, valid, profile = self_window(reference, layout, self.bev_size, self.profile)
        return WindowBias(index, valid, self._scaled(weights[..., :1] * profile), reference.shape[1])


def _known(sensor_state_B: Tensor | None) -> Tensor:
    if sensor_state_B is None:
        raise ValueError("aqr.router 'oracle' needs the sensor state of every sample")
    return sensor_state_B


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"aqr.{name} '{value}' is not known; choose one of {', '.join(known)}")
