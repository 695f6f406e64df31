"""Where keys and queries are: the position embeddings of the CMT heads, and their reference points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aqr_bench.cmt.encoding import (
    bev_cell_centres,
    camera_key_rays,
    clamp_reference,
    depth_samples,
    pos2embed,
    query_rays,
    to_metres,
    to_normalised,
)
from aqr_bench.cmt.geometry import CameraGeometry


@dataclass(frozen=True, eq=False)
class PositionEmbeddings:
    """Embeddings of BEV keys, image keys and queries, of width C.

    The networks belong to the head, whose parameter names are the official ones.

    Args:
        bev: network on sine codes [..., 2 * C].
        ray: network on points along a ray [..., depth_num * 3]; None without cameras.
        hidden_dim: C.
        depth_num: samples along a camera ray.
        pc_range: (x0, y0, z0, x1, y1, z1) in metres.
        key_range: the same, of the area that the BEV keys cover; None: all of ``pc_range``.
    """

    bev: nn.Sequential
    ray: nn.Sequential | None
    hidden_dim: int
    depth_num: int
    pc_range: Sequence[float]
    key_range: Sequence[float] | None

    def bev_coordinates(self, rows: int, cols: int) -> Tensor:
        """Normalised (x, y) of the BEV keys, [rows * cols, 2], row-major."""
        centres = bev_cell_centres(rows, cols, self.bev[0].weight.device)
        if self.key_range is None:
            return centres
        x0, y0, _, x1, y1, _ = self.pc_range
        low, high = centres.new_tensor(self.key_range[:2]), centres.new_tensor(self.key_range[3:5])
        metres = centres * (high - low) + low
        return (metres - centres.new_tensor([x0, y0])) / centres.new_tensor([x1 - x0, y1 - y0])

    def bev_keys(self, rows: int, cols: int) -> Tensor:
        """[rows * cols, C], row-major."""
        return self.bev(pos2embed(self.bev_coordinates(rows, cols), self.hidden_dim))

    def image_keys(self, cameras: CameraGeometry, rows: int, cols: int) -> Tensor:
        """[B, N, rows, cols, C], of each key's ray."""
        depths = self._depths(cameras.key_BN2.device)
        return self.ray(camera_key_rays(cameras.img2lidar_BN44, cameras.key_BN2, rows, cols, depths, self.pc_range))

    def bev_at(self, points_BK3: Tensor) -> Tensor:
        """Embedding that a BEV key at each point (metres) would have, [B, K, C]."""
        position = to_normalised(points_BK3, self.pc_range)[..., :2].clamp(-0.5, 1.5)
        return self.bev(pos2embed(position, self.hidden_dim))

    def queries(self, reference_BQ3: Tensor, cameras: CameraGeometry | None) -> Tensor:
        """Embedding of normalised reference points, [B, Q, C]; without cameras that of the BEV alone."""
        embedding = self.bev_queries(reference_BQ3)
        return embedding if cameras is None else embedding + self.ray_queries(reference_BQ3, cameras)

    def bev_queries(self, reference_BQ3: Tensor) -> Tensor:
        """Embedding of each query's BEV position, [B, Q, C]."""
        return self.bev(pos2embed(clamp_reference(reference_BQ3), self.hidden_dim))

    def ray_queries(self, reference_BQ3: Tensor, cameras: CameraGeometry) -> Tensor:
        """Sum over the views that see a query of the embedding of its ray there, [B, Q, C]; 0 where none does."""
        points = to_metres(clamp_reference(reference_BQ3), self.pc_range)
        rays, index = query_rays(
            points,
            cameras.lidar2img_BN44,
            cameras.img2lidar_BN44,
            cameras.view_BN2,
            self._depths(points.device),
            self.pc_range,
        )
        embedded = self.ray(rays)
        total = embedded.new_zeros(*points.shape[:2], self.hidden_dim)
        return total.index_put((index[:, 0], index[:, 2]), embedded, accumulate=True)

    def _depths(self, device: torch.device) -> Tensor:
        return depth_samples(self.depth_num, self.pc_range[3], device)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear layers with a ReLU between; names 0 and 2."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))


def grid_references(count: int, aspect: float) -> Tensor:
    """``count`` points spread evenly over the unit square at z = 0.5, [count, 3].

    ``aspect`` is the width over the height of the real area, so that cells are about square. A last row that
    is not full is spread evenly too.
    """
    cols = min(count, max(1, round(math.sqrt(count * aspect))))
    rows = math.ceil(count / cols)
    points = []
    for row in range(rows):
        width = min(cols, count - row * cols)
        points += [((col + 0.5) / width, (row + 0.5) / rows, 0.5) for col in range(width)]
    return torch.tensor(points)
