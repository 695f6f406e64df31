"""Sensors that disagree: cameras not quite where they are said to be, old recordings, uncompensated motion.

The corruptions are those of thu-ml/3D_Corruptions_AD:LiDAR_corruptions.py (arXiv:2303.11040), made proper: what moves
is a sensor, so a disturbance is a small rigid motion, a turn by a rotation vector of so many radians and a shift.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from aqr_bench.corruptions.frame import Frame, View
from aqr_bench.corruptions.geometry import perturb_pose
from aqr_bench.corruptions.registry import RandomStream
from aqr_bench.corruptions.stuck import lagging_image


def random_motions(
    rng: np.random.Generator, count: int, rotation_sigma_rad: float, translation_sigma_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Small rigid motions: rotations float64 [n, 3, 3], translations float64 [n, 3] (m).

    Each component of the rotation vector is N(0, rotation_sigma_rad). To first order a rotation matrix is I + [v]x, so
    each of its entries off the diagonal is disturbed by just that sigma: what the source adds to matrix entries.
    """
    turns = Rotation.from_rotvec(rng.normal(0.0, rotation_sigma_rad, (count, 3))).as_matrix()
    return turns, rng.normal(0.0, translation_sigma_m, (count, 3))


def misplace_cameras(
    frame: Frame, stream: RandomStream, rotation_sigma_rad: float, translation_sigma_m: float
) -> Frame:
    """The frame with every camera's lidar2cam followed by its own small rigid motion, in camera axes; images stay.

    Source: LiDAR_corruptions.py, spatial_alignment_noise: entries' sigma 0.004 .. 0.020, translation 0.04 .. 0.20 m.
    """

    def misplaced(view: View) -> View:
        rng = stream(frame.token, f"{view.camera}/pose")
        (turn,), (shift,) = random_motions(rng, 1, rotation_sigma_rad, translation_sigma_m)
        return replace(view, lidar2cam=perturb_pose(view.lidar2cam, turn, shift))

    return replace(frame, views=tuple(misplaced(view) for view in frame.views))


def go_back(frame: Frame, sweeps: int) -> Frame:
    """The frame with recordings of so many sweeps ago in the place of its own; calibration and poses stay.

    The LiDAR is that one sweep, taken for the key frame: its pose is not corrected, its time lag is 0, no other sweeps.
    Every camera shows its image of that many recordings back. Where the past is shorter, the oldest recording there is
    serves; in the first frame of a scene nothing changes. Source: LiDAR_corruptions.py, temporal_alignment_noise, and
    TransFusion/mmdet3d/datasets/pipelines/test_time_aug.py: 2, 4, 6, 8, 10 sweeps.
    """
    clouds = frame.clouds
    if len(clouds) > 1:
        old = clouds[min(sweeps, len(clouds) - 1)]
        clouds = (replace(old, to_key=np.eye(4), time=clouds[0].time),)
    views = tuple(lagging_image(frame, view, sweeps) for view in frame.views)
    return replace(frame, clouds=clouds, views=views)


def shake(
    points: np.ndarray, rng: np.random.Generator, rotation_sigma_rad: float, translation_sigma_m: float, slices: int
) -> np.ndarray:
    """One cloud whose motion was compensated with noisy poses: each slice of the turn has its own small rigid motion.

    Args:
        points: float32 [P, F >= 3], the sweep's own sensor frame (m). ``slices``: equal sectors of azimuth.
    Returns:
        float32 [P, F], only the coordinates changed.

    Source: LiDAR_corruptions.py, fulltrajectory_noise, and utils/lidar_split.py: a cloud is brought to the time of each
    of 100 slices with the true pose, and back with a noisy one. The true poses cancel; what is left is the noise.
    """
    turns, shifts = random_motions(rng, slices, rotation_sigma_rad, translation_sigma_m)
    sector = ((np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.5) * slices).astype(np.intp) % slices
    xyz = np.einsum("pij,pj->pi", turns.astype(np.float32)[sector], points[:, :3])
    out = points.copy()
    out[:, :3] = xyz + shifts.astype(np.float32)[sector]
    return out
