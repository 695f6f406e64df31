"""Biased attention: softmax(q k^T / sqrt(d) + prior + mask + bias) v, by one of several equal backends."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import dropout, pad, scaled_dot_product_attention

from aqr_bench.bias.attention.flex import flex_attention
from aqr_bench.bias.attention.fused_kernels import on_cpu
from aqr_bench.bias.attention.masked import masked_attention
from aqr_bench.bias.attention.tiled import tiled_attention
from aqr_bench.bias.attention.window import window_attention
from aqr_bench.bias.windows import WindowBias

BACKENDS = ("auto", "literal", "masked", "window", "flex", "tiled")
Bias = WindowBias | Tensor
WINDOW_BACKENDS = {
    "masked": masked_attention,
    "window": window_attention,
    "flex": flex_attention,
}
# With so many keys per window cell, correcting at the cells is faster than a dense mask (benchmarks/README.md).
KEYS_PER_CELL = 100


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
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Multi-head attention with a bias that is the same for all heads (spec, part 4).

    Args:
        q_BHQd, k_BHKd, v_BHKd: projected heads; v may have another width.
        mask: bool (True = may not attend) or float (added), [Q, K] or [B, Q, K].
        bias: WindowBias, or dense [B, Q, K]; -inf allowed.
        prior: extra query [B, H, Q, E] and key [B, 1 or H, K, E] dimensions whose dot product is added.
        dropout_p: dropout on the attention probabilities.
        backend: how a WindowBias is applied. All give the same result:

            - ``literal``: the formula in plain operators, as in ``nn.MultiheadAttention``: stores [B, H, Q, K].
            - ``masked``: fused attention with one [Q, K] mask per sample, and a custom gradient.
            - ``window``: unbiased fused attention, corrected at the window cells. float32 and float64.
            - ``flex``: FlexAttention; on CUDA, heads at least 16 wide. Slower than the others in float32.
            - ``tiled``: tiles of the scores with a window cell apart from the others, their bias in closed form
              (:class:`aqr_bench.bias.windows.ClosedForm`). FlexAttention on CUDA; on a CPU a reference, slow.
            - ``auto``: see :func:`choose_backend`.

            Without a bias, with a dense one, with a mask that has a gradient, or with dropout, which fused kernels
            on a CPU do not support, all but ``literal`` are PyTorch's ``scaled_dot_product_attention`` with a dense
            mask. Hard windows with dropout are the formula at the window cells alone.
        dtype: precision of the attention: q, k and v are cast to it, and the output is cast back; None: that of q.
    Returns:
        [B, H, Q, width of v]. A row whose keys are all masked gives zeros.
    Raises:
        ValueError: unknown backend; one that cannot do this (``window`` in half precision, ``flex`` on a CPU with
            gradients, on CUDA with heads narrower than 16 or in float64, or with windows that are not on a grid;
            ``tiled`` with a mask or without a closed form, on CUDA as ``flex``).
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown attention backend '{backend}'; known: {', '.join(BACKENDS)}")
    in_tiles = backend == "tiled" and isinstance(bias, WindowBias) and bias.index_BQW.shape[-1] and not dropout_p
    if dtype not in (None, q_BHQd.dtype) and not in_tiles:
        cast = (x.to(dtype) for x in (q_BHQd, k_BHKd, v_BHKd))
        out = biased_attention(*cast, mask=mask, bias=bias, prior=prior, dropout_p=dropout_p, backend=backend)
        return out.to(q_BHQd.dtype)
    width = v_BHKd.shape[-1]
    if isinstance(bias, WindowBias) and bias.index_BQW.shape[-1] == 0:  # no query has a window in this batch
        if bias.hard:
            return (q_BHQd[..., :1] * 0).expand(*q_BHQd.shape[:3], width)
        bias = None
    q, k, scale = _scaled(q_BHQd, k_BHKd, prior)
    added = _as_scores(mask, q.dtype)
    added, fully_masked_BQ = _open_fully_masked_rows(added, bias)
    empty = 0 in q.shape[:3] or k.shape[2] == 0
    if backend == "literal" or empty:
        out = _literal(q, k, v_BHKd, _dense(added, bias, fully_masked_BQ, q.dtype), scale, dropout_p)
    else:
        q, k, v = _pad_to_equal_widths(q, k, v_BHKd)
        windows = isinstance(bias, WindowBias) and not (mask is not None and mask.requires_grad)
        if windows:
            bias = _with_spare_column(bias, fully_masked_BQ, mask is not None)
        if windows and dropout_p and bias.hard:
            out = _literal_at_cells(q, k, v, bias, added, scale, dropout_p)
        elif windows and not dropout_p:
            name = choose_backend(q, bias, prior is not None) if backend == "auto" else backend
            if name == "window" and q.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"attention backend 'window' needs float32 or float64, not {q.dtype}; use 'masked'")
            attend = partial(tiled_attention, dtype=dtype) if name == "tiled" else WINDOW_BACKENDS[name]
            out = attend(q, k, v, bias, added, scale)
        else:
            dense = _dense(added, bias, fully_masked_BQ, q.dtype)
            dense = None if dense is None else dense.expand(len(q), -1, -1, -1)
            out = scaled_dot_product_attention(q, k, v, attn_mask=dense, dropout_p=dropout_p, scale=scale)
        out = out[..., :width]
    return out if fully_masked_BQ is None else out.masked_fill(fully_masked_BQ[:, None, :, None], 0)


def choose_backend(q_BHQd: Tensor, bias: WindowBias, local: bool = False) -> str:
    """The backend that ``auto`` selects, by device, dtype and number of cells (measured: benchmarks/README.md).

    Args:
        q_BHQd: queries of any width.
        bias: the bias to apply.
        local: a locality prior already draws attention into the windows. A negative bias then makes ``window``
            recompute most rows, and ``masked`` is faster.
    Returns:
        ``window`` or ``masked``. Never ``flex``: in float32, which the head runs in, FlexAttention uses no tensor cores
        and small tiles, and nothing has been measured on a GPU yet.
    """
    exact = q_BHQd.dtype in (torch.float32, torch.float64)
    if bias.hard and exact:
        return "window"
    if not on_cpu(q_BHQd):
        return "masked"
    few = bias.num_keys >= KEYS_PER_CELL * bias.index_BQW.shape[-1]
    return "window" if exact and few and not local else "masked"


def _scaled(q: Tensor, k: Tensor, prior: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, float]:
    """q, k and the factor on their product; the prior's dimensions appended: (q, pq) . (k, pk) = q . k + pq . pk."""
    scale = 1 / math.sqrt(q.shape[-1])
    if prior is None:
        return q, k, scale
    pq, pk = (extra.to(x).expand(*x.shape[:2], -1, -1) for extra, x in zip(prior, (q, k), strict=True))
    return _append_dims(q * scale, pq), _append_dims(k, pk), 1.0


def _append_dims(a_BHSd: Tensor, b_BHSe: Tensor) -> Tensor:
    """[B, H, S, d + e], laid out like projected heads: all heads of a token in one row."""
    return torch.cat([a_BHSd.transpose(1, 2), b_BHSe.transpose(1, 2)], -1).transpose(1, 2)


def _pad_to_equal_widths(*tensors: Tensor) -> list[Tensor]:
    """As fused kernels require it: narrower tensors padded with zeros, and a last axis of stride 1."""
    width = max(x.shape[-1] for x in tensors)
    rows = [
        pad(x.transpose(1, 2), (0, width - x.shape[-1])) if x.shape[-1] < width else x.transpose(1, 2) for x in tensors
    ]
    # The kernel on the CPU ignores strides of the last axis silently.
    return [(x if x.stride(-1) == 1 else x.contiguous()).transpose(1, 2) for x in rows]


def _as_scores(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The mask as added scores, [B or 1, Q, K]."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
    return (mask if mask.dim() == 3 else mask[None]).to(dtype)


def _open_fully_masked_rows(added: Tensor | None, bias: Bias | None) -> tuple[Tensor | None, Tensor | None]:
    """The added scores with 0 in rows whose keys are all masked, so that no backend gets a row of -inf; and these rows.

    The rows are bool [B or 1, Q], or None where there cannot be any.
    """
    masked = float("-inf")
    if isinstance(bias, WindowBias) and bias.hard:
        unmasked = bias.valid_BQW
        if added is not None:
            at = bias.index_BQW.masked_fill(~unmasked, 0)
            unmasked = unmasked & (added.expand(len(at), -1, -1).gather(-1, at) > masked)
    elif isinstance(bias, Tensor):
        unmasked = (bias if added is None else bias + added) > masked
    elif added is not None:
        unmasked = added > masked
    else:
        return None, None
    fully_masked = ~unmasked.any(-1)
    return None if added is None else added.masked_fill(fully_masked[..., None], 0), fully_masked


def _with_spare_column(bias: WindowBias, fully_masked_BQ: Tensor | None, has_mask: bool) -> WindowBias:
    """The bias with one more column, by which fully masked rows attend to the first key; their output is not used.

    Without a mask these rows are the same in all layers, and so is the result.
    """
    if not bias.hard or fully_masked_BQ is None:
        return bias
    column = fully_masked_BQ[..., None]
    longer = replace(
        bias,
        index_BQW=torch.cat([bias.index_BQW, torch.zeros_like(column, dtype=torch.long)], -1),
        valid_BQW=torch.cat([bias.valid_BQW & ~column, column], -1),
        value_BQW=pad(bias.value_BQW, (0, 1)),
    )
    if not has_mask:
        longer.__dict__["shared"] = bias.shared.setdefault("with spare column", longer.shared)
    return longer


def _dense(
    added: Tensor | None, bias: Bias | None, fully_masked_BQ: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Sum of all terms that are added to the scores, [B or 1, 1, Q, K], in the scores' dtype."""
    if bias is not None:
        dense = bias.dense() if isinstance(bias, WindowBias) else bias
        added = dense if added is None else added + dense
        if fully_masked_BQ is not None:
            added = added.masked_fill(fully_masked_BQ[..., None], 0)
    return None if added is None else added[:, None].to(dtype)


def _literal(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, scale: float, dropout_p: float) -> Tensor:
    """The design note's formula, in the steps of ``nn.MultiheadAttention``: its mask is [B * H, Q, K], batch-major."""
    q, k, rows = (x.flatten(0, 1) for x in (q * scale, k, v))
    if added is None:
        scores = torch.bmm(q, k.transpose(1, 2))
    else:
        mask = added.to(q.dtype).expand(*v.shape[:2], -1, -1).flatten(0, 1)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2))
    return torch.bmm(dropout(scores.softmax(-1), dropout_p), rows).unflatten(0, v.shape[:2])


def _literal_at_cells(
    q: Tensor, k: Tensor, v: Tensor, bias: WindowBias, added: Tensor | None, scale: float, dropout_p: float
) -> Tensor:
    """``_literal`` for hard windows, which have few cells: stores [B, H, Q, W, d] in place of [B, H, Q, K]."""
    valid, batch = bias.valid_BQW, torch.arange(len(q), device=q.device)[:, None, None]
    at = bias.index_BQW.masked_fill(~valid, 0)
    keys, rows = (x.transpose(1, 2)[batch, at].permute(0, 3, 1, 2, 4) for x in (k, v))  # [B, H, Q, W, d]
    score_BQW = bias.value_BQW if added is None else bias.value_BQW + added.expand(len(q), -1, -1).gather(-1, at)
    score_BQW = score_BQW.masked_fill(~valid, float("-inf"))
    scores = torch.einsum("bhqd,bhqwd->bhqw", q * scale, keys) + score_BQW[:, None].to(q.dtype)
    return torch.einsum("bhqw,bhqwd->bhqd", dropout(scores.softmax(-1), dropout_p), rows)
