"""Suite missing_sensors: the LiDAR, some cameras or both are gone; zero-filled as published, or truly absent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aqr_bench.corruptions.frame import Frame, FrameError
from aqr_bench.corruptions.registry import Corruption, RandomStream
from aqr_bench.sensor_state import SensorState

FRONT = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT")
BACK = ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
CAMERAS = FRONT + BACK
ZERO, ABSENT = "zero", "absent"
WITHOUT_SENSOR = {"lidar": "no_lidar", "camera": "no_cameras"}  # corruptions that remove it from every sample
_NOTHING: Mapping[str, str] = {}
_CMT = "CMT (ICCV 2023), masked-modal test: junjie18/CMT, ModalMask3D in transform_3d.py"
_HERE = "defined here"


def drop_lidar(frame: Frame, form: str) -> Frame:
    """The frame without its LiDAR.

    Args:
        form: ``zero``: as many points as before, all columns 0, after the sweeps are merged (the published protocol,
            which leaves one occupied voxel at the origin); ``absent``: no point at all.
    """
    columns = frame.clouds[0].points.shape[1] if frame.clouds else 5
    count = sum(len(cloud.points) for cloud in frame.clouds) if form == ZERO else 0
    clouds = ()
    if frame.clouds:
        # One cloud in the keyframe's coordinates: a sweep's zeros would be moved away from the origin.
        clouds = (replace(frame.clouds[0], points=np.zeros((count, columns), np.float32), to_key=np.eye(4)),)
    return replace(frame, clouds=clouds, state=SensorState.NO_LIDAR)


def drop_cameras(frame: Frame, cameras: Collection[str], form: str) -> Frame:
    """The frame without some cameras, by name.

    Args:
        form: ``zero``: the image is black before normalisation, so the network sees -mean / std, as published;
            ``absent``: the view with its calibration is gone.
    """
    views = []
    for view in frame.views:
        if view.camera not in cameras:
            views.append(view)
        elif form == ZERO:
            views.append(replace(view, image=np.zeros_like(view.image)))
    gone = all(view.camera in cameras for view in frame.views)
    return replace(frame, views=tuple(views), state=SensorState.NO_CAMERAS if gone and frame.views else frame.state)


def pick_cameras(frame: Frame, stream: RandomStream, count: int) -> list[str]:
    """``count`` different cameras of the frame, all equally likely; FrameError if it has fewer."""
    names = sorted(view.camera for view in frame.views)
    if count > len(names):
        raise FrameError(f"sample {frame.token}: cannot drop {count} cameras, it has {len(names)}")
    return [names[i] for i in stream(frame.token, "cameras").choice(len(names), count, replace=False)]


@dataclass(frozen=True)
class SensorInput:
    """What a model is given under a corruption: other corruptions that equal ones make equal inputs of.

    ``rest``: what changes a sensor that is there, in its order. ``removed``: the sensors (``lidar``, ``camera``) that
    are removed from every sample, each with its form.
    """

    rest: tuple[str, ...]
    removed: frozenset[tuple[str, str]]

    @property
    def sensors(self) -> frozenset[str]:
        """The sensors that are removed."""
        return frozenset(sensor for sensor, _ in self.removed)


def sensor_input(
    corruption: Corruption, unused: Collection[str] = (), then_removed: Mapping[str, str] = _NOTHING
) -> SensorInput | None:
    """The input under a corruption, so that what it does to a sensor that is then removed does not count.

    A wrong calibration stays: it moves where images are looked at, even black ones.

    Args:
        unused: sensors that the model is never given.
        then_removed: sensors that are removed behind the corruption, each with its form.
    Returns:
        None where the order matters: a removed sensor is changed, or removed again, after that.
    """
    rest: list[Corruption] = []
    removed = {sensor: ZERO for sensor in unused}
    for part in corruption.parts or (corruption,):
        changed = part.changed_sensors
        if changed & removed.keys() - set(unused):
            return None
        if changed and changed == part.removed_sensors:
            removed |= {sensor: part.parameters["form"] for sensor in changed}
        elif part.modality != "none":
            rest.append(part)
    removed |= then_removed
    rest = [part for part in rest if not _lost(part, removed)]
    names = tuple(f"{part} {dict(part.parameters)!r}" for part in rest)
    return SensorInput(names, frozenset(removed.items()))


def _lost(part: Corruption, removed: Mapping[str, str]) -> bool:
    """Whether all that a corruption changes is removed."""
    return bool(part.changed_sensors) and part.changed_sensors <= removed.keys()


def _clean(frame: Frame, _stream: RandomStream, _parameters: Mapping[str, Any]) -> Frame:
    return frame


def no_lidar(frame: Frame, _stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    return drop_lidar(frame, parameters["form"])


def _drop_cameras(frame: Frame, _stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    return drop_cameras(frame, parameters["cameras"], parameters["form"])


def no_cameras(frame: Frame, _stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    return drop_cameras(frame, [view.camera for view in frame.views], parameters["form"])


def _random_cameras(frame: Frame, stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    return drop_cameras(frame, pick_cameras(frame, stream, parameters["cameras"]), parameters["form"])


def _lidar_and_random_cameras(frame: Frame, stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    return drop_lidar(_random_cameras(frame, stream, parameters), parameters["form"])


def _modality_drop(frame: Frame, stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    probability, form = parameters["drop_probability"], parameters["form"]
    lidar, cameras = (bool(stream(frame.token, s).random() < probability) for s in ("lidar", "cameras"))
    if lidar:
        frame = drop_lidar(frame, form)
    return drop_cameras(frame, [view.camera for view in frame.views], form) if cameras else frame


def _key_frame_only(frame: Frame, _stream: RandomStream, _parameters: Mapping[str, Any]) -> Frame:
    return replace(frame, clouds=frame.clouds[:1])


def _entry(
    name: str, modality: str, summary: str, apply: Any, source: str, severity: int = 0, **parameters
) -> Corruption:
    return Corruption(name, "missing_sensors", severity, modality, summary, parameters, source, apply)


CORRUPTIONS: tuple[Corruption, ...] = (
    _entry("clean", "none", "all sensors as recorded", _clean, "-"),
    _entry("no_lidar", "lidar", "every LiDAR point zero-filled", no_lidar, _CMT, form=ZERO),
    _entry("no_lidar_absent", "lidar", "no LiDAR point at all", no_lidar, _HERE, form=ABSENT),
    _entry("no_cameras", "camera", "every image zero-filled", no_cameras, _CMT, form=ZERO),
    _entry("no_cameras_absent", "camera", "no image at all", no_cameras, _HERE, form=ABSENT),
    *(
        _entry(f"no_{name.lower()}", "camera", f"{name} zero-filled", _drop_cameras, _HERE, cameras=(name,), form=ZERO)
        for name in CAMERAS
    ),
    _entry("no_front_cameras", "camera", "the three front images zero", _drop_cameras, _HERE, cameras=FRONT, form=ZERO),
    _entry("no_back_cameras", "camera", "the three back images zero", _drop_cameras, _HERE, cameras=BACK, form=ZERO),
    *(
        _entry(
            "random_cameras",
            "camera",
            f"{k} random image{'s' * (k > 1)} zero",
            _random_cameras,
            _HERE,
            k,
            cameras=k,
            form=ZERO,
        )
        for k in range(1, 6)
    ),
    *(
        _entry(
            "no_lidar_random_cameras",
            "both",
            f"LiDAR and {k} random image{'s' * (k > 1)} zero",
            _lidar_and_random_cameras,
            _HERE,
            k,
            cameras=k,
            form=ZERO,
        )
        for k in range(1, 6)
    ),
    *(
        _entry(
            "modality_drop",
            "both",
            f"in {10 * k} % of the frames the LiDAR zero-filled, and independently in {10 * k} % all images",
            _modality_drop,
            _HERE,
            k,
            drop_probability=k / 10,
            form=ZERO,
        )
        for k in range(1, 10)
    ),
    _entry("key_frame_only", "lidar", "no LiDAR sweeps, only the keyframe", _key_frame_only, _HERE),
)
