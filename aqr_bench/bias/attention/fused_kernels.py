"""PyTorch's fused attention kernels with their log-sum-exp, and their backward pass for a given log-sum-exp.

On CUDA they are the memory-efficient kernels, called without the checks and copies of ``scaled_dot_product_attention``.
The layout that they require of their arguments is ensured here, for every backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from aqr_bench.bias.attention.window_cells import in_rows

aten = torch.ops.aten
VECTOR_BYTES = 16  # CUDA's kernels read heads and masks in vectors of this size
CUDA_LSE_ROWS = 32  # and pad the log-sum-exp to a multiple of this


@dataclass(frozen=True)
class AttentionResult:
    """Result of :func:`attend`.

    Args:
        out_BHQD: attended values.
        lse_BHQ: log of the sum of exp(score) of every row.
        rng: state of the CUDA kernel's dropout (unused, but required by its backward pass).
    """

    out_BHQD: Tensor
    lse_BHQ: Tensor
    rng: tuple[Tensor, Tensor] | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, scale: float) -> AttentionResult:
    """softmax(scale q k^T + added) v in one pass over the keys, with its log-sum-exp. Not differentiable.

    Args:
        q, k, v: [B, H, Q or K, D], equal widths.
        added: [B, 1 or H, Q, K] float, or None. No row may be all -inf.
        scale: factor on q k^T.
    """
    if on_cpu(q):
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=added, scale=scale)
        return AttentionResult(out, lse)
    out, lse, seed, offset = aten._scaled_dot_product_efficient_attention(
        *_aligned_heads(q, k, v), _aligned_mask(added, q), True, 0.0, False, scale=scale
    )
    return AttentionResult(out[..., : v.shape[-1]], lse[..., : q.shape[2]], (seed, offset))


def attend_backward(
    grad_BHQD: Tensor, q: Tensor, k: Tensor, v: Tensor, result: AttentionResult, added: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, with probabilities exp(score - lse) of the output and log-sum-exp in ``result``.

    Both may differ from the result of :func:`attend`: that is how a correction over few keys gets its gradient.
    """
    out, lse = result.out_BHQD, result.lse_BHQ
    if grad_BHQD.stride(-1) != 1:  # an expanded gradient, whose strides kernels ignore
        grad_BHQD = grad_BHQD.contiguous()
    if on_cpu(q):
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_BHQD, q, k, v, out, lse, 0.0, False, attn_mask=added, scale=scale
        )
    lse = pad(lse, (0, -lse.shape[-1] % CUDA_LSE_ROWS), value=float("inf"))
    widths = [x.shape[-1] for x in (q, k, v)]
    grad, q, k, v, out = _aligned_heads(grad_BHQD, q, k, v, out)
    # The half kernels compute (grad * out).sum(-1) themselves, and take the rows of ``out`` to lie H * D apart whatever
    # its strides say.
    grad, q_, k_, v_, out = (x.transpose(1, 2) for x in (grad, q, k, v, in_rows(out)))
    gradients = aten._efficient_attention_backward(
        grad, q_, k_, v_, _aligned_mask(added, q), out, None, None, q_.shape[1], k_.shape[1], lse, 0.0, *result.rng, 0,
        False, scale=scale,
    )  # fmt: skip
    return tuple(x.transpose(1, 2)[..., :width] for x, width in zip(gradients[:3], widths, strict=True))


def empty_mask(rows: int, keys: int, like: Tensor) -> Tensor:
    """An uninitialised [rows, keys] tensor for added scores, aligned as the kernels require."""
    if on_cpu(like):
        return torch.empty(rows, keys, dtype=like.dtype, device=like.device)
    return _empty_aligned((rows, keys), like)


def on_cpu(x: Tensor) -> bool:
    """Whether this tensor is for the CPU's kernels; otherwise for CUDA's."""
    return x.device.type == "cpu"


def _padding(count: int, dtype: torch.dtype) -> int:
    """Elements of a dtype that are missing to the next multiple of a vector."""
    return -count % (VECTOR_BYTES // dtype.itemsize)


def _empty_aligned(shape: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised tensor whose rows all start at a vector; the padding between them, which kernels read, is 0."""
    keys = shape[-1]
    padded = torch.empty(*shape[:-1], keys + _padding(keys, like.dtype), dtype=like.dtype, device=like.device)
    padded[..., keys:].zero_()
    return padded[..., :keys]


def _aligned_heads(*tensors_BHSD: Tensor) -> list[Tensor]:
    """Zeros appended to heads whose width is no multiple of a vector: scores and outputs stay the same."""
    return [pad(x, (0, more)) if (more := _padding(x.shape[-1], x.dtype)) else x for x in tensors_BHSD]


def _aligned_mask(added: Tensor | None, q: Tensor) -> Tensor | None:
    """The added scores for every sample and head, [B, H, Q, K]; copied only where rows do not start at a vector."""
    if added is None:
        return None
    starts = [stride for stride, size in zip(added.stride()[:-1], added.shape[:-1], strict=True) if size > 1]
    if added.stride(-1) != 1 or any(_padding(start, added.dtype) for start in (*starts, added.storage_offset())):
        once = added[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in added.stride()[:-1])]
        added = _empty_aligned(once.shape, once).copy_(once).expand(added.shape)
    return added.expand(q.shape[0], q.shape[1], -1, -1)
