"""Locality prior: a learnable Gaussian in BEV distance and ray angle, exact inside fused attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aqr_bench.bias.layout import MemoryLayout, camera_centres


@dataclass(frozen=True)
class Prior:
    """The prior of one batch: extra dimensions of queries and keys, and the positions of the queries.

    Args:
        query_BHQE, key_B1KE: E = 12 extra dimensions (16 with image points) whose dot product is the log prior.
        query_position_BQ5: x, y in metres (LiDAR frame) and the unit direction seen from the rig's centre.
        image_point_B1K2: x, y in metres of the image keys where their depth is known, 0 for BEV keys.
    """

    query_BHQE: Tensor
    key_B1KE: Tensor
    query_position_BQ5: Tensor
    image_point_B1K2: Tensor | None = None

    @property
    def dims(self) -> tuple[Tensor, Tensor]:
        """The argument ``prior`` of ``biased_attention``."""
        return self.query_BHQE, self.key_B1KE

    @property
    def values_B1KV(self) -> Tensor:
        """The values to attend over for :meth:`offsets`; V = 12, with image points 14."""
        key = self.key_B1KE[..., :12]
        return key if self.image_point_B1K2 is None else torch.cat([key, self.image_point_B1K2.to(key)], -1)

    def offsets(self, attended_BHQV: Tensor) -> Tensor:
        """Mean attended position of each head relative to the query, from attention over :attr:`values_B1KV`.

        The key dimensions hold x, y, 1 of a BEV key and the direction and 1 of an image key, so their attended
        mean holds the mean position times the attention mass of each modality.

        Returns:
            [B, H, Q, 7]: BEV offset (x, y in units of 4 m) and mass, ray offset (x, y, z in units of 1/4) and mass;
            with image points [B, H, Q, 9]: also their offset (x, y in units of 4 m).
        """
        position = self.query_position_BQ5[:, None]
        bev_mass, image_mass = attended_BHQV[..., 2:3], attended_BHQV[..., 7:8]
        bev = (attended_BHQV[..., :2] - bev_mass * position[..., :2]) / 4.0
        ray = (attended_BHQV[..., 4:7] - image_mass * position[..., 2:]) * 4.0
        offsets = [bev, bev_mass, ray, image_mass]
        if self.image_point_B1K2 is not None:
            offsets.append((attended_BHQV[..., 12:] - image_mass * position[..., :2]) / 4.0)
        return torch.cat(offsets, -1)


class LocalityPrior(nn.Module):
    """Log prior of a key given a query, carried by twelve extra query and key dimensions.

    For a BEV key at (x, y) and a query at (X, Y): -((x - X)^2 + (y - Y)^2) / (2 s_h^2), metres. For an image key
    with ray direction d and a query point P at distance r = |P| in direction D = P / r from the rig's centre, seen by
    a camera at c: ((P - c) . d / r + c . D / r - 1) / a_h^2. Its maximum over d is exactly the ray from c to P, where
    it is |c|^2 / (2 r^2 a_h^2) or less above 0, and it falls off as -angle^2 / (2 a_h^2) |P - c| / r.

    Both are bilinear in functions of the query and of the key, so they are added to the scores by widening q and k:
    fused attention stays fused. Widths are learnt per head.

    Each modality's part is normalised: its weights over an unbounded map of that token density sum to 1, whatever
    the width. So every head starts with half of its prior mass on either modality; ``balance`` (learnt per head)
    moves it. Without that, the many BEV tokens outweigh the few image tokens in wide heads.

    With ``depth_sigma``, image keys are points (x, y) at distance r_k from their camera, not only rays, and their log
    prior is also lowered by t_h ((x - X)^2 + (y - Y)^2) / (2 (depth_sigma r_k)^2); t_h starts at 1 and is learnt.

    Args:
        num_heads: H.
        bev_sigma: initial s_h in metres, one number or one per head.
        angle_sigma: initial a_h in radians, one number or one per head.
        depth_sigma: uncertainty of an image key's distance, as a share of it; None: image keys are rays.
    """

    MIN_RANGE_M = 3.0  # lower limit of r; without it a camera close to the query would take all attention

    def __init__(
        self,
        num_heads: int,
        bev_sigma: float | list[float] = 4.0,
        angle_sigma: float | list[float] = 0.2,
        depth_sigma: float | None = None,
    ) -> None:
        super().__init__()
        if depth_sigma is not None and not depth_sigma > 0:
            raise ValueError(f"depth_sigma must be positive or None, not {depth_sigma!r}")
        self.depth_sigma = depth_sigma
        if depth_sigma is not None:
            self.log_depth_trust = nn.Parameter(torch.zeros(num_heads))
        self.log_bev_sigma = nn.Parameter(_per_head(bev_sigma, num_heads, "bev_sigma").log())
        self.log_angle_sigma = nn.Parameter(_per_head(angle_sigma, num_heads, "angle_sigma").log())
        self.balance = nn.Parameter(torch.zeros(num_heads))

    def forward(
        self,
        reference_BQ3: Tensor,
        lidar2img_BN44: Tensor | None,
        image_shape_BN2: Tensor | None,
        layout: MemoryLayout,
        points_BK3: Tensor | None = None,
    ) -> Prior:
        """The prior of every query (reference in metres, LiDAR frame) over every key.

        ``points_BK3``: with ``depth_sigma``, where the image keys are (metres, LiDAR frame).
        """
        batch = reference_BQ3.shape[0]
        keys = []
        centre_B3 = reference_BQ3.new_zeros(batch, 3)
        # Normalisers: log of the number of tokens under the Gaussian, 2 pi sigma^2 times the token density.
        bev_norm = math.log(2 * math.pi) + 2 * self.log_bev_sigma
        angle_norm = math.log(2 * math.pi) + 2 * self.log_angle_sigma
        if layout.num_bev:
            xy = layout.bev_centres(reference_BQ3)
            bev = torch.cat([xy, torch.ones_like(xy[:, :1]), xy.square().sum(-1, keepdim=True)], -1)
            keys.append(nn.functional.pad(bev, (0, 8)).expand(batch, -1, -1))
            x0, y0, _, x1, y1, _ = layout.pc_range
            bev_norm = bev_norm + math.log(layout.num_bev / ((x1 - x0) * (y1 - y0)))
        if layout.num_camera:
            direction_BK3, origin_BK3 = image_rays(lidar2img_BN44.to(reference_BQ3), image_shape_BN2, layout)
            centre_B3 = origin_BK3.mean(1)
            c = origin_BK3 - centre_B3[:, None]
            along = (c * direction_BK3).sum(-1, keepdim=True)
            image = torch.cat([direction_BK3, torch.ones_like(along), along, c], -1)
            keys.append(nn.functional.pad(image, (4, 0)))
            angle_norm = angle_norm - _log_solid_angle(direction_BK3, layout)[:, None]
        precision_bev = torch.exp(-2 * self.log_bev_sigma)[:, None, None]
        precision_angle = torch.exp(-2 * self.log_angle_sigma)[:, None, None]
        XY = reference_BQ3[:, None, :, :2]
        half = -0.5 * precision_bev * torch.ones_like(XY[..., :1])
        bev_level = (self.balance / 2 - bev_norm)[:, None, None]
        angle_level = (-self.balance / 2 - angle_norm)[..., None, None]
        constant = -0.5 * XY.square().sum(-1, keepdim=True) * precision_bev + bev_level
        bev_query = torch.cat([XY * precision_bev, constant, half], -1)
        seen = (reference_BQ3 - centre_B3[:, None])[:, None]
        near = 1 / seen.norm(dim=-1, keepdim=True).clamp(min=self.MIN_RANGE_M)
        D = nn.functional.normalize(seen, dim=-1)
        facing = (angle_level - precision_angle) * torch.ones_like(near)
        angle_query = torch.cat([D * precision_angle, facing, -near * precision_angle, D * near * precision_angle], -1)
        query_position = torch.cat([XY, D], -1)[:, 0]
        query, key, image_point = torch.cat([bev_query, angle_query], -1), torch.cat(keys, 1)[:, None], None
        if self.depth_sigma is not None:
            query, key, image_point = self._with_points(query, key, XY, points_BK3, lidar2img_BN44, layout)
        return Prior(query, key, query_position, image_point)

    def _with_points(
        self,
        query: Tensor,
        key: Tensor,
        XY: Tensor,
        points_BK3: Tensor | None,
        lidar2img_BN44: Tensor | None,
        layout: MemoryLayout,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Four more dimensions for the distance between query and image point, and the points of all keys."""
        trust = self.log_depth_trust.exp()[:, None, None]
        ones = torch.ones_like(XY[..., :1])
        more = torch.cat([XY, -0.5 * XY.square().sum(-1, keepdim=True), -0.5 * ones], -1) * trust
        image_point = key.new_zeros(*key.shape[:3], 2)
        extra = key.new_zeros(*key.shape[:3], 4)
        if layout.num_camera:
            if points_BK3 is None:
                raise ValueError("depth_sigma needs the points of the image keys: set pts_bbox_head.image_points")
            _, centre = camera_centres(lidar2img_BN44.to(points_BK3))
            centre = centre.repeat_interleave(points_BK3.shape[1] // centre.shape[1], 1)
            weight = (self.depth_sigma * (points_BK3 - centre).norm(dim=-1, keepdim=True)) ** -2
            xy = points_BK3[..., :2]
            image = torch.cat([xy, torch.ones_like(weight), xy.square().sum(-1, keepdim=True)], -1) * weight
            extra = torch.cat([extra[:, :, : layout.num_bev], image[:, None]], 2)
            image_point = torch.cat([image_point[:, :, : layout.num_bev], xy[:, None]], 2)
        return torch.cat([query, more], -1), torch.cat([key, extra], -1), image_point


def image_rays(lidar2img_BN44: Tensor, image_shape_BN2: Tensor, layout: MemoryLayout) -> tuple[Tensor, Tensor]:
    """Unit ray direction and camera centre (metres) of every image key, both [B, N*Hc*Wc, 3], LiDAR frame."""
    _, rows, cols = layout.camera_shape
    height, width = image_shape_BN2.to(lidar2img_BN44).unbind(-1)
    u = (torch.arange(cols).to(width) + 0.5) / cols * width[..., None]
    v = (torch.arange(rows).to(height) + 0.5) / rows * height[..., None]
    shape = (*height.shape, rows, cols)
    pixel = torch.stack(
        [u[..., None, :].expand(shape), v[..., :, None].expand(shape), torch.ones(shape).to(u)], -1
    ).flatten(2, 3)
    inverse, centre = camera_centres(lidar2img_BN44)
    direction = nn.functional.normalize(torch.einsum("bnij,bnkj->bnki", inverse, pixel), dim=-1)
    return direction.flatten(1, 2), centre[:, :, None].expand_as(direction).flatten(1, 2)


def _log_solid_angle(direction_BK3: Tensor, layout: MemoryLayout) -> Tensor:
    """Log of the mean solid angle (sr) between neighbouring rays of every sample's first camera, [B]."""
    _, rows, cols = layout.camera_shape
    rays = direction_BK3[:, : rows * cols].unflatten(1, (rows, cols))
    if rows < 2 or cols < 2:
        return direction_BK3.new_full((len(rays),), math.log(4 * math.pi / layout.num_camera))
    corner = rays[:, :-1, :-1]
    across = torch.linalg.cross(rays[:, :-1, 1:] - corner, rays[:, 1:, :-1] - corner).norm(dim=-1)
    return across.mean((1, 2)).log()


def _per_head(value: float | list[float], num_heads: int, name: str) -> Tensor:
    values = [float(value)] * num_heads if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) != num_heads or not all(v > 0 and math.isfinite(v) for v in values):
        raise ValueError(f"{name} must be one positive number or {num_heads} of them, not {value!r}")
    return torch.tensor(values)
