"""Local windows of a query in the fused memory, and the compact bias that lives on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import MemoryLayout, project_to_cameras

PROFILES = ("uniform", "gaussian", "hard")


@dataclass(frozen=True)
class WindowBias:
    """An attention bias that is zero outside W window keys of each query: the compact form of [B, Q, K].

    Args:
        index_BQW: key index of each window cell (any value where not valid).
        valid_BQW: False for padding and for cells outside the map.
        value_BQW: the bias of each cell; no key stands twice among the valid cells of a row.
        num_keys: K.
        hard: outside the windows the bias is -inf instead of 0 (MoME's local attention mask).
    """

    index_BQW: Tensor
    valid_BQW: Tensor
    value_BQW: Tensor
    num_keys: int
    hard: bool = False

    def dense(self) -> Tensor:
        """The same bias as a [B, Q, K] tensor, differentiable in ``value_BQW``."""
        batch, queries, _ = self.index_BQW.shape
        index = self.index_BQW.masked_fill(~self.valid_BQW, 0)
        value = self.value_BQW.masked_fill(~self.valid_BQW, 0)
        dense = value.new_zeros(batch, queries, self.num_keys).scatter_add(-1, index, value)
        if not self.hard:
            return dense
        inside = torch.zeros_like(dense).scatter_add(-1, index, self.valid_BQW.to(value.dtype)) > 0
        return dense.masked_fill(~inside, float("-inf"))


def window_profile(offset_2: Tensor, size: int, profile: str) -> Tensor:
    """Weight of a window cell by its (row, column) offset from the centre cell, 1 at the centre.

    ``gaussian``: exp(-d^2 / (2 s^2)) with s = size / 4 cells; ``uniform`` and ``hard``: 1 everywhere.
    """
    if profile == "gaussian":
        return torch.exp(-offset_2.float().square().sum(-1) / (2 * (size / 4) ** 2))
    return torch.ones(offset_2.shape[:-1], device=offset_2.device)


def window_offsets(size: int, device: torch.device) -> Tensor:
    """(row, column) offsets of a size x size window, [size * size, 2]. ``size`` is odd."""
    half = torch.arange(size, device=device) - size // 2
    return torch.stack(torch.meshgrid(half, half, indexing="ij"), -1).reshape(-1, 2)


def bev_window(reference_BQ3: Tensor, layout: MemoryLayout, size: int) -> tuple[Tensor, Tensor]:
    """Key indices and validity [B, Q, size * size] of the BEV cells around each reference point (metres)."""
    rows, cols = layout.bev_shape
    cell = layout.bev_cells(reference_BQ3)[..., None, :] + window_offsets(size, reference_BQ3.device)
    row, col = cell.unbind(-1)
    valid = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    return (row * cols + col).masked_fill(~valid, 0), valid


def camera_window(
    reference_BQ3: Tensor, lidar2img_BN44: Tensor, image_shape_BN2: Tensor, layout: MemoryLayout, size: int
) -> tuple[Tensor, Tensor]:
    """Key indices and validity [B, Q, S * size * size] of the feature cells around each projection.

    Every camera that sees the point contributes a window; S is the largest number of cameras that see one
    point of this batch. A point that no camera sees has no valid cell.
    """
    _cameras, rows, cols = layout.camera_shape
    pixel, seen = project_to_cameras(reference_BQ3, lidar2img_BN44, image_shape_BN2)
    views = int(seen.sum(-1).max()) if seen.numel() else 0
    # Cameras that see the point first; stable, so the lower camera index stays in front.
    order = torch.argsort(seen.to(torch.uint8), dim=-1, descending=True, stable=True)[..., :views]
    view_seen = seen.gather(-1, order)
    view_pixel = pixel.gather(2, order[..., None].expand(*order.shape, 2))
    height, width = (image_shape_BN2.to(pixel)[:, None].expand(-1, order.shape[1], -1, -1)).unbind(-1)
    row = torch.floor(view_pixel[..., 1] * rows / height.gather(-1, order))
    col = torch.floor(view_pixel[..., 0] * cols / width.gather(-1, order))
    centre = torch.stack([row, col], -1).masked_fill(~view_seen[..., None], 0).long()
    cell = centre[..., None, :] + window_offsets(size, reference_BQ3.device)
    row, col = cell.unbind(-1)
    valid = view_seen[..., None] & (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    index = layout.num_bev + (order[..., None] * rows + row) * cols + col
    return index.masked_fill(~valid, 0).flatten(2), valid.flatten(2)


def self_window(reference_BQ3: Tensor, layout: MemoryLayout, size: int, profile: str) -> tuple[Tensor, Tensor]:
    """For self-attention: profile [B, Q, Q] of query j's BEV cell in the BEV window of query q, and validity.

    Not valid where j lies outside q's window or outside the map.
    """
    rows, cols = layout.bev_shape
    cell = layout.bev_cells(reference_BQ3)
    inside = ((cell >= 0) & (cell < cell.new_tensor([rows, cols]))).all(-1)
    offset = cell[:, None, :, :] - cell[:, :, None, :]
    valid = (offset.abs() <= size // 2).all(-1) & inside[:, None, :]
    return window_profile(offset.clamp(-size, size), size, profile).to(reference_BQ3), valid
