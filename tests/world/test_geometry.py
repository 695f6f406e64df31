"""Motion, overlap and ray casting against direct calculations."""

from __future__ import annotations

import numpy as np
from ray_reference import cast

from aqr_bench.world.geometry import Solids, arc, corners, footprint, overlap, rotate


def test_arc_is_the_integral_of_its_velocity():
    start, speed, yaw_rate, time_s = np.array([3.0, -2.0, 0.7]), 6.0, -0.35, 2.4
    steps = 200_000
    yaw = 0.7 + yaw_rate * (np.arange(steps) + 0.5) * time_s / steps
    travelled = speed * time_s / steps * np.array([np.cos(yaw).sum(), np.sin(yaw).sum()])
    end = arc(start, speed, yaw_rate, np.array(time_s))
    np.testing.assert_allclose(end[:2], start[:2] + travelled, atol=1e-6)
    np.testing.assert_allclose(end[2], 0.7 + yaw_rate * time_s)
    np.testing.assert_allclose(arc(end, -speed, -yaw_rate, np.array(time_s)), start, atol=1e-12)


def test_overlap_agrees_with_sampled_points():
    rng = np.random.default_rng(0)
    count = 400
    pose_a = np.column_stack([rng.uniform(-3, 3, (count, 2)), rng.uniform(-4, 4, count)])
    pose_b = np.column_stack([rng.uniform(-3, 3, (count, 2)), rng.uniform(-4, 4, count)])
    size_a, size_b = rng.uniform(0.5, 5, (2, count, 2))
    overlapping = overlap(pose_a, size_a, pose_b, size_b)
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 120), np.linspace(-0.5, 0.5, 120)), -1).reshape(-1, 2)
    for index in range(count):
        points = pose_a[index, :2] + rotate(grid * size_a[index], pose_a[index, 2])
        local = np.abs(rotate(points - pose_b[index, :2], -pose_b[index, 2]))
        depth = (size_b[index] / 2 - local).min(1).max()  # how deep the deepest point of a lies in b
        if abs(depth) > 0.1:  # the grid is too coarse to tell closer calls
            assert overlapping[index] == (depth > 0)
    assert 0.2 < overlapping.mean() < 0.9


def test_cast_hits_where_the_face_is():
    center, half = np.array([10.0, 0.0, 1.0]), np.array([2.0, 1.0, 1.0])
    rays = np.array([[1, 0, 0], [1, 0, -0.05], [1, 0.2, 0], [-1, 0, 0], [0, 0, 1]], np.float32).T
    distance, axis, start, ray = cast(np.array([0.0, 0.0, 1.5]), rays, center, 0.0, half)
    np.testing.assert_allclose(distance[:2], 8, rtol=1e-5)
    assert not np.isfinite(distance[2:]).any()  # passes by, looks away, looks up
    np.testing.assert_allclose(start[:, None] + ray[:, :1] * distance[:1], [[-2], [0], [0.5]], atol=1e-5)
    assert (axis[:2] == 0).all()


def test_cast_from_inside_hits_nothing():
    rays = np.array([[1, 0, 0]], np.float32).T
    distance, *_ = cast(np.zeros(3), rays, np.zeros(3), 0.3, np.ones(3))
    assert np.isinf(distance).all()


def test_cast_turns_with_the_box():
    rays = np.array([[1, 0, 0]], np.float32).T
    distance, axis, *_ = cast(np.zeros(3), rays, np.array([10.0, 0, 0]), np.pi / 2, np.array([3.0, 1.0, 1.0]))
    np.testing.assert_allclose(distance, 9, rtol=1e-5)
    assert axis[0] == 1  # its right side


def test_corners_and_footprint_agree_with_the_frame_of_an_observer():
    solids = Solids(np.array([[4.0, 2.0, 1.0]]), np.array([0.3]), np.array([[2.0, 1.0, 1.0]]), np.array([0]))
    seen = solids.relative_to(np.array([1.0, 1.0, 0.8]))
    world = corners(solids.center, solids.yaw, solids.half)[0]
    local = corners(seen.center, seen.yaw, seen.half)[0]
    np.testing.assert_allclose(local[:, :2], rotate(world[:, :2] - [1, 1], -0.8), atol=1e-12)
    np.testing.assert_allclose(sorted(set(np.round(world[:, 2], 9))), [0, 2])
    flat = footprint(np.array([4.0, 2.0, 0.3]), np.array(4.0), np.array(2.0))
    np.testing.assert_allclose(flat, world[:4, :2])
