"""The windows of MoME's router as its authors' code has them: their published weights were trained with its defects."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from aqr_bench.bias.layout import MemoryLayout
from aqr_bench.bias.windows import GridWindow, grid_windows

MIN_DEPTH = 1e-5  # metres; depths below it count as this


def _bev_window(points_BQ3: Tensor, layout: MemoryLayout, size: int) -> GridWindow:
    """A point at the far edge in x is in the first column of the next row."""
    return _window(_bev_cells(points_BQ3, layout), 0, (1, *layout.bev_shape), size, False)


def _camera_windows(
    points_BQ3: Tensor, lidar2img_BN44: Tensor, image_shape_BN2: Tensor, layout: MemoryLayout, size: int
) -> tuple[GridWindow]:
    """Of the cameras that see a point, the first alone; a point behind a camera may count as seen.

    A point that none sees has the window at the upper left corner of view 0; columns go by the ratio of the heights.
    """
    cells = _camera_cells(points_BQ3, lidar2img_BN44, image_shape_BN2, layout)
    return (_window(cells, layout.num_bev, layout.camera_shape, size, True),)


# One BEV and one camera window of every query. Numbers of cells and cameras are those of the layout (in the official
# code they are constants), image sizes each sample's own (there those of the first).
official_windows = functools.partial(grid_windows, bev=_bev_window, cameras=_camera_windows)


def _window(cell_BQ3: Tensor, first_key: int, shape: tuple[int, int, int], size: int, is_camera: bool) -> GridWindow:
    everywhere = torch.ones(cell_BQ3.shape[:-1], dtype=torch.bool, device=cell_BQ3.device)
    return GridWindow(first_key, shape, size, cell_BQ3, everywhere, is_camera)


def _bev_cells(points_BQ3: Tensor, layout: MemoryLayout) -> Tensor:
    """(0, row, column) of the cell that holds each point, long [B, Q, 3]."""
    rows, cols = layout.bev_shape
    x0, y0, _, x1, y1, _ = layout.pc_range
    col = torch.floor((points_BQ3[..., 0] - x0) * (cols / (x1 - x0)))
    row = torch.floor((points_BQ3[..., 1] - y0) * (rows / (y1 - y0)))
    key = _integers(row) * cols + _integers(col)
    return torch.stack([torch.zeros_like(key), torch.div(key, cols, rounding_mode="floor"), key % cols], -1)


def _camera_cells(points_BQ3: Tensor, lidar2img_BN44: Tensor, image_shape_BN2: Tensor, layout: MemoryLayout) -> Tensor:
    """(view, row, column) of each point in the first view that sees it, long [B, Q, 3]; zeros where none does."""
    homogeneous = torch.cat([points_BQ3, torch.ones_like(points_BQ3[..., :1])], -1)
    projected = torch.einsum("bqi,bnij->bnqj", homogeneous, lidar2img_BN44.to(points_BQ3).transpose(2, 3))
    u, v = (projected[..., :2] / projected[..., 2:3].clamp(min=MIN_DEPTH)).unbind(-1)
    height, width = image_shape_BN2.to(points_BQ3)[..., None].unbind(2)  # each [B, N, 1]
    seen_BNQ = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    view = seen_BNQ.to(torch.uint8).argmax(1, keepdim=True)  # the first of them
    scale = layout.camera_shape[1] / height
    row, col = (_integers(torch.floor(x * scale)).gather(1, view) for x in (v, u))
    cell = torch.cat([view, row, col], 1).transpose(1, 2)
    return cell.masked_fill(~seen_BNQ.any(1)[..., None], 0)


def _integers(numbers: Tensor) -> Tensor:
    """Long; NaN and numbers too large for it become ones that are outside any map."""
    return numbers.nan_to_num(nan=-1e6, posinf=1e6, neginf=-1e6).clamp(-1_000_000, 1_000_000).long()
