"""Attention modules with CMT's parameter names, on top of the biased attention functional."""

from __future__ import annotations

from typing import Literal

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from aqr_bench.bias.attention.dispatch import BACKENDS, biased_attention
from aqr_bench.bias.locality_prior import Prior
from aqr_bench.bias.windows import WindowBias
from aqr_bench.errors import UserError, nearest

Role = Literal["self", "cross"]

# Official attention types, and whether their dropout rate also applies to the attention probabilities.
# PETRMultiheadFlashAttention hands its rate to the position of `bias` in FlashMHA: no attention dropout.
ATTENTION_TYPES = {"MultiheadAttention": True, "PETRMultiheadAttention": True, "PETRMultiheadFlashAttention": False}
# Precisions of cross-attention; None: that of its inputs, which is float32 in a head.
ATTENTION_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


# Its extra dimensions hold squared distances of up to 5800 m^2 that cancel in the scores: half precision leaves errors
# of whole units there, and a fused kernel takes one precision for all dimensions.
PRIOR_NEEDS_FLOAT32 = "a locality prior needs attention_dtype 'float32'"


class PackedProjections(nn.Module):
    """Parameters of ``nn.MultiheadAttention``, under its names, without its forward pass."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims))
        self.out_proj = nn.Linear(embed_dims, embed_dims)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)


class DecoderAttention(BaseModule):
    """Multi-head attention with position embeddings, bias, residual connection and dropout.

    ``out = x + dropout(out_proj(attention(x + query_pos, key + key_pos, value)))``. The role is an argument, not
    guessed from sequence lengths. With ``dtype`` (see :func:`set_attention_dtype`), projected queries, keys and values
    are cast to it and the attention's output is cast back, as in the official FlashMHA.

    Args:
        role: ``self`` (keys and values are the queries) or ``cross``.
        attn_drop: dropout on the attention probabilities.
        out_drop: dropout on the output, before the residual connection.
        backend: see :func:`aqr_bench.bias.attention.dispatch.biased_attention`.
        offset_values: add to the output the mean attended position relative to the query (cross role, with a locality
            prior); ``points``: also of image points. CMT's values carry no position; small models learn to localise
            far sooner with it.
    """

    def __init__(
        self,
        role: Role,
        embed_dims: int,
        num_heads: int,
        attn_drop: float = 0.0,
        out_drop: float = 0.0,
        backend: str = "auto",
        offset_values: bool | str = False,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise UserError(
                f"transformer attention: embed_dims {embed_dims} is not a multiple of num_heads {num_heads}"
            )
        self.role = role
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.backend = backend
        self.dtype: torch.dtype | None = None
        self.attn = PackedProjections(embed_dims)
        self.out_drop = nn.Dropout(out_drop)
        numbers = 9 if offset_values == "points" else 7
        self.offset_proj = nn.Linear(numbers * num_heads, embed_dims) if offset_values and role == "cross" else None

    @classmethod
    def from_config(cls, role: Role, cfg: dict) -> DecoderAttention:
        """Build from an official ``attn_cfgs`` entry (``dropout``, or ``attn_drop`` and ``proj_drop``)."""
        cfg = dict(cfg)
        name = str(cfg.pop("type", "MultiheadAttention")).rsplit(".", 1)[-1]
        if name not in ATTENTION_TYPES:
            raise UserError(f"transformer attn_cfgs.type '{name}' is unknown{nearest(name, ATTENTION_TYPES)}")
        if "dropout" in cfg:
            rate = cfg.pop("dropout")
            drops = dict(attn_drop=rate if ATTENTION_TYPES[name] else 0.0, out_drop=rate)
        else:
            drops = dict(attn_drop=cfg.pop("attn_drop", 0.0), out_drop=cfg.pop("proj_drop", 0.0))
        cfg.pop("batch_first", None)
        keys = {"embed_dims", "num_heads", "backend", "offset_values"}
        for key in cfg:
            if key not in keys:
                raise UserError(f"transformer attn_cfgs: unknown key '{key}'{nearest(key, keys)}")
        return cls(role, **cfg, **drops)

    def forward(
        self,
        x_BQC: Tensor,
        query_pos_BQC: Tensor,
        memory_BKC: Tensor | None = None,
        memory_pos_BKC: Tensor | None = None,
        mask: Tensor | None = None,
        bias: WindowBias | Tensor | None = None,
        prior: Prior | None = None,
        values_BKC: Tensor | None = None,
    ) -> Tensor:
        """[B, Q, C] -> [B, Q, C]. Memory, its positions and values (default: the memory): for the cross role only."""
        query = x_BQC + query_pos_BQC
        if self.role == "self":
            key, value = query, x_BQC
        else:
            if memory_BKC is None:
                raise ValueError("cross-attention needs a memory")
            value = memory_BKC if values_BKC is None else values_BKC
            key = memory_BKC if memory_pos_BKC is None else memory_BKC + memory_pos_BKC
        weights, biases = self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3)
        q, k, v = (self._heads(F.linear(t, w, b)) for t, w, b in zip((query, key, value), weights, biases, strict=True))
        drop = self.attn_drop if self.training else 0.0
        width = v.shape[-1]
        if self.offset_proj is not None:
            if prior is None:
                raise ValueError("offset_values needs the head's locality prior: set pts_bbox_head.locality")
            v = torch.cat([v, prior.values_B1KV.to(v).expand(-1, self.num_heads, -1, -1)], -1)
        dims = None if prior is None else prior.dims
        if self.dtype is not None and prior is not None:
            raise ValueError(PRIOR_NEEDS_FLOAT32)
        out = biased_attention(
            q, k, v, mask=mask, bias=bias, prior=dims, dropout_p=drop, backend=self.backend, dtype=self.dtype
        )
        x = self.attn.out_proj(out[..., :width].transpose(1, 2).flatten(2))
        if self.offset_proj is not None:
            x = x + self.offset_proj(prior.offsets(out[..., width:]).transpose(1, 2).flatten(2))
        return x_BQC + self.out_drop(x)

    def _heads(self, x_BSC: Tensor) -> Tensor:
        B, S, C = x_BSC.shape
        return x_BSC.view(B, S, self.num_heads, C // self.num_heads).transpose(1, 2)


def set_backend(module: nn.Module, backend: str) -> None:
    """Choose the attention backend of every attention inside ``module``.

    ``flex`` and ``tiled`` are for cross-attention: the windows of self-attention are not on a grid, and go through
    ``masked``.

    Raises:
        UserError: unknown backend.
    """
    if backend not in BACKENDS:
        raise UserError(f"attention_backend '{backend}' is unknown{nearest(backend, BACKENDS)}")
    for child in module.modules():
        if isinstance(child, DecoderAttention):
            on_grids = child.role == "cross" or backend not in ("flex", "tiled")
            child.backend = backend if on_grids else "masked"


def set_attention_dtype(module: nn.Module, name: str, local: bool = False) -> None:
    """Choose the precision of every cross-attention inside ``module``; self-attention keeps that of its inputs.

    Args:
        name: a key of ``ATTENTION_DTYPES``.
        local: whether the model has a locality prior.
    Raises:
        UserError: unknown dtype, or half precision with a locality prior or with backend ``window``.
    """
    if name not in ATTENTION_DTYPES:
        raise UserError(f"attention_dtype '{name}' is unknown{nearest(str(name), ATTENTION_DTYPES)}")
    dtype = ATTENTION_DTYPES[name]
    if dtype is not None and local:
        raise UserError(f"pts_bbox_head: attention_dtype is '{name}', but {PRIOR_NEEDS_FLOAT32}")
    for child in module.modules():
        if isinstance(child, DecoderAttention) and child.role == "cross":
            if dtype is not None and child.backend == "window":
                raise UserError(
                    f"pts_bbox_head: attention_backend 'window' needs attention_dtype 'float32', not '{name}'; use "
                    "'masked' or 'auto'"
                )
            child.dtype = dtype
