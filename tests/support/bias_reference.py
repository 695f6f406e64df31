"""The spec written out with Python loops: what a query's bias is, key by key."""

from __future__ import annotations

import math

import torch

from aqr_bench.bias import MemoryLayout


def loop_bias(weights_BQ2, reference_BQ3, lidar2img, shapes, layout: MemoryLayout, bev_size, cam_size, profile):
    """Dense raw bias [B, Q, K] and which keys lie in a window, by the definition alone (no clamp, no scale)."""
    batch, queries = reference_BQ3.shape[:2]
    raw = torch.zeros(batch, queries, layout.num_keys, dtype=weights_BQ2.dtype)
    inside = torch.zeros(batch, queries, layout.num_keys, dtype=torch.bool)

    def fill(b, q, row, col, rows, cols, offset, size, weight):
        half = size // 2
        for dr in range(-half, half + 1):
            for dc in range(-half, half + 1):
                if 0 <= row + dr < rows and 0 <= col + dc < cols:
                    fall = math.exp(-(dr * dr + dc * dc) / (2 * (size / 4) ** 2)) if profile == "gaussian" else 1.0
                    key = offset + (row + dr) * cols + col + dc
                    raw[b, q, key] = weight * fall
                    inside[b, q, key] = True

    x0, y0, _, x1, y1, _ = layout.pc_range
    for b in range(batch):
        for q in range(queries):
            x, y, z = reference_BQ3[b, q].tolist()
            if layout.bev_shape and bev_size:
                rows, cols = layout.bev_shape
                row, col = math.floor((y - y0) / (y1 - y0) * rows), math.floor((x - x0) / (x1 - x0) * cols)
                fill(b, q, row, col, rows, cols, 0, bev_size, weights_BQ2[b, q, 0])
            if layout.camera_shape and cam_size:
                cameras, rows, cols = layout.camera_shape
                for n in range(cameras):
                    u, v, depth = (lidar2img[b, n] @ torch.tensor([x, y, z, 1.0], dtype=lidar2img.dtype))[:3].tolist()
                    if depth <= 1e-5:
                        continue
                    u, v = u / depth, v / depth
                    height, width = shapes[b, n].tolist()
                    if 0 <= u < width and 0 <= v < height:
                        row, col = math.floor(v * rows / height), math.floor(u * cols / width)
                        offset = layout.num_bev + n * rows * cols
                        fill(b, q, row, col, rows, cols, offset, cam_size, weights_BQ2[b, q, 1])
    return raw, inside


def ring_of_cameras(cameras: int, width: int, height: int, focal: float, dtype=torch.float64) -> torch.Tensor:
    """[cameras, 4, 4] projections of pinhole cameras at the origin, looking outwards all around."""
    views = []
    for n in range(cameras):
        yaw = 2 * math.pi * n / cameras
        forward = torch.tensor([math.cos(yaw), math.sin(yaw), 0.0], dtype=dtype)
        right = torch.tensor([math.sin(yaw), -math.cos(yaw), 0.0], dtype=dtype)
        extrinsic = torch.eye(4, dtype=dtype)
        extrinsic[:3, :3] = torch.stack([right, torch.tensor([0.0, 0.0, -1.0], dtype=dtype), forward])
        intrinsic = torch.eye(4, dtype=dtype)
        intrinsic[0, 0] = intrinsic[1, 1] = focal
        intrinsic[0, 2], intrinsic[1, 2] = width / 2, height / 2
        views.append(intrinsic @ extrinsic)
    return torch.stack(views)
