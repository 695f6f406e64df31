"""Adaptive Query Router: one transformer layer that gives every object query a LiDAR and a camera weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import biased_attention
from .windows import WindowBias


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
        weights, biases = self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3)
        heads = [
            nn.functional.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query_BQC, key_BKC, value_BKC), weights, biases, strict=True)
        ]
        return self.attn.out_proj(biased_attention(*heads, bias=local).transpose(1, 2).flatten(2))


class QueryRouter(nn.Module):
    """`cross_attn, norm, ffn, norm` over the fused memory, then one logit per modality (spec, part 1), or as many as
    ``outputs`` says.

    The output layer starts at zero, so both weights start at 0 and a model that is warm-started from plain
    CMT begins as plain CMT.
    """

    def __init__(
        self, embed_dims: int, num_heads: int = 4, ffn_dims: int = 1024, outputs: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = CrossAttention(embed_dims, num_heads)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.ffn = nn.Sequential(
            nn.Linear(embed_dims, ffn_dims), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn_dims, embed_dims)
        )
        self.norm2 = nn.LayerNorm(embed_dims)
        self.output = nn.Linear(embed_dims, outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        query_BQC: Tensor,
        query_pos_BQC: Tensor,
        memory_BKC: Tensor,
        memory_pos_BKC: Tensor,
        local: WindowBias | None = None,
    ) -> Tensor:
        """Return logits [B, Q, outputs]; two of them are (LiDAR, camera), and the weights are their tanh."""
        attended = self.attention(query_BQC + query_pos_BQC, memory_BKC + memory_pos_BKC, memory_BKC, local)
        x = self.norm1(query_BQC + attended)
        x = self.norm2(x + self.ffn(x))
        return self.output(x)


def sensor_weights(sensor_state_B: Tensor) -> Tensor:
    """True (LiDAR, camera) weights [B, 2]: +1 if present, -1 if missing. State 0 clean, 1 no LiDAR, 2 no cameras."""
    lidar = torch.where(sensor_state_B == 1, -1.0, 1.0)
    camera = torch.where(sensor_state_B == 2, -1.0, 1.0)
    return torch.stack([lidar, camera], -1)


def router_loss(logits_BQ2: Tensor, sensor_state_B: Tensor) -> Tensor:
    """Binary cross-entropy of every query's two weights against the true sensor state.

    tanh(x) = 2 sigmoid(2x) - 1, so the probability that belongs to a weight in [-1, 1] has the logit 2x.
    """
    target = ((sensor_weights(sensor_state_B.to(logits_BQ2.device)) + 1) / 2)[:, None].expand_as(logits_BQ2)
    return nn.functional.binary_cross_entropy_with_logits(2 * logits_BQ2, target.to(logits_BQ2.dtype))
