"""The bias generator: router weights on local windows, scaled and clamped, for cross- and self-attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aqr_bench.bias.custom_router import (
    RouterInput,
    build_router,
    checked_weights,
    find_router,
    weight_logits,
)
from aqr_bench.bias.expert_routing import (
    EXPERTS,
    choose_experts,
    expert_loss,
    expert_mask,
    expert_weights,
    true_experts,
)
from aqr_bench.bias.layout import MemoryLayout, pool_cells
from aqr_bench.bias.router import QueryRouter, RouterWeights, router_loss, sensor_weights
from aqr_bench.bias.windows import (
    PROFILES,
    ClosedForm,
    GridWindow,
    WindowBias,
    grid_windows,
    hard_windows,
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
    """Biases of one forward pass, and what the router chose.

    Args:
        cross_bias: of cross-attention, queries by memory cells; with routing ``mask`` a dense one of 0 and -inf.
        self_bias: of self-attention, queries by queries.
        weights: LiDAR and camera weight of every query.
        logits_BQO: of a learned router or of the user's, None without one: (LiDAR, camera), whose tanh the weights are,
            or with routing ``mask`` those of ``EXPERTS``.
    """

    cross_bias: WindowBias | Tensor | None
    self_bias: WindowBias | None
    weights: RouterWeights
    logits_BQO: Tensor | None


class AttentionBias(nn.Module):
    """Adaptive Query Router and bias generator (spec, parts 1 and 2).

    Args:
        embed_dims: width C of queries and memory.
        site: where the bias acts: none, cross, self or both.
        bev_window, camera_window: odd window sizes in cells; 0 leaves that modality unbiased.
        profile: uniform, gaussian, or hard (cross: -inf outside the windows).
        router: learned; oracle (true sensor state); constant (``constant_weights`` for every query); or a class of the
            user, ``my_file.py:NAME``, ``package.module:NAME`` or a registered name, see ``bias.custom_router``.
        router_options: keyword arguments of the user's router.
        supervision: none (the detection loss alone) or modality (the true sensor state as target).
        scale, min_scale, max_scale, learnable_scale: the one scale number and its clamp.
        layers: decoder layers that see the bias: all, first, last.
        num_heads, ffn_dims: of the router's layer.
        router_bev_window, router_camera_window: odd sizes of the windows that the router's own attention is restricted
            to (MoME: 5 and 15); both 0: it sees the whole memory.
        router_pool: side of the blocks of cells, of the BEV and of every camera, whose tokens and position embeddings
            are averaged to one key each for the router's own attention. 1: it sees every token. Parameters are the same
            for all sizes, the router's weights are not. Not together with windows of the router.
        loss_weight: weight of the supervision loss.
        constant_weights: (LiDAR, camera) in [-1, 1], of router constant.
        initial_weights: (LiDAR, camera) in (-1, 1) that a learned router gives every query before it has learnt
            anything. 0: a model starts without a bias, which suits a warm start from plain CMT. A decoder that learns
            from scratch and leans on the bias needs one from the start.
        routing: ``bias`` (all of the above) or ``mask``, after MoME: the router chooses for every query between both
            sensors, LiDAR alone and the cameras alone; keys of the other sensor are masked with -inf in
            cross-attention. The choice has no gradient, so the router is ``oracle``, or ``learned`` with supervision
            ``modality``. There is no bias then: windows of the bias, profile and scale have no effect.
    Raises:
        ValueError: a value that is not one of those above.
        UserError: a router of the user that cannot be used.
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
        router_pool: int = 1,
        loss_weight: float = 1.0,
        constant_weights: Sequence[float] = (1.0, 1.0),
        initial_weights: Sequence[float] = (0.0, 0.0),
        routing: str = "bias",
        router_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _validate_choice("site", site, SITES)
        _validate_choice("profile", profile, PROFILES)
        router_class = None if router in ROUTERS else find_router(router)
        if router_class is None:
            _validate_choice("router", router, ROUTERS, ", or a class of the user as my_file.py:NAME")
        if router_options and router_class is None:
            raise ValueError(f"aqr.router_options are of a user's router, not of '{router}'")
        _validate_choice("supervision", supervision, SUPERVISIONS)
        _validate_choice("layers", layers, LAYERS)
        _validate_choice("routing", routing, ROUTINGS)
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
        if len(initial_weights) != 2 or not all(-1 < weight < 1 for weight in initial_weights):
            raise ValueError(f"aqr.initial_weights must be two numbers between -1 and 1, not {initial_weights!r}")
        if any(initial_weights) and (router != "learned" or routing == "mask"):
            raise ValueError("aqr.initial_weights needs router 'learned' and routing 'bias'")
        if any(self.router_windows) and router != "learned":
            raise ValueError(f"aqr.router_bev_window and router_camera_window need router 'learned', not '{router}'")
        if router_pool < 1 or router_pool != int(router_pool):
            raise ValueError(f"aqr.router_pool must be a positive number of cells, 1 for none, not {router_pool}")
        if router_pool > 1 and (router != "learned" or any(self.router_windows)):
            raise ValueError(
                "aqr.router_pool averages the memory of a router that sees all of it: it needs router 'learned' and no "
                "router_bev_window or router_camera_window"
            )
        self.router_pool = int(router_pool)
        if supervision != "none" and router in ("oracle", "constant"):
            raise ValueError(f"aqr.supervision '{supervision}' needs router 'learned', not '{router}'")
        if routing == "mask" and (site != "cross" or router not in ("learned", "oracle")):
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
        initial = (0.0,) * len(EXPERTS) if routing == "mask" else tuple(map(math.atanh, initial_weights))
        self.router = QueryRouter(embed_dims, num_heads, ffn_dims, initial) if router == "learned" else None
        self._router_class = router_class
        if router_class is not None:
            self.router = build_router(router, router_class, embed_dims, router_options or {})

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
        geometry = (reference_BQ3.detach(), lidar2img_BN44, image_shape_BN2, layout)
        logits = None
        if self.router is not None and self._router_class is None:
            local = None
            if has_windows(layout, *self.router_windows):
                windows = grid_windows(*geometry, *self.router_windows)
                local = hard_windows(windows, query_BQC, layout.num_keys)
            keys = (memory_BKC, memory_pos_BKC)
            if self.router_pool > 1:
                keys = (pool_cells(x_BKC, layout, self.router_pool) for x_BKC in keys)
            logits = self.router(query_BQC, query_pos_BQC, *keys, local)
        if self.routing == "mask":
            return self._mask_sensors(logits, query_BQC, layout, sensor_state_B)
        if self._router_class is not None:
            inputs = RouterInput(query_BQC, query_pos_BQC, memory_BKC, memory_pos_BKC, reference_BQ3.detach(), layout)
            weights_BQ2 = checked_weights(self.router(inputs), query_BQC, self.router_kind)
            weights, logits = RouterWeights(*weights_BQ2.unbind(-1)), weight_logits(weights_BQ2)
        elif logits is not None:
            weights = RouterWeights(*logits.tanh().unbind(-1))
        elif self.router_kind == "oracle":
            true_weights = sensor_weights(_require_sensor_state(sensor_state_B).to(query_BQC.device))
            weights = RouterWeights(*(w_B.to(query_BQC)[:, None].expand(-1, queries) for w_B in true_weights))
        else:
            weights = RouterWeights(*(query_BQC.new_full((batch, queries), weight) for weight in self.constant_weights))
        cross_bias = self_bias = None
        if self.site in ("cross", "both") and has_windows(layout, self.bev_size, self.camera_size):
            windows = grid_windows(*geometry, self.bev_size, self.camera_size)
            cross_bias = self._cross_bias(weights, windows, layout.num_keys)
        if self.site in ("self", "both"):
            self_bias = self._self_bias(weights, reference_BQ3.detach(), layout)
        return BiasOutput(cross_bias, self_bias, weights, logits)

    def for_layer(
        self, out: BiasOutput, index: int, num_layers: int
    ) -> tuple[WindowBias | Tensor | None, WindowBias | None]:
        """(cross bias, self bias) that decoder layer ``index`` of ``num_layers`` sees."""
        if (self.layers == "first" and index > 0) or (self.layers == "last" and index < num_layers - 1):
            return None, None
        return out.cross_bias, out.self_bias

    def loss(self, out: BiasOutput, sensor_state_B: Tensor) -> dict[str, Tensor]:
        """``{"loss_router": ...}`` if supervised by the sensor state, else ``{}``."""
        if self.supervision == "none":
            return {}
        if self.routing == "mask":
            return {"loss_router": self.loss_weight * expert_loss(out.logits_BQO, sensor_state_B)}
        return {"loss_router": self.loss_weight * router_loss(out.logits_BQO, sensor_state_B)}

    def _mask_sensors(
        self, logits_BQ3: Tensor | None, query_BQC: Tensor, layout: MemoryLayout, sensor_state_B: Tensor | None
    ) -> BiasOutput:
        """Routing ``mask``: the keys that each query's expert does not attend to are masked out."""
        scores_BQ3 = logits_BQ3
        if scores_BQ3 is None:
            expert_B = true_experts(_require_sensor_state(sensor_state_B).to(query_BQC.device))
            scores_B3 = nn.functional.one_hot(expert_B, len(EXPERTS)).to(query_BQC)
            scores_BQ3 = scores_B3[:, None].expand(-1, query_BQC.shape[1], -1)
        expert_BQ = choose_experts(scores_BQ3, layout)
        mask = expert_mask(expert_BQ, layout, query_BQC)
        return BiasOutput(mask, None, expert_weights(expert_BQ, query_BQC), logits_BQ3)

    @property
    def _limit(self) -> float:
        return min(MAX_BIAS, self.max_scale)

    def _scaled(self, raw: Tensor, scale: Tensor) -> Tensor:
        return (raw * scale).clamp(-self._limit, self._limit)

    def _clamped_scale(self) -> Tensor:
        return self.scale.clamp(self.min_scale, self.max_scale)

    def _cross_bias(self, weights: RouterWeights, windows: tuple[GridWindow, ...], num_keys: int) -> WindowBias:
        parts = []
        for window in windows:
            weight_BQ = weights.camera_weight_BQ if window.is_camera else weights.lidar_weight_BQ
            offsets = window_offsets(window.size, weight_BQ.device)
            parts.append(weight_BQ[..., None] * window_profile(offsets, window.size, self.profile).to(weight_BQ))
        # Where no query has a window, an empty part keeps the router in the graph.
        scale = self._clamped_scale()
        value = self._scaled(torch.cat(parts or [weights.lidar_weight_BQ[..., None][..., :0]], -1), scale)
        hard = self.profile == "hard"
        form = ClosedForm(*weights, scale, "uniform" if hard else self.profile, self._limit)
        return window_bias(windows, value, num_keys, hard, form)

    def _self_bias(self, weights: RouterWeights, reference_BQ3: Tensor, layout: MemoryLayout) -> WindowBias | None:
        if not (layout.num_bev and self.bev_size):
            return None
        index, valid, profile = self_window(reference_BQ3, layout, self.bev_size, self.profile)
        value = self._scaled(weights.lidar_weight_BQ[..., None] * profile, self._clamped_scale())
        return WindowBias(index, valid, value, reference_BQ3.shape[1])


def _require_sensor_state(sensor_state_B: Tensor | None) -> Tensor:
    if sensor_state_B is None:
        raise ValueError("aqr.router 'oracle' needs the sensor state of every sample")
    return sensor_state_B


def _validate_choice(name: str, value: str, choices: tuple[str, ...], more: str = "") -> None:
    if value not in choices:
        raise ValueError(f"aqr.{name} '{value}' is not known; choose one of {', '.join(choices)}{more}")
