"""Locality prior: a learnable Gaussian in BEV distance and ray angle, exact inside fused attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layout import MemoryLayout


@dataclass(frozen=True)
class Prior:
    """The prior of one batch: extra dimensions of queries and keys, and where the queries are.

    Args:
        query_BHQE, key_B1KE: E = 8 extra dimensions whose dot product is the log prior.
        place_BQ5: x, y in metres (LiDAR frame) and the unit direction seen from the rig's centre.
    """

    query_BHQE: Tensor
    key_B1KE: Tensor
    place_BQ5: Tensor

    @property
    def dims(self) -> tuple[Tensor, Tensor]:
        """What ``biased_attention`` takes as its prior."""
        return self.query_BHQE, self.key_B1KE

    def offsets(self, attended_BHQE: Tensor) -> Tensor:
        """Where each head looked, relative to the query, from attention over the key dimensions as values.

        The key dimensions hold x, y, 1 of a BEV key and the direction and 1 of an image key, so their attended
        mean holds the mean position times the attention mass of each modality.

        Returns:
            [B, H, Q, 7]: BEV offset (x, y in units of 4 m) and mass, ray offset (x, y, z in units of 1/4) and mass.
        """
        place = self.place_BQ5[:, None]
        bev_mass, image_mass = attended_BHQE[..., 2:3], attended_BHQE[..., 7:8]
        bev = (attended_BHQE[..., :2] - bev_mass * place[..., :2]) / 4.0
        ray = (attended_BHQE[..., 4:7] - image_mass * place[..., 2:]) * 4.0
        return torch.cat([bev, bev_mass, ray, image_mass], -1)


class LocalityPrior(nn.Module):
    """Log prior of a key given a query, carried by eight extra query and key dimensions.

    For a BEV key at (x, y) and a query at (X, Y): -((x - X)^2 + (y - Y)^2) / (2 s_h^2), metres. For an image
    key with ray direction d and a query seen from the rig's centre in direction D: (D . d - 1) / a_h^2, which is
    -angle^2 / (2 a_h^2) for small angles. Both are bilinear in functions of the query and of the key, so they
    are added to the scores by widening q and k: fused attention stays fused. Widths are learnt per head.

    Args:
        num_heads: H.
        bev_sigma: initial s_h in metres, one number or one per head.
        angle_sigma: initial a_h in radians, one number or one per head.
    """

    dims = 8

    def __init__(
        self, num_heads: int, bev_sigma: float | list[float] = 4.0, angle_sigma: float | list[float] = 0.2
    ) -> None:
        super().__init__()
        self.log_bev_sigma = nn.Parameter(_per_head(bev_sigma, num_heads, "bev_sigma").log())
        self.log_angle_sigma = nn.Parameter(_per_head(angle_sigma, num_heads, "angle_sigma").log())

    def forward(
        self, reference_BQ3: Tensor, lidar2img_BN44: Tensor | None, image_shape_BN2: Tensor | None, layout: MemoryLayout
    ) -> Prior:
        """The prior of every query (reference in metres, LiDAR frame) over every key."""
        batch = reference_BQ3.shape[0]
        keys = []
        centre_B3 = reference_BQ3.new_zeros(batch, 3)
        if layout.num_bev:
            xy = layout.bev_centres(reference_BQ3)
            bev = torch.cat([xy, torch.ones_like(xy[:, :1]), xy.square().sum(-1, keepdim=True)], -1)
            keys.append(nn.functional.pad(bev, (0, 4)).expand(batch, -1, -1))
        if layout.num_camera:
            direction_BK3, centre_B3 = image_rays(lidar2img_BN44.to(reference_BQ3), image_shape_BN2, layout)
            image = torch.cat([direction_BK3, torch.ones_like(direction_BK3[..., :1])], -1)
            keys.append(nn.functional.pad(image, (4, 0)))
        precision_bev = torch.exp(-2 * self.log_bev_sigma)[:, None, None]
        precision_angle = torch.exp(-2 * self.log_angle_sigma)[:, None, None]
        XY = reference_BQ3[:, None, :, :2]
        half = -0.5 * torch.ones_like(XY[..., :1])
        bev_query = torch.cat([XY, -0.5 * XY.square().sum(-1, keepdim=True), half], -1) * precision_bev
        D = nn.functional.normalize(reference_BQ3 - centre_B3[:, None], dim=-1)[:, None]
        angle_query = torch.cat([D, -torch.ones_like(D[..., :1])], -1) * precision_angle
        place = torch.cat([XY, D], -1)[:, 0]
        return Prior(torch.cat([bev_query, angle_query], -1), torch.cat(keys, 1)[:, None], place)


def image_rays(lidar2img_BN44: Tensor, image_shape_BN2: Tensor, layout: MemoryLayout) -> tuple[Tensor, Tensor]:
    """Unit ray direction of every image key [B, N*Hc*Wc, 3] and the mean camera centre [B, 3], LiDAR frame."""
    _, rows, cols = layout.camera_shape
    height, width = image_shape_BN2.to(lidar2img_BN44).unbind(-1)
    u = (torch.arange(cols).to(width) + 0.5) / cols * width[..., None]
    v = (torch.arange(rows).to(height) + 0.5) / rows * height[..., None]
    shape = (*height.shape, rows, cols)
    pixel = torch.stack(
        [u[..., None, :].expand(shape), v[..., :, None].expand(shape), torch.ones(shape).to(u)], -1
    ).flatten(2, 3)
    inverse = torch.linalg.inv(lidar2img_BN44[..., :3, :3])
    direction = nn.functional.normalize(torch.einsum("bnij,bnkj->bnki", inverse, pixel), dim=-1)
    centre = -torch.einsum("bnij,bnj->bni", inverse, lidar2img_BN44[..., :3, 3])
    return direction.flatten(1, 2), centre.mean(1)


def _per_head(value: float | list[float], num_heads: int, name: str) -> Tensor:
    values = [float(value)] * num_heads if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) != num_heads or not all(v > 0 and math.isfinite(v) for v in values):
        raise ValueError(f"{name} must be one positive number or {num_heads} of them, not {value!r}")
    return torch.tensor(values)
