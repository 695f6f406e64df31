"""Backend `window`: unbiased fused attention, corrected at the window cells alone, without any [Q, K] tensor. Exact.

With p = exp(s - lse) the probabilities without bias, the bias b_w of the cells w changes a row to

    Z = 1 + sum_w p_w (e^b_w - 1),    out = (out_0 + sum_w p_w (e^b_w - 1) v_w) / Z,    lse' = lse + log Z.

Where much of the mass lies on cells with b < 0, Z and the output are small differences of large numbers. Rows where in
any head such cells remove more than ``MAX_LOSS`` times the remaining mass, Z, are recomputed with a dense mask, and
counted. So are rows with |lse| above ``MAX_LSE``: scores that large are rounded so coarsely that two products of the
same q and k differ, so that correction and fused pass would use different scores. Backward: the fused backward pass,
given the final output and lse', is exact for all other keys; the effect of the bias at the cells is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aqr_bench.bias.attention.cell_groups import attend_cells
from aqr_bench.bias.attention.fused_kernels import AttentionResult, attend, attend_backward
from aqr_bench.bias.attention.masked import masked_attention
from aqr_bench.bias.attention.window_cells import (
    cell_gradients,
    correction,
    in_rows,
    like_heads,
    make_cells,
)
from aqr_bench.bias.windows import WindowBias

MAX_LOSS = 1 / 3
MAX_LSE = 30.0


@dataclass
class GuardCount:
    """Rows (queries) that went through backend `window`, and how many of them were recomputed with a dense mask."""

    rows: int = 0
    guarded: int = 0

    @property
    def share(self) -> float:
        """Guarded rows per row, NaN without rows."""
        return self.guarded / self.rows if self.rows else float("nan")


_counting: ContextVar[GuardCount | None] = ContextVar("guard_count", default=None)


@contextmanager
def count_guarded() -> Iterator[GuardCount]:
    """Count the rows of every `window` call in this block."""
    count = GuardCount()
    token = _counting.set(count)
    try:
        yield count
    finally:
        _counting.reset(token)


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: WindowBias, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k^T + mask + bias) v, [B, H, Q, D]; float32 or float64.

    Args:
        q, k, v: [B, H, Q or K, D], equal widths. With a hard bias, k and v may be [B, 1, K, D]: shared by all heads.
        mask: float [B or 1, Q, K] without a gradient, or None. No row may be all -inf.
    """
    if bias.hard:
        return _HardWindowAttention.apply(q, k, v, bias.value_BQW, bias, mask, scale)
    out, guarded_BQ = _CorrectedAttention.apply(q, k, v, bias.value_BQW, bias, mask, scale)
    count = _counting.get()
    if count is not None:
        count.rows += guarded_BQ.numel()
        count.guarded += int(guarded_BQ.sum())
    if not guarded_BQ.any():
        return out
    recomputed = []
    for sample in guarded_BQ.any(-1).nonzero().flatten().tolist():
        row, i = guarded_BQ[sample].nonzero().flatten(), slice(sample, sample + 1)
        row_mask = None if mask is None else mask[i if len(mask) > 1 else slice(None), row]
        exact = masked_attention(q[i, :, row], k[i], v[i], bias.rows(sample, row), row_mask, scale)
        recomputed.append(exact[0].transpose(0, 1))
    return out.transpose(1, 2).index_put(guarded_BQ.nonzero(as_tuple=True), torch.cat(recomputed)).transpose(1, 2)


class _CorrectedAttention(torch.autograd.Function):
    """Guarded rows lose precision here; their gradient has to be zero."""

    @staticmethod
    def forward(ctx, q, k, v, value, bias, mask, scale):
        added = None if mask is None else mask[:, None].expand(len(q), -1, -1, -1)
        plain = attend(q, k, v, added, scale)
        cells = make_cells(bias, mask, correction=True)
        change = correction(q, k, v, plain.lse_BHQ, cells, scale)
        mass = change.gained_BHQ - change.lost_BHQ
        guarded_BHQ = (change.lost_BHQ > MAX_LOSS * (1 + mass)) | (plain.lse_BHQ.abs() > MAX_LSE)
        guarded_BQ = guarded_BHQ.any(1)
        mass = mass.masked_fill(guarded_BQ[:, None], 0)
        out = (plain.out_BHQD + change.out_BHQD) / (1 + mass)[..., None]
        lse = plain.lse_BHQ + mass.log1p()
        ctx.save_for_backward(q, k, v, out, lse, mask)
        ctx.bias, ctx.scale, ctx.rng = bias.detached(), scale, plain.rng
        ctx.mark_non_differentiable(guarded_BQ)
        return out, guarded_BQ

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        q, k, v, out, lse, mask = ctx.saved_tensors
        cells = make_cells(ctx.bias, mask, correction=True)
        delta = (grad * out).sum(-1)
        onto = None
        if any(ctx.needs_input_grad[:3]):
            added = None if mask is None else mask[:, None].expand(len(q), -1, -1, -1)
            onto = attend_backward(grad, q, k, v, AttentionResult(out, lse, ctx.rng), added, ctx.scale)
            onto = tuple(in_rows(x) for x in onto)
        dvalue = cell_gradients(q, k, v, lse, grad, delta, cells, ctx.bias.value_BQW.shape[-1], ctx.scale, onto)
        return *(onto or (None, None, None)), dvalue, None, None, None


class _HardWindowAttention(torch.autograd.Function):
    """The hard profile: attention to the window cells alone. Zeros for a row without cells."""

    @staticmethod
    def forward(ctx, q, k, v, value, bias, mask, scale):
        out, lse = attend_cells(q, k, v, bias, mask, scale)
        ctx.save_for_backward(q, k, v, out, lse, mask)
        ctx.bias, ctx.scale = bias.detached(), scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, out, lse, mask = ctx.saved_tensors
        cells = make_cells(ctx.bias, mask, correction=False)
        onto = tuple(like_heads(x).zero_() for x in (q, k, v))
        delta = (grad * out).sum(-1)
        dvalue = cell_gradients(q, k, v, lse, grad, delta, cells, ctx.bias.value_BQW.shape[-1], ctx.scale, onto)
        return *onto, dvalue, None, None, None
