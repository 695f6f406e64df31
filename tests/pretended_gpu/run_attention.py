"""Runs the cases of attention_cases.py on the pretended GPU: RUNNER OUT.json [NAME ...]."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import batch
import torch
from attention_cases import ATTENTION, AttentionCase
from pretended_cuda import cpu_alone
from torch import Tensor

from aqr_bench.bias import MemoryLayout, WindowBias, biased_attention, grid_windows, window_bias
from aqr_bench.cost.cameras import ring_of_cameras

# Largest error over largest value; `literal` in half precision is at 0.003 and 0.01.
LIMITS = {"float32": 5e-6, "float16": 0.01, "bfloat16": 0.04}
BATCH, HEADS, WIDTH = 2, 2, 16
LAYOUT = MemoryLayout((8, 8), (4, 3, 5), (-10.0, -10.0, -5.0, 10.0, 10.0, 3.0))
GROUP = 7  # queries of one denoising group


def attention_case(case: AttentionCase) -> dict[str, Any]:
    """Errors of the output and all gradients against float64, which gets the same rounded numbers."""
    dtype = getattr(torch, case.dtype)
    inputs, bias, mask = make_inputs(case)
    inputs = [x.to(dtype) for x in inputs]
    on_gpu = [x.to("cuda").requires_grad_() for x in inputs]
    gpu_mask = None if mask is None else mask.to("cuda")
    out = biased_attention(*on_gpu[:3], bias=moved(bias, on_gpu[3]), mask=gpu_mask, backend=case.backend)
    out.backward(direction(out.shape).to(out))
    with cpu_alone():
        exact = [x.double().requires_grad_() for x in inputs]
        expected = formula(*exact[:3], replace(bias, value_BQW=exact[3]), mask)
        expected.backward(direction(out.shape))
    names = ("output", "query", "key", "value", "bias")
    result = [out, *(x.grad for x in on_gpu)], [expected, *(x.grad for x in exact)]
    errors = {name: error(own, true) for name, own, true in zip(names, *result, strict=True)}
    over = {name: value for name, value in errors.items() if not value <= LIMITS[case.dtype]}
    assert not over, f"errors {over} against float64, the limit in {case.dtype} is {LIMITS[case.dtype]}"
    return errors


def make_inputs(case: AttentionCase) -> tuple[list[Tensor], WindowBias, Tensor | None]:
    """q, k, v [B, H, Q or K, D] and the values of the bias, in float64; the bias; the mask [Q, K]."""
    g = torch.Generator().manual_seed(case.rows)
    bias = grid_bias(case, g) if case.geometry == "grid" else cell_bias(case, g)
    counts = (case.rows, bias.num_keys, bias.num_keys)
    heads = [torch.randn(BATCH, HEADS, count, WIDTH, generator=g, dtype=torch.float64) for count in counts]
    return [*heads, bias.value_BQW], bias, group_mask(case.rows) if case.masked else None


def grid_bias(case: AttentionCase, g: torch.Generator) -> WindowBias:
    """Windows of 3 x 3 cells around random points, in the BEV map and in the cameras that see them."""
    points = (torch.rand(BATCH, case.rows, 3, generator=g) - 0.5) * torch.tensor([20.0, 20.0, 3.0])
    cameras = ring_of_cameras(4, (24, 40), 105.0).expand(BATCH, -1, -1, -1)
    shapes = torch.tensor([24.0, 40.0]).expand(BATCH, 4, 2)
    windows = grid_windows(points, cameras, shapes, LAYOUT, 3, 3)
    cells = sum(window.size**2 for window in windows)
    return window_bias(windows, random_bias((BATCH, case.rows, cells), g), LAYOUT.num_keys, case.hard)


def cell_bias(case: AttentionCase, g: torch.Generator) -> WindowBias:
    """Five random keys for each query, some of them not valid; every query may see itself."""
    order = torch.rand(BATCH, case.rows, case.rows, generator=g).argsort(-1)
    valid = torch.rand(BATCH, case.rows, 5, generator=g) > 0.3
    return WindowBias(order[..., :5], valid, random_bias((BATCH, case.rows, 5), g), case.rows, case.hard)


def random_bias(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=g, dtype=torch.float64) * 4 - 2


def group_mask(rows: int) -> Tensor:
    """bool [Q, Q], True where a query may not attend: the first 28 are denoising groups, which see only themselves."""
    group = torch.arange(rows) // GROUP
    group[group >= 4] = 4
    hidden = group[:, None] != group
    hidden[:28, 28:] = False  # a group sees the matching part
    return hidden


def moved(bias: WindowBias, value: Tensor) -> WindowBias:
    """The bias on the device of ``value``, which replaces its values."""
    grids = tuple(
        replace(window, centre_BQ3=window.centre_BQ3.to(value.device), seen_BQ=window.seen_BQ.to(value.device))
        for window in bias.grids
    )
    index, valid = bias.index_BQW.to(value.device), bias.valid_BQW.to(value.device)
    return replace(bias, index_BQW=index, valid_BQW=valid, value_BQW=value, grids=grids)


def formula(q: Tensor, k: Tensor, v: Tensor, bias: WindowBias, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask + bias) v, zeros for a row without a key."""
    scores = q @ k.mT / math.sqrt(q.shape[-1]) + bias.dense()[:, None]
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    fully_masked = (scores == float("-inf")).all(-1, keepdim=True)
    return scores.masked_fill(fully_masked, 0).softmax(-1).masked_fill(fully_masked, 0) @ v


def direction(shape: torch.Size) -> Tensor:
    """A fixed gradient of the output."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def error(own: Tensor, true: Tensor) -> float:
    """Largest error over largest value."""
    return ((own.detach().cpu().double() - true.detach()).abs().max() / true.detach().abs().max()).item()


if __name__ == "__main__":
    torch.set_num_threads(1)
    raise SystemExit(batch.main({case.name: functools.partial(attention_case, case) for case in ATTENTION}))
