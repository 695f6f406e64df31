"""Backend `tiled` by FlexAttention, for CUDA: two passes over disjoint tiles, and a third for the weights' gradient.

FlexAttention would add to the gradient of a tensor that its score function reads by atomics, once per score. So the
strengths are read without a gradient here, and theirs comes from one more pass over the tiles with a window cell: with
O_w and lse_w of attention to the window cells alone, their scores raised by the log of the profile,

    d strength = sum over heads of exp(lse_w - lse) (dO . O_w - dO . O),

which is the sum over the cells of profile P (dO . v - delta).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import max_pool2d

from aqr_bench.bias.attention.flex import MIN_WIDTH, compiled_flex, uncompiled_flex
from aqr_bench.bias.attention.fused_kernels import on_cpu
from aqr_bench.bias.attention.tile_order import TILE
from aqr_bench.bias.attention.tiled import Heads, TiledScores, merge
from aqr_bench.bias.attention.tiles import TileGeometry

ScoreFunction = Callable[..., Tensor]


def flex_attention_tiles(first: Heads, second: Heads, scores: TiledScores) -> Tensor:
    """Attention over all tiles, [B, H, padded Q, D]; see ``merged_passes``.

    Raises:
        ValueError: heads or a dtype that FlexAttention's kernels do not support.
        RuntimeError: more than ``MAX_KERNELS`` shapes in this process.
    """
    q, *_ = first
    if not on_cpu(q) and (q.shape[-1] < MIN_WIDTH or q.dtype == torch.float64):
        raise ValueError(
            f"attention backend 'tiled' needs heads at least {MIN_WIDTH} wide in float32 or half precision on CUDA, "
            f"not {q.shape[-1]} wide in {q.dtype}; use 'masked' or 'auto' here"
        )
    geometry, hard = scores.geometry, scores.hard
    out, lse = _attend(first, biased_score(scores), geometry, with_cells=True, scale=scores.scale)
    if not hard:
        other, other_lse = _attend(second, None, geometry, with_cells=False, scale=scores.scale)
        out, lse = merge(out, lse, other, other_lse), torch.logaddexp(lse.detach(), other_lse.detach())
    detached = (x.detach() for x in (lse, *first))
    return _WithStrengthGradient.apply(out, scores.strength_B2Q, *detached, scores)


class _WithStrengthGradient(torch.autograd.Function):
    """Passes the output on, and gives the strengths their gradient."""

    @staticmethod
    def forward(ctx, out, strength, lse, q, k, v, scores):
        ctx.save_for_backward(out, lse, q, k, v)
        ctx.scores, ctx.dtype = scores, strength.dtype
        return out.view_as(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        dstrength = None
        if ctx.needs_input_grad[1]:
            out, lse, q, k, v = ctx.saved_tensors
            onto, geometry = grad.float(), ctx.scores.geometry
            delta_BHQ = (onto * out.float()).sum(-1)
            gradients = []
            for is_camera in (False, True):
                score = window_score(ctx.scores, is_camera)
                in_windows, lse_w = _attend((q, k, v), score, geometry, True, ctx.scores.scale)
                # Rows without a window cell: -inf less -inf, where hard windows have none either.
                share = (lse_w - lse).exp().masked_fill(lse_w == float("-inf"), 0)
                gradients.append((share * ((onto * in_windows.float()).sum(-1) - delta_BHQ)).sum(1))
            dstrength = torch.stack(gradients, 1).to(ctx.dtype)
        return grad, dstrength, None, None, None, None, None


def biased_score(scores: TiledScores) -> ScoreFunction:
    """FlexAttention's ``score_mod``: adds the bias; -inf outside of hard windows."""
    slope, strength, is_camera_K = scores.geometry.slope, _strength(scores), scores.geometry.keys.is_camera_K
    limit, hard = scores.limit, scores.hard

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        profile, inside = slope(b, q, k)
        score = score + (strength[b, is_camera_K[k], q] * profile).clamp(-limit, limit)
        return torch.where(inside, score, float("-inf")) if hard else score

    return score_mod


def window_score(scores: TiledScores, is_camera: bool) -> ScoreFunction:
    """``score_mod`` of the weights' gradient: -inf but at the cells of one sensor whose bias is not clamped."""
    slope, limit = scores.geometry.slope, scores.limit
    counts_K = scores.geometry.keys.is_camera_K == int(is_camera)
    strength_BQ = _strength(scores)[:, int(is_camera)].contiguous()

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        profile, inside = slope(b, q, k)
        value = strength_BQ[b, q] * profile
        counts = inside & counts_K[k] & (value.abs() <= limit)
        return torch.where(counts, score + value + torch.where(counts, profile, 1.0).log(), float("-inf"))

    return score_mod


def _strength(scores: TiledScores) -> Tensor:
    return scores.strength_B2Q.detach().float()


def _attend(
    heads: Heads, score_mod: ScoreFunction | None, geometry: TileGeometry, with_cells: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Output and natural log-sum-exp over the tiles with or without a window cell."""
    from torch.nn.attention.flex_attention import AuxRequest

    device = heads[0].device
    tiles = block_mask(geometry, with_cells, block_size(device))
    # Tiles of the forward pass that divide the blocks, also for few queries, which would take another kernel.
    options = {"fwd_BLOCK_M": TILE, "fwd_BLOCK_N": TILE, "BACKEND": "TRITON"}
    arguments = dict(
        score_mod=score_mod, block_mask=tiles, scale=scale, return_aux=AuxRequest(lse=True), kernel_options=options
    )
    if device.type == "cpu":
        out, more = uncompiled_flex()(*heads, **arguments)
    else:
        out, more = compiled_flex("tiled", *heads, **arguments)
    return out, more.lse


def block_size(device: torch.device) -> int:
    """Queries and keys of a block of FlexAttention: its kernels' backward tiles have to divide it."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) != (9, 0):
        return 2 * TILE
    return TILE


def block_mask(geometry: TileGeometry, with_cells: bool, size: int) -> object:
    """FlexAttention's BlockMask of the tiles with or without a window cell; the same object for all layers.

    All blocks are full ones: a kernel applies no mask inside them.
    """
    if (with_cells, size) not in geometry.block_masks:
        from torch.nn.attention.flex_attention import BlockMask

        table = geometry.table_BTS
        if size != TILE:
            table = max_pool2d(table[:, None].float(), size // TILE, ceil_mode=True)[:, 0] > 0
        table = table if with_cells else ~table
        indices = table.to(torch.uint8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)[:, None]
        counts = table.sum(-1, dtype=torch.int32)[:, None]

        def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return table[b, q // size, k // size]

        geometry.block_masks[with_cells, size] = BlockMask.from_kv_blocks(
            torch.zeros_like(counts),
            torch.zeros_like(indices),
            counts,
            indices,
            BLOCK_SIZE=size,
            mask_mod=mask_mod,
            seq_lengths=(geometry.padded_queries, geometry.num_keys),
        )
    return geometry.block_masks[with_cells, size]
