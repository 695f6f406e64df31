"""Stand-ins for CUDA's attention kernels, computed on the CPU, with what their C++ sources require of their arguments.

From torch 2.13, aten/src/ATen/native/transformers/cuda: attention.cu, sdp_utils.cpp and mem_eff_attention/
kernel_forward.h, kernel_backward.h. Shapes: [B, H, M, D] for queries, [B, H, N, D] for keys and values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import counters

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)
ALIGNED_BYTES = 16  # vector loads of the memory-efficient kernel
LSE_ROWS = 32  # its log-sum-exp is padded to a multiple of this
DROPOUT_SEED = 7
MATH, FLASH, EFFICIENT = 0, 1, 2  # torch.nn.attention.SDPBackend


def choose_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *_: Any, **__: Any) -> int:
    """The kernel that scaled_dot_product_attention takes on CUDA, by dtype, width and mask."""
    width, aligned = q.shape[-1], _aligned(q.dtype)
    if q.dtype in HALF and mask is None and width <= 256 and width == v.shape[-1] and width % 8 == 0:
        kernel, name = FLASH, "flash"
    elif q.dtype in (*HALF, torch.float32) and width % aligned == 0 and v.shape[-1] % aligned == 0:
        kernel, name = EFFICIENT, "efficient"
    else:
        kernel, name = MATH, "math"
    counters.kernel(f"attention {_name(q)}, {'no mask' if mask is None else 'mask'}: {name}")
    return kernel


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch's function for CUDA tensors: the CPU build would take its math path for them."""
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        q, k, v = (x.to(dtype) for x in (q, k, v))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(dtype)
    kernel = choose_kernel(q, k, v, attn_mask)
    if kernel == FLASH:
        return aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, False, scale=scale)[0]
    if kernel == MATH:
        return aten._scaled_dot_product_attention_math(q, k, v, attn_mask, dropout_p, is_causal, scale=scale)[0]
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
        keys = attn_mask.shape[-1]
        if keys % 16:  # torch pads the rows of a mask itself, unlike the operator below
            attn_mask = torch.nn.functional.pad(attn_mask, (0, 16 - keys % 16))[..., :keys]
        attn_mask = attn_mask.expand(q.shape[0], q.shape[1], q.shape[2], keys)
    learns = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, attn_mask))
    return aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, learns, dropout_p, is_causal, scale=scale)[
        0
    ]


# ---------------------------------------------------------------------- operators; they get CPU tensors


def efficient_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    compute_lse: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``_scaled_dot_product_efficient_attention``: output, padded log-sum-exp, seed, offset."""
    for name, x in (("query", q), ("key", k), ("value", v)):
        _check_rows(name, x.transpose(1, 2))
    _check_mask(bias, q)
    scores = _scores(q, k, bias, scale)
    lse = scores.logsumexp(-1)
    p = (scores - lse[..., None]).exp() * _kept(scores.shape, dropout_p)
    rows = q.shape[2]
    padded = torch.full((*q.shape[:2], -(-rows // LSE_ROWS) * LSE_ROWS if compute_lse else 0), float("inf"))
    if compute_lse:
        padded[..., :rows] = lse
    counters.kernel(f"efficient forward {_name(q)}, {'no mask' if bias is None else 'mask'}")
    state = torch.zeros((), dtype=torch.long)
    return _token_rows((p @ v.float()).to(q.dtype)), padded, state, state.clone()


def efficient_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    seed: Tensor,
    offset: Tensor,
    dropout_p: float,
    needed: list[bool],
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """``_scaled_dot_product_efficient_attention_backward``: gradients of q, k, v and the mask."""
    *gradients, scores = _backward(grad, q, k, v, out, lse, bias, scale, dropout_p)
    learned_mask = bias is not None and needed[3]
    counters.kernel(f"efficient backward {_name(q)}" + (", gradient of the mask" if learned_mask else ""))
    return *map(_token_rows, gradients), scores.to(bias.dtype) if learned_mask else None


def efficient_backward_of_tokens(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    lse: Tensor,
    dropout_p: float,
    seed: Tensor,
    offset: Tensor,
    custom_mask_type: int,
    bias_requires_grad: bool,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``_efficient_attention_backward``, whose tensors are [B, M, H, D].

    In half precision the kernel computes sum(grad * out) itself and reads ``out`` as if it were contiguous
    (kernel_backward.h: kKernelComputesDelta and o_strideM() = head_dim_value * num_heads), whatever its strides say.
    """
    batch, rows, heads, _ = q.shape
    _check_mask(bias, q)
    for name, x in (("query", q), ("key", k), ("value", v)):
        _check_rows(name, x)
    if lse.shape[-1] % LSE_ROWS or lse.shape[-1] < rows:
        raise RuntimeError(f"the log-sum-exp of {rows} queries has {lse.shape[-1]} columns, no multiple of {LSE_ROWS}")
    width = v.shape[-1]
    if q.dtype in HALF and out.stride(1) != heads * width:
        counters.fault(f"efficient backward reads an output with row stride {out.stride(1)} as {heads * width}")
        memory = out.as_strided((out.numel(),), (1,), out.storage_offset())
        memory = torch.cat([memory, memory.new_zeros(batch * rows * heads * width)])  # what lies behind it
        out = memory.as_strided((batch, rows, heads, width), (out.stride(0), heads * width, out.stride(2), 1))
    grad, q, k, v, out = (x.transpose(1, 2) for x in (grad, q, k, v, out))
    *gradients, _ = _backward(grad, q, k, v, out, lse, bias, options.get("scale"), dropout_p)
    counters.kernel(f"efficient backward {_name(q)}, {'no mask' if bias is None else 'mask'}")
    return *(x.transpose(1, 2).contiguous() for x in gradients), torch.empty(0)


def flash_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """``_scaled_dot_product_flash_attention``."""
    out, lse, *_ = efficient_forward(q, k, v, None, True, dropout_p, is_causal, scale=scale)
    counters.kernel(f"flash forward {_name(q)}")
    rows, state = q.shape[2], torch.zeros(2, dtype=torch.uint64)
    rest = (None, None, rows, k.shape[2], state, state[0].clone(), torch.empty(0, dtype=q.dtype))
    return out, lse[..., :rows].contiguous(), *rest


def flash_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cum_seq_q: Tensor | None,
    cum_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    seed: Tensor,
    offset: Tensor,
    *,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    """``_scaled_dot_product_flash_attention_backward``: gradients of q, k and v."""
    *gradients, _ = _backward(grad, q, k, v, out, lse, None, scale, dropout_p)
    counters.kernel(f"flash backward {_name(q)}")
    return tuple(map(_token_rows, gradients))


STAND_INS = {
    aten._fused_sdp_choice.default: choose_kernel,
    aten._scaled_dot_product_efficient_attention.default: efficient_forward,
    aten._scaled_dot_product_efficient_attention_backward.default: efficient_backward,
    aten._efficient_attention_backward.default: efficient_backward_of_tokens,
    aten._scaled_dot_product_flash_attention.default: flash_forward,
    aten._scaled_dot_product_flash_attention_backward.default: flash_backward,
}
CPU_ONLY = {
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
}

# ---------------------------------------------------------------------- arithmetic and checks


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    scores = torch.matmul(q.float(), k.float().transpose(-1, -2)) * _factor(q, scale)
    return scores if bias is None else scores + bias.float()


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    scale: float | None,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the scores: probabilities from ``lse``, sum(grad * out) from ``out``, as the kernels."""
    p = (_scores(q, k, bias, scale) - lse[..., : q.shape[2], None]).exp()
    remaining, grad = _kept(p.shape, dropout_p), grad.float()
    delta = (grad * out.float()).sum(-1, keepdim=True)
    dv = (p * remaining).transpose(-1, -2) @ grad
    ds = p * ((grad @ v.float().transpose(-1, -2)) * remaining - delta)
    factor = _factor(q, scale)
    dq, dk = ds @ k.float() * factor, ds.transpose(-1, -2) @ q.float() * factor
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), ds


def _factor(q: Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _kept(shape: torch.Size, dropout_p: float) -> Tensor | float:
    """What dropout multiplies probabilities with; the same in forward and backward pass."""
    if not dropout_p:
        return 1.0
    generator = torch.Generator().manual_seed(DROPOUT_SEED)
    return (torch.rand(shape, generator=generator) >= dropout_p) / (1 - dropout_p)


def _aligned(dtype: torch.dtype) -> int:
    """Numbers of this dtype in one vector load."""
    return ALIGNED_BYTES // dtype.itemsize


def _check_rows(name: str, x_BMHD: Tensor) -> None:
    numbers = _aligned(x_BMHD.dtype)
    if x_BMHD.stride(-1) != 1:
        raise RuntimeError(f"{name}: the last dimension must be contiguous, its strides are {x_BMHD.stride()}")
    for axis, letter in ((1, "M"), (2, "H")):
        if x_BMHD.shape[axis] > 1 and x_BMHD.stride(axis) % numbers:
            raise RuntimeError(
                f"{name} is not correctly aligned (stride{letter}): {x_BMHD.stride()}, no multiple of {numbers}"
            )


def _check_mask(mask: Tensor | None, q: Tensor) -> None:
    if mask is None:
        return
    if mask.dtype != q.dtype:
        raise RuntimeError(f"invalid dtype for bias - should match query's dtype: {mask.dtype}, {q.dtype}")
    if mask.stride(3) != 1:
        raise RuntimeError(f"attn_bias: the last dimension must be contiguous, its strides are {mask.stride()}")
    numbers = _aligned(q.dtype)
    for axis, letter in enumerate("BHM"):
        if mask.shape[axis] > 1 and mask.stride(axis) % numbers:
            raise RuntimeError(
                f"attn_bias is not correctly aligned (stride{letter}). attn_bias.stride({axis}) = {mask.stride(axis)}, "
                f"and should be a multiple of {numbers}."
            )


def _token_rows(x_BHMD: Tensor) -> Tensor:
    """The same tensor with all heads of a token in one row of memory, as the kernels return it."""
    return x_BHMD.transpose(1, 2).contiguous().transpose(1, 2)


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
