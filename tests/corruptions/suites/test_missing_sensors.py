"""Missing sensors: zero-filled is not absent, cameras go by name, counts are exact."""

from __future__ import annotations

import numpy as np
import pytest
from corruption_frames import make_frame

from aqr_bench.corruptions import FrameError, corrupt, get_composition, get_corruption
from aqr_bench.corruptions.suites.missing_sensors import CAMERAS, sensor_input


def dark(frame):
    return {view.camera for view in frame.views if not view.image.any()}


def test_no_lidar_in_both_forms():
    frame = make_frame(points=20, sweeps=2)
    zero = corrupt(get_corruption("no_lidar"), frame)
    assert len(zero.clouds) == 1 and zero.clouds[0].points.shape == (60, 5) and not zero.clouds[0].points.any()
    absent = corrupt(get_corruption("no_lidar_absent"), frame)
    assert [len(cloud.points) for cloud in absent.clouds] == [0]
    assert zero.state == absent.state == 1 and not dark(zero) and len(absent.views) == 6


def test_no_cameras_in_both_forms():
    frame = make_frame()
    zero, absent = (corrupt(get_corruption(name), frame) for name in ("no_cameras", "no_cameras_absent"))
    assert dark(zero) == set(CAMERAS) and absent.views == ()
    assert zero.state == absent.state == 2 and zero.clouds is frame.clouds


@pytest.mark.parametrize("camera", CAMERAS)
def test_single_cameras_go_by_name_whatever_their_order(camera):
    frame = make_frame(cameras=CAMERAS[::-1])
    out = corrupt(get_corruption(f"no_{camera.lower()}"), frame)
    assert dark(out) == {camera} and out.state == 0
    gone = corrupt(get_corruption(f"no_{camera.lower()}", options={"form": "absent"}), frame)
    assert [view.camera for view in gone.views] == [c for c in CAMERAS[::-1] if c != camera]


def test_front_and_back():
    assert dark(corrupt(get_corruption("no_front_cameras"), make_frame())) == set(CAMERAS[:3])
    assert dark(corrupt(get_corruption("no_back_cameras"), make_frame())) == set(CAMERAS[3:])


@pytest.mark.parametrize("count", range(1, 6))
def test_random_cameras_are_as_many_as_stated_and_differ_between_samples(count):
    sets = [dark(corrupt(get_corruption("random_cameras", count), make_frame(seed))) for seed in range(8)]
    assert {len(s) for s in sets} == {count} and len({frozenset(s) for s in sets}) > 1
    both = corrupt(get_corruption("no_lidar_random_cameras", count), make_frame())
    assert len(dark(both)) == count and not both.clouds[0].points.any() and both.state == 1


def test_more_cameras_than_there_are_is_an_error():
    frame = make_frame(cameras=CAMERAS[:2])
    with pytest.raises(FrameError, match="cannot drop 3 cameras, it has 2"):
        corrupt(get_corruption("random_cameras", 3), frame)
    # A camera that is not there cannot be lost; all that are there can.
    assert dark(corrupt(get_corruption("no_cam_back"), frame)) == set()
    assert corrupt(get_corruption("no_front_cameras"), make_frame(cameras=CAMERAS[:3])).state == 2


def test_key_frame_only():
    frame = make_frame(sweeps=3)
    out = corrupt(get_corruption("key_frame_only"), frame)
    assert len(out.clouds) == 1 and np.array_equal(out.clouds[0].points, frame.clouds[0].points)


BEAMS = {"corruption": "nuscenes_r.beam_reduction", "severity": 3}
FOG = {"corruption": "multicorrupt.fog", "severity": 3}


def test_inputs_are_the_same_where_a_removed_sensor_is_what_was_changed():
    beams, fog = (get_corruption(**{"name": c["corruption"], "severity": c["severity"]}) for c in (BEAMS, FOG))
    no_lidar, clean = get_corruption("no_lidar"), get_corruption("clean")
    lost = sensor_input(get_composition([BEAMS, {"corruption": "no_lidar"}]))
    assert lost == sensor_input(no_lidar) == sensor_input(clean, then_removed={"lidar": "zero"})
    assert lost == sensor_input(beams, then_removed={"lidar": "zero"}) == sensor_input(beams, unused=["lidar"])
    assert lost.sensors == {"lidar"} and lost.rest == ()
    assert lost == sensor_input(get_corruption("nuscenes_r.lidar_drop"))
    # Fog changes the images as well, an absent LiDAR is not a zero-filled one, and severities differ.
    different = [lost, sensor_input(fog, unused=["lidar"]), sensor_input(get_corruption("no_lidar_absent"))]
    different += [sensor_input(get_corruption("multicorrupt.fog", s), unused=["lidar"]) for s in (1, 2)]
    different += [sensor_input(c) for c in (clean, beams, fog, beams.with_options({"sweeps": "key"}))]
    assert len(set(different)) == len(different)


def test_inputs_without_cameras_keep_a_wrong_calibration():
    noise = get_corruption("nuscenes_r.extrinsic_noise", 2)
    assert sensor_input(noise, then_removed={"camera": "zero"}) != sensor_input(get_corruption("no_cameras"))


def test_what_removes_some_is_no_removed_sensor_and_the_order_matters():
    assert sensor_input(get_corruption("modality_drop", 3)).removed == frozenset()
    assert sensor_input(get_corruption("no_lidar_random_cameras", 2)).removed == frozenset()
    assert sensor_input(get_corruption("no_cam_front")).removed == frozenset()
    assert sensor_input(get_composition([{"corruption": "no_lidar"}, BEAMS])) is None
