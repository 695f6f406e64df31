"""Which tiles of the scores hold a window cell, and the bias of any query and key in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from aqr_bench.bias.attention.tile_order import (
    TILE,
    KeyOrder,
    PatchedMaps,
    key_order,
    patched_maps,
    query_order,
)
from aqr_bench.bias.windows import ClosedForm, GridWindow, WindowBias, profile_variance

FAR = -(2**20)  # row and column of a window that a query does not have: no key is near


@dataclass(frozen=True)
class TileGeometry:
    """Everything about the windows of a bias that a tiled kernel reads, queries sorted and keys stored in patches.

    It is made in tensor operations alone, without waiting for a GPU. Its shapes depend on the numbers of queries, keys
    and maps, not on how many cameras see a query.

    Args:
        windows: at least one, of queries in their first order.
        num_keys: K.
        profile: see ``window_profile``; uniform for hard windows.
    """

    windows: tuple[GridWindow, ...]
    num_keys: int
    profile: str

    @cached_property
    def maps(self) -> tuple[PatchedMaps, ...]:
        return patched_maps(self.windows)

    @cached_property
    def keys(self) -> KeyOrder:
        return key_order(self.maps, self.num_keys, self.windows[0].centre_BQ3.device)

    @cached_property
    def query_BQ(self) -> Tensor:
        """Which query each sorted one is."""
        return query_order(self.windows)

    @cached_property
    def rank_BQ(self) -> Tensor:
        """Where each query is among the sorted ones."""
        return self.query_BQ.argsort(-1)

    @cached_property
    def block_masks(self) -> dict[tuple[bool, int], Any]:
        """FlexAttention's masks made of the table, by what they hold and their block size."""
        return {}

    @property
    def padded_queries(self) -> int:
        """Number of queries, rounded up to whole tiles."""
        return -(-self.query_BQ.shape[1] // TILE) * TILE

    @cached_property
    def table_BTS(self) -> Tensor:
        """bool [B, T, S]: whether a tile of T = ceil(Q / TILE) by S = ceil(K / TILE) holds a window cell."""
        return tile_table(self.windows, self.maps, self.rank_BQ, self.num_keys)

    @cached_property
    def centre_B2MQ(self) -> Tensor:
        """int32 [B, 2, M, padded Q]: row and column of each sorted query's window in each of the M maps, or ``FAR``."""
        batch, queries = self.query_BQ.shape
        first, count = {}, 0
        for part in self.maps:
            first[part.first_key], count = count, count + part.shape[0]
        # One map more, for queries without a window.
        centre = self.query_BQ.new_full((batch, 2, count + 1, queries), FAR)
        for window in self.windows:
            number, row, col = window.centre_BQ3.unbind(-1)
            number = torch.where(window.seen_BQ, number + first[window.first_key], count)
            centre.scatter_(2, number[:, None, None].expand(-1, 2, -1, -1), torch.stack([row, col], 1)[:, :, None])
        centre = self.sorted(centre[:, :, :count])
        return centre.to(torch.int32).contiguous()

    def sorted(self, x_BXQ: Tensor) -> Tensor:
        """[B, ..., Q] -> [B, ..., padded Q] in the order of the tiles; zeros behind, ``FAR`` for integers."""
        index = self.query_BQ.view(len(x_BXQ), *[1] * (x_BXQ.dim() - 2), -1).expand(x_BXQ.shape)
        more = self.padded_queries - index.shape[-1]
        return pad(x_BXQ.gather(-1, index), (0, more), value=0 if x_BXQ.is_floating_point() else FAR)

    @cached_property
    def slope(self) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Function of sample, sorted query and stored key, which broadcast: the profile, and whether it is inside.

        The profile is float32, 0 outside of windows. FlexAttention can compile the function: it reads a few tensors.
        """
        keys, centre = self.keys, self.centre_B2MQ
        row_BMQ, col_BMQ = (x.contiguous() for x in centre.unbind(1))  # Dynamo takes no constant as an index
        map_K, row_K, col_K, is_camera_K = keys.map_K, keys.row_K, keys.col_K, keys.is_camera_K == 1
        # Tensors, so that one kernel serves windows of all sizes.
        bev, camera = ({w.size for w in self.windows if w.is_camera == which} or {1} for which in (False, True))
        half_K = torch.where(is_camera_K, max(camera) // 2, max(bev) // 2).to(torch.int32)
        spread_K = torch.where(is_camera_K, 2 * profile_variance(max(camera)), 2 * profile_variance(max(bev)))
        gaussian = self.profile == "gaussian"

        def slope(b: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            number = map_K[k]
            down, right = row_K[k] - row_BMQ[b, number, q], col_K[k] - col_BMQ[b, number, q]
            inside = torch.maximum(down.abs(), right.abs()) <= half_K[k]
            if not gaussian:
                return torch.where(inside, 1.0, 0.0), inside
            square = torch.where(inside, down * down + right * right, 0)  # far offsets would overflow
            return torch.where(inside, torch.exp(-square / spread_K[k]), 0.0), inside

        return slope

    def strengths(self, form: ClosedForm) -> Tensor:
        """[B, 2, padded Q]: scale times weight of the sorted queries, LiDAR and cameras; differentiable."""
        return self.sorted(torch.stack([form.lidar_weight_BQ, form.camera_weight_BQ], 1) * form.scale)


def tile_geometry(bias: WindowBias) -> TileGeometry:
    """The geometry of a bias in closed form: the same object for the same bias."""
    if "tiles" not in bias.shared:
        bias.shared["tiles"] = TileGeometry(bias.grids, bias.num_keys, bias.closed_form.profile)
    return bias.shared["tiles"]


def in_patches(bias: WindowBias) -> WindowBias:
    """A bias in closed form for keys that are stored in patches already."""
    geometry = tile_geometry(bias)
    moved = replace(bias, index_BQW=geometry.keys.position_K[bias.index_BQW], in_patches=True)
    moved.shared["tiles"] = geometry
    return moved


def tile_table(windows: Sequence[GridWindow], maps: Sequence[PatchedMaps], rank_BQ: Tensor, num_keys: int) -> Tensor:
    """The tiles that hold a cell of any window, exactly: bool [B, ceil(Q / TILE), ceil(K / TILE)].

    A window is a rectangle of cells. Its part in a patch is one too; the first and the last of its cells are the first
    and the last of its keys, and as a patch has at most ``TILE`` keys, these two are in all tiles that it touches.

    Args:
        rank_BQ: where each query is among the sorted ones.
    """
    batch, queries = rank_BQ.shape
    rows, cols = -(-queries // TILE), -(-num_keys // TILE)
    table = torch.zeros(batch, rows * cols + 1, dtype=torch.bool, device=rank_BQ.device)  # the last: no tile
    row_BQ11 = (rank_BQ // TILE)[..., None, None]
    by_key = {part.first_key: part for part in maps}
    for window in windows:
        part = by_key[window.first_key]
        number, *centre = window.centre_BQ3.unbind(-1)
        (top, bottom), (left, right) = (
            _pieces(c, window.size, length, patch)
            for c, length, patch in zip(centre, part.shape[1:], part.patch, strict=True)
        )
        valid = window.seen_BQ[..., None, None] & (top <= bottom)[..., :, None] & (left <= right)[..., None, :]
        for row, col in ((top, left), (bottom, right)):
            row, col = row[..., :, None], col[..., None, :]
            tile = part.positions(number[..., None, None], row.clamp(min=0), col.clamp(min=0)) // TILE
            index = torch.where(valid, row_BQ11 * cols + tile, rows * cols)
            table.scatter_(1, index.flatten(1), True)
    return table[:, :-1].unflatten(1, (rows, cols))


def _pieces(centre_BQ: Tensor, size: int, length: int, patch: int) -> tuple[Tensor, Tensor]:
    """First and last cell of a window in each of the patches that it may touch along one axis, [B, Q, N].

    N follows from the sizes alone; where the window is not in a patch, the first is behind the last.
    """
    low, high = (centre_BQ - size // 2).clamp(min=0), (centre_BQ + size // 2).clamp(max=length - 1)
    number = torch.arange((size + patch - 2) // patch + 1, device=centre_BQ.device)
    start = (low // patch)[..., None] * patch + number * patch
    return torch.maximum(low[..., None], start), torch.minimum(high[..., None], start + patch - 1)
