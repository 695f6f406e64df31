"""Shared geometry against hand-worked angles, boxes and poses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from corruption_frames import make_cloud, make_frame, real_keyframe

from aqr_bench.compat import load_safe_pickle
from aqr_bench.corruptions import Frame, FrameError, corrupt, get_corruption
from aqr_bench.corruptions import geometry as g
from aqr_bench.corruptions.frame import RING, merged_xyz

BOX = np.array([[10.0, 0.0, 1.0, 4.0, 2.0, 2.0, np.pi / 2]])  # 4 m long, along y


def points_in_boxes(xyz, boxes):
    """bool [N, M]: which points are in which boxes."""
    inside = np.zeros((len(xyz), len(boxes)), bool)
    for number, indices in enumerate(g.indices_in_boxes(xyz, boxes)):
        inside[indices, number] = True
    return inside


@pytest.mark.filterwarnings("error")
def test_azimuth_is_measured_from_the_front_to_the_right():
    xyz = np.array([[0, 1, 5], [1, 0, 5], [-1, 0, 5], [0, -1, 5], [-0.0, -1, 0], [1, 1, 0], [-1, -1, 0], [0, 0, 0]])
    assert np.allclose(g.azimuth_deg(xyz), [0, 90, -90, 180, 180, 45, -135, 0])
    # A cloud times 0 has zeros of either sign.
    assert np.array_equal(g.azimuth_deg(np.array([[0.0, -0.0], [-0.0, -0.0], [-0.0, 0.0]])), [0, 0, 0])
    assert g.azimuth_deg(np.zeros((0, 3), np.float32)).shape == (0,)


def test_rings_of_other_lidars_are_the_same_share_of_their_height():
    every_second, fourth, eighth, one = (tuple(range(1, 32, step)) for step in (2, 4, 8, 32))
    assert one == (1,)
    for rings in (every_second, fourth, eighth, (22,), (3, 4, 5)):
        assert g.rings_of(rings, 31) == g.rings_of(rings, 16) == rings
    assert g.rings_of(every_second, 63) == tuple(range(1, 64, 2))
    assert g.rings_of(fourth, 127) == tuple(range(1, 128, 4)) and g.rings_of(eighth, 39) == (1, 9, 17, 25, 33)
    assert [g.rings_of((22,), highest) for highest in (15, 39, 63, 127)] == [(11,), (28,), (45,), (90,)]
    assert g.rings_of((3, 4, 5), 63) == (7, 9, 11)
    assert g.rings_of((1, 60), 63) == (1, 60), "given for this LiDAR"


def test_keep_rings_counts_the_beams_of_the_frame():
    clouds = (make_cloud(np.random.default_rng(0), 4000, rings=64), make_cloud(np.random.default_rng(1), 40, rings=8))
    out = g.keep_rings(Frame("t", clouds), range(1, 32, 2))
    assert len(out.clouds[0].points) == pytest.approx(2000, rel=0.05)
    assert set(out.clouds[0].points[:, RING]) == set(range(1, 64, 2))
    assert g.keep_rings(Frame("t"), [1]).clouds == ()


def test_a_ring_column_without_rings_is_refused_where_beams_are_selected():
    frame = Frame("t", (make_cloud(np.random.default_rng(0), 2000, rings=1),))
    with pytest.raises(FrameError, match=r"sample t, .*beam_reduction.*column 4 is 0 for all 2000 points"):
        corrupt(get_corruption("nuscenes_r.beam_reduction@1"), frame)
    assert corrupt(get_corruption("nuscenes_r.limited_fov@1"), frame).clouds


def mounted(frame: Frame, turn_deg: float) -> Frame:
    """The same frame recorded by a LiDAR that is turned to the left about its axis."""
    to_new = g.rigid_motion(g.yaw_rotation(-np.radians(turn_deg)), np.zeros(3))
    back, clouds = np.linalg.inv(to_new), []
    for cloud in frame.clouds:
        points = cloud.points.copy()
        points[:, :3] = points[:, :3].astype(np.float64) @ to_new[:3, :3].T
        clouds.append(replace(cloud, points=points, to_key=to_new @ cloud.to_key @ back))
    views = tuple(replace(view, lidar2cam=view.lidar2cam @ back) for view in frame.views)
    lidar2ego = np.eye(4)
    lidar2ego[:3, :3] = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]  # nuScenes: x right, y ahead
    return replace(frame, clouds=tuple(clouds), views=views, lidar2ego=lidar2ego @ back)


@pytest.mark.parametrize(
    "name",
    [
        "nuscenes_r.limited_fov@2",
        "nuscenes_c.fov_lost@3",
        "nuscenes_r.extrinsic_noise@1",
        "multicorrupt.spatialmisalignment@3",
        "multicorrupt.motionblur@2",
    ],
)
def test_directions_are_those_of_the_car_however_the_lidar_is_mounted(name):
    corruption, frame = get_corruption(name), make_frame(points=300, boxes=0)
    expected = corrupt(corruption, frame)
    same = corrupt(corruption, mounted(frame, 0.0))
    for turn_deg in (-90.0, 137.0):  # the first: x ahead
        out = corrupt(corruption, mounted(frame, turn_deg))
        for cloud, usual, again in zip(out.clouds, mounted(expected, turn_deg).clouds, same.clouds, strict=True):
            np.testing.assert_allclose(cloud.points, usual.points, atol=1e-4)
            assert len(again.points) == len(cloud.points)
        for view, usual in zip(out.views, mounted(expected, turn_deg).views, strict=True):
            np.testing.assert_allclose(view.lidar2cam, usual.lidar2cam, atol=1e-9)
    for cloud, usual in zip(same.clouds, expected.clouds, strict=True):
        assert np.array_equal(cloud.points, usual.points), "nuScenes' own mounting changes no bit"


def test_keep_rings_keeps_complete_points_of_those_rings_in_every_cloud():
    frame = make_frame(points=400)
    out = g.keep_rings(frame, (1, 9, 17, 25))
    for before, after in zip(frame.clouds, out.clouds, strict=True):
        wanted = before.points[np.isin(before.points[:, RING], [1, 9, 17, 25])]
        assert np.array_equal(after.points, wanted) and set(wanted[:, RING]) == {1, 9, 17, 25}
        assert after.to_key is before.to_key


def test_rings_of_the_real_frame_rise_from_the_lowest_beam(keyframe):
    # nuScenes' LiDAR: 32 beams from -30.67 to 10.67 degrees; ring 22 is the tenth from the top, about -1.3 degrees.
    frame = real_keyframe(keyframe)
    for ring, elevation in ((0, -30.67), (22, -1.33), (31, 10.67)):
        xyz = g.keep_rings(frame, [ring]).clouds[0].points[:, :3]
        flat = np.hypot(xyz[:, 0], xyz[:, 1])
        assert np.median(np.degrees(np.arctan2(xyz[:, 2], flat))[flat > 3]) == pytest.approx(elevation, abs=0.1)


def test_points_in_a_turned_box_faces_included():
    xyz = [
        [10, 0, 1],
        [10, 1.99, 1],
        [10, 2.01, 1],
        [10.99, 0, 1],
        [11.01, 0, 1],
        [10, 0, 2],
        [10, 0, 2.01],
        [10, 2, 1],
    ]
    inside = [True, True, False, True, False, True, False, True]
    # On a face a rounding of 1e-16 decides: the last point is on one, and a hair nearer to count.
    xyz = np.array(xyz) * [1, 1 - 1e-12, 1]
    assert points_in_boxes(xyz, BOX)[:, 0].tolist() == inside
    assert g.in_any_box(xyz.astype(np.float32), BOX)[:-1].tolist() == inside[:-1]


def test_points_in_boxes_agree_with_the_plain_computation():
    frame = make_frame(seed=4, points=3000, boxes=20)
    rng = np.random.default_rng(0)
    xyz = merged_xyz(frame)
    boxes = np.concatenate([frame.boxes, frame.boxes + rng.normal(0, 1, (20, 7)) * [1, 1, 1, 0, 0, 0, 1]])
    boxes[3:7, 3:5] *= 5  # large ones that overlap others
    local = np.stack([g.to_box(xyz, box) for box in boxes], 1)
    plain = (np.abs(local) <= boxes[:, 3:6] / 2).all(2)
    assert plain.sum() > 100 and (plain.sum(1) > 1).any()
    assert np.array_equal(points_in_boxes(xyz, boxes), plain)
    assert np.array_equal(g.in_any_box(xyz, boxes), plain.any(1))
    assert np.array_equal(g.box_of_points(xyz, boxes), np.where(plain.any(1), plain.argmax(1), -1))
    indices = g.indices_in_boxes(xyz, boxes)
    assert all(np.array_equal(a, np.flatnonzero(b)) for a, b in zip(indices, plain.T, strict=True))


def test_boxes_of_the_real_frame_hold_as_many_points_as_its_annotators_counted(keyframe):
    frame = real_keyframe(keyframe)
    info = load_safe_pickle(next(keyframe.glob("*.pkl")))["data_list"][0]
    counted = np.array([instance["num_lidar_pts"] for instance in info["instances"]])
    counts = np.array([len(i) for i in g.indices_in_boxes(frame.clouds[0].points[:, :3], frame.boxes)])
    # Points near a face are a matter of rounding; a wrong sign of the yaw loses half of them.
    assert (counts == counted).mean() > 0.8 and (np.abs(counts - counted) <= 2 + 0.1 * counted).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_no_point_is_lost_at_any_scale(scale):
    # Centres and points just inside the corners are in their own box, however large the raster's cells are.
    boxes = make_frame(boxes=30).boxes * ([scale] * 6 + [1])
    corners = g.corners(boxes)
    inner = boxes[:, None, :3] + (corners - boxes[:, None, :3]) * (1 - 1e-9)
    for number, xyz in enumerate(np.concatenate([inner, boxes[:, None, :3]], 1)):
        assert points_in_boxes(xyz, boxes)[:, number].all()


def test_no_points_no_boxes_and_a_broken_box():
    assert points_in_boxes(np.zeros((0, 3)), BOX).shape == (0, 1)
    assert points_in_boxes(np.ones((5, 3)), np.zeros((0, 7))).shape == (5, 0)
    assert g.box_of_points(np.ones((5, 3)), np.zeros((0, 7))).tolist() == [-1] * 5
    with pytest.raises(FrameError, match="box 1 of 2 has a value that is not finite"):
        g.in_any_box(np.ones((5, 3)), np.concatenate([BOX, BOX * np.nan]))


def test_corners_in_the_order_of_their_signs():
    # Length along y: the first four corners, negative along the length, are those at y = -2.
    corners = g.corners(BOX)[0]
    assert np.allclose(corners[0], [11, -2, 0]) and np.allclose(corners[1], [11, -2, 2])
    assert np.allclose(corners[2], [9, -2, 0]) and np.allclose(corners[7], [9, 2, 2])
    # In the box's axes its first corner is (-, -, -) half of length, width and height.
    assert np.allclose(g.to_box(corners, BOX[0])[[0, 7]], [[-2, -1, -1], [2, 1, 1]])
    assert g.corners(np.zeros((0, 7))).shape == (0, 8, 3)


def test_axis_rotation_turns_counter_clockwise():
    turned = g.axis_rotation(np.array([0.0, 0.0, 1.0]), 90)
    assert np.allclose(turned @ [1, 0, 0], [0, 1, 0])
    assert np.allclose(turned, g.yaw_rotation(np.pi / 2))
    axis = g.random_axis(np.random.default_rng(1))
    turned = g.axis_rotation(axis, 3.0)
    assert np.allclose(turned @ turned.T, np.eye(3)) and np.linalg.det(turned) == pytest.approx(1)
    assert np.allclose(turned @ axis, axis)
    assert np.degrees(np.arccos((np.trace(turned) - 1) / 2)) == pytest.approx(3.0)


def test_random_axes_are_uniform_on_the_sphere():
    rng = np.random.default_rng(0)
    axes = np.array([g.random_axis(rng) for _ in range(4000)])
    assert np.allclose(np.linalg.norm(axes, axis=1), 1)
    # Uniform: mean 0, second moments 1/3 each, fourth moments 1/5 (an axis from a normalised cube has others).
    assert np.abs(axes.mean(0)).max() < 0.04
    assert np.allclose((axes**2).mean(0), 1 / 3, atol=0.02) and np.allclose((axes**4).mean(0), 1 / 5, atol=0.02)


def test_a_disturbed_pose_turns_about_its_pivot_and_then_shifts():
    pose = np.eye(4)
    pose[:3, 3] = [2, 0, 0]
    quarter = g.axis_rotation(np.array([0.0, 0.0, 1.0]), 90)
    assert np.allclose(g.perturb_pose(pose, quarter, np.zeros(3))[:3, 3], [0, 2, 0])
    out = g.perturb_pose(pose, quarter, np.array([0, 0, 0.5]), pivot=(1, 0, 0))
    assert np.allclose(out[:3, 3], [1, 1, 0.5]) and np.allclose(out[:3, :3], quarter)
    assert np.array_equal(g.perturb_pose(pose, np.eye(3), np.zeros(3)), pose)
