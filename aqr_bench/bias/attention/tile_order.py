"""Keys stored patch by patch and queries along a Z-order curve, so that few tiles of the scores hold a window cell."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aqr_bench.bias.windows import GridWindow

TILE = 64  # queries, and keys, of a tile of the scores
# Rows and columns of a patch; one tile of keys each. Image features are wide: a ray's height varies less.
BEV_PATCH, CAMERA_PATCH = (8, 8), (4, 16)
CURVE_BITS = 10  # of each coordinate on the Z-order curve; cells beyond count as the last


@dataclass(frozen=True)
class PatchedMaps:
    """Feature maps of one shape, each stored patch by patch and each patch by rows; those at the rims are smaller.

    Nothing is padded, so that a patch may lie in two neighbouring tiles.

    Args:
        first_key: index of the first cell of the first map, the same in both orders.
        shape: (maps, rows, columns).
        patch: (rows, columns) of a patch, at most ``TILE`` cells.
        is_camera: whether the maps are cameras'.
    """

    first_key: int
    shape: tuple[int, int, int]
    patch: tuple[int, int]
    is_camera: bool

    @property
    def end(self) -> int:
        """One more than the last key."""
        maps, rows, cols = self.shape
        return self.first_key + maps * rows * cols

    def positions(self, number: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Where the cells (map, row, column), integers of any shape, are stored in the memory."""
        _, rows, cols = self.shape
        height, width = self.patch
        top, left = row // height * height, col // width * width  # of the cell's patch
        patch_rows, patch_cols = (rows - top).clamp(max=height), (cols - left).clamp(max=width)
        within = (row - top) * patch_cols + col - left
        return self.first_key + number * rows * cols + top * cols + left * patch_rows + within


@dataclass(frozen=True)
class KeyOrder:
    """Which key is stored where, and the cell of every stored key; all [K].

    Args:
        key_K: index of each stored key in the row-major memory.
        position_K: where each key of the row-major memory is stored.
        map_K: number of the feature map, counted over all maps with windows; 0 for keys in none.
        row_K, col_K: its cell; ``NOWHERE`` for keys in no map.
        is_camera_K: 1 for keys of cameras.
    """

    key_K: Tensor
    position_K: Tensor
    map_K: Tensor
    row_K: Tensor
    col_K: Tensor
    is_camera_K: Tensor


NOWHERE = 2**20  # row and column of a key in no map: no window is near


def patched_maps(windows: Sequence[GridWindow]) -> tuple[PatchedMaps, ...]:
    """The maps that ``windows`` are in, in the order of their keys."""
    maps = {
        w.first_key: PatchedMaps(w.first_key, w.shape, CAMERA_PATCH if w.is_camera else BEV_PATCH, w.is_camera)
        for w in windows
    }
    return tuple(maps[first] for first in sorted(maps))


@functools.lru_cache(maxsize=16)
def key_order(maps: tuple[PatchedMaps, ...], num_keys: int, device: torch.device) -> KeyOrder:
    """The order of a memory of ``num_keys``; keys outside of ``maps`` keep their places. Shared, not to be changed."""
    with torch.inference_mode(False), torch.no_grad():
        position = torch.arange(num_keys)
        cells = torch.full((4, num_keys), NOWHERE)  # of the row-major memory
        cells[0] = cells[3] = 0
        count = 0
        for part in maps:
            number, row, col = torch.meshgrid(*(torch.arange(n) for n in part.shape), indexing="ij")
            keys = slice(part.first_key, part.end)
            position[keys] = part.positions(number, row, col).flatten()
            cells[:, keys] = torch.stack([number + count, row, col, torch.full_like(row, part.is_camera)]).flatten(1)
            count += part.shape[0]
        key = position.argsort()
        return KeyOrder(key.to(device), position.to(device), *cells[:, key].to(device, torch.int32))


def query_order(windows: Sequence[GridWindow]) -> Tensor:
    """[B, Q]: the queries sorted along a Z-order curve of the cell of their first window; those without one last."""
    rank_BQ = torch.full_like(windows[0].centre_BQ3[..., 0], 2**50)
    for window in reversed(windows):
        number, row, col = window.centre_BQ3.unbind(-1)
        on_curve = (number << (2 * CURVE_BITS)) + _spread(row) * 2 + _spread(col)
        rank_BQ = torch.where(window.seen_BQ, on_curve, rank_BQ)
    return rank_BQ.argsort(dim=-1, stable=True)


def _spread(number: Tensor) -> Tensor:
    """A zero between every two bits, so that those of another coordinate fit in."""
    number = number.clamp(0, 2**CURVE_BITS - 1)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        number = (number | (number << shift)) & mask
    return number
