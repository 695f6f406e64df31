"""The sensors sit where nuScenes has them, and their two ways of writing a rotation agree."""

from __future__ import annotations

import numpy as np
import pytest
from pyquaternion import Quaternion

from aqr_bench.world.rig import CAMERAS, LIDAR_TRANSLATION, LIDAR_YAW, beam_elevations, lidar_pose, yaw_quaternion

# Headings that nuScenes publishes for its cameras, degrees counter-clockwise from straight ahead.
HEADINGS = {
    "CAM_FRONT": 0,
    "CAM_FRONT_LEFT": 55,
    "CAM_FRONT_RIGHT": -55,
    "CAM_BACK_LEFT": 110,
    "CAM_BACK_RIGHT": -110,
    "CAM_BACK": 180,
}


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.channel)
def test_a_camera_looks_where_its_name_says(camera):
    heading = np.deg2rad(HEADINGS[camera.channel])
    rotation = Quaternion(camera.quaternion)
    np.testing.assert_allclose(rotation.rotation_matrix, camera.axes, atol=1e-12)
    np.testing.assert_allclose(rotation.rotate([0, 0, 1]), [np.cos(heading), np.sin(heading), 0], atol=1e-12)
    np.testing.assert_allclose(rotation.rotate([0, 1, 0]), [0, 0, -1], atol=1e-12)
    assert np.linalg.det(camera.axes) == pytest.approx(1)
    assert 1.4 < camera.translation[2] < 1.7
    assert np.sign(camera.translation[1]) == np.sign(round(np.sin(heading), 9))


def test_the_six_views_leave_no_gap():
    assert {camera.channel for camera in CAMERAS} == set(HEADINGS)
    bearings = np.linspace(-180, 180, 721)
    off = np.array([np.abs((bearings - c.yaw_deg + 180) % 360 - 180) <= c.fov_deg / 2 for c in CAMERAS])
    assert off.any(0).all()


@pytest.mark.parametrize("size", [(176, 96), (1600, 900)])
def test_an_intrinsic_spans_the_field_of_view(size):
    for camera in CAMERAS:
        matrix = camera.intrinsic(size)
        edge = np.linalg.inv(matrix) @ [size[0], size[1] / 2, 1]
        assert np.rad2deg(np.arctan2(edge[0], edge[2])) == pytest.approx(camera.fov_deg / 2)
        assert matrix[0, 0] == matrix[1, 1]


def test_the_lidar_points_right_and_forward():
    rotation = Quaternion(yaw_quaternion(LIDAR_YAW))
    np.testing.assert_allclose(rotation.rotate([0, 1, 0]), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotation.rotate([1, 0, 0]), [0, -1, 0], atol=1e-12)
    assert LIDAR_TRANSLATION[2] == pytest.approx(1.84)
    np.testing.assert_allclose(lidar_pose(np.array([5, 5, np.pi / 2])), [5, 5.94, np.pi / 2])
    np.testing.assert_allclose(np.rad2deg(beam_elevations(32))[[0, -1]], [-30.67, 10.67])
