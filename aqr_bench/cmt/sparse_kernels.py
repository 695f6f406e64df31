"""Kernels of sparse convolutions in two layouts: mmcv's (D, H, W, in, out) and spconv 2's (out, D, H, W, in)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn


def spconv2_from_mmcv(kernel: Tensor) -> Tensor:
    """(D, H, W, in, out) -> (out, D, H, W, in), a view."""
    return kernel.permute(4, 0, 1, 2, 3)


def mmcv_from_spconv2(kernel: Tensor) -> Tensor:
    """(out, D, H, W, in) -> (D, H, W, in, out), a view."""
    return kernel.permute(1, 2, 3, 4, 0)


def in_layout_of(kernel: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """``kernel`` permuted, if need be, from one layout to the other so that it has ``shape``; None if neither fits.

    This is unambiguous: a kernel fits both only if out = D = H = W = in, which no network has.
    """
    if kernel.shape == shape:
        return kernel
    if kernel.dim() == len(shape) == 5:
        for other in (spconv2_from_mmcv(kernel), mmcv_from_spconv2(kernel)):
            if other.shape == shape:
                return other
    return None


def accept_both_layouts(module: nn.Module) -> None:
    """Let every spconv convolution inside ``module`` load kernels of either layout, distinguished by their shape.

    mmdet3d permutes while loading unless the state dict carries ``_metadata`` with version 2. A plain dict of tensors
    has none, so that kernels in spconv's layout would be permuted wrongly.
    """
    from spconv.pytorch.conv import SparseConvolution

    for child in module.modules():
        if isinstance(child, SparseConvolution):
            child._register_load_state_dict_pre_hook(partial(_to_expected_layout, tuple(child.weight.shape)))


def _to_expected_layout(
    shape: tuple[int, ...], state_dict: dict[str, Any], prefix: str, local_metadata: dict, *_: Any
) -> None:
    key = f"{prefix}weight"
    kernel = in_layout_of(state_dict[key], shape) if key in state_dict else None
    if kernel is not None:
        # Without version 2, mmdet3d's loader takes the kernel for mmcv's layout and permutes it.
        state_dict[key] = kernel if local_metadata.get("version") == 2 else mmcv_from_spconv2(kernel)
