"""Suite nuscenes_r against the numbers of its sources; the condition files nuscenes_r.yaml and mome.yaml."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from corruption_frames import MemoryHistory, make_frame, real_keyframe

from aqr_bench.corruptions import CORRUPTIONS, Cloud, corrupt, get_corruption
from aqr_bench.corruptions.frame import RING, merged_xyz
from aqr_bench.corruptions.geometry import azimuth_deg, in_any_box
from aqr_bench.study.load import load_suite

SUITE = "nuscenes_r"


def with_past(seed=0, **kwargs):
    frame = make_frame(seed, **kwargs)
    return replace(frame, history=MemoryHistory((frame.token, f"{frame.token}-1", f"{frame.token}-2")))


# ---------------------------------------------------------------- LiDAR


@pytest.mark.parametrize(
    ("severity", "rings"),
    [(1, range(1, 32, 2)), (2, [1, 5, 9, 13, 17, 21, 25, 29]), (3, [1, 9, 17, 25]), (4, [22])],
)
def test_beams_left(severity, rings, keyframe):
    out = corrupt(get_corruption(f"{SUITE}.beam_reduction", severity), make_frame(points=2000))
    for cloud in out.clouds:
        assert set(cloud.points[:, RING]) == set(rings)
    real = real_keyframe(keyframe)
    count = len(corrupt(get_corruption(f"{SUITE}.beam_reduction", severity), real).clouds[0].points)
    assert count == 1084 * len(rings)  # each of its 32 rings has 1084 points


@pytest.mark.parametrize(("severity", "half"), [(1, 90), (2, 60)])
def test_field_of_view_in_the_key_frames_coordinates(severity, half):
    frame = make_frame(points=2000, sweeps=3)
    out = corrupt(get_corruption(f"{SUITE}.limited_fov", severity), frame)
    assert np.abs(azimuth_deg(merged_xyz(out))).max() <= half
    assert len(merged_xyz(out)) == pytest.approx(8000 * half / 180, rel=0.05)
    # A point 10 degrees inside the limit in its sweep, 10 outside after a turn of the car by 20: gone. And back.
    turn = np.eye(4)
    c, s = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
    turn[:2, :2] = [[c, s], [-s, c]]  # to the right, as azimuth counts
    angles = np.deg2rad([half - 10.0, -half - 10.0])
    points = np.stack([10 * np.sin(angles), 10 * np.cos(angles), [0, 0], [7, 8], [3, 4]], 1).astype(np.float32)
    moved = replace(frame, clouds=(frame.clouds[0], Cloud(points, turn)))
    left = corrupt(get_corruption(f"{SUITE}.limited_fov", severity), moved).clouds[1].points
    assert np.array_equal(left, points[1:])


def test_field_of_view_keeps_the_zeros_of_a_dropped_lidar():
    zeros = corrupt(get_corruption(f"{SUITE}.lidar_drop"), make_frame())
    assert len(corrupt(get_corruption(f"{SUITE}.limited_fov@2"), zeros).clouds[0].points) == 600


def test_half_of_the_frames_lose_every_object():
    condition = get_corruption(f"{SUITE}.object_failure")
    hit = 0
    for seed in range(60):
        frame = make_frame(seed, points=300, boxes=10)
        out = corrupt(condition, frame)
        before, after = merged_xyz(frame), merged_xyz(out)
        inside = in_any_box(before, frame.boxes)
        assert inside.sum() >= 10
        assert np.array_equal(after, before) or np.array_equal(after, before[~inside])
        hit += len(after) < len(before)
    assert 18 <= hit <= 42  # 30 with sigma 3.9


def test_objects_of_sweeps_are_looked_for_in_the_key_frames_coordinates():
    frame = make_frame(points=50, sweeps=1, boxes=1)
    centre = frame.boxes[0, :3]
    back = np.linalg.inv(frame.clouds[1].to_key)
    # One point in the box once it is moved to the keyframe, one that only looks so in its own frame.
    xyz = np.stack([back[:3, :3] @ centre + back[:3, 3], centre])
    assert np.linalg.norm(xyz[0] - xyz[1]) > 0.5
    points = np.concatenate([xyz, np.full((2, 1), 9.0), np.full((2, 1), 5.0)], 1).astype(np.float32)
    small = np.array([[*centre, 0.4, 0.4, 0.4, 0.0]])
    frame = replace(frame, clouds=(frame.clouds[0], replace(frame.clouds[1], points=points)), boxes=small)
    out = corrupt(get_corruption(f"{SUITE}.object_failure", options={"probability": 1.0}), frame)
    assert np.array_equal(out.clouds[1].points, points[1:])


def test_object_failure_on_the_real_frame(keyframe):
    frame = real_keyframe(keyframe)
    out = corrupt(get_corruption(f"{SUITE}.object_failure", options={"probability": 1.0}), frame)
    gone = len(frame.clouds[0].points) - len(out.clouds[0].points)
    assert gone > 100 and not in_any_box(merged_xyz(out), frame.boxes).any()


# ---------------------------------------------------------------- stuck sensors


@pytest.mark.parametrize("sensor", ["lidar", "camera"])
@pytest.mark.parametrize("kind", ["stuck", "stuck_consecutive"])
def test_severities_are_tenths(sensor, kind):
    entries = CORRUPTIONS[f"{SUITE}.{sensor}_{kind}"]
    assert [entry.parameters["ratio"] for entry in entries] == pytest.approx(np.arange(1, 10) / 10)
    assert all(entry.modality == sensor and entry.needs == ("history",) for entry in entries)
    assert {entry.parameters.get("run_length") for entry in entries} == {4 if "consecutive" in kind else None}


@pytest.mark.parametrize(("name", "expected"), [("lidar_stuck", {1}), ("lidar_stuck_consecutive", {1, 2})])
def test_a_stuck_lidar_shows_earlier_key_frames(name, expected):
    condition = get_corruption(f"{SUITE}.{name}", 7)
    steps = []
    for seed in range(60):
        frame = with_past(seed, points=20)
        first = corrupt(condition, frame).clouds[0].points
        known = [frame.clouds[0], *(frame.history.clouds(k)[0] for k in (1, 2))]
        steps.append(next(k for k, cloud in enumerate(known) if np.array_equal(cloud.points, first)))
    assert set(steps) == {0} | expected
    assert 28 <= sum(step > 0 for step in steps) <= 56  # 42 with sigma 3.5


def test_cameras_get_stuck_independently():
    condition = get_corruption(f"{SUITE}.camera_stuck", 5)
    hit = []
    for seed in range(30):
        frame = with_past(seed)
        pairs = zip(frame.views, corrupt(condition, frame).views, strict=True)
        hit.append([not np.array_equal(before.image, after.image) for before, after in pairs])
    hit = np.array(hit)
    assert 0.38 < hit.mean() < 0.62 and len({tuple(row) for row in hit}) > 15
    assert (hit.mean(0) > 0.2).all() and (hit.mean(0) < 0.8).all()


def test_the_first_frame_of_a_scene_is_as_recorded():
    for name in ("lidar_stuck", "lidar_stuck_consecutive", "camera_stuck", "camera_stuck_consecutive"):
        for seed in range(10):
            frame = make_frame(seed, points=10)
            out = corrupt(get_corruption(f"{SUITE}.{name}", 9), frame)
            assert out.clouds is frame.clouds
            assert all(a is b for a, b in zip(out.views, frame.views, strict=True))


# ---------------------------------------------------------------- cameras


@pytest.mark.parametrize(("severity", "low", "high"), [(1, 0.5, 2.5), (2, 1.0, 5.0)])
def test_extrinsic_noise_turns_and_shifts_as_stated(severity, low, high):
    condition = get_corruption(f"{SUITE}.extrinsic_noise", severity)
    angles, shifts, axes = [], [], []
    for seed in range(60):
        frame = make_frame(seed, points=0)
        for before, after in zip(frame.views, corrupt(condition, frame).views, strict=True):
            # Camera to LiDAR, after times before back: the noise, about the ego origin.
            noise = np.linalg.inv(after.lidar2cam) @ before.lidar2cam
            rotation, pivot = noise[:3, :3], np.array([0.0, -0.94, -1.84])
            assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.array_equal(after.cam2img, before.cam2img)
            angles.append(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
            shifts.append(noise[:3, :3] @ pivot + noise[:3, 3] - pivot)
            axes.append(rotation[2, 1] - rotation[1, 2])
    angles, shifts = np.array(angles), np.abs(shifts)
    assert low - 1e-6 <= angles.min() < low + 0.2 and high - 0.2 < angles.max() <= high + 1e-6
    assert angles.mean() == pytest.approx((low + high) / 2, rel=0.1)
    assert shifts.min() >= 0.005 - 1e-9 and shifts.max() <= 0.010 + 1e-9 and shifts.std() > 0.001
    assert 0.4 < np.mean(np.array(axes) > 0) < 0.6


def test_one_noise_for_all_cameras_or_one_each():
    def noises(**options):
        frame = make_frame(points=0)
        views = corrupt(get_corruption(f"{SUITE}.extrinsic_noise@2", options=options), frame).views
        pairs = zip(frame.views, views, strict=True)
        return [np.linalg.inv(after.lidar2cam) @ before.lidar2cam for before, after in pairs]

    shared, single = noises(per_camera=False), noises()
    assert np.allclose(shared, shared[0])
    assert not any(np.allclose(a, b, atol=1e-4) for i, a in enumerate(single) for b in single[:i])


def test_dropped_sensors_set_the_sensor_state():
    assert corrupt(get_corruption(f"{SUITE}.lidar_drop"), make_frame()).state == 1
    dark = corrupt(get_corruption(f"{SUITE}.view_drop"), make_frame())
    assert dark.state == 2 and len(dark.views) == 6 and not any(view.image.any() for view in dark.views)


# ---------------------------------------------------------------- condition files


def test_mome_has_its_seven_columns():
    suite = load_suite("mome")
    listed = [(c.corruption.name, c.settings["severity"]) for c in suite.conditions]
    assert listed == [
        ("clean", None),
        ("beam_reduction", 3),
        ("lidar_drop", None),
        ("limited_fov", 2),
        ("object_failure", None),
        ("view_drop", None),
        ("lens_occlusion_procedural", None),
    ]


def test_the_suite_names_every_condition_of_the_registry():
    used = {c.corruption.key for c in load_suite(SUITE).conditions}
    assert load_suite(SUITE).conditions[0].name == "clean"
    assert used >= {condition.key for condition in CORRUPTIONS.every(SUITE)}
