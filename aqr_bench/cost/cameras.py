"""Made-up cameras for measurements that need their geometry and no pictures. torch alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ring_of_cameras(count: int, pixels: tuple[int, int], degrees: float) -> Tensor:
    """[count, 4, 4]: LiDAR frame (metres) to pixels, of pinholes at the origin that look outwards all around.

    Args:
        pixels: (height, width) of each image; ``degrees``: its horizontal field of view.
    """
    height, width = pixels
    focal = width / 2 / math.tan(math.radians(degrees) / 2)
    views = []
    for n in range(count):
        c, s = math.cos(2 * math.pi * n / count), math.sin(2 * math.pi * n / count)
        axes = torch.tensor([[s, -c, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [c, s, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
        inner = torch.eye(4)
        inner[0, 0] = inner[1, 1] = focal
        inner[0, 2], inner[1, 2] = width / 2, height / 2
        views.append(inner @ axes)
    return torch.stack(views)
