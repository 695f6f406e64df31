"""From coordinates to position embeddings: sine code, BEV cell centres, camera frusta, query rays.

Everything here is a pure function of tensors. "Normalised" coordinates are fractions of the point cloud range
(0 at the lower, 1 at the upper edge); metres are in the LiDAR frame (x right, y forward, z up); pixels are
(u right, v down) in the padded image that the network sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def pos2embed(pos: Tensor, num_pos_feats: int = 128) -> Tensor:
    """Sine code of 2D positions as CMT uses it.

    The wavelength divisor runs linearly from 1 to nearly 2 over the channels (``2 * (i // 2) / n + 1``); the usual
    geometric temperature is not used. Channels are the y half followed by the x half.

    Args:
        pos: [..., >= 2] normalised (x, y, ...).
        num_pos_feats: channels per axis, n.

    Returns:
        [..., 2 * n].
    """
    channel = torch.arange(num_pos_feats, dtype=torch.float32, device=pos.device)
    divisor = 2 * torch.div(channel, 2, rounding_mode="floor") / num_pos_feats + 1
    halves = []
    for axis in (1, 0):
        angle = (pos[..., axis, None] * (2 * math.pi)) / divisor
        halves.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2))
    return torch.cat(halves, dim=-1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of ``x``, with ``x`` and ``1 - x`` clamped to at least ``eps``."""
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def clamp_reference(reference: Tensor) -> Tensor:
    """Normalised reference points at least 1e-5 inside the range, as CMT has them before it embeds them."""
    return inverse_sigmoid(reference).sigmoid()


def bounds(pc_range: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor]:
    """(x0, y0, z0) and (x1, y1, z1), dtype and device of ``like``; the host does not wait for the copy to a GPU."""
    low_and_high = torch.tensor(pc_range, dtype=like.dtype).to(like.device, non_blocking=True)
    return low_and_high[:3], low_and_high[3:]


def to_metres(normalised: Tensor, pc_range: Sequence[float]) -> Tensor:
    """[..., 3] normalised -> metres in the LiDAR frame; ``pc_range`` is (x0, y0, z0, x1, y1, z1)."""
    low, high = bounds(pc_range, normalised)
    return normalised * (high - low) + low


def to_normalised(metres: Tensor, pc_range: Sequence[float]) -> Tensor:
    """[..., 3] metres in the LiDAR frame -> normalised."""
    low, high = bounds(pc_range, metres)
    return (metres - low) / (high - low)


def bev_cell_centres(rows: int, cols: int, device: torch.device | None = None) -> Tensor:
    """Centres of the BEV cells, [rows * cols, 2] as (x, y) fractions of the map, row-major (row = y, column = x)."""
    y = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) / rows
    x = (torch.arange(cols, device=device, dtype=torch.float32) + 0.5) / cols
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((x, y), dim=-1).reshape(-1, 2)


def depth_samples(depth_num: int, max_range: float, device: torch.device | None = None) -> Tensor:
    """Depths (metres) at which a camera ray is sampled: ``1 + k * (max_range - 1) / depth_num``, [depth_num]."""
    return 1 + torch.arange(depth_num, device=device, dtype=torch.float32) * (max_range - 1) / depth_num


def view_shapes(metas: Sequence[dict], num_views: int, key: str = "pad_shape") -> np.ndarray:
    """Per-sample, per-view image sizes in pixels, [B, N, 2] as (h, w).

    Accepts one shape per view (``[(h, w, 3)] * N``) as well as the single ``(h, w)`` that mmdet3d 1.4's data
    preprocessor writes.

    Raises:
        KeyError: a sample lacks ``key``.
        ValueError: the number of shapes is not the number of views.
    """
    rows = []
    for index, meta in enumerate(metas):
        if key not in meta:
            raise KeyError(f"sample {index} of the batch has no '{key}' in its metadata; the head needs it per view")
        shapes = meta[key]
        if np.ndim(shapes[0]) == 0:
            shapes = [shapes] * num_views
        if len(shapes) != num_views:
            raise ValueError(f"sample {index}: {len(shapes)} entries in '{key}' for {num_views} camera views")
        rows.append([[float(s[0]), float(s[1])] for s in shapes])
    return np.asarray(rows, dtype=np.float64).reshape(len(metas), num_views, 2)


def projections(metas: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    """``lidar2img`` of every sample and its inverse, both [B, N, 4, 4] in float64.

    The inverse is taken in float64: in float32 the positions move by more than the network's rounding error.

    Raises:
        KeyError: a sample has no ``lidar2img``.
        ValueError: samples differ in their number of cameras, or a matrix cannot be inverted.
    """
    matrices = []
    for index, meta in enumerate(metas):
        if "lidar2img" not in meta:
            raise KeyError(f"sample {index} of the batch has no 'lidar2img' in its metadata")
        views = meta["lidar2img"]
        if isinstance(views, Tensor):
            views = views.detach().cpu().numpy()
        views = np.asarray([np.asarray(m, dtype=np.float64) for m in views])
        if views.ndim != 3 or views.shape[1:] != (4, 4):
            raise ValueError(f"sample {index}: lidar2img has shape {views.shape}, expected (cameras, 4, 4)")
        matrices.append(views)
    if len({m.shape[0] for m in matrices}) != 1:
        raise ValueError(f"samples of one batch differ in cameras: {[m.shape[0] for m in matrices]}")
    stacked = np.stack(matrices)
    try:
        return stacked, np.linalg.inv(stacked)
    except np.linalg.LinAlgError as error:
        raise ValueError("a lidar2img matrix of the batch is singular and cannot be inverted") from error


def camera_key_rays(
    img2lidar_BN44: Tensor, shape_BN2: Tensor, rows: int, cols: int, depths_D: Tensor, pc_range: Sequence[float]
) -> Tensor:
    """Normalised 3D points along the ray of every image feature cell, [B, N, rows, cols, D * 3].

    A cell (row, col) stands for the pixel (col * w / cols, row * h / rows): the cell's upper left corner, as in CMT
    (BEV keys sit at cell centres, image keys do not). ``shape_BN2`` is the (h, w) in pixels that the map covers.
    """
    B, N = shape_BN2.shape[:2]
    device = img2lidar_BN44.device
    v = torch.arange(rows, device=device, dtype=torch.float32) / rows * shape_BN2[..., 0:1]  # [B, N, rows]
    u = torch.arange(cols, device=device, dtype=torch.float32) / cols * shape_BN2[..., 1:2]  # [B, N, cols]
    u = u[:, :, None, :].expand(B, N, rows, cols)
    v = v[:, :, :, None].expand(B, N, rows, cols)
    return _unproject(torch.stack((u, v), dim=-1).flatten(2, 3), img2lidar_BN44, depths_D, pc_range).view(
        B, N, rows, cols, -1
    )


def query_rays(
    points_BQ3: Tensor,
    lidar2img_BN44: Tensor,
    img2lidar_BN44: Tensor,
    shape_BN2: Tensor,
    depths_D: Tensor,
    pc_range: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Rays through the projections of query points, for the (sample, view, query) triples where the view sees it.

    A view sees a point if its depth is positive and its projection lies inside the view's padded image
    (``shape_BN2``: h, w). The depth in the division is detached, as in CMT, which matters for gradients.

    Args:
        points_BQ3: metres, LiDAR frame.

    Returns:
        rays [M, D * 3] normalised, and index [M, 3] (long) with the sample, view and query of each.
    """
    ones = points_BQ3.new_ones((*points_BQ3.shape[:-1], 1))
    projected = torch.einsum("bqd,bncd->bnqc", torch.cat((points_BQ3, ones), dim=-1), lidar2img_BN44)
    depth = projected[..., 2:3].detach()
    in_front = depth > 0
    scaled = projected[..., :3] / (depth + torch.where(in_front, 1e-6, -1e-6))
    u, v = scaled[..., 0], scaled[..., 1]
    h, w = shape_BN2[..., 0, None], shape_BN2[..., 1, None]
    seen = in_front.squeeze(-1) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
    index = seen.nonzero()
    sample, view, query = index.unbind(-1)
    visible = scaled[sample, view, query]  # [M, 3]: u, v, and depth / detached depth
    along = visible[:, None, :] * depths_D[None, :, None]  # [M, D, 3]
    matrix = img2lidar_BN44[sample, view]
    points = torch.einsum("mdi,mci->mdc", along, matrix[:, :3, :3]) + matrix[:, None, :3, 3]
    return to_normalised(points, pc_range).flatten(1), index


def _unproject(pixel_BNP2: Tensor, img2lidar_BN44: Tensor, depths_D: Tensor, pc_range: Sequence[float]) -> Tensor:
    """Pixels (u, v) at every depth, as normalised LiDAR points: [B, N, P, D * 3]."""
    ones = torch.ones_like(pixel_BNP2[..., :1])
    homogeneous = torch.cat((pixel_BNP2, ones), dim=-1)[..., None, :] * depths_D[:, None]  # [B, N, P, D, 3]
    points = torch.einsum("bnpdi,bnci->bnpdc", homogeneous, img2lidar_BN44[..., :3, :3])
    points = points + img2lidar_BN44[:, :, None, None, :3, 3]
    return to_normalised(points, pc_range).flatten(-2)
