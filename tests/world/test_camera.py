"""The cameras: what is drawn sits where the devkit projects its box, what is in front hides what is behind."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import view_points
from pyquaternion import Quaternion
from ray_reference import cast

from aqr_bench.world import ground
from aqr_bench.world.camera import render
from aqr_bench.world.geometry import arc
from aqr_bench.world.rig import CAMERAS
from aqr_bench.world.scene import Scene

MAGENTA = (1.0, 0.0, 1.0)
SIZE = (352, 192)


def shoot(scene: Scene, size=SIZE):
    pose = scene.ego_pose(0.0)
    return render(scene, scene.solids(0.0).relative_to(pose), pose, size, np.random.default_rng(0))


def magenta(picture: np.ndarray) -> np.ndarray:
    """Tell which pixels are more magenta than grey."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return np.minimum(red, blue) - green > 100


def hull(camera, box: Box, size) -> np.ndarray:
    """Return the mask of the convex hull of a box's corners, projected as nuscenes-devkit does it; ego frame in."""
    box = box.copy()
    box.translate(-np.array(camera.translation))
    box.rotate(Quaternion(camera.quaternion).inverse)
    assert (box.corners()[2] > 0.1).all()
    points = view_points(box.corners(), camera.intrinsic(size), normalize=True)[:2].T
    mask = np.zeros(size[::-1], np.uint8)
    corners = np.round((points - 0.5) * 16).astype(np.int32)  # OpenCV counts pixel centres, the devkit pixel edges
    cv2.fillConvexPoly(mask, cv2.convexHull(corners), 1, cv2.LINE_8, 4)
    return mask.astype(bool)


@pytest.mark.parametrize("index", range(6), ids=[camera.channel for camera in CAMERAS])
@pytest.mark.parametrize(("offset_deg", "distance", "yaw"), [(0, 9, 0.4), (14, 14, 1.9), (-17, 7, -2.6)])
def test_boxes_sit_on_what_is_drawn(stage, index, offset_deg, distance, yaw):
    camera = CAMERAS[index]
    bearing = np.deg2rad(camera.yaw_deg + offset_deg)
    position = np.array(camera.translation[:2]) + distance * np.array([np.cos(bearing), np.sin(bearing)])
    pictures, _, _ = shoot(stage({"at": position, "size": (3.0, 1.5, 2.0), "yaw": yaw, "colour": MAGENTA}))
    drawn = magenta(pictures[index])
    box = Box([*position, 1.0], [1.5, 3.0, 2.0], Quaternion(axis=[0, 0, 1], radians=yaw))
    expected = hull(camera, box, SIZE)
    overlap = (drawn & expected).sum() / (drawn | expected).sum()
    assert drawn.sum() > 300
    assert overlap > 0.92, overlap
    ring = cv2.dilate(expected.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert not (drawn & ~ring).any()


def test_the_pose_of_the_car_matters(stage):
    ego = np.array([212.0, 187.0, 2.1])
    position = ego[:2] + 10 * np.array([np.cos(2.1), np.sin(2.1)])
    pictures, _, _ = shoot(stage({"at": position, "size": (2, 2, 2), "yaw": 2.1, "colour": MAGENTA}, ego=ego))
    columns = np.nonzero(magenta(pictures[0]))[1]
    assert abs(columns.mean() - SIZE[0] / 2) < 1.5
    assert not any(magenta(picture).any() for picture in pictures[1:])


def test_the_nearer_hides_the_farther_whatever_the_order(stage):
    near = {"at": (8, 0), "size": (1, 2, 3), "colour": (0, 1, 0)}
    far = {"at": (14, 0), "size": (1, 2, 3), "colour": MAGENTA}
    alone = magenta(shoot(stage(far))[0][0])
    for order in ((near, far), (far, near)):
        pictures, seen, total = shoot(stage(*order))
        assert alone.sum() > 100 and not magenta(pictures[0]).any()
        assert seen[order.index(far)] == 0 < total[order.index(far)]
        assert seen[order.index(near)] == total[order.index(near)]


def test_a_half_hidden_object_is_seen_by_half(stage):
    near = {"at": (8, 1.5), "size": (1, 3, 4), "colour": (0, 1, 0)}  # covers the left half of the view ahead
    far = {"at": (14, 0), "size": (0.2, 4, 1.5), "colour": MAGENTA}
    _, seen, total = shoot(stage(near, far))
    assert 0.45 < seen[1] / total[1] < 0.55


@pytest.mark.parametrize("box", [
    {"at": (3.2, 2.0), "size": (9, 2.5, 3), "yaw": 0.05},  # alongside: passes the near plane of several cameras
    {"at": (-1.2, 0), "size": (2, 4, 3), "yaw": 0.3},
    {"at": (2.5, 0), "size": (1, 1, 1.4)},
    {"at": (30, 30), "size": (1, 1, 1), "yaw": 0.7},
    {"at": (-40, 3), "size": (0.4, 0.4, 1)},
])  # fmt: skip
def test_clipping_loses_no_pixel(stage, box):
    scene = stage(box)
    _, seen, total = shoot(scene)
    solids = scene.solids(0.0)
    expected = 0
    for camera in CAMERAS:
        matrix = camera.intrinsic(SIZE) * 2
        column, row = np.meshgrid(np.arange(2 * SIZE[0]) + 0.5, np.arange(2 * SIZE[1]) + 0.5)
        local = np.stack([(column - matrix[0, 2]) / matrix[0, 0], (row - matrix[1, 2]) / matrix[1, 1], 0 * row + 1])
        rays = np.einsum("ij,jhw->ihw", camera.axes, local).astype(np.float32)
        hit, *_ = cast(np.array(camera.translation), rays, solids.center[0], solids.yaw[0], solids.half[0])
        expected += np.isfinite(hit).sum()
    assert total[0] == expected > 0
    assert abs(int(seen[0]) - expected) <= 0.02 * expected  # a pixel at the foot may belong to the ground


def test_faces_are_painted_the_right_way_round(stage):
    texture = np.zeros((1, 6, 16, 16, 3), np.float32)
    texture[0, 0] = (1, 0, 0)  # front: red
    texture[0, 1] = (0, 0, 1)  # back: blue
    texture[0, 2, :, 8:] = (1, 1, 0)  # left side: yellow towards the front
    texture[0, 3, :8] = (0, 1, 0)  # right side: green in its upper half
    box = {"size": (4, 4, 3), "textures": texture}

    def mean(yaw, rows, columns):
        picture = shoot(stage({"at": (8, 0), "yaw": yaw, **box}))[0][0]
        return picture[rows, columns].reshape(-1, 3).mean(0).round()

    middle, left, right = slice(170, 182), slice(150, 165), slice(187, 202)
    above, below = slice(80, 90), slice(115, 125)
    np.testing.assert_allclose(mean(np.pi, above, middle), (255, 0, 0), atol=35)  # it faces us
    np.testing.assert_allclose(mean(0, above, middle), (0, 0, 255), atol=35)
    # Its left side is turned to us and its front points left; then its right side.
    assert mean(np.pi / 2, above, left)[0] > 200 and mean(np.pi / 2, above, right)[0] < 60
    assert mean(-np.pi / 2, above, middle)[1] > 200 and mean(-np.pi / 2, below, middle)[1] < 60


def test_the_ground_is_fixed_to_the_world(stage):
    scene = stage({"at": (12, -9), "size": (4, 2, 2)}, sun=(0.5, 0.3, 0.8))
    scene = Scene(0, 0, np.array([200.0, 200.0, 0.4]), 8.0, 0.1, scene.light, 0.0, ())
    poses = scene.ego_pose(np.array([0.0, 1.7]))
    world = poses[0, :2] + np.random.default_rng(0).uniform(-25, 25, (500, 2))
    levels = []
    for pose in poses:
        drawing = ground.draw(scene, pose, scene.solids(0.0).relative_to(pose))
        cos, sin = np.cos(pose[2]), np.sin(pose[2])
        local = (world - pose[:2]) @ np.array([[cos, -sin], [sin, cos]])
        cell = ((local + ground.REACH_M) / ground.CELL_M - 0.5).astype(np.float32)
        levels.append(cv2.remap(drawing, cell[None, :, 0].copy(), cell[None, :, 1].copy(), cv2.INTER_LINEAR)[0, :, 0])
    assert levels[0].std() > 5
    assert np.corrcoef(*levels)[0, 1] > 0.97


def test_it_is_dark_below_and_behind_a_box_in_the_sun(stage):
    box = {"at": (10, 5), "size": (4, 2, 3)}
    sun = np.array([-1.0, 0.0, 1.0]) / np.sqrt(2)  # behind us: the shadow falls ahead of the box, 3 m long
    empty, full = stage(sun=sun), stage(box, sun=sun)
    light = full.light.__class__(**{**vars(full.light), "shadow": 0.5})
    full = Scene(0, 0, full.ego_start, 0.0, 0.0, light, 0.0, full.actors)
    pose = full.ego_pose(0.0)
    ratio = (ground.draw(full, pose, full.solids(0)) / ground.draw(empty, pose, empty.solids(0)).astype(float))[..., 0]

    def at(x, y):
        column, row = (np.array([x, y]) + ground.REACH_M) / ground.CELL_M
        return ratio[int(row), int(column)]

    assert at(10, 5) < 0.6 and at(13.5, 5) < 0.6
    assert at(7, 5) == at(15.8, 5) == at(10, 7) == at(10, -5) == 1


def test_the_road_runs_along_the_path(stage):
    light = stage().light
    light = light.__class__(**{**vars(light), "ground": np.zeros(3), "asphalt": np.full(3, 0.5)})
    scene = Scene(0, 0, np.array([200.0, 200.0, 1.0]), 6.0, -0.2, light, 0.0, ())
    pose = scene.ego_pose(1.5)
    drawing = ground.draw(scene, pose, scene.solids(0).relative_to(pose))
    ahead = arc(np.zeros(3), 6.0, -0.2, np.linspace(-2, 4, 30))  # the car's own path, in its own frame
    cell = ((ahead[:, :2] + ground.REACH_M) / ground.CELL_M).astype(int)
    assert (drawing[cell[:, 1], cell[:, 0]].min(-1) > 50).all()
    aside = ahead[:, :2] + 9.5 * np.stack([np.sin(ahead[:, 2]), -np.cos(ahead[:, 2])], -1)
    cell = ((aside + ground.REACH_M) / ground.CELL_M).astype(int)
    assert (drawing[cell[:, 1], cell[:, 0]] == 0).all()


def test_by_night_the_headlights_and_lamps_light_what_is_near_them(stage):
    boxes = [{"at": position, "size": (2, 2, 2), "colour": MAGENTA} for position in ((14, 0), (1, 14), (-14, 0))]
    day = stage(*boxes)
    light = dataclasses.replace(day.light, night=True, gain=0.4)
    dark = dataclasses.replace(day, light=light)
    lit = dataclasses.replace(dark, lamps=np.array([[-13.0, 2.0]]))

    def brightness(scene, camera):
        picture = shoot(scene)[0][camera].astype(float)
        return picture[magenta(shoot(day)[0][camera])][:, 0].mean()

    front, back = 0, 3
    assert brightness(dark, front) > 1.5 * brightness(dark, back)  # the headlights point ahead
    assert brightness(lit, back) > 1.5 * brightness(dark, back)  # a street lamp beside it
    assert brightness(lit, front) == pytest.approx(brightness(dark, front), rel=0.05)
    assert 0.1 < brightness(dark, back) / brightness(day, back) < 0.3  # not lit, but there


def test_the_same_moment_gives_the_same_pictures(stage):
    """The pictures of one moment do not depend on what was compiled or drawn before."""
    scene = stage({"at": (9, 1), "size": (4, 2, 2), "yaw": 0.7, "colour": (0.2, 0.5, 0.9)})
    first, second = shoot(scene), shoot(scene)
    for before, after in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(before, after)
