"""GridMask augmentation: blank a regular grid of stripes in all images of a batch (Chen et al., 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class GridMask(nn.Module):
    """In training, with probability ``prob``, keep only the pixels inside a grid of stripes.

    Stripes of period d (drawn from 2 to the image height) and width ``ratio * d`` run along both axes, at a random
    offset. CMT's mode keeps the union of the stripes and blanks the rest. It uses numpy's global generator, which
    mmengine seeds. One mask serves all images of the batch.
    """

    def __init__(self, ratio: float = 0.5, prob: float = 0.7) -> None:
        super().__init__()
        self.ratio = ratio
        self.prob = prob

    def forward(self, images: Tensor) -> Tensor:
        """[..., H, W] -> the same shape."""
        if not self.training or np.random.rand() > self.prob:
            return images
        height, width = images.shape[-2:]
        period = np.random.randint(2, height)
        stripe = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        rows = _stripes(height, period, stripe, np.random.randint(period))
        cols = _stripes(width, period, stripe, np.random.randint(period))
        keep = torch.from_numpy(rows[:, None] | cols[None, :])
        return images * keep.to(device=images.device, dtype=images.dtype)


def _stripes(length: int, period: int, stripe: int, offset: int) -> np.ndarray:
    """Boolean [length], True inside a stripe. The pattern is drawn on 1.5 times the length and cropped centrally."""
    full = int(1.5 * length)
    position = np.arange(full) - offset
    inside = (position >= 0) & (position // period < full // period) & (position % period < stripe)
    start = (full - length) // 2
    return inside[start : start + length]
