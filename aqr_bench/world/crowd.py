"""Who is already there: the boxes admitted so far at all recording times, for refusing those that would overlap one."""

from __future__ import annotations

import numpy as np

from aqr_bench.world.geometry import overlap
from aqr_bench.world.rig import EGO_CENTER_M, EGO_LENGTH_M, EGO_WIDTH_M

GAP_M = 0.3  # least distance between boxes
EGO_GAP_M = 1.0


class Crowd:
    """The boxes admitted so far; ``poses`` (N, T, 3) and ``sizes`` (N, 2), the ego car first."""

    def __init__(self, ego: np.ndarray):
        body = ego.copy()
        body[:, :2] += EGO_CENTER_M * np.stack([np.cos(ego[:, 2]), np.sin(ego[:, 2])], -1)
        self._count, self._poses, self._sizes = 1, np.empty((64, len(ego), 3)), np.empty((64, 2))
        self._poses[0] = body
        self._sizes[0] = np.array([EGO_LENGTH_M, EGO_WIDTH_M]) + 2 * (EGO_GAP_M - GAP_M)

    @property
    def poses(self) -> np.ndarray:
        return self._poses[: self._count]

    @property
    def sizes(self) -> np.ndarray:
        return self._sizes[: self._count]

    def admit(self, poses: np.ndarray, size: np.ndarray, gap: float = GAP_M) -> bool:
        """Add a box with ``poses`` (T, 3) and ``size`` (2,), length and width, unless it overlaps one; tell whether."""
        wide = size + 2 * gap
        reach = np.hypot(*wide) / 2 + np.hypot(*self.sizes.T) / 2
        offset = self.poses[..., :2] - poses[:, :2]
        other, moment = np.nonzero((offset**2).sum(-1) < reach[:, None] ** 2)
        if len(other):
            mine = np.broadcast_to(wide, (len(other), 2))
            if overlap(self.poses[other, moment], self.sizes[other], poses[moment], mine).any():
                return False
        if self._count == len(self._sizes):
            self._poses = np.concatenate([self._poses, np.empty_like(self._poses)])
            self._sizes = np.concatenate([self._sizes, np.empty_like(self._sizes)])
        self._poses[self._count], self._sizes[self._count] = poses, size
        self._count += 1
        return True
