"""Spatial misalignment: rigid motions of the right size, per camera and per slice of a revolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from corruption_frames import make_frame
from scipy.spatial.transform import Rotation

from aqr_bench.corruptions import RandomStream
from aqr_bench.corruptions.spatial_misalignment import extrinsic_noise, pose_jitter, random_rigid_motions


def test_rotation_entries_have_the_sigma_that_the_source_adds_to_them():
    turns, shifts = random_rigid_motions(np.random.default_rng(0), 5000, 0.02, 0.2)
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(turns), 1)
    off_diagonal = (turns - np.eye(3))[:, ~np.eye(3, dtype=bool)]
    assert np.allclose(off_diagonal.std(0), 0.02, rtol=0.05) and np.allclose(shifts.std(0), 0.2, rtol=0.05)


def test_cameras_move_independently_as_rigid_bodies():
    frame = make_frame()
    out = extrinsic_noise(frame, RandomStream(0, "c", 1), 0.01, 0.1)
    noises = []
    for before, after in zip(frame.views, out.views, strict=True):
        assert after.image is before.image and np.array_equal(after.cam2img, before.cam2img)
        noise = after.lidar2cam @ np.linalg.inv(before.lidar2cam)
        assert np.allclose(noise[:3, :3] @ noise[:3, :3].T, np.eye(3)) and np.allclose(noise[3], [0, 0, 0, 1])
        noises.append([*Rotation.from_matrix(noise[:3, :3]).as_rotvec(), *noise[:3, 3]])
    noises = np.array(noises)
    assert len(np.unique(noises.round(9), axis=0)) == 6
    assert 0.003 < noises[:, :3].std() < 0.03 and 0.03 < noises[:, 3:].std() < 0.3
    alone = extrinsic_noise(replace(frame, views=frame.views[2:3]), RandomStream(0, "c", 1), 0.01, 0.1)
    assert np.array_equal(alone.views[0].lidar2cam, out.views[2].lidar2cam)


def test_slices_of_the_turn_move_as_rigid_bodies():
    rng = np.random.default_rng(3)
    points = make_frame(points=4000, sweeps=0).clouds[0].points
    out = pose_jitter(points, rng, 0.01, 0.1, 4)
    assert out.dtype == np.float32 and np.array_equal(out[:, 3:], points[:, 3:])
    moved = []
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):  # four slices are the four quadrants
        quadrant = (np.sign(points[:, :2]) == signs).all(1)
        # A rigid motion is affine: four numbers per axis explain all points of a slice, to float32.
        design = np.concatenate([points[quadrant, :3], np.ones((quadrant.sum(), 1))], 1).astype(np.float64)
        motion, *_ = np.linalg.lstsq(design, out[quadrant, :3].astype(np.float64), rcond=None)
        assert np.abs(design @ motion - out[quadrant, :3]).max() < 2e-5
        assert np.allclose(motion[:3] @ motion[:3].T, np.eye(3), atol=1e-5)
        moved.append(motion)
    assert len(np.unique(np.array(moved).round(4), axis=0)) == 4


def test_jitter_is_as_large_as_its_sigmas():
    points = np.zeros((20_000, 5), np.float32)
    angle = np.linspace(-np.pi, np.pi, len(points))
    points[:, 0], points[:, 1] = 10 * np.cos(angle), 10 * np.sin(angle)
    turns = pose_jitter(points, np.random.default_rng(0), 0.01, 0.0, 1000)[:, 2]
    assert turns.std() == pytest.approx(10 * 0.01, rel=0.1)  # height: distance times the angle of the tilt
    shifts = pose_jitter(points, np.random.default_rng(0), 0.0, 0.1, 1000) - points
    assert np.allclose(shifts[:, :3].std(0), 0.1, rtol=0.1) and len(np.unique(shifts[:, 0])) > 900
