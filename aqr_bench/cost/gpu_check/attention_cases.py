"""Cases of the attention tables: sizes, kinds of bias, one step, and the float64 reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from aqr_bench.bias import MemoryLayout, WindowBias, biased_attention, grid_windows, window_bias
from aqr_bench.bias.generator import MAX_BIAS
from aqr_bench.bias.locality_prior import LocalityPrior
from aqr_bench.bias.windows import ClosedForm, self_window
from aqr_bench.cost.cameras import ring_of_cameras


@dataclass(frozen=True)
class Size:
    """A cross-attention of CMT: B samples, Q queries, BEV map, (cameras, rows, columns), H heads, width C."""

    batch: int
    queries: int
    bev: tuple[int, int]
    cameras: tuple[int, int, int]
    heads: int
    width: int
    reach_m: float
    image: tuple[int, int]


SIZES = {
    # cmt_voxel0100_r50_800x320_cbgs, the design note's
    "note": Size(2, 900, (128, 128), (6, 20, 50), 8, 256, 54.0, (320, 800)),
    # cmt_voxel0075_vov_1600x640_cbgs
    "vov": Size(2, 900, (180, 180), (6, 40, 100), 8, 256, 54.0, (640, 1600)),
    # cmt_aqr_quick
    "quick": Size(4, 144, (48, 48), (6, 6, 11), 4, 64, 38.4, (96, 176)),
    # comparisons with float64: odd numbers of queries and keys
    "parity": Size(2, 301, (41, 41), (6, 13, 25), 8, 256, 54.0, (320, 800)),
    # for tests; heads 16 wide, as Inductor wants them at least
    "tiny": Size(2, 9, (8, 8), (4, 3, 5), 2, 32, 10.0, (24, 40)),
}
# Attention with this bias: in cross-attention over windows, the same with -inf outside them, with a locality prior
# beside it, and in self-attention behind the mask of denoising queries.
KINDS = ("cross", "hard", "prior", "self")
DENOISING = (3, 7)  # groups, and queries in each


@dataclass(frozen=True)
class Case:
    """One layer's inputs and weights; ``weight_BQ2`` are the router's. ``leaves`` get a gradient.

    ``mask`` [Q, K], True = may not attend, and ``prior`` are those of ``biased_attention``.
    """

    size: Size
    query_BQC: Tensor
    memory_BKC: Tensor
    position_BKC: Tensor
    weight_BQ2: Tensor
    in_proj: nn.Parameter
    out_proj: nn.Parameter
    geometry: WindowBias
    mask: Tensor | None = None
    prior: tuple[Tensor, Tensor] | None = None

    @property
    def leaves(self) -> list[Tensor]:
        return [self.query_BQC, self.memory_BKC, self.weight_BQ2, self.in_proj, self.out_proj]

    def bias(self) -> WindowBias:
        """The bias of this step: the router's weights on the cells of their windows."""
        parts = [(int(g.is_camera), g.size**2) for g in self.geometry.grids] or [(0, self.geometry.index_BQW.shape[-1])]
        columns = [self.weight_BQ2[..., sensor, None].expand(-1, -1, cells) for sensor, cells in parts]
        scale = self.weight_BQ2.new_ones(())
        form = ClosedForm(*self.weight_BQ2.unbind(-1), scale, "uniform", MAX_BIAS) if self.geometry.grids else None
        return replace(self.geometry, value_BQW=torch.cat(columns, -1), closed_form=form)

    def heads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Projected queries, keys and values, [B, H, Q or K, C / H]."""
        inputs = (self.query_BQC, self.memory_BKC + self.position_BKC, self.memory_BKC)
        return tuple(
            linear(x, w).unflatten(-1, (self.size.heads, -1)).transpose(1, 2)
            for x, w in zip(inputs, self.in_proj.chunk(3), strict=True)
        )


def make_case(
    size: str,
    bev_window: int,
    camera_window: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    kind: str = "cross",
    queries: int | None = None,
) -> Case:
    """Random features, and windows around random points seen by a ring of cameras that overlap a little.

    The bias is in [-2, 2]. ``cameras`` see 70 degrees each, so that one point in six is seen by two of six. ``kind``:
    one of ``KINDS``; ``queries``: another number of them than the size has.
    """
    s, g = SIZES[size], torch.Generator().manual_seed(seed)
    s = replace(s, queries=(queries or s.queries) + (math.prod(DENOISING) if kind == "self" else 0))
    layout = layout_of(s)
    keys = s.queries if kind == "self" else layout.num_keys

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(device, dtype)

    points, *cameras = random_points(s, g, device)
    if kind == "self":
        index, valid, _ = self_window(points, layout, bev_window, "uniform")
        geometry = WindowBias(index, valid, valid.to(dtype), keys)
    else:
        windows = grid_windows(points, *cameras, layout, bev_window, camera_window)
        zeros = torch.zeros(s.batch, s.queries, sum(w.size**2 for w in windows), device=device, dtype=dtype)
        geometry = window_bias(windows, zeros, keys, hard=kind == "hard")
    weight = ((torch.rand(s.batch, s.queries, 2, generator=g) - 0.5) * 4).to(device, dtype)
    prior = LocalityPrior(s.heads).to(device)(points, *cameras, layout).dims if kind == "prior" else None
    return Case(
        s,
        normal(s.batch, s.queries, s.width).requires_grad_(),
        normal(s.batch, keys, s.width).requires_grad_(),
        normal(s.batch, keys, s.width),
        weight.requires_grad_(),
        nn.Parameter(normal(3 * s.width, s.width) / math.sqrt(s.width)),
        nn.Parameter(normal(s.width, s.width) / math.sqrt(s.width)),
        geometry,
        denoising_mask(s.queries, device) if kind == "self" else None,
        None if prior is None else tuple(x.detach().to(dtype) for x in prior),
    )


def layout_of(size: Size) -> MemoryLayout:
    """The memory of a size."""
    reach = size.reach_m
    return MemoryLayout(size.bev, size.cameras, (-reach, -reach, -5.0, reach, reach, 3.0))


def random_points(size: Size, generator: torch.Generator, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Reference points (metres) in the whole range, and projections and image shapes of a ring of cameras."""
    spread = torch.tensor([2 * size.reach_m, 2 * size.reach_m, 3.0])
    points = (torch.rand(size.batch, size.queries, 3, generator=generator) - 0.5) * spread
    matrices = ring_of_cameras(size.cameras[0], size.image, 70.0 * 6 / size.cameras[0]).expand(size.batch, -1, -1, -1)
    shapes = torch.tensor(size.image).float().expand(size.batch, size.cameras[0], 2)
    return points.to(device), matrices.to(device), shapes.to(device)


def denoising_mask(queries: int, device: str) -> Tensor:
    """[Q, Q]: groups of denoising queries, which come first, are seen by themselves alone; the others by all."""
    groups, each = DENOISING
    number = torch.full((queries,), -1, device=device)
    number[: groups * each] = torch.arange(groups * each, device=device) // each
    return (number[None] >= 0) & (number[:, None] != number[None])


# ---------------------------------------------------------------------- attention

Attention = Callable[[Case], Tensor]  # projections, attention and output projection of a case, [B, Q, C]


def output_projection(case: Case, out: Tensor) -> Tensor:
    """[B, H, Q, C / H] -> [B, Q, C]."""
    return linear(out.transpose(1, 2).flatten(2), case.out_proj)


def backend(name: str) -> Attention:
    """Biased attention by a backend of ``biased_attention``."""

    def attend(case: Case) -> Tensor:
        out = biased_attention(*case.heads(), mask=case.mask, bias=case.bias(), prior=case.prior, backend=name)
        return output_projection(case, out)

    return attend


ATTENTION: dict[str, Attention] = {
    "none": lambda case: output_projection(case, biased_attention(*case.heads())),
    **{name: backend(name) for name in ("auto", "window", "masked", "literal", "flex", "tiled")},
}


def step(case: Case, attend: Attention, backward: bool) -> Tensor:
    """One forward pass without gradients, or one forward and backward pass to all leaves; returns the output."""
    if not backward:
        with torch.no_grad():
            return attend(case)
    for leaf in case.leaves:
        leaf.grad = None
    out = attend(case)
    out.backward(_direction(out))
    return out


def _direction(out: Tensor) -> Tensor:
    """A fixed gradient of the output, neither constant nor random."""
    return torch.linspace(-1, 1, out.numel(), device=out.device).to(out.dtype).sin().view(out.shape)


# ---------------------------------------------------------------------- reference


def exact(case: Case) -> list[Tensor]:
    """Output and gradients of all leaves in float64, head by head and sample by sample; on the CPU."""
    double = replace(
        case,
        **{
            name: getattr(case, name).detach().double().cpu().requires_grad_()
            for name in ("query_BQC", "memory_BKC", "weight_BQ2", "in_proj", "out_proj")
        },
        position_BKC=case.position_BKC.double().cpu(),
        mask=None if case.mask is None else case.mask.cpu(),
        prior=None if case.prior is None else tuple(x.double().cpu() for x in case.prior),
        geometry=replace(
            case.geometry,
            index_BQW=case.geometry.index_BQW.cpu(),
            valid_BQW=case.geometry.valid_BQW.cpu(),
            value_BQW=case.geometry.value_BQW.double().cpu(),
        ),
    )
    q, k, v = double.heads()
    bias, (samples, heads) = double.bias(), q.shape[:2]
    # The scores of one head are recomputed in its backward pass: those of all heads would take gigabytes.
    out = [
        checkpoint(_one_head, double, q, k, v, bias, b, h, use_reentrant=False)
        for b in range(samples)
        for h in range(heads)
    ]
    final = output_projection(double, torch.stack(out).unflatten(0, (samples, heads)))
    return [final.detach(), *torch.autograd.grad(final, double.leaves, _direction(final))]


def _one_head(case: Case, q: Tensor, k: Tensor, v: Tensor, bias: WindowBias, b: int, h: int) -> Tensor:
    rows = torch.arange(q.shape[2])
    scores = q[b, h] @ k[b, h].T / math.sqrt(q.shape[-1]) + bias.rows(b, rows).dense()[0]
    if case.prior is not None:
        query, key = case.prior
        scores = scores + query[b, h] @ key[b, h % key.shape[1]].T
    if case.mask is not None:
        scores = scores.masked_fill(case.mask, float("-inf"))
    return scores.softmax(-1) @ v[b, h]


def errors(case: Case, attend: Attention, reference: list[Tensor]) -> list[float]:
    """Largest error over the largest value, of the output and of the gradient of each leaf."""
    out = step(case, attend, backward=True)
    values = [out.detach(), *(leaf.grad for leaf in case.leaves)]
    return [
        float((x.cpu().double() - y).abs().max() / y.abs().max().clamp(min=1e-300))
        for x, y in zip(values, reference, strict=True)
    ]
