"""Image points: the object centre that each image token shows, learnt from the boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aqr_bench.bias.layout import camera_centres
from aqr_bench.cmt.geometry import CameraGeometry, ground_truth, sensor_states
from aqr_bench.cmt.losses import process_mean
from aqr_bench.sensor_state import SensorState

MIN_RANGE_M, MAX_RANGE_M = 1.0, 80.0
TYPICAL_M = 15.0
SHRINK = 0.8  # of an object's outline in the image: tokens at its rim show mostly what is behind it


class ImagePoints(nn.Module):
    """For every image token the centre of the object that it shows: a shift in the image and a distance.

    Not part of CMT, whose image keys are rays: 3DPPE (Shu et al., ICCV 2023) showed for PETR that points of predicted
    depth locate objects better. Small models on short schedules hardly learn depth without it, and each of their tokens
    spans six degrees. Inputs are the feature, the ray's direction and the angle that a token spans, since cameras
    differ in focal length.

    Args:
        channels: of the image map.
        hidden: width of the one hidden layer.
        loss_weight: of the loss.
    """

    def __init__(self, channels: int, hidden: int = 64, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.feature = nn.Linear(channels, hidden)
        self.ray = nn.Linear(4, hidden)
        self.out = nn.Linear(hidden, 3)
        nn.init.zeros_(self.out.bias)
        self.loss_weight = loss_weight
        self.sync_factors = False  # see CmtDetector

    def forward(self, image_BNCHW: Tensor, cameras: CameraGeometry) -> Tensor:
        """Points [B, N * rows * cols, 3] (metres, LiDAR frame), camera by camera, row-major."""
        pixel_BNhw2, token_BN2 = _token_pixels(cameras, image_BNCHW.shape[-2:])
        inverse, origin = camera_centres(cameras.lidar2img_BN44)
        direction = _rays(pixel_BNhw2, inverse)
        span = _token_angle(direction)
        hidden = self.feature(image_BNCHW.permute(0, 1, 3, 4, 2)) + self.ray(torch.cat([direction, span], -1))
        output = self.out(hidden.relu())
        distance = (output[..., :1] + math.log(TYPICAL_M)).clamp(math.log(MIN_RANGE_M), math.log(MAX_RANGE_M)).exp()
        shifted = pixel_BNhw2 + output[..., 1:] * token_BN2[:, :, None, None]
        points = origin[:, :, None, None] + distance * _rays(shifted, inverse)
        return points.flatten(1, 3)

    def loss(
        self, points_BK3: Tensor, cameras: CameraGeometry, metas: Sequence[dict], map_shape: Sequence[int]
    ) -> Tensor:
        """Mean over the tokens that show an object of |point - its centre| / distance (1-norm); 0 without any."""
        boxes, _ = ground_truth(metas, points_BK3.device)
        present = sensor_states(metas, points_BK3.device) != SensorState.NO_CAMERAS
        total, count = points_BK3.sum() * 0, 0
        for sample, box in enumerate(boxes):
            if not present[sample] or not len(box):
                continue
            visible, distance = visible_objects(box, cameras, sample, map_shape)
            hit = visible >= 0
            error = (points_BK3[sample, hit] - box[visible[hit], :3]).abs().sum(-1) / distance[hit].clamp(
                min=MIN_RANGE_M
            )
            total, count = total + error.sum(), count + int(hit.sum())
        if self.sync_factors:
            count = process_mean(count, total)
        return self.loss_weight * total / max(count, 1)

    def loss_of_features(self, image_MCHW: Tensor, metas: Sequence[dict]) -> Tensor:
        """The loss from an image map, M = B * N views, sample-major; in float32, as all of the head."""
        cameras = CameraGeometry.from_metas(metas, image_MCHW.device)
        with torch.autocast(device_type=image_MCHW.device.type, enabled=False):
            image_BNCHW = image_MCHW.float().unflatten(0, (len(metas), cameras.num_views))
            return self.loss(self(image_BNCHW, cameras), cameras, metas, image_MCHW.shape[-2:])


@torch.no_grad()
def visible_objects(
    boxes_n9: Tensor, cameras: CameraGeometry, sample: int, map_shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Index of the nearest object that each token shows (-1: none) and its distance (metres) from the camera, [K].

    A token shows an object if the token's centre lies in the bounding rectangle of the projected box, shrunk by
    ``SHRINK``; an object smaller than a token is shown by the token that contains its centre. Objects that reach behind
    the camera are ignored.
    """
    matrices = cameras.lidar2img_BN44[sample]
    pixel, token = _token_pixels(cameras, map_shape)
    pixel, token = pixel[sample], token[sample]
    corners = _corners(boxes_n9)  # [n, 8, 3]
    homogeneous = torch.cat([corners, torch.ones_like(corners[..., :1])], -1)
    projected = torch.einsum("nij,bcj->nbci", matrices[:, :3], homogeneous)  # [N, n, 8, 3]
    ahead = (projected[..., 2] > 0.1).all(-1)
    outline = projected[..., :2] / projected[..., 2:].clamp(min=0.1)
    low, high = outline.amin(2), outline.amax(2)
    half = torch.maximum((high - low) / 2 * SHRINK, token[:, None] / 2)
    off = (pixel[:, None] - ((low + high) / 2)[:, :, None, None]).abs()  # [N, n, rows, cols, 2]
    inside = (off <= half[:, :, None, None]).all(-1) & ahead[..., None, None]
    _, centre = camera_centres(matrices)
    distance = (boxes_n9[None, :, :3] - centre[:, None]).norm(dim=-1)
    nearest, index = torch.where(inside, distance[..., None, None], distance.new_tensor(torch.inf)).min(1)
    index = torch.where(nearest.isfinite(), index, -1)
    return index.flatten(), nearest.flatten()


def _token_pixels(cameras: CameraGeometry, map_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pixel (u, v) of the centre of every token [B, N, rows, cols, 2], and the size of a token [B, N, 2]."""
    rows, cols = map_shape
    height, width = cameras.key_BN2.unbind(-1)
    token = torch.stack([width / cols, height / rows], -1)
    v, u = torch.meshgrid(torch.arange(rows).to(width) + 0.5, torch.arange(cols).to(width) + 0.5, indexing="ij")
    return torch.stack([u, v], -1) * token[:, :, None, None], token


def _rays(pixel_BNhw2: Tensor, inverse_BN33: Tensor) -> Tensor:
    """Unit directions [B, N, h, w, 3] in the LiDAR frame of the rays through pixels."""
    homogeneous = torch.cat([pixel_BNhw2, torch.ones_like(pixel_BNhw2[..., :1])], -1)
    return nn.functional.normalize(torch.einsum("bnij,bnhwj->bnhwi", inverse_BN33, homogeneous), dim=-1)


def _token_angle(direction_BNhw3: Tensor) -> Tensor:
    """Log of the angle (rad) between neighbouring tokens of a row, mean over each view, [B, N, h, w, 1]."""
    if direction_BNhw3.shape[3] < 2:
        return torch.zeros_like(direction_BNhw3[..., :1])
    step = (direction_BNhw3[..., 1:, :] - direction_BNhw3[..., :-1, :]).norm(dim=-1).mean((2, 3)).log()
    return step[:, :, None, None, None].expand(*direction_BNhw3.shape[:4], 1)


def _corners(boxes_n9: Tensor) -> Tensor:
    """Corners [n, 8, 3] of boxes (gravity centre, l, w, h, yaw)."""
    signs = boxes_n9.new_tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
    local = signs * boxes_n9[:, None, 3:6]
    cos, sin = boxes_n9[:, None, 6].cos(), boxes_n9[:, None, 6].sin()
    rotated = torch.stack([local[..., 0] * cos - local[..., 1] * sin, local[..., 0] * sin + local[..., 1] * cos], -1)
    return torch.cat([rotated, local[..., 2:]], -1) + boxes_n9[:, None, :3]
