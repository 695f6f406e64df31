"""Backend `window`: unbiased fused attention, corrected at the window cells alone, without any [Q, K] tensor. Exact.

With p = exp(s - lse) the probabilities without bias, the bias b_w of the cells w changes a row to

    Z = 1 + sum_w p_w (e^b_w - 1),    out = (out_0 + sum_w p_w (e^b_w - 1) v_w) / Z,    lse' = lse + log Z.

Where much of the mass lies on cells with b < 0, Z and the output are small differences of large numbers. Rows where in
any head such cells take away more than ``MAX_LOSS`` times what is left, Z, are redone with a dense mask, and counted.
So are rows with |lse| above ``MAX_LSE``: scores that large are rounded so coarsely that two products of the same q and
k differ, and the correction would be made of others than the fused pass. Backward: the fused backward pass, given the
final output and lse', is right for all other keys; what the bias changes at the cells is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aqr_bench.bias.attention.fused_kernels import Attended, attend, attend_backward
from aqr_bench.bias.attention.masked import masked_attention
from aqr_bench.bias.attention.window_cells import (
    attend_cells,
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
    """Rows (queries) that went through backend `window`, and how many of them were redone with a dense mask."""

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
        return _WindowOnly.apply(q, k, v, bias.value_BQW, bias, mask, scale)
    out, guarded_BQ = _Corrected.apply(q, k, v, bias.value_BQW, bias, mask, scale)
    count = _counting.get()
    if count is not None:
        count.rows += guarded_BQ.numel()
        count.guarded += int(guarded_BQ.sum())
    if not guarded_BQ.any():
        return out
    redone = []
    for sample in guarded_BQ.any(-1).nonzero().flatten().tolist():
        row, one = guarded_BQ[sample].nonzero().flatten(), slice(sample, sample + 1)
        own = None if mask is None else mask[one if len(mask) > 1 else slice(None), row]
        again = masked_attention(q[one, :, row], k[one], v[one], bias.rows(sample, row), own, scale)
        redone.append(again[0].transpose(0, 1))
    return out.transpose(1, 2).index_put(guarded_BQ.nonzero(as_tuple=True), torch.cat(redone)).transpose(1, 2)


class _Corrected(torch.autograd.Function):
    """Rows that are to be redone come out with a loss of precision; their gradient has to be zero."""

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
        done = replace(plain, out_BHQD=out, lse_BHQ=plain.lse_BHQ + mass.log1p())
        ctx.save_for_backward(q, k, v, out, done.lse_BHQ, mask, bias.index_BQW, bias.valid_BQW, value)
        ctx.num_keys, ctx.grids, ctx.scale, ctx.rng = bias.num_keys, bias.grids, scale, plain.rng
        ctx.mark_non_differentiable(guarded_BQ)
        return out, guarded_BQ

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        q, k, v, out, lse, mask, index, valid, value = ctx.saved_tensors
        cells = make_cells(WindowBias(index, valid, value, ctx.num_keys, grids=ctx.grids), mask, correction=True)
        delta = (grad * out).sum(-1)
        onto = None
        if any(ctx.needs_input_grad[:3]):
            added = None if mask is None else mask[:, None].expand(len(q), -1, -1, -1)
            onto = attend_backward(grad, q, k, v, Attended(out, lse, ctx.rng), added, ctx.scale)
            onto = tuple(in_rows(x) for x in onto)
        dvalue = cell_gradients(q, k, v, lse, grad, delta, cells, value.shape[-1], ctx.scale, onto)
        return *(onto or (None, None, None)), dvalue, None, None, None


class _WindowOnly(torch.autograd.Function):
    """The hard profile: attention to the window cells and to nothing else. Zeros for a row without cells."""

    @staticmethod
    def forward(ctx, q, k, v, value, bias, mask, scale):
        out, lse = attend_cells(q, k, v, make_cells(bias, mask, correction=False, together=True), scale)
        ctx.save_for_backward(q, k, v, out, lse, mask, bias.index_BQW, bias.valid_BQW, value)
        ctx.num_keys, ctx.grids, ctx.scale = bias.num_keys, bias.grids, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, out, lse, mask, index, valid, value = ctx.saved_tensors
        cells = make_cells(WindowBias(index, valid, value, ctx.num_keys, grids=ctx.grids), mask, correction=False)
        onto = tuple(like_heads(x).zero_() for x in (q, k, v))
        delta = (grad * out).sum(-1)
        dvalue = cell_gradients(q, k, v, lse, grad, delta, cells, value.shape[-1], ctx.scale, onto)
        return *onto, dvalue, None, None, None
