"""Biased attention: softmax(q k^T / sqrt(d) + prior + mask + bias) v, by one of several equal backends."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from .windows import WindowBias

BACKENDS = ("auto", "dense", "literal")
Bias = WindowBias | Tensor


def biased_attention(
    q_BHQd: Tensor,
    k_BHKd: Tensor,
    v_BHKd: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Bias | None = None,
    prior: tuple[Tensor, Tensor] | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Multi-head attention with a bias that is the same for all heads (spec, part 4).

    Args:
        q_BHQd, k_BHKd, v_BHKd: projected heads; v may have a width of its own.
        mask: bool (True = may not attend) or float (added), [Q, K] or [B, Q, K].
        bias: WindowBias, or dense [B, Q, K]; -inf allowed.
        prior: extra query [B, H, Q, E] and key [B, 1 or H, K, E] dimensions whose dot product is added.
        dropout_p: dropout on the attention probabilities.
        backend: ``auto``; ``dense`` (SDPA with the mask as a tensor); ``literal`` (the formula, written out).
    Returns:
        [B, H, Q, width of v]. A row whose keys are all masked gives zeros.
    Raises:
        ValueError: unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown attention backend '{backend}'; known: {', '.join(BACKENDS)}")
    added, dead = _added_scores(mask, bias, q_BHQd.dtype)
    if backend == "literal":
        out = _literal(q_BHQd, k_BHKd, v_BHKd, added, prior, dropout_p)
    else:
        out = _fused(q_BHQd, k_BHKd, v_BHKd, added, prior, dropout_p)
    return out if dead is None else out.masked_fill(dead[..., None], 0)


def _added_scores(mask: Tensor | None, bias: Bias | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Everything that is added to the scores as [B or 1, 1, Q, K], and which rows have no key left.

    Dead rows get score 0 everywhere, so that no backend sees a row of -inf; their output is zeroed.
    """
    added = None
    if bias is not None:
        dense = bias.dense() if isinstance(bias, WindowBias) else bias
        added = dense.to(dtype)[:, None]
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
        mask = (mask if mask.dim() == 3 else mask[None])[:, None].to(dtype)
        added = mask if added is None else added + mask
    hard = mask is not None or (isinstance(bias, WindowBias) and bias.hard) or isinstance(bias, Tensor)
    if not hard or added is None or added.shape[-1] == 0:
        return added, None
    dead = (added == float("-inf")).all(-1)
    return added.masked_fill(dead[..., None], 0), dead


def _fused(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, prior, dropout_p: float) -> Tensor:
    width = v.shape[-1]
    scale = 1 / math.sqrt(q.shape[-1])
    if prior is not None:
        q, k = _widen(q * scale, k, prior)
        scale = 1.0
    if q.shape[-1] != width:
        # Fused kernels want equal widths of q, k and v.
        widest = max(q.shape[-1], width)
        q, k, v = (pad(x, (0, widest - x.shape[-1])) for x in (q, k, v))
    if added is not None:
        added = added.expand(q.shape[0], -1, -1, -1)
    return scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout_p, scale=scale)[..., :width]


def _literal(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, prior, dropout_p: float) -> Tensor:
    q = q / math.sqrt(q.shape[-1])
    if prior is not None:
        q, k = _widen(q, k, prior)
    scores = q @ k.transpose(-1, -2)
    if added is not None:
        scores = scores + added
    return torch.nn.functional.dropout(scores.softmax(-1), dropout_p) @ v


def _widen(q: Tensor, k: Tensor, prior: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Append the prior's dimensions to q and k: (q, pq) . (k, pk) = q . k + pq . pk."""
    pq, pk = prior
    pq = pq.to(q).expand(q.shape[0], q.shape[1], -1, -1)
    pk = pk.to(k).expand(k.shape[0], k.shape[1], -1, -1)
    return torch.cat([q, pq], -1), torch.cat([k, pk], -1)
