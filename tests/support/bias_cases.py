"""Attention inputs for the tests of this folder, and the formula that every backend is held against."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from bias_reference import ring_of_cameras

from aqr_bench.bias import MemoryLayout, WindowBias, biased_attention, grid_windows, window_bias
from aqr_bench.bias.windows import ClosedForm, window_offsets, window_profile

RANGE = (-10.0, -8.0, -3.0, 10.0, 8.0, 3.0)


@dataclass(frozen=True)
class Inputs:
    """q, k, v [B, H, Q or K, d], the bias, and optional terms."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: WindowBias | None
    mask: torch.Tensor | None = None
    prior: tuple[torch.Tensor, torch.Tensor] | None = None

    def to(self, dtype: torch.dtype) -> Inputs:
        q, k, v = (x.to(dtype) for x in (self.q, self.k, self.v))
        form = self.bias.closed_form
        if form is not None:
            names = ("lidar_weight_BQ", "camera_weight_BQ", "scale")
            form = replace(form, **{name: getattr(form, name).to(dtype) for name in names})
        bias = replace(self.bias, value_BQW=self.bias.value_BQW.to(dtype), closed_form=form)
        return replace(self, q=q, k=k, v=v, bias=bias)


def random_inputs(seed, B=2, H=2, Q=5, K=7, d=4, hard=False, masked=False, prior=False, dtype=torch.float64) -> Inputs:
    """Random cells without any geometry, as self-attention has them; some of them not valid."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, H, n, d, generator=g, dtype=dtype) for n in (Q, K, K))
    W = min(3, K)
    index = torch.stack([torch.randperm(K, generator=g)[:W] for _ in range(B * Q)]).view(B, Q, W)
    valid = torch.rand(B, Q, W, generator=g) > 0.3
    value = (torch.randn(B, Q, W, generator=g, dtype=dtype) * 3).clamp(-5, 5)
    mask = (torch.rand(Q, K, generator=g) > 0.5) if masked else None
    if prior:
        prior = (torch.randn(B, H, Q, 3, generator=g, dtype=dtype), torch.randn(B, 1, K, 3, generator=g, dtype=dtype))
    return Inputs(q, k, v, WindowBias(index, valid, value, K, hard), mask, prior or None)


def grid_inputs(seed, sizes=(3, 3), focal=8.0, Q=6, hard=False, masked=False, dtype=torch.float64) -> Inputs:
    """True windows: over borders, of points outside the BEV range, in no camera and (focal 8) in two cameras."""
    g = torch.Generator().manual_seed(seed)
    layout = MemoryLayout((5, 7), (4, 3, 4), RANGE)
    points = (torch.rand(2, Q, 3, generator=g, dtype=torch.float64) - 0.5) * torch.tensor([26.0, 20.0, 4.0]).double()
    if Q > 2:
        points[:, 0] = torch.tensor([RANGE[3], RANGE[4], 0.0])  # the far corner
        points[:, 1] = torch.tensor([0.5, 0.5, 50.0])  # above every camera
    lidar2img = ring_of_cameras(4, 32, 24, focal).expand(2, -1, -1, -1)
    shapes = torch.tensor([24.0, 32.0], dtype=torch.float64).expand(2, 4, 2)
    windows = grid_windows(points, lidar2img, shapes, layout, *sizes)
    q, k, v = (torch.randn(2, 2, n, 4, generator=g, dtype=dtype) for n in (Q, layout.num_keys, layout.num_keys))
    cells = sum(w.size**2 for w in windows)
    value = (torch.randn(2, Q, cells, generator=g, dtype=dtype) * 3).clamp(-5, 5)
    mask = (torch.rand(Q, layout.num_keys, generator=g) > 0.5) if masked else None
    return Inputs(q, k, v, window_bias(windows, value, layout.num_keys, hard), mask)


def closed_form_inputs(
    seed, sizes=(3, 3), focal=8.0, Q=70, profile="uniform", scale=0.7, hard=False, width=4, dtype=torch.float64
) -> Inputs:
    """True windows in maps that fill several tiles, and a bias in closed form, as the generator makes it."""
    g = torch.Generator().manual_seed(seed)
    layout = MemoryLayout((11, 13), (4, 5, 19), RANGE)
    points = (torch.rand(2, Q, 3, generator=g, dtype=torch.float64) - 0.5) * torch.tensor([22.0, 18.0, 4.0]).double()
    lidar2img = ring_of_cameras(4, 32, 24, focal).expand(2, -1, -1, -1)
    shapes = torch.tensor([24.0, 32.0], dtype=torch.float64).expand(2, 4, 2)
    windows = grid_windows(points, lidar2img, shapes, layout, *sizes)
    q, k, v = (torch.randn(2, 2, n, width, generator=g).to(dtype) for n in (Q, layout.num_keys, layout.num_keys))
    weights = (torch.rand(2, 2, Q, generator=g) * 2 - 1).to(dtype)
    form = ClosedForm(*weights, torch.tensor(scale, dtype=dtype), "uniform" if hard else profile, 5.0)
    return with_closed_form(Inputs(q, k, v, window_bias(windows, q.new_zeros(2, Q, 0), layout.num_keys, hard)), form)


def with_closed_form(inputs: Inputs, form: ClosedForm) -> Inputs:
    """The same windows with the values of this closed form."""
    values = [
        (form.camera_weight_BQ if w.is_camera else form.lidar_weight_BQ)[..., None]
        * window_profile(window_offsets(w.size, inputs.q.device), w.size, form.profile).to(form.scale)
        for w in inputs.bias.grids
    ]
    nothing = inputs.q.new_zeros(*inputs.bias.index_BQW.shape[:2], 0)
    value = (torch.cat([nothing, *values], -1) * form.scale).clamp(-form.limit, form.limit)
    return replace(inputs, bias=replace(inputs.bias, value_BQW=value, closed_form=form))


def peaked_inputs(seed, gap, level, Q=24, K=600, W=25, d=16) -> Inputs:
    """float32; scores of a row span ``gap``, and its window holds its best keys: where a correction cancels.

    Sample 0: the best keys of each row. Sample 1: keys that stand out in all rows, so that they hold all the mass.
    ``level`` is the bias of every cell, or ``random`` for -5 to 5.
    """
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 2, n, d, generator=g) for n in (Q, K, K))
    k[..., -1], q[..., -1] = 0.0, 15 * math.sqrt(d)
    k[1, :, torch.randperm(K, generator=g)[:W], -1] = 1.0
    scores = q @ k.mT / math.sqrt(d)
    q = q * (gap / (scores.amax(-1) - scores.amin(-1)))[..., None]
    index = (q @ k.mT)[:, 0].topk(W, -1).indices
    value = torch.rand(2, Q, W, generator=g) * 10 - 5 if level == "random" else torch.full((2, Q, W), float(level))
    return Inputs(q, k, v, WindowBias(index, torch.ones_like(index, dtype=torch.bool), value, K))


def formula(inputs: Inputs) -> torch.Tensor:
    """softmax(q k^T / sqrt(d) + prior + mask + bias) v, zeros for a row without a key."""
    scores = inputs.q @ inputs.k.transpose(-1, -2) / math.sqrt(inputs.q.shape[-1])
    if inputs.prior is not None:
        scores = scores + inputs.prior[0] @ inputs.prior[1].transpose(-1, -2)
    if inputs.bias is not None:
        scores = scores + inputs.bias.dense()[:, None]
    if inputs.mask is not None:
        scores = scores.masked_fill(inputs.mask, float("-inf"))
    fully_masked = (scores == float("-inf")).all(-1, keepdim=True)
    return scores.masked_fill(fully_masked, 0).softmax(-1).masked_fill(fully_masked, 0) @ inputs.v


def with_gradients(inputs: Inputs, backend: str | None) -> list[torch.Tensor]:
    """Output, and gradients of q, k, v and the bias values, by a backend or (None) by the formula."""
    leaves = [x.detach().clone().requires_grad_() for x in (inputs.q, inputs.k, inputs.v, inputs.bias.value_BQW)]
    trainable = replace(inputs, q=leaves[0], k=leaves[1], v=leaves[2], bias=replace(inputs.bias, value_BQW=leaves[3]))
    out = formula(trainable) if backend is None else attend(trainable, backend)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad((out * direction).sum(), leaves, materialize_grads=True)]


def attend(inputs: Inputs, backend: str) -> torch.Tensor:
    return biased_attention(
        inputs.q, inputs.k, inputs.v, mask=inputs.mask, bias=inputs.bias, prior=inputs.prior, backend=backend
    )


def relative_errors(measured: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    """Largest error over the largest value, tensor by tensor."""
    return [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(measured, exact, strict=True)]
