"""Stuck and lagging sensors: which frames are stuck, and what the sensor shows then, taken from the scene's past."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from aqr_bench.corruptions.frame import Cloud, Frame, FrameError, View, require
from aqr_bench.corruptions.registry import RandomStream

# ---------------------------------------------------------------- which frames are stuck


def stuck_steps(frame: Frame, stream: RandomStream, sensor: str, ratio: float) -> int:
    """Key frames back of what a sensor shows, when each frame is stuck on its own: 1 at a share ``ratio``, else 0.

    The first frame of a scene is never stuck. As in nuScenes-R, a stuck frame shows the key frame before it even where
    that one is stuck too (create_noise_data_nuscenes.py, drop_frame_gather, "discrete").

    Args:
        frame: with a history. ``sensor``: whose draws; sensors are independent of each other.
    """
    if not _draw(stream, frame.token, sensor, ratio):
        return 0
    return 0 if frame.history.token(1) is None else 1


def stuck_run_steps(frame: Frame, stream: RandomStream, sensor: str, ratio: float, run_length: int) -> int:
    """Key frames back of what a sensor shows, when it gets stuck for runs of frames: 0 where it is not stuck.

    At every frame a run of ``run_length`` starts with probability p; runs may overlap. A frame is free with probability
    (1 - p)^run_length = 1 - ratio, hence p = 1 - (1 - ratio)^(1 / run_length) (create_noise_data_nuscenes.py,
    get_consecutive_stuck_sample). A stuck frame shows the last one that is not stuck, or the first of the scene, which
    always counts as recorded. Runs that began before the scene are drawn as well, so its first frames are stuck no
    less often than later ones.
    """
    chance = 1.0 - (1.0 - ratio) ** (1.0 / run_length)
    tokens = _tokens(frame)
    first = len(tokens) - 1

    @cache
    def starts(back: int) -> bool:
        # Frames before the scene's first have no token: they are counted from the first one.
        sensor_key = sensor if back <= first else f"{sensor}/before/{back - first}"
        return _draw(stream, tokens[min(back, first)], sensor_key, chance)

    steps = 0
    while steps < first and any(starts(steps + back) for back in range(run_length)):
        steps += 1
    return steps


def _tokens(frame: Frame) -> list[str]:
    """Sample tokens of the frame and all earlier ones of its scene, nearest first."""
    tokens = [frame.token]
    while (token := frame.history.token(len(tokens))) is not None:
        tokens.append(token)
    return tokens


def _draw(stream: RandomStream, token: str, sensor: str, probability: float) -> bool:
    return bool(stream(token, sensor).random() < probability)


# ---------------------------------------------------------------- what a stuck sensor shows


def stuck_lidar(frame: Frame, steps: int) -> Frame:
    """The frame with key cloud and sweeps of an earlier key frame, shown as if they were recorded now.

    The system does not know that its LiDAR is stuck: points stay where they were relative to the car, so the poses of
    the sweeps relative to that earlier key frame are kept (the source does not swap the ego pose either). The lag that
    a merged sweep gets is sample timestamp minus ``Cloud.time``; the source swaps the sample's timestamp too, so that
    the lags are those of the earlier frame. Here the sample's timestamp stays, and all clouds are dated later by the
    same time instead, the key cloud to the time of the current one: the same lags.

    Args:
        steps: key frames back; 0 changes nothing.
    Raises:
        FrameError: the earlier frame has no LiDAR, or points that are not finite.
    """
    if not steps or not frame.clouds:
        return frame
    earlier = frame.history.clouds(steps)
    if not earlier:
        raise FrameError(f"sample {frame.token}: the LiDAR is stuck, and {steps} key frames before there is no cloud")
    require(Frame(frame.token, earlier), (), f"LiDAR stuck {steps} key frames back")
    now, then = frame.clouds[0].time, earlier[0].time
    return replace(frame, clouds=tuple(replace(cloud, time=now - (then - cloud.time)) for cloud in earlier))


def stuck_image(frame: Frame, view: View, steps: int) -> View:
    """A view with its image of an earlier key frame; calibration and time stay those of the current one.

    Args:
        steps: key frames back; 0 changes nothing.
    Raises:
        FrameError: the earlier image has another size, so that the calibration would not fit.
    """
    return _with_image(frame, view, frame.history.view(steps, view.camera)) if steps else view


def _with_image(frame: Frame, view: View, earlier: View) -> View:
    if earlier.image.shape != view.image.shape:
        raise FrameError(
            f"sample {frame.token}, {view.camera}: an earlier image is {earlier.image.shape}, this one "
            f"{view.image.shape}; another size does not fit the calibration"
        )
    return replace(view, image=earlier.image)


# ---------------------------------------------------------------- lagging by recordings, not by key frames


def lagging_lidar(frame: Frame, recordings: int) -> Frame:
    """The frame as a LiDAR sees it that is so many of its own recordings late; needs no history.

    The sweep that far back takes the place of the key cloud, older sweeps follow with their poses and lags relative to
    it. Where the frame has fewer sweeps, the oldest one is shown.
    """
    late = frame.clouds[min(recordings, len(frame.clouds) - 1) :] if frame.clouds else ()
    if not late or late[0] is frame.clouds[0]:
        return frame
    back = np.linalg.inv(late[0].to_key)
    now, then = frame.clouds[0].time, late[0].time

    def shown(number: int, cloud: Cloud) -> Cloud:
        # Exactly the identity for the one that stands for the key cloud.
        pose = back @ cloud.to_key if number else np.eye(4)
        return replace(cloud, to_key=pose, time=now - (then - cloud.time))

    return replace(frame, clouds=tuple(shown(number, cloud) for number, cloud in enumerate(late)))


def lagging_image(frame: Frame, view: View, recordings: int) -> View:
    """A view with its image that many recordings of the camera back, or the scene's first where there are fewer.

    Calibration and time stay; needs a history. Raises FrameError as :func:`stuck_image`.
    """
    for back in range(recordings, 0, -1):
        earlier = frame.history.view_sweep(back, view.camera)
        if earlier is not None:
            return _with_image(frame, view, earlier)
    return view
