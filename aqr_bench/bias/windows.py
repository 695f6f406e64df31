"""Local windows of a query in the fused memory, and the compact bias that lives on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from aqr_bench.bias.layout import MemoryLayout, project_to_cameras

PROFILES = ("uniform", "gaussian", "hard")


@dataclass(frozen=True)
class GridWindow:
    """A size x size window of feature cells around one centre cell per query.

    Args:
        first_key: key index of the first cell of the first map.
        shape: (maps, rows, columns): one BEV map, or one map per camera.
        size: odd number of cells.
        centre_BQ3: (map, row, column) of the centre, long; it may lie outside the map.
        seen_BQ: False where the query has no window.
        is_camera: whether the maps are cameras'.
    """

    first_key: int
    shape: tuple[int, int, int]
    size: int
    centre_BQ3: Tensor
    seen_BQ: Tensor
    is_camera: bool = False

    def cells(self) -> tuple[Tensor, Tensor]:
        """Key indices and validity [B, Q, size * size], row-major; cells outside the map are not valid."""
        _, rows, cols = self.shape
        offset = window_offsets(self.size, self.centre_BQ3.device)
        number = self.centre_BQ3[..., :1]
        row, col = (self.centre_BQ3[..., None, 1:] + offset).unbind(-1)
        valid = self.seen_BQ[..., None] & (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
        index = self.first_key + (number * rows + row) * cols + col
        return index.masked_fill(~valid, 0), valid


@dataclass(frozen=True)
class ClosedForm:
    """A bias as clamp(scale * weight * profile, -limit, limit): what a kernel computes from offsets, without a table.

    Args:
        lidar_weight_BQ, camera_weight_BQ: of the windows in the BEV map and in all cameras.
        scale: one number, as a tensor.
        profile: ``uniform`` or ``gaussian``, see :func:`window_profile`.
        limit: largest absolute value.
    """

    lidar_weight_BQ: Tensor
    camera_weight_BQ: Tensor
    scale: Tensor
    profile: str
    limit: float


@dataclass(frozen=True)
class WindowBias:
    """An attention bias that is zero outside W window keys of each query: the compact form of [B, Q, K].

    Args:
        index_BQW: key index of each window cell (any value where not valid).
        valid_BQW: False for padding and for cells outside the map.
        value_BQW: the bias of each cell; no key occurs twice among the valid cells of a row.
        num_keys: K.
        hard: outside the windows the bias is -inf instead of 0 (MoME's local attention mask).
        grids: the windows whose cells the W columns are, in order; empty where the cells are not on a grid.
        closed_form: the same values in closed form, with ``grids``; None where they have none.
        in_patches: the keys are stored patch by patch (``tile_order``), and ``index_BQW`` counts them so.
    """

    index_BQW: Tensor
    valid_BQW: Tensor
    value_BQW: Tensor
    num_keys: int
    hard: bool = False
    grids: tuple[GridWindow, ...] = ()
    closed_form: ClosedForm | None = None
    in_patches: bool = False

    @property
    def parts(self) -> tuple[slice, ...]:
        """Columns of each window; all of them where ``grids`` is empty."""
        ends = list(itertools.accumulate(g.size**2 for g in self.grids)) or [self.index_BQW.shape[-1]]
        return tuple(slice(a, b) for a, b in zip([0, *ends], ends, strict=False))

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What attention derives from the cells alone, by name: once for all decoder layers, and not from the values.

        Some of it waits for a GPU.
        """
        return {}

    def detached(self) -> WindowBias:
        """The same bias without a gradient, with the same :attr:`shared`."""
        bias = replace(self, value_BQW=self.value_BQW.detach(), closed_form=None)
        bias.__dict__["shared"] = self.shared
        return bias

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

    def rows(self, sample: int, row: Tensor) -> WindowBias:
        """The bias of some queries of one sample, as a batch of one."""
        tensors = (x[sample, row][None] for x in (self.index_BQW, self.valid_BQW, self.value_BQW))
        return WindowBias(*tensors, self.num_keys, self.hard)


def window_profile(offset_2: Tensor, size: int, profile: str) -> Tensor:
    """Weight of a window cell by its (row, column) offset from the centre cell, 1 at the centre.

    ``gaussian``: exp(-d^2 / (2 s^2)) with s = size / 4 cells; ``uniform`` and ``hard``: 1 everywhere.
    """
    if profile == "gaussian":
        return torch.exp(-offset_2.float().square().sum(-1) / (2 * profile_variance(size)))
    return torch.ones(offset_2.shape[:-1], device=offset_2.device)


def profile_variance(size: int) -> float:
    """s^2 of the Gaussian profile, cells^2."""
    return (size / 4) ** 2


def window_offsets(size: int, device: torch.device) -> Tensor:
    """(row, column) offsets of a size x size window, [size * size, 2]. ``size`` is odd."""
    half = torch.arange(size, device=device) - size // 2
    return torch.stack(torch.meshgrid(half, half, indexing="ij"), -1).reshape(-1, 2)


def bev_window(reference_BQ3: Tensor, layout: MemoryLayout, size: int) -> GridWindow:
    """The BEV cells around each reference point (metres, LiDAR frame)."""
    cell = layout.bev_cells(reference_BQ3)
    centre = torch.cat([torch.zeros_like(cell[..., :1]), cell], -1)
    seen = torch.ones(cell.shape[:-1], dtype=torch.bool, device=cell.device)
    return GridWindow(0, (1, *layout.bev_shape), size, centre, seen)


def camera_windows(
    reference_BQ3: Tensor, lidar2img_BN44: Tensor, image_shape_BN2: Tensor, layout: MemoryLayout, size: int
) -> tuple[GridWindow, ...]:
    """The feature cells around each projection: the first window of a query is in the first camera that sees it, ...

    As many windows as the largest number of cameras that see one point of this batch; a point that no camera sees has
    none. On a GPU as many as cameras, since the host would wait for that number.
    """
    _, rows, cols = layout.camera_shape
    pixel, seen = project_to_cameras(reference_BQ3, lidar2img_BN44, image_shape_BN2)
    views = seen.shape[-1]
    if seen.device.type == "cpu":
        views = int(seen.sum(-1).max()) if seen.numel() else 0
    # Cameras that see the point first; stable, so the lower camera index stays in front.
    order = torch.argsort(seen.to(torch.uint8), dim=-1, descending=True, stable=True)[..., :views]
    view_seen = seen.gather(-1, order)
    view_pixel = pixel.gather(2, order[..., None].expand(*order.shape, 2))
    height, width = (image_shape_BN2.to(pixel)[:, None].expand(-1, order.shape[1], -1, -1)).unbind(-1)
    row = torch.floor(view_pixel[..., 1] * rows / height.gather(-1, order))
    col = torch.floor(view_pixel[..., 0] * cols / width.gather(-1, order))
    cell = torch.stack([row, col], -1).masked_fill(~view_seen[..., None], 0).long()
    centre = torch.cat([order[..., None], cell], -1)
    return tuple(
        GridWindow(layout.num_bev, layout.camera_shape, size, centre[:, :, i], view_seen[..., i], is_camera=True)
        for i in range(views)
    )


def grid_windows(
    reference_BQ3: Tensor,
    lidar2img_BN44: Tensor | None,
    image_shape_BN2: Tensor | None,
    layout: MemoryLayout,
    bev_size: int,
    camera_size: int,
    bev: Callable[..., GridWindow] = bev_window,
    cameras: Callable[..., tuple[GridWindow, ...]] = camera_windows,
) -> tuple[GridWindow, ...]:
    """All windows, by ``bev`` and ``cameras``, of the modalities that the memory holds; size 0: none of that one."""
    windows = []
    if layout.num_bev and bev_size:
        windows.append(bev(reference_BQ3, layout, bev_size))
    if layout.num_camera and camera_size:
        windows += cameras(reference_BQ3, lidar2img_BN44, image_shape_BN2, layout, camera_size)
    return tuple(windows)


def window_bias(
    windows: Sequence[GridWindow],
    value_BQW: Tensor,
    num_keys: int,
    hard: bool = False,
    closed_form: ClosedForm | None = None,
) -> WindowBias:
    """The bias with ``value_BQW`` on the cells of ``windows``, in order; there may be no window."""
    cells = [w.cells() for w in windows]
    nothing = value_BQW.new_zeros(*value_BQW.shape[:2], 0)
    index = torch.cat([nothing.long(), *(index for index, _ in cells)], -1)
    valid = torch.cat([nothing.bool(), *(valid for _, valid in cells)], -1)
    return WindowBias(index, valid, value_BQW, num_keys, hard, tuple(windows), closed_form)


def hard_windows(windows: Sequence[GridWindow], points_BQ3: Tensor, num_keys: int) -> WindowBias:
    """A bias that restricts attention to the windows and is 0 in them; ``points_BQ3`` gives its sizes and dtype."""
    zero_BQ = points_BQ3.new_zeros(points_BQ3.shape[:2])
    zeros = zero_BQ[..., None].expand(-1, -1, sum(w.size**2 for w in windows))
    form = ClosedForm(zero_BQ, zero_BQ, zero_BQ.new_ones(()), "uniform", 0.0)
    return window_bias(windows, zeros, num_keys, True, form)


def has_windows(layout: MemoryLayout, bev_size: int, camera_size: int) -> bool:
    """Whether windows of these sizes can have any cell in this memory."""
    return bool((layout.num_bev and bev_size) or (layout.num_camera and camera_size))


def self_window(reference_BQ3: Tensor, layout: MemoryLayout, size: int, profile: str) -> tuple[Tensor, Tensor, Tensor]:
    """For self-attention: the queries j whose BEV cell lies in the BEV window of query q.

    Returns:
        index (which j), valid and profile at j's cell, each [B, Q, W], W the largest number of neighbours in this
        batch. A query outside the map has a window but is no neighbour of any query.
    """
    rows, cols = layout.bev_shape
    cell = layout.bev_cells(reference_BQ3)
    row, col = cell.unbind(-1)
    inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    offset = cell[:, None, :, :] - cell[:, :, None, :]
    near = (offset.abs() <= size // 2).all(-1) & inside[:, None, :]
    position = near.cumsum(-1)
    count = position[..., -1] if near.numel() else near.sum(-1)
    max_neighbours = int(count.max()) if near.numel() else 0
    valid = torch.arange(max_neighbours, device=near.device) < count[..., None]
    index = torch.zeros(valid.shape, dtype=torch.long, device=near.device)
    at = near.nonzero(as_tuple=True)
    index[at[0], at[1], position[at] - 1] = at[2]
    offset = offset.gather(2, index[..., None].expand(*index.shape, 2)).masked_fill(~valid[..., None], 0)
    return index, valid, window_profile(offset, size, profile).to(reference_BQ3)
