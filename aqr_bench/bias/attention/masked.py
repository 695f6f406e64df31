"""Backend `masked`: fused attention with the bias in one dense scratch mask per sample, and a custom gradient.

PyTorch's attention leaves its fused path as soon as the mask needs a gradient. Here the kernel gets a mask without one;
the gradient of the bias is computed at the window cells alone.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aqr_bench.bias.attention.fused_kernels import AttentionResult, attend, attend_backward, empty_mask
from aqr_bench.bias.attention.window_cells import cell_geometry, cell_gradients, like_heads, make_cells
from aqr_bench.bias.windows import WindowBias


def masked_attention(q: Tensor, k: Tensor, v: Tensor, bias: WindowBias, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k^T + mask + bias) v, [B, H, Q, D].

    Args:
        q, k, v: [B, H, Q or K, D], equal widths.
        mask: float [B or 1, Q, K] without a gradient, or None. No row may be all -inf together with the bias.
    """
    return _Masked.apply(q, k, v, bias.value_BQW, bias, mask, scale)


class Scratch:
    """One [Q, K] mask that is filled for one sample after the other: a context, entered once per pass.

    Without an attention mask, and with windows that are not hard, it is zero except at the window cells. Such a buffer
    is reused by the next pass of this thread, zeroed again at the cells alone: clearing 80 MB would be a quarter of the
    total cost of the mask.
    """

    _cache = threading.local()

    def __init__(self, bias: WindowBias, mask: Tensor | None, like: Tensor) -> None:
        self.bias, self.mask = bias, mask
        self.value_BQW = bias.value_BQW.detach().to(like.dtype)
        self.background = float("-inf") if bias.hard else 0.0
        self.reusable = mask is None and not bias.hard and like.device.type == "cpu"
        self.used: Tensor | None = None
        rows, keys = bias.index_BQW.shape[1], bias.num_keys
        if self.reusable:
            flat = getattr(self._cache, "zeros", None)
            self._cache.zeros = None  # not shared while it is in use
            if flat is None or flat.dtype != like.dtype or flat.numel() < rows * keys:
                flat = torch.zeros(rows * keys, dtype=like.dtype)
            self.flat = flat
            self.tensor = flat[: rows * keys].view(rows, keys)
        else:
            self.tensor = empty_mask(rows, keys, like).fill_(self.background)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.reusable and kind is None:  # after an error its state is unknown
            self._clear()
            self._cache.zeros = self.flat

    def fill(self, sample: int) -> Tensor:
        """The mask of one sample as [1, 1, Q, K]; valid until the next call."""
        key_QW, column_QW = (x[sample] for x in cell_geometry(self.bias).distinct)
        value = self.value_BQW[sample].masked_fill(~self.bias.valid_BQW[sample], 0).gather(-1, column_QW)
        self._clear()
        if self.mask is not None:
            mask = self.mask[sample if len(self.mask) > 1 else 0]
            if not self.bias.hard:
                self.tensor.copy_(mask)
            value = value + mask.gather(-1, key_QW)
        self.tensor.scatter_(-1, key_QW, value)
        self.used = key_QW
        return self.tensor[None, None]

    def _clear(self) -> None:
        if self.used is not None:
            self.tensor.scatter_(-1, self.used, self.background)
        self.used = None


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, value, bias, mask, scale):
        with Scratch(bias, mask, q) as scratch:
            results = [attend(q[b : b + 1], k[b : b + 1], v[b : b + 1], scratch.fill(b), scale) for b in range(len(q))]
        out, lse = torch.cat([r.out_BHQD for r in results]), torch.cat([r.lse_BHQ for r in results])
        ctx.save_for_backward(q, k, v, out, lse, mask)
        ctx.bias, ctx.scale, ctx.rng = bias.detached(), scale, [r.rng for r in results]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, out, lse, mask = ctx.saved_tensors
        bias = ctx.bias
        dq = dk = dv = dvalue = None
        if any(ctx.needs_input_grad[:3]):
            dq, dk, dv = (like_heads(x) for x in (q, k, v))
            with Scratch(bias, mask, q) as scratch:
                for b, rng in enumerate(ctx.rng):
                    i = slice(b, b + 1)
                    result = AttentionResult(out[i], lse[i], rng)
                    parts = attend_backward(grad[i], q[i], k[i], v[i], result, scratch.fill(b), ctx.scale)
                    for gradient, part in zip((dq, dk, dv), parts, strict=True):
                        gradient[i] = part
        if ctx.needs_input_grad[3]:
            delta = (grad * out).sum(-1)
            cells = make_cells(bias, mask, correction=False)
            dvalue = cell_gradients(q, k, v, lse, grad, delta, cells, bias.value_BQW.shape[-1], ctx.scale, onto=None)
        return dq, dk, dv, dvalue, None, None, None
