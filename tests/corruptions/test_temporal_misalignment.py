"""Stuck and lagging sensors: how often, which earlier frame, what is kept of the current one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from corruption_frames import MemoryHistory, make_frame

from aqr_bench.corruptions import FrameError, RandomStream, View
from aqr_bench.corruptions import temporal_misalignment as temporal

STREAM = RandomStream(0, "test", 1)


@dataclass(frozen=True)
class Scene:
    """History that knows tokens alone: a scene of ``length`` frames, seen from frame ``at``."""

    name: str
    at: int

    def token(self, steps):
        return f"{self.name}-{self.at - steps}" if steps <= self.at else None


def frames(scene, length):
    return [
        replace(make_frame(points=0, size=(1, 1)), token=f"{scene}-{i}", history=Scene(scene, i)) for i in range(length)
    ]


def frames_seen(scene, length, ratio, run_length=None, sensor="LIDAR_TOP"):
    """Number of the frame that the sensor shows at each frame of a scene."""
    at = frames(scene, length)
    if run_length is None:
        return [i - temporal.stuck_steps(frame, STREAM, sensor, ratio) for i, frame in enumerate(at)]
    return [i - temporal.stuck_run_steps(frame, STREAM, sensor, ratio, run_length) for i, frame in enumerate(at)]


@pytest.mark.parametrize("run_length", [None, 4])
def test_the_share_of_stuck_frames_is_the_ratio_from_the_second_frame_on(run_length):
    # 300 scenes of 5 frames: right after the start of a scene as often as later.
    frames = np.array([frames_seen(f"s{n}", 5, 0.3, run_length) for n in range(300)])
    is_stuck = frames < np.arange(5)
    assert not is_stuck[:, 0].any()
    # Runs make a scene's frames alike: the mean of a column of 300 independent scenes has sigma 0.026.
    assert np.abs(is_stuck[:, 1:].mean(0) - 0.3).max() < 0.1


def test_a_single_stuck_frame_shows_the_one_before():
    assert set(np.arange(40) - frames_seen("a", 40, 0.5)) == {0, 1}
    assert frames_seen("a", 5, 1.0) == [0, 0, 1, 2, 3] and frames_seen("a", 5, 0.0) == [0, 1, 2, 3, 4]


def test_a_run_shows_the_last_frame_before_it_and_lasts_four_frames():
    frames = frames_seen("b", 400, 0.2, 4)
    is_stuck = np.array(frames) < np.arange(400)
    # Inside a run the same frame all the time, the one right before the run.
    for i in range(1, 400):
        assert frames[i] == (frames[i - 1] if is_stuck[i] else i)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_stuck, [False]]).astype(int)))
    lengths = (edges[1::2] - edges[::2])[1:-1]  # the first and the last may be cut by the scene
    assert lengths.min() == 4 and len(lengths) > 5
    assert frames_seen("b", 6, 1.0, 4) == [0] * 6 and frames_seen("b", 6, 0.0, 4) == [0, 1, 2, 3, 4, 5]


def test_runs_of_one_are_single_stuck_frames():
    # 1 - (1 - r)^(1 / 1) = r: the same draws decide, only the frame shown may be an earlier one.
    runs_of_one, single = np.array(frames_seen("c", 60, 0.4, 1)), np.array(frames_seen("c", 60, 0.4))
    assert np.array_equal(runs_of_one < np.arange(60), single < np.arange(60)) and (runs_of_one < single).any()


def test_sensors_get_stuck_independently():
    lidar, camera = (frames_seen("d", 200, 0.5, sensor=sensor) for sensor in ("LIDAR_TOP", "CAM_FRONT"))
    assert 60 < sum(a == b for a, b in zip(lidar, camera, strict=True)) < 140


# ---------------------------------------------------------------- what is shown


def with_past(**kwargs):
    frame = make_frame(**kwargs)
    return replace(frame, history=MemoryHistory((frame.token, "one", "two")))


def test_a_stuck_lidar_keeps_poses_and_lags_of_the_earlier_frame():
    frame = with_past()
    frame = replace(frame, clouds=tuple(replace(c, time=c.time + 7.5) for c in frame.clouds))
    out, earlier = temporal.stuck_lidar(frame, 2), frame.history.clouds(2)
    timestamp = frame.clouds[0].time  # of the sample, in the pipeline
    assert len(out.clouds) == len(earlier) == 3 and out.clouds[0].time == timestamp
    for now, then in zip(out.clouds, earlier, strict=True):
        assert np.array_equal(now.points, then.points) and np.array_equal(now.to_key, then.to_key)
        assert timestamp - now.time == pytest.approx(earlier[0].time - then.time, abs=1e-6)
    assert out.clouds[2].time < out.clouds[1].time < timestamp
    assert out.views is frame.views and out.boxes is frame.boxes
    assert temporal.stuck_lidar(frame, 0) is frame
    assert temporal.stuck_lidar(replace(frame, clouds=()), 1).clouds == ()


def test_a_stuck_camera_keeps_calibration_and_time():
    frame = with_past()
    view = replace(frame.views[2], time=1234.5, lidar2cam=np.eye(4))
    out = temporal.stuck_image(frame, view, 1)
    assert np.array_equal(out.image, frame.history.view(1, view.camera).image)
    assert not np.array_equal(out.image, view.image)
    assert out.camera == view.camera and out.time == 1234.5 and out.lidar2cam is view.lidar2cam
    assert temporal.stuck_image(frame, view, 0) is view


class Broken(MemoryHistory):
    def clouds(self, steps):
        clouds = super().clouds(steps)
        return () if steps == 2 else (replace(clouds[0], points=clouds[0].points * np.float32(np.nan)), *clouds[1:])


def test_a_past_that_cannot_be_shown_is_named():
    with pytest.raises(FrameError, match=r"token0, CAM_FRONT_LEFT: an earlier image is \(18, 32, 3\), this one \(9, 9"):
        small = with_past(size=(9, 9))
        temporal.stuck_image(small, small.views[0], 1)
    broken = replace(make_frame(), history=Broken(("token0", "one", "two")))
    with pytest.raises(FrameError, match=r"token0.*stuck 1 keyframes back.*not finite"):
        temporal.stuck_lidar(broken, 1)
    with pytest.raises(FrameError, match="token0: the LiDAR is stuck, and the frame 2 keyframes back has no cloud"):
        temporal.stuck_lidar(broken, 2)


def test_a_lagging_camera_goes_as_far_back_as_there_are_images():
    frame = with_past()
    view = frame.views[1]
    image = lambda steps: frame.history.view_sweep(steps, view.camera).image  # noqa: E731
    assert np.array_equal(temporal.lagging_image(frame, view, 1).image, image(1))
    assert np.array_equal(temporal.lagging_image(frame, view, 2).image, image(2))
    assert np.array_equal(temporal.lagging_image(frame, view, 8).image, image(2))
    assert temporal.lagging_image(make_frame(), view, 3) is view
    assert isinstance(view, View)


# ---------------------------------------------------------------- lagging by recordings


@dataclass(frozen=True)
class Recordings:
    """A past of so many recordings of every camera; their images say how far back they are."""

    past: int
    size: tuple[int, int] = (18, 32)

    def view_sweep(self, steps: int, camera: str) -> View | None:
        image = np.full((*self.size, 3), steps, np.uint8)
        return View(camera, image, np.zeros((3, 3))) if steps <= self.past else None


@pytest.mark.parametrize(("sweeps", "lidar", "image"), [(2, 2, 2), (4, 4, 4), (6, 5, 6), (10, 5, 7)])
def test_lag_is_counted_in_sweeps_and_ends_at_the_oldest(sweeps, lidar, image):
    frame = replace(make_frame(sweeps=5), history=Recordings(7))
    out = temporal.lag(frame, sweeps)
    assert len(out.clouds) == 1
    (cloud,) = out.clouds
    assert cloud.token == f"sweep{lidar}" and np.array_equal(cloud.points, frame.clouds[lidar].points)
    assert np.array_equal(cloud.to_key, np.eye(4)) and cloud.time == frame.clouds[0].time
    assert not np.array_equal(frame.clouds[lidar].to_key, np.eye(4))
    for before, after in zip(frame.views, out.views, strict=True):
        assert (after.image == image).all() and np.array_equal(after.lidar2img, before.lidar2img)


def test_the_first_frame_of_a_scene_is_clean():
    frame = replace(make_frame(sweeps=0), history=Recordings(0))
    out = temporal.lag(frame, 10)
    assert out.clouds is frame.clouds
    assert all(a.image is b.image for a, b in zip(out.views, frame.views, strict=True))


def test_an_old_image_of_another_size_is_an_error():
    frame = replace(make_frame(), history=Recordings(3, (9, 16)))
    with pytest.raises(FrameError, match=r"sample token0, CAM_FRONT_LEFT: an earlier image is \(9, 16, 3\)"):
        temporal.lag(frame, 2)
