"""Adaptive Query Router: one transformer layer that gives every object query a LiDAR and a camera weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aqr_bench.bias.attention.dispatch import biased_attention
from aqr_bench.bias.attention.window import window_attention
from aqr_bench.bias.windows import WindowBias
from aqr_bench.sensor_state import SensorState


class RouterWeights(NamedTuple):
    """How much every query attends to each sensor, [B, Q] in [-1, 1]: +1 more than without a bias, -1 less."""

    lidar_weight_BQ: Tensor
    camera_weight_BQ: Tensor


class CrossAttention(nn.Module):
    """Multi-head cross-attention with nn.MultiheadAttention's parameter names, batch first."""

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"embed_dims {embed_dims} must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, batch_first=True)

    def forward(self, query_BQC: Tensor, key_BKC: Tensor, value_BKC: Tensor, local: WindowBias | None = None) -> Tensor:
        """[B, Q, C] -> [B, Q, C]; ``local`` is a hard window bias of zeros that restricts it to the windows."""
        (wq, wk, wv), (bq, bk, bv) = self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3)
        q = self._heads(query_BQC, wq, bq)
        if local is not None and q.dtype in (torch.float32, torch.float64):
            return self.attn.out_proj(self._window_attention(q, key_BKC, value_BKC, local, wk, wv, bv))
        k, v = self._heads(key_BKC, wk, bk), self._heads(value_BKC, wv, bv)
        return self.attn.out_proj(biased_attention(q, k, v, bias=local).transpose(1, 2).flatten(2))

    def _heads(self, x_BSC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return nn.functional.linear(x_BSC, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _window_attention(
        self, q: Tensor, key_BKC: Tensor, value_BKC: Tensor, local: WindowBias, wk: Tensor, wv: Tensor, bv: Tensor
    ) -> Tensor:
        """Attention to the cells of hard windows without projecting the memory, most of which is in no window.

        q . (Wk x) = (Wk^T q) . x, and sum p (Wv x) = Wv sum p x: the projections go to the queries and to their sums,
        and all heads share keys and values. bk adds the same to all scores of a row, so it changes nothing.
        """
        wk, wv = (w.unflatten(0, (self.num_heads, -1)) for w in (wk, wv))
        scale = q.shape[-1] ** -0.5
        sums = window_attention(q @ wk, key_BKC[:, None], value_BKC[:, None], local, None, scale)
        out = (sums @ wv.transpose(1, 2)).transpose(1, 2).flatten(2) + bv
        return out.masked_fill(~local.valid_BQW.any(-1, keepdim=True), 0)


class QueryRouter(nn.Module):
    """`cross_attn, norm, ffn, norm` over the fused memory, then logits per query (spec, part 1).

    The weights of the output layer start at zero, so every query starts with ``initial_logits``. At 0 a model that is
    warm-started from plain CMT begins as plain CMT.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int = 4,
        ffn_dims: int = 1024,
        initial_logits: Sequence[float] = (0.0, 0.0),
    ) -> None:
        super().__init__()
        self.attention = CrossAttention(embed_dims, num_heads)
        self.norm1 = nn.LayerNorm(embed_dims)
        # Without dropout; its index stays, since checkpoints name the second layer ffn.3.
        self.ffn = nn.Sequential(
            nn.Linear(embed_dims, ffn_dims), nn.ReLU(), nn.Identity(), nn.Linear(ffn_dims, embed_dims)
        )
        self.norm2 = nn.LayerNorm(embed_dims)
        self.output = nn.Linear(embed_dims, len(initial_logits))
        nn.init.zeros_(self.output.weight)
        with torch.no_grad():
            self.output.bias.copy_(torch.tensor(initial_logits))

    def forward(
        self,
        query_BQC: Tensor,
        query_pos_BQC: Tensor,
        memory_BKC: Tensor,
        memory_pos_BKC: Tensor,
        local: WindowBias | None = None,
    ) -> Tensor:
        """Logits [B, Q, outputs], one per ``initial_logits``; of two, (LiDAR, camera), the weights are the tanh."""
        attended = self.attention(query_BQC + query_pos_BQC, memory_BKC + memory_pos_BKC, memory_BKC, local)
        x = self.norm1(query_BQC + attended)
        x = self.norm2(x + self.ffn(x))
        return self.output(x)


def sensor_weights(sensor_state_B: Tensor) -> RouterWeights:
    """The true weights of each sample, [B]: +1 for a sensor that is present, -1 for one that is missing."""
    return RouterWeights(
        torch.where(sensor_state_B == SensorState.NO_LIDAR, -1.0, 1.0),
        torch.where(sensor_state_B == SensorState.NO_CAMERAS, -1.0, 1.0),
    )


def router_loss(logits_BQ2: Tensor, sensor_state_B: Tensor) -> Tensor:
    """Binary cross-entropy of every query's two weights against the true sensor state.

    tanh(x) = 2 sigmoid(2x) - 1, so the probability that belongs to a weight in [-1, 1] has the logit 2x.
    """
    weights_B2 = torch.stack(sensor_weights(sensor_state_B.to(logits_BQ2.device)), -1)
    target = ((weights_B2 + 1) / 2)[:, None].expand_as(logits_BQ2)
    return nn.functional.binary_cross_entropy_with_logits(2 * logits_BQ2, target.to(logits_BQ2.dtype))
