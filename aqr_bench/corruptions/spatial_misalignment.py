"""Spatial misalignment: camera extrinsics with noise, and LiDAR clouds whose motion was compensated with noisy poses.

Both are of thu-ml/3D_Corruptions_AD:LiDAR_corruptions.py (arXiv:2303.11040), with one change: the noise is a small
rigid motion, a rotation by a rotation vector (rad) and a translation (m), where the source adds to matrix entries.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy

from aqr_bench.corruptions.frame import Frame, View
from aqr_bench.corruptions.geometry import perturb_pose
from aqr_bench.corruptions.registry import RandomStream


def random_rigid_motions(
    rng: np.random.Generator, count: int, rotation_sigma_rad: float, translation_sigma_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Small rigid motions: rotations float64 [n, 3, 3], translations float64 [n, 3] (m).

    Each component of the rotation vector is N(0, rotation_sigma_rad). To first order a rotation matrix is I + [v]x, so
    each of its entries off the diagonal is disturbed by just that sigma: what the source adds to matrix entries.
    """
    rotations = scipy.spatial.transform.Rotation.from_rotvec(
        rng.normal(0.0, rotation_sigma_rad, (count, 3))
    ).as_matrix()
    return rotations, rng.normal(0.0, translation_sigma_m, (count, 3))


def extrinsic_noise(frame: Frame, stream: RandomStream, rotation_sigma_rad: float, translation_sigma_m: float) -> Frame:
    """The frame with each camera's lidar2cam followed by a small rigid motion, drawn per camera, in camera axes.

    Images stay.

    Source: LiDAR_corruptions.py, spatial_alignment_noise: entries' sigma 0.004 .. 0.020, translation 0.04 .. 0.20 m.
    """

    def perturbed(view: View) -> View:
        rng = stream(frame.token, f"{view.camera}/pose")
        (rotation,), (translation,) = random_rigid_motions(rng, 1, rotation_sigma_rad, translation_sigma_m)
        return replace(view, lidar2cam=perturb_pose(view.lidar2cam, rotation, translation))

    return replace(frame, views=tuple(perturbed(view) for view in frame.views))


def pose_jitter(
    points: np.ndarray, rng: np.random.Generator, rotation_sigma_rad: float, translation_sigma_m: float, slices: int
) -> np.ndarray:
    """One cloud whose motion was compensated with noisy poses: a small rigid motion for each slice of the revolution.

    Args:
        points: float32 [P, F >= 3], in the sensor frame of the sweep (m). ``slices``: number of equal azimuth sectors.
    Returns:
        float32 [P, F], only the coordinates changed.

    Source: LiDAR_corruptions.py, fulltrajectory_noise, and utils/lidar_split.py: a cloud is brought to the time of each
    of 100 slices with the true pose, and back with a noisy one. The true poses cancel; what is left is the noise.
    """
    rotations, translations = random_rigid_motions(rng, slices, rotation_sigma_rad, translation_sigma_m)
    sector = ((np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.5) * slices).astype(np.intp) % slices
    xyz = np.einsum("pij,pj->pi", rotations.astype(np.float32)[sector], points[:, :3])
    out = points.copy()
    out[:, :3] = xyz + translations.astype(np.float32)[sector]
    return out
