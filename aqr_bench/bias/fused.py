"""PyTorch's fused attention kernels with their log-sum-exp, and their backward pass for a given log-sum-exp."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

aten = torch.ops.aten
# Memory-efficient attention on CUDA reads an added mask in vectors of 16 bytes.
CUDA_MASK_ALIGNMENT = 8
CUDA_LSE_ROWS = 32  # and pads the log-sum-exp to a multiple of this


@dataclass(frozen=True)
class Attended:
    """Result of :func:`attend`.

    Args:
        out_BHQD: attended values.
        lse_BHQ: log of the sum of exp(score) of every row.
        rng: state of the CUDA kernel's dropout (unused, but its backward pass wants it).
    """

    out_BHQD: Tensor
    lse_BHQ: Tensor
    rng: tuple[Tensor, Tensor] | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, scale: float) -> Attended:
    """softmax(scale q k^T + added) v in one pass over the keys, with its log-sum-exp. Not differentiable.

    Args:
        q, k, v: [B, H, Q or K, D], equal widths.
        added: [B, 1 or H, Q, K] float, or None. No row may be all -inf.
        scale: factor on q k^T.
    """
    if q.device.type == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=added, scale=scale)
        return Attended(out, lse)
    out, lse, seed, offset = aten._scaled_dot_product_efficient_attention(
        q, k, v, _per_head(added, q), True, 0.0, False, scale=scale
    )
    return Attended(out, lse[..., : q.shape[2]], (seed, offset))


def attend_backward(
    grad_BHQD: Tensor, q: Tensor, k: Tensor, v: Tensor, done: Attended, added: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, with probabilities exp(score - lse) of the output and log-sum-exp in ``done``.

    Both may differ from what :func:`attend` gave: that is how a correction over few keys gets its gradient.
    """
    out, lse = done.out_BHQD, done.lse_BHQ
    if grad_BHQD.stride(-1) != 1:  # an expanded gradient, which kernels would read past
        grad_BHQD = grad_BHQD.contiguous()
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_BHQD, q, k, v, out, lse, 0.0, False, attn_mask=added, scale=scale
        )
    lse = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % CUDA_LSE_ROWS), value=float("inf"))
    grad, q_, k_, v_, out = (x.transpose(1, 2) for x in (grad_BHQD, q, k, v, out))
    nothing = (None, None)
    gradients = aten._efficient_attention_backward(
        grad, q_, k_, v_, _per_head(added, q), out, *nothing, q_.shape[1], k_.shape[1], lse, 0.0, *done.rng, 0, False,
        scale=scale,
    )  # fmt: skip
    return tuple(x.transpose(1, 2) for x in gradients[:3])


def empty_mask(rows: int, keys: int, like: Tensor) -> Tensor:
    """A [rows, keys] tensor for added scores, aligned as the kernels want it. Uninitialised."""
    if like.device.type == "cpu":
        return torch.empty(rows, keys, dtype=like.dtype, device=like.device)
    aligned = -(-keys // CUDA_MASK_ALIGNMENT) * CUDA_MASK_ALIGNMENT
    return torch.empty(rows, aligned, dtype=like.dtype, device=like.device)[:, :keys]


def _per_head(added: Tensor | None, q: Tensor) -> Tensor | None:
    return None if added is None else added.expand(q.shape[0], q.shape[1], -1, -1)
