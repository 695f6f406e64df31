"""The fused memory: which key index is which BEV cell or camera feature cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

Range6 = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class MemoryLayout:
    """Sizes of the fused memory of K keys: BEV first (row-major), then camera by camera (row-major).

    Args:
        bev_shape: (rows along y, columns along x) of the BEV map, or None without LiDAR.
        camera_shape: (cameras, feature rows, feature columns), or None without cameras.
        pc_range: (x0, y0, z0, x1, y1, z1) that the BEV map covers, metres, LiDAR frame.
    """

    bev_shape: tuple[int, int] | None
    camera_shape: tuple[int, int, int] | None
    pc_range: Range6

    @property
    def num_bev(self) -> int:
        return 0 if self.bev_shape is None else self.bev_shape[0] * self.bev_shape[1]

    @property
    def num_camera(self) -> int:
        if self.camera_shape is None:
            return 0
        cameras, rows, cols = self.camera_shape
        return cameras * rows * cols

    @property
    def num_keys(self) -> int:
        return self.num_bev + self.num_camera

    def bev_cells(self, reference_BQ3: Tensor) -> Tensor:
        """BEV (row, column) of the cell that holds each point; the grid continues beyond the map's border.

        Args:
            reference_BQ3: points in metres, LiDAR frame.
        Returns:
            long [B, Q, 2]; row < 0 or >= rows (likewise column) for a point outside the map.
        """
        assert self.bev_shape is not None
        rows, cols = self.bev_shape
        x0, y0, _, x1, y1, _ = self.pc_range
        col = torch.floor((reference_BQ3[..., 0] - x0) / (x1 - x0) * cols)
        row = torch.floor((reference_BQ3[..., 1] - y0) / (y1 - y0) * rows)
        # A diverged reference (NaN, huge) must become "outside", not an undefined integer.
        cells = torch.stack([row, col], -1).nan_to_num(nan=-1e6, posinf=1e6, neginf=-1e6)
        return cells.clamp(-1_000_000, 1_000_000).long()

    def bev_centres(self, like: Tensor) -> Tensor:
        """Metres (x, y) of every BEV cell centre, [num_bev, 2], on the device and dtype of ``like``."""
        assert self.bev_shape is not None
        rows, cols = self.bev_shape
        x0, y0, _, x1, y1, _ = self.pc_range
        x = x0 + (torch.arange(cols, device=like.device, dtype=like.dtype) + 0.5) * ((x1 - x0) / cols)
        y = y0 + (torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) * ((y1 - y0) / rows)
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([xx, yy], -1).reshape(-1, 2)


def pool_cells(x_BKC: Tensor, layout: MemoryLayout, size: int) -> Tensor:
    """The memory averaged over blocks of size x size cells of every map; blocks at the far rims may be smaller.

    Returns:
        [B, K', C] in the order of the memory: blocks of the BEV by rows, then those of camera by camera.
    """
    shapes = [] if layout.bev_shape is None else [(1, *layout.bev_shape)]
    shapes += [] if layout.camera_shape is None else [layout.camera_shape]
    pooled = []
    for shape, cells_BKC in zip(shapes, x_BKC.split([math.prod(shape) for shape in shapes], 1), strict=True):
        maps = cells_BKC.unflatten(1, shape).flatten(0, 1).permute(0, 3, 1, 2)
        blocks = avg_pool2d(maps, size, ceil_mode=True).permute(0, 2, 3, 1)
        pooled.append(blocks.reshape(len(x_BKC), -1, x_BKC.shape[-1]))
    return torch.cat(pooled, 1)


def project_to_cameras(reference_BQ3: Tensor, lidar2img_BN44: Tensor, image_shape_BN2: Tensor) -> tuple[Tensor, Tensor]:
    """Project points into every camera.

    Args:
        reference_BQ3: points in metres, LiDAR frame.
        lidar2img_BN44: projections to pixels of the padded network input.
        image_shape_BN2: padded (height, width) of each view in pixels.
    Returns:
        pixel_BQN2 (u, v) and seen_BQN: depth > 0 and 0 <= u < width, 0 <= v < height.
    """
    lidar2img = lidar2img_BN44.to(reference_BQ3)
    points = torch.cat([reference_BQ3, torch.ones_like(reference_BQ3[..., :1])], -1)
    projected = torch.einsum("bnij,bqj->bqni", lidar2img, points)
    depth = projected[..., 2]
    in_front = depth > 1e-5
    pixel = projected[..., :2] / torch.where(in_front, depth, torch.ones_like(depth))[..., None]
    height, width = image_shape_BN2.to(pixel).unbind(-1)
    u, v = pixel.unbind(-1)
    inside = (u >= 0) & (u < width[:, None]) & (v >= 0) & (v < height[:, None])
    return pixel, in_front & inside


def camera_centres(lidar2img_N44: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of the left 3x3 of each projection, [..., 3, 3], and the camera centre [..., 3] (metres, LiDAR frame)."""
    inverse = torch.linalg.inv(lidar2img_N44[..., :3, :3])
    return inverse, -torch.einsum("...ij,...j->...i", inverse, lidar2img_N44[..., :3, 3])
