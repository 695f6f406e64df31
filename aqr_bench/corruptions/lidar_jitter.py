"""One LiDAR cloud with fewer or displaced points, as MultiCorrupt has it. Points float32 [P, F >= 3] in and out.

All from ika-rwth-aachen/MultiCorrupt:converter/lidar.py. Only x, y, z change; order and other columns stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def drop_share(points: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Without a share of the points; exactly round(P (1 - share)) stay, every set of them alike (pointsreducing)."""
    keep = np.zeros(len(points), bool)
    keep[rng.permutation(len(points))[: round(len(points) * (1 - share))]] = True
    return points[keep]


def motion(
    points: np.ndarray, rng: np.random.Generator, sigma_m: float, jitter: Sequence[float], most_sigmas: float
) -> np.ndarray:
    """The whole cloud displaced once, and every point a little more (pts_motion).

    Args:
        sigma_m: standard deviation (m) of the cloud's displacement along x, y and z.
        jitter: standard deviations of a point's own displacement along x, y, z, in units of sigma_m.
        most_sigmas: its bound, in units of sigma_m.
    """
    own = rng.standard_normal((len(points), 3), np.float32) * np.asarray(jitter, np.float32)
    own = np.clip(own, -most_sigmas, most_sigmas)
    own += rng.standard_normal(3, np.float32)
    out = points.copy()
    out[:, :3] += own * np.float32(sigma_m)
    return out


def tilted(points: np.ndarray, angle_deg: float, shift_x_m: float) -> np.ndarray:
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
