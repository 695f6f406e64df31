"""Where keys and queries are: the position embeddings of the CMT heads, and their reference points."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aqr_bench.cmt.encoding import (
    bev_cell_centres,
    camera_key_rays,
    depth_samples,
    inverse_sigmoid,
    pos2embed,
    query_rays,
    to_metres,
    to_normalised,
)
from aqr_bench.cmt.geometry import CameraGeometry


class PositionEmbeddings:
    """Mixin of the heads: embeddings of BEV keys, image keys and queries.

    Needs ``bev_embedding``, ``rv_embedding`` (with cameras), ``reference_points``, ``hidden_dim``, ``depth_num``,
    ``pc_range``, ``bev_range``, ``stretch_bev_keys``, ``reference_init`` and ``num_query``.
    """

    def coords_bev(self, rows: int, cols: int) -> Tensor:
        """Normalised (x, y) of the BEV keys, [rows * cols, 2], row-major."""
        centres = bev_cell_centres(rows, cols, self.reference_points.weight.device)
        if self.stretch_bev_keys:
            return centres
        x0, y0, _, x1, y1, _ = self.pc_range
        low, high = centres.new_tensor(self.bev_range[:2]), centres.new_tensor(self.bev_range[3:5])
        metres = centres * (high - low) + low
        return (metres - centres.new_tensor([x0, y0])) / centres.new_tensor([x1 - x0, y1 - y0])

    def bev_pos_embed(self, rows: int, cols: int) -> Tensor:
        """Position embeddings of the BEV keys, [rows * cols, C]."""
        return self.bev_embedding(pos2embed(self.coords_bev(rows, cols), self.hidden_dim))

    def rv_pos_embed(self, cameras: CameraGeometry, rows: int, cols: int) -> Tensor:
        """Position embeddings of the image keys, [B, N, rows, cols, C]."""
        depths = self._depths(cameras.key_BN2.device)
        rays = camera_key_rays(cameras.img2lidar_BN44, cameras.key_BN2, rows, cols, depths, self.pc_range)
        return self.rv_embedding(rays)

    def spot_embed(self, points_BK3: Tensor) -> Tensor:
        """What BEV keys at these points (metres) would have as position embedding, [B, K, C]."""
        place = to_normalised(points_BK3, self.pc_range)[..., :2].clamp(-0.5, 1.5)
        return self.bev_embedding(pos2embed(place, self.hidden_dim))

    def bev_query_embed(self, reference_BQ3: Tensor) -> Tensor:
        """Embedding of where a query is in the BEV, [B, Q, C]."""
        return self.bev_embedding(pos2embed(inner(reference_BQ3), self.hidden_dim))

    def rv_query_embed(self, reference_BQ3: Tensor, cameras: CameraGeometry) -> Tensor:
        """Sum over the views that see a query of the embedding of its ray there, [B, Q, C]; 0 where none does."""
        points = to_metres(inner(reference_BQ3), self.pc_range)
        rays, index = query_rays(
            points,
            cameras.lidar2img_BN44,
            cameras.img2lidar_BN44,
            cameras.view_BN2,
            self._depths(points.device),
            self.pc_range,
        )
        embedded = self.rv_embedding(rays)
        total = embedded.new_zeros(*points.shape[:2], self.hidden_dim)
        return total.index_put((index[:, 0], index[:, 2]), embedded, accumulate=True)

    def query_embed(self, reference_BQ3: Tensor, cameras: CameraGeometry | None) -> Tensor:
        """Position embedding of the queries, [B, Q, C]; without cameras that of the BEV alone."""
        embedding = self.bev_query_embed(reference_BQ3)
        if cameras is not None:
            embedding = embedding + self.rv_query_embed(reference_BQ3, cameras)
        return embedding

    def _depths(self, device: torch.device) -> Tensor:
        return depth_samples(self.depth_num, self.pc_range[3], device)

    @torch.no_grad()
    def _place_references(self) -> None:
        weight = self.reference_points.weight
        if self.reference_init == "random":
            nn.init.uniform_(weight, 0, 1)
        else:
            aspect = (self.pc_range[3] - self.pc_range[0]) / (self.pc_range[4] - self.pc_range[1])
            weight.copy_(grid_references(self.num_query, aspect))


def inner(reference: Tensor) -> Tensor:
    """Reference points kept a hair (1e-5) inside the range, as CMT does before it embeds them."""
    return inverse_sigmoid(reference).sigmoid()


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear layers with a ReLU between; names 0 and 2."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))


def grid_references(count: int, aspect: float) -> Tensor:
    """``count`` points spread evenly over the unit square at z = 0.5, [count, 3].

    ``aspect`` is the width over the height of the real area, so that cells come out about square. A last row that
    is not full is spread evenly too.
    """
    cols = min(count, max(1, round(math.sqrt(count * aspect))))
    rows = math.ceil(count / cols)
    points = []
    for row in range(rows):
        width = min(cols, count - row * cols)
        points += [((col + 0.5) / width, (row + 0.5) / rows, 0.5) for col in range(width)]
    return torch.tensor(points)
