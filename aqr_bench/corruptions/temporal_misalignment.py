"""Temporal misalignment: stuck and lagging sensors, which show earlier recordings of their scene."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from aqr_bench.corruptions.frame import Frame, FrameError, View, require
from aqr_bench.corruptions.registry import RandomStream

# ---------------------------------------------------------------- which frames are stuck


def stuck_steps(frame: Frame, stream: RandomStream, sensor: str, ratio: float) -> int:
    """How many keyframes back a sensor shows, where single frames are stuck: 1 with probability ``ratio``, else 0.

    The first frame of a scene is never stuck. As in nuScenes-R, a stuck frame shows the keyframe before it even where
    that one is stuck too (create_noise_data_nuscenes.py, drop_frame_gather, "discrete").

    Args:
        frame: with a history. ``sensor``: the sensor; sensors are stuck independently of each other.
    """
    if not _draw(stream, frame.token, sensor, ratio):
        return 0
    return 0 if frame.history.token(1) is None else 1


def stuck_run_steps(frame: Frame, stream: RandomStream, sensor: str, ratio: float, run_length: int) -> int:
    """How many keyframes back a sensor shows, where it is stuck for runs of frames: 0 where it is not stuck.

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
    """The frame with key cloud and sweeps of an earlier keyframe, as if they were recorded now.

    The system does not know that its LiDAR is stuck: points stay where they were relative to the car, so the poses of
    the sweeps relative to that earlier keyframe stay (the source does not swap the ego pose either). The lag that a
    merged sweep gets is sample timestamp minus ``Cloud.time``; the source swaps the sample's timestamp too, so that the
    lags are those of the earlier frame. Here the sample's timestamp stays, and all clouds are dated later by the same
    time instead, the key cloud to the time of the current one: the same lags.

    Args:
        steps: keyframes back; 0 changes nothing.
    Raises:
        FrameError: the earlier frame has no LiDAR, or points that are not finite.
    """
    if not steps or not frame.clouds:
        return frame
    earlier = frame.history.clouds(steps)
    if not earlier:
        raise FrameError(f"sample {frame.token}: the LiDAR is stuck, and the frame {steps} keyframes back has no cloud")
    require(Frame(frame.token, earlier), (), f"LiDAR stuck {steps} keyframes back")
    now, then = frame.clouds[0].time, earlier[0].time
    return replace(frame, clouds=tuple(replace(cloud, time=now - (then - cloud.time)) for cloud in earlier))


def stuck_image(frame: Frame, view: View, steps: int) -> View:
    """A view with its image of an earlier keyframe; calibration and time stay those of the current one.

    Args:
        steps: keyframes back; 0 changes nothing.
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


# ---------------------------------------------------------------- lagging by recordings, not by keyframes


def lag(frame: Frame, sweeps: int) -> Frame:
    """The frame with all sensors showing what they recorded ``sweeps`` sweeps ago; calibration and poses stay.

    The LiDAR shows that one sweep as the key cloud: its pose is not corrected, its time lag is 0, no other sweeps.
    Every camera shows its image of that many recordings back. Where the scene's past is shorter, its oldest recording
    serves; in the first frame of a scene nothing changes. Source: LiDAR_corruptions.py, temporal_alignment_noise, and
    TransFusion/mmdet3d/datasets/pipelines/test_time_aug.py (thu-ml/3D_Corruptions_AD): 2, 4, 6, 8, 10 sweeps.

    Raises:
        FrameError: as :func:`lagging_image`.
    """
    clouds = frame.clouds
    if len(clouds) > 1:
        old = clouds[min(sweeps, len(clouds) - 1)]
        clouds = (replace(old, to_key=np.eye(4), time=clouds[0].time),)
    views = tuple(lagging_image(frame, view, sweeps) for view in frame.views)
    return replace(frame, clouds=clouds, views=views)


def lagging_image(frame: Frame, view: View, recordings: int) -> View:
    """A view with its image that many recordings of the camera back, or the scene's first where there are fewer.

    Calibration and time stay; needs a history.

    Raises:
        FrameError: as :func:`stuck_image`.
    """
    for back in range(recordings, 0, -1):
        earlier = frame.history.view_sweep(back, view.camera)
        if earlier is not None:
            return _with_image(frame, view, earlier)
    return view
