"""Noise and loss of LiDAR points anywhere in the scene: jitter, crosstalk, dropped points, cutout, a limited view.

Kernels on one cloud take and give float32 [P, F >= 3] and change the coordinates x, y, z (m) alone; what depends on
places in the scene works on all clouds in the keyframe's coordinates. Numbers of points are rounded down, as in
thu-ml/3D_Corruptions_AD:LiDAR_corruptions.py, where all of these corruptions come from (arXiv:2303.11040).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from aqr_bench.corruptions.frame import Frame, keep_merged, merged_xyz
from aqr_bench.corruptions.geometry import azimuth_from_ahead_deg

_ROUND_OFF = 1e-9  # 0.07 of 100 points are 7, though 0.07 * 100 is a little less than 7 or more


def share_of(count: int | np.ndarray, share: float) -> int | np.ndarray:
    """How many of ``count`` things a share is, rounded down; int, or int64 like ``count``."""
    number = np.floor(np.asarray(count) * share + _ROUND_OFF).astype(np.int64)
    return number if number.ndim else int(number)


# ---------------------------------------------------------------- one cloud


def gaussian(points: np.ndarray, rng: np.random.Generator, sigma_m: float) -> np.ndarray:
    """Every coordinate moved by N(0, sigma_m). Source: LiDAR_corruptions.py, gaussian_noise."""
    return _moved(points, slice(None), _normal(rng, len(points), sigma_m))


def uniform(points: np.ndarray, rng: np.random.Generator, amount_m: float) -> np.ndarray:
    """Every coordinate moved by U(-amount_m, amount_m). Source: LiDAR_corruptions.py, uniform_noise."""
    shift = rng.random((len(points), 3), np.float32)
    return _moved(points, slice(None), (2 * shift - 1) * np.float32(amount_m))


def impulse(points: np.ndarray, rng: np.random.Generator, divisor: int, amount_m: float) -> np.ndarray:
    """One point in ``divisor`` moved by +amount_m or -amount_m along each axis, at random.

    Source: LiDAR_corruptions.py, impulse_noise: N // 30 .. N // 10 different points.
    """
    chosen = _pick(rng, len(points), len(points) // divisor)
    return _moved(points, chosen, random_signs(rng, (len(chosen), 3)) * np.float32(amount_m))


def drop_points(points: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """The points without a random share of them, in order. Source: LiDAR_corruptions.py, density_dec_global."""
    keep = np.ones(len(points), bool)
    keep[_pick(rng, len(points), share_of(len(points), share))] = False
    return points[keep]


def random_signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of that shape: +1 or -1, equally likely."""
    return rng.integers(0, 2, shape, dtype=np.int8).astype(np.float32) * 2 - 1


def _normal(rng: np.random.Generator, count: int, sigma_m: float) -> np.ndarray:
    return rng.standard_normal((count, 3), np.float32) * np.float32(sigma_m)


def _pick(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
    return rng.choice(total, count, replace=False, shuffle=False) if count else np.zeros(0, np.int64)


def _moved(points: np.ndarray, where: np.ndarray | slice, by: np.ndarray) -> np.ndarray:
    out = points.copy()
    out[where, :3] += by
    return out


# ---------------------------------------------------------------- one cloud, as MultiCorrupt has it
# All from ika-rwth-aachen/MultiCorrupt:converter/lidar.py.


def drop_to_share(points: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """The points without a random share of them, in order; exactly round(P (1 - share)) stay (pointsreducing)."""
    keep = np.zeros(len(points), bool)
    keep[rng.permutation(len(points))[: round(len(points) * (1 - share))]] = True
    return points[keep]


def motion_noise(
    points: np.ndarray, rng: np.random.Generator, sigma_m: float, jitter_of_sigma: Sequence[float], max_jitter: float
) -> np.ndarray:
    """The cloud displaced as one, and every point by a jitter of its own in addition (pts_motion).

    Args:
        sigma_m: standard deviation (m) of the cloud's displacement along x, y and z.
        jitter_of_sigma: standard deviations of the jitter along x, y, z, in units of sigma_m.
        max_jitter: bound of the jitter, in units of sigma_m.
    """
    shift = rng.standard_normal((len(points), 3), np.float32) * np.asarray(jitter_of_sigma, np.float32)
    shift = np.clip(shift, -max_jitter, max_jitter)
    shift += rng.standard_normal(3, np.float32)
    out = points.copy()
    out[:, :3] += shift * np.float32(sigma_m)
    return out


def tilt(points: np.ndarray, angle_deg: float, shift_x_m: float) -> np.ndarray:
    """The cloud turned about z, then y, then x by the same angle (degrees, clockwise), and shifted along x (m).

    transform_points: x' = Rx Ry Rz x + (shift, 0, 0). Three turns by 1, 2, 3 degrees make 1.7, 3.4, 5.1 in all.
    """
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turns = []
    for first, second in ((1, 2), (2, 0), (0, 1)):
        turn = np.eye(3)
        turn[[first, second], [first, second]] = cosine
        turn[first, second], turn[second, first] = sine, -sine
        turns.append(turn)
    out = points.copy()
    out[:, :3] = points[:, :3].astype(np.float64) @ (turns[0] @ turns[1] @ turns[2]).T + (shift_x_m, 0.0, 0.0)
    return out


# ---------------------------------------------------------------- the scene: all clouds


def crosstalk(frame: Frame, rng: np.random.Generator, share: float, sigma_m: float) -> Frame:
    """A share of all points moved by N(0, sigma_m) in every coordinate, as pulses of another LiDAR would.

    Source: LiDAR_corruptions.py, lidar_crosstalk_noise: 0.4 .. 2 % of the points of the merged cloud, 3 m.
    """
    total = sum(len(cloud.points) for cloud in frame.clouds)
    chosen = np.sort(_pick(rng, total, share_of(total, share)))
    shift, clouds, first = _normal(rng, len(chosen), sigma_m), [], 0
    for cloud in frame.clouds:  # a shift is as likely in a sweep's axes as in the keyframe's
        last = first + len(cloud.points)
        in_cloud = slice(*np.searchsorted(chosen, [first, last]))
        clouds.append(replace(cloud, points=_moved(cloud.points, chosen[in_cloud] - first, shift[in_cloud])))
        first = last
    return replace(frame, clouds=tuple(clouds))


def cutout(frame: Frame, rng: np.random.Generator, patches: int, share: float) -> Frame:
    """The frame without ``patches`` clumps of points, each a share of all points, sweeps included.

    A patch is a random point that is left with its nearest neighbours in space. Source: LiDAR_corruptions.py,
    cutout_local: 2 .. 10 patches of 2 % of the N points there were in the beginning.
    """
    xyz = merged_xyz(frame).astype(np.float32)
    left, size = np.arange(len(xyz)), share_of(len(xyz), share)
    for _ in range(patches if size else 0):
        distance = squared_distance(xyz, xyz[rng.integers(len(left))])
        far = np.ones(len(left), bool)
        far[np.argpartition(distance, size - 1)[:size]] = False
        left, xyz = left[far], xyz[far]
    keep = np.zeros(sum(len(cloud.points) for cloud in frame.clouds), bool)
    keep[left] = True
    return keep_merged(frame, keep)


def squared_distance(xyz: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Squared distance (m^2) of points [P, 3] to one place [3] or to one place each [P, 3]; dtype of ``xyz``."""
    offset = xyz - to
    return np.einsum("pi,pi->p", offset, offset)


def limit_fov(frame: Frame, half_angle_deg: float) -> Frame:
    """The frame with only the points within +-half_angle_deg of straight ahead, clockwise or not.

    Source: LiDAR_corruptions.py, fov_filter: +-105 .. +-45 degrees, the limits included.
    """
    return keep_merged(frame, np.abs(azimuth_from_ahead_deg(frame)) <= half_angle_deg)


def drop_in_mask(frame: Frame, lidar2img: np.ndarray, mask: np.ndarray) -> Frame:
    """The frame without the points that a camera sees within a mask: the sun behind them blinds the LiDAR, too.

    Args:
        lidar2img: float64 [4, 4], keyframe's LiDAR frame to (u d, v d, d, 1) in pixels.
        mask: bool [h, w], the camera's image. Points behind the camera and outside the image stay.

    Source: TransFusion/mmdet3d/datasets/pipelines/Camera_corruptions.py, ImagePointAddSun.sun_sim_point.
    """
    projected = merged_xyz(frame) @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    depth = projected[:, 2]
    height, width = mask.shape
    # Within the image without a division, which would need care near depth 0.
    left, top = projected[:, 0] >= -0.5 * depth, projected[:, 1] >= -0.5 * depth
    right, bottom = projected[:, 0] < (width - 0.5) * depth, projected[:, 1] < (height - 0.5) * depth
    seen = np.flatnonzero((depth > 0) & left & top & right & bottom)
    u, v = np.rint(projected[seen, :2] / depth[seen, None]).astype(np.intp).T
    inside = mask[np.minimum(v, height - 1), np.minimum(u, width - 1)]
    keep = np.ones(len(depth), bool)
    keep[seen[inside]] = False
    return keep_merged(frame, keep)
