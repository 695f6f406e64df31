"""Backend `tiled`: score tiles that hold a window cell get the bias in closed form, the others none; then both merged.

Each of the two passes is attention over its tiles alone, with its log-sum-exp; as the tiles are disjoint,

    out = (1 - s) out_without + s out_with,    s = sigmoid(lse_with - lse_without),

is exact: nothing cancels, in half precision either. Queries are sorted and keys stored in patches (``tile_order``), so
that few tiles hold a window cell. On CUDA the passes are FlexAttention (``tiled_flex``); here is the same in torch's
operators for a CPU, tile row by tile row, with the gradients that a kernel would compute: that of a query's weight is a
sum over its row of scores, without atomics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from aqr_bench.bias.attention.fused_kernels import on_cpu
from aqr_bench.bias.attention.tile_order import TILE
from aqr_bench.bias.attention.tiles import TileGeometry, tile_geometry
from aqr_bench.bias.windows import WindowBias


@dataclass(frozen=True)
class TiledScores:
    """What both passes need besides q, k and v.

    Args:
        geometry: of the windows.
        strength_B2Q: scale times weight of each sorted query, LiDAR and cameras.
        scale: factor on q k^T.
        limit: of the bias.
        hard: outside of the windows the bias is -inf.
    """

    geometry: TileGeometry
    strength_B2Q: Tensor
    scale: float
    limit: float
    hard: bool


Heads = tuple[Tensor, Tensor, Tensor]  # q, k and v


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: WindowBias,
    mask: Tensor | None,
    scale: float,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """softmax(scale q k^T + bias) v, [B, H, Q, D]; zeros for a row without a key (hard windows).

    Args:
        q, k, v: [B, H, Q or K, D], equal widths; k and v in the order that the bias has its keys in.
        bias: in closed form, on a grid.
        mask: None.
        dtype: of the passes; None: that of q. Their outputs and gradients are merged before they get q's dtype again.
    Raises:
        ValueError: a mask, or a bias that has no closed form.
    """
    if mask is not None:
        raise ValueError("attention backend 'tiled' takes no attention mask; use 'masked' or 'auto' here")
    if bias.closed_form is None or not bias.grids:
        raise ValueError(
            "attention backend 'tiled' needs a bias in closed form, as AttentionBias makes for cross-attention; use "
            "'masked' or 'auto' here"
        )
    geometry, form = tile_geometry(bias), bias.closed_form
    scores = TiledScores(geometry, geometry.strengths(form), scale, form.limit, bias.hard)
    if not bias.in_patches:
        k, v = (x.index_select(2, geometry.keys.key_K) for x in (k, v))
    pairs = [_CastTwice.apply(x, dtype or x.dtype) for x in (_in_order(q, geometry), k, v)]
    first, second = zip(*pairs, strict=True)
    if on_cpu(q):
        attend = merged_passes
    else:
        from aqr_bench.bias.attention.tiled_flex import flex_attention_tiles as attend
    out = attend(first, second, scores).to(q.dtype)
    index = geometry.rank_BQ[:, None, :, None].expand(-1, *out.shape[1:2], -1, out.shape[-1])
    return out.gather(2, index)


def _in_order(q: Tensor, geometry: TileGeometry) -> Tensor:
    """The queries sorted, zeros behind them up to whole tiles."""
    index = geometry.query_BQ[:, None, :, None].expand(q.shape)
    return pad(q.gather(2, index), (0, 0, 0, geometry.padded_queries - q.shape[2]))


class _CastTwice(torch.autograd.Function):
    """The same tensor in ``dtype`` for each of the two passes; their gradients are added without rounding the sum."""

    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = x.dtype
        x = x.to(dtype)
        return x.view_as(x), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, first, second):
        exact = _exact(ctx.dtype)
        return (first.to(exact) + second).to(ctx.dtype), None


def merged_passes(first: Heads, second: Heads, scores: TiledScores) -> Tensor:
    """Attention over all tiles, [B, H, padded Q, D] float32; hard windows: over those with a window cell alone.

    Args:
        first, second: q, k and v of the passes with and without window cells: queries sorted and padded, stored keys.
    """
    out, lse = reference_pass(*first, scores, True)
    return out if scores.hard else merge(out, lse, *reference_pass(*second, scores, False))


def merge(out_with: Tensor, lse_with: Tensor, out_without: Tensor, lse_without: Tensor) -> Tensor:
    """Attention over two disjoint sets of keys, of which no row has both empty; in the log-sum-exp's dtype."""
    share = torch.sigmoid(lse_with - lse_without)[..., None]
    return out_without * (1 - share) + out_with * share


def reference_pass(q: Tensor, k: Tensor, v: Tensor, scores: TiledScores, with_cells: bool) -> tuple[Tensor, Tensor]:
    """A pass over the tiles with or without a window cell: output, and log-sum-exp [B, H, Q], -inf for no key.

    Products of numbers of the inputs' dtype are summed in float32, as on tensor cores.
    """
    return _ReferencePass.apply(q, k, v, scores.strength_B2Q, scores, with_cells)


class _ReferencePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, strength, scores, with_cells):
        out = torch.zeros_like(q, memory_format=torch.contiguous_format)
        lse = torch.full(q.shape[:3], float("-inf"), dtype=_exact(q.dtype), device=q.device)
        for b, rows, keys in _tile_rows(scores.geometry, with_cells):
            s, _ = _scores(q, k, strength, scores, b, rows, keys, with_cells)
            highest = s.amax(-1, keepdim=True)
            e = (s - highest.masked_fill(highest == float("-inf"), 0)).exp()
            total = e.sum(-1, keepdim=True)
            attended = _rounded(e, q.dtype) @ v[b][:, keys].to(e.dtype)
            out[b, :, rows] = (attended / total.masked_fill(total == 0, 1)).to(out.dtype)
            lse[b, :, rows] = (total.log() + highest)[..., 0]
        ctx.save_for_backward(q, k, v, strength, out, lse)
        ctx.scores, ctx.with_cells = scores, with_cells
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, grad_lse):
        q, k, v, strength, out, lse = ctx.saved_tensors
        exact, dtype = lse.dtype, q.dtype
        dq, dk, dv = (torch.zeros(x.shape, dtype=exact, device=x.device) for x in (q, k, v))
        dstrength = torch.zeros(strength.shape, dtype=exact, device=q.device)
        lse = lse.masked_fill(lse == float("-inf"), float("inf"))  # no key, no gradient
        for b, rows, keys in _tile_rows(ctx.scores.geometry, ctx.with_cells):
            s, slope_2 = _scores(q, k, strength, ctx.scores, b, rows, keys, ctx.with_cells)
            p = (s - lse[b, :, rows, None]).exp()
            onto, attended = grad[b, :, rows].to(exact), out[b, :, rows].to(exact)
            delta = (onto * attended).sum(-1) - grad_lse[b, :, rows]
            ds = p * (onto @ v[b][:, keys].to(exact).mT - delta[..., None])
            ds_rounded = _rounded(ds, dtype)
            dq[b, :, rows] = ds_rounded @ k[b][:, keys].to(exact) * ctx.scores.scale
            dk[b, :, keys] += ds_rounded.mT @ q[b, :, rows].to(exact) * ctx.scores.scale
            dv[b, :, keys] += _rounded(p, dtype).mT @ onto
            if slope_2 is not None:
                dstrength[b, :, rows] = (ds.sum(0) * slope_2).sum(-1)
        return dq.to(dtype), dk.to(dtype), dv.to(dtype), dstrength.to(strength.dtype), None, None


def _tile_rows(geometry: TileGeometry, with_cells: bool) -> Iterator[tuple[int, slice, Tensor]]:
    """(sample, sorted queries, stored keys) of every row of tiles that has any of this kind."""
    for b, table in enumerate(geometry.table_BTS):
        for t, row in enumerate(table):
            keys = (row == with_cells).repeat_interleave(TILE)[: geometry.num_keys].nonzero().flatten()
            if len(keys):
                yield b, slice(t * TILE, (t + 1) * TILE), keys


def _scores(
    q: Tensor, k: Tensor, strength: Tensor, scores: TiledScores, b: int, rows: slice, keys: Tensor, with_cells: bool
) -> tuple[Tensor, Tensor | None]:
    """Scores [H, TILE, n] of some keys; where tiles have window cells also d score / d strengths [2, TILE, n]."""
    exact = _exact(q.dtype)
    s = q[b, :, rows].to(exact) @ k[b][:, keys].to(exact).mT * scores.scale
    if not with_cells:
        return s, None
    query = torch.arange(rows.start, rows.stop, device=q.device)[:, None]
    slope, inside = scores.geometry.slope(torch.tensor(b, device=q.device), query, keys)
    is_camera = scores.geometry.keys.is_camera_K[keys] == 1
    lidar, camera = strength[b, :, rows, None].to(exact)
    raw = torch.where(is_camera, camera, lidar) * slope
    s = s + raw.clamp(-scores.limit, scores.limit)
    if scores.hard:
        s = s.masked_fill(~inside, float("-inf"))
    slope = (slope * (raw.abs() <= scores.limit)).to(exact)
    return s, torch.stack([slope * ~is_camera, slope * is_camera])


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers as the operand of a product in ``dtype`` has them."""
    return x.to(dtype).to(x.dtype)
