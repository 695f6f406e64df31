"""Backend `flex`: FlexAttention with the windows computed in the score function. For CUDA; on a CPU forward only."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .windows import GridWindow, WindowBias


def flex_attention(q: Tensor, k: Tensor, v: Tensor, bias: WindowBias, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k^T + mask + bias) v, [B, H, Q, D].

    Nothing of size Q x K is held: whether a key lies in a query's window follows from its index.

    Args:
        q, k, v: [B, H, Q or K, D], equal widths.
        bias: with ``grids``; its values get their gradient from FlexAttention.
        mask: float [B or 1, Q, K] without a gradient, or None.
    Raises:
        ValueError: windows that are not on a grid; gradients on a CPU, where FlexAttention has none.
    """
    if not bias.grids:
        raise ValueError("attention backend 'flex' needs windows on a feature grid; use 'masked' or 'auto' here")
    cuda = q.device.type == "cuda"
    if not cuda and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, bias.value_BQW)):
        raise ValueError("attention backend 'flex' has no gradient on a CPU; use 'masked', 'window' or 'auto' there")
    score = score_function(bias, mask, q.dtype)
    return _attention(cuda)(q, k, v, score_mod=score, scale=scale)


def score_function(bias: WindowBias, mask: Tensor | None, dtype: torch.dtype) -> Callable[..., Tensor]:
    """FlexAttention's ``score_mod``: adds the bias, and the mask if there is one."""
    # Rows without any column (no window in this batch) would make an empty tensor, which cannot be indexed.
    value_BQW = torch.nn.functional.pad(bias.value_BQW, (0, 1)).to(dtype)
    several = 0 if mask is None or len(mask) == 1 else 1
    windows = [(w, part.start, _centre(w)) for w, part in zip(bias.grids, bias.parts, strict=True)]
    hard = bias.hard
    # One column more than the windows have: rows that attend to the first key because they have no other.
    spare_BQ = bias.valid_BQW[..., -1] if bias.valid_BQW.shape[-1] > bias.parts[-1].stop else None

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        inside = torch.zeros_like(k, dtype=torch.bool)
        for window, first, (number, row, col) in windows:
            hit, cell = _locate(window, k, number[b, q], row[b, q], col[b, q])
            score = score + torch.where(hit, value_BQW[b, q, first + torch.where(hit, cell, 0)], 0.0)
            inside = inside | hit
        if spare_BQ is not None:
            inside = inside | (spare_BQ[b, q] & (k == 0))
        if hard:
            score = torch.where(inside, score, float("-inf"))
        if mask is not None:
            score = score + mask[b * several, q, k]
        return score

    return score_mod


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
def _attention(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention as attention

    return torch.compile(attention, dynamic=False) if compiled else attention
