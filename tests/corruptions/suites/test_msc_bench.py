"""MSC-Bench's failures: counts are exact, the same cameras fail in every sample, pairs are graded as one."""

from __future__ import annotations

import numpy as np
import pytest
from corruption_frames import make_frame

from aqr_bench.corruptions import corrupt, get_corruption
from aqr_bench.corruptions.objects import box_points
from aqr_bench.report.robustness_scores import families
from aqr_bench.study.load import load_suite


def black(frame) -> frozenset[str]:
    return frozenset(view.camera for view in frame.views if not view.image.any())


@pytest.mark.parametrize(("severity", "cameras"), [(1, 2), (2, 4), (3, 5)])
def test_the_same_cameras_crash_in_every_sample(severity, cameras):
    crash = get_corruption("msc_bench.camera_crash", severity)
    failed = {black(corrupt(crash, make_frame(seed))) for seed in range(5)}
    assert len(failed) == 1 and len(failed.pop()) == cameras
    assert len({black(corrupt(crash, make_frame(), seed=seed)) for seed in range(8)}) > 1


def test_images_are_lost_with_the_probability():
    lost = get_corruption("msc_bench.frame_lost", 2)
    share = np.mean([len(black(corrupt(lost, make_frame(seed)))) / 6 for seed in range(60)])
    assert 0.57 < share < 0.76
    assert lost.dropped_sensors == {"camera"} and lost.removed_sensors == frozenset()


@pytest.mark.parametrize(("severity", "beams"), [(1, 24), (2, 16), (3, 8)])
def test_another_lidar_has_fewer_beams_and_half_the_points(severity, beams):
    frame = make_frame(points=4000)
    out = corrupt(get_corruption("msc_bench.cross_sensor", severity), frame)
    points, rings = out.clouds[0].points, np.unique(out.clouds[0].points[:, 4])
    left = frame.clouds[0].points[np.isin(frame.clouds[0].points[:, 4], rings)]
    assert len(rings) == beams and np.array_equal(points, left[::2]) and 1 not in rings


def test_crosstalk_moves_three_percent_of_all_points():
    frame = make_frame(points=1000, sweeps=1)
    out = corrupt(get_corruption("msc_bench.crosstalk", 1), frame)
    moved = [(a.points != b.points) for a, b in zip(out.clouds, frame.clouds, strict=True)]
    assert sum(m.any(1).sum() for m in moved) == 60 and not any(m[:, 3:].any() for m in moved)


def test_echoes_of_objects_are_missing():
    frame = make_frame(points=2000, boxes=4)
    before = box_points(frame).sizes
    for severity, share in ((1, 0.75), (3, 0.95)):
        after = box_points(corrupt(get_corruption("msc_bench.incomplete_echo", severity), frame)).sizes
        assert np.array_equal(before - after, np.floor(before * share + 1e-9).astype(int))


def test_pairs_are_graded_as_one_corruption():
    suite = load_suite("msc_bench")
    groups = families(suite)
    assert len(groups) == 16 and len(suite.conditions) == 43
    assert groups["frame_lost_incomplete_echo"] == {s: f"frame_lost_incomplete_echo_{s}" for s in (1, 2, 3)}
    pair = next(c for c in suite.conditions if c.name == "camera_crash_cross_sensor_2")
    assert [str(part) for part in pair.corruption.parts] == ["msc_bench.camera_crash@2", "msc_bench.cross_sensor@2"]
