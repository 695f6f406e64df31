"""Synthetic cameras for measurements that need geometry but no images; imports torch only."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ring_of_cameras(count: int, pixels: tuple[int, int], degrees: float) -> Tensor:
    """[count, 4, 4]: LiDAR frame (metres) to pixels, of pinholes at the origin that look outwards in all directions.

    Args:
        pixels: (height, width) of each image; ``degrees``: its horizontal field of view.
    """
    height, width = pixels
    focal = width / 2 / math.tan(math.radians(degrees) / 2)
    views = []
    for n in range(count):
        c, s = math.cos(2 * math.pi * n / count), math.sin(2 * math.pi * n / count)
        axes = torch.tensor([[s, -c, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [c, s, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
        intrinsics = torch.eye(4)
        intrinsics[0, 0] = intrinsics[1, 1] = focal
        intrinsics[0, 2], intrinsics[1, 2] = width / 2, height / 2
        views.append(intrinsics @ axes)
    return torch.stack(views)
