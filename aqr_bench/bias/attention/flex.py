"""Backend `flex`: FlexAttention with the windows computed in the score function. For CUDA; on a CPU forward only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from aqr_bench.bias.attention.fused_kernels import on_cpu
from aqr_bench.bias.windows import GridWindow, WindowBias

MIN_WIDTH = 16  # of a head, in FlexAttention's kernels
# FlexAttention compiles a kernel for every number of queries, and training changes it with every batch (denoising).
QUERY_STEP = 64
# Compiled kernels: numbers of queries in steps of 64, for one, two and three cameras that see a point, forward alone
# and with backward. Torch's default limit is 8; beyond it, it would compute all of [B, H, Q, K] in plain operators.
MAX_KERNELS = 128


def flex_attention(q: Tensor, k: Tensor, v: Tensor, bias: WindowBias, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k^T + mask + bias) v, [B, H, Q, D].

    No tensor of size Q x K is stored: whether a key lies in a query's window follows from its index.

    Args:
        q, k, v: [B, H, Q or K, D], equal widths.
        bias: with ``grids``; its values get their gradient from FlexAttention.
        mask: float [B or 1, Q, K] without a gradient, or None.
    Raises:
        ValueError: windows that are not on a grid; gradients on a CPU, where FlexAttention has none; on CUDA narrow
            heads or float64, which its kernels do not support.
        RuntimeError: more than ``MAX_KERNELS`` shapes in this process.
    """
    if not bias.grids:
        raise ValueError("attention backend 'flex' needs windows on a feature grid; use 'masked' or 'auto' here")
    if on_cpu(q):
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, bias.value_BQW)):
            raise ValueError(
                "attention backend 'flex' has no gradient on a CPU; use 'masked', 'window' or 'auto' there"
            )
        return uncompiled_flex()(q, k, v, score_mod=score_function(bias, mask, q.dtype), scale=scale)
    if q.shape[-1] < MIN_WIDTH or q.dtype == torch.float64:
        raise ValueError(
            f"attention backend 'flex' needs heads at least {MIN_WIDTH} wide in float32 or half precision on CUDA, not "
            f"{q.shape[-1]} wide in {q.dtype}; use 'masked' or 'auto' here"
        )
    return compiled_attention(q, k, v, bias, mask, scale)


def compiled_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: WindowBias, mask: Tensor | None, scale: float, compiler: str = "inductor"
) -> Tensor:
    """:func:`flex_attention` by one compiled kernel per shape, with queries padded to a multiple of ``QUERY_STEP``.

    Args:
        compiler: backend of ``torch.compile``.
    Raises:
        RuntimeError: more than ``MAX_KERNELS`` shapes: there is no silent fallback.
    """
    queries = q.shape[2]
    more = -queries % QUERY_STEP
    bias, mask = _with_more_queries(bias, mask, more)
    score = score_function(bias, mask, q.dtype)
    q = pad(q, (0, 0, 0, more))
    return compiled_flex("flex", q, k, v, compiler=compiler, score_mod=score, scale=scale)[:, :, :queries]


def compiled_flex(backend: str, *tensors: Tensor, compiler: str = "inductor", **options: Any) -> Any:
    """FlexAttention by one compiled kernel per shape.

    Args:
        backend: that it is for, for the message.
        compiler: backend of ``torch.compile``.
    Raises:
        RuntimeError: more than ``MAX_KERNELS`` shapes: there is no silent fallback.
    """
    try:
        with torch._dynamo.config.patch(recompile_limit=MAX_KERNELS):
            return _compiled(compiler)(*tensors, **options)
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        raise RuntimeError(
            f"attention backend '{backend}': FlexAttention was compiled for {MAX_KERNELS} different shapes in this "
            "process and would continue without a fused kernel; use attention_backend 'masked' or 'auto', or equal "
            "batches"
        ) from error


def score_function(bias: WindowBias, mask: Tensor | None, dtype: torch.dtype) -> Callable[..., Tensor]:
    """FlexAttention's ``score_mod``: adds the bias, and the mask if there is one."""
    # Rows without any column (no window in this batch) would make an empty tensor, which cannot be indexed.
    value_BQW = pad(bias.value_BQW, (0, 1)).to(dtype)
    several = 0 if mask is None or len(mask) == 1 else 1
    windows = [(w, part.start, _centre(w)) for w, part in zip(bias.grids, bias.parts, strict=True)]
    hard = bias.hard
    spare_BQ = bias.valid_BQW[..., -1] if _has_spare_column(bias) else None

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        inside, column = torch.zeros_like(k, dtype=torch.bool), torch.zeros_like(k)
        for window, first, (number, row, col) in windows:
            hit, cell = _locate(window, k, number[b, q], row[b, q], col[b, q])
            column = torch.where(hit, first + cell, column)
            inside = inside | hit
        # A key lies in one window of a query at most. The values are read once: a tensor with a gradient must not be
        # indexed twice in a score function.
        score = score + torch.where(inside, value_BQW[b, q, column], 0.0)
        if spare_BQ is not None:
            inside = inside | (spare_BQ[b, q] & (k == 0))
        if hard:
            score = torch.where(inside, score, float("-inf"))
        if mask is not None:
            score = score + mask[b * several, q, k]
        return score

    return score_mod


def _has_spare_column(bias: WindowBias) -> bool:
    """Whether there is one column more than the windows have, by which fully masked rows attend to the first key."""
    return bias.valid_BQW.shape[-1] > bias.parts[-1].stop


def _with_more_queries(bias: WindowBias, mask: Tensor | None, more: int) -> tuple[WindowBias, Tensor | None]:
    """Bias and mask with ``more`` queries at the end that have no window; hard ones attend to the first key alone."""
    if not more:
        return bias, mask
    index, valid, value = (pad(x, (0, 0, 0, more)) for x in (bias.index_BQW, bias.valid_BQW, bias.value_BQW))
    if bias.hard:
        if not _has_spare_column(bias):
            index, valid, value = (pad(x, (0, 1)) for x in (index, valid, value))
        valid[:, -more:, -1] = True
    grids = tuple(
        replace(w, centre_BQ3=pad(w.centre_BQ3, (0, 0, 0, more)), seen_BQ=pad(w.seen_BQ, (0, more))) for w in bias.grids
    )
    bias = replace(bias, index_BQW=index, valid_BQW=valid, value_BQW=value, grids=grids)
    return bias, None if mask is None else pad(mask, (0, 0, 0, more))


def _centre(window: GridWindow) -> tuple[Tensor, Tensor, Tensor]:
    """(map, row, column) of the centres, [B, Q] each and contiguous; map -1 where there is no window."""
    number, row, col = window.centre_BQ3.unbind(-1)
    return number.masked_fill(~window.seen_BQ, -1).contiguous(), row.contiguous(), col.contiguous()


def _locate(window: GridWindow, key: Tensor, number: Tensor, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """Whether ``key`` lies in the window around (map, row, column), and which of its cells it is."""
    maps, rows, cols = window.shape
    half = window.size // 2
    cell = key - window.first_key
    in_maps = (cell >= 0) & (cell < maps * rows * cols)
    cell = torch.where(in_maps, cell, 0)
    down = (cell // cols) % rows - row
    right = cell % cols - col
    same = cell // (rows * cols) == number
    hit = in_maps & same & (down.abs() <= half) & (right.abs() <= half)
    return hit, (down + half) * window.size + right + half


@functools.cache
def uncompiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention as attention

    return attention


@functools.cache
def _compiled(compiler: str) -> Callable[..., Tensor]:
    """``fullgraph``: an error instead of plain operators where it cannot be compiled."""
    return torch.compile(uncompiled_flex(), dynamic=False, fullgraph=True, backend=compiler)
