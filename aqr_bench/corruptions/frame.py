"""Input and output of a corruption: the raw sensor data of one keyframe, with its calibration and its past."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from aqr_bench.sensor_state import SensorState

LIDAR = "LIDAR_TOP"
X, Y, Z, INTENSITY, RING = range(5)  # columns of a nuScenes point on disk
MAX_RINGS = 128
MIN_POINTS_OF_A_SCAN = 1000  # fewer may all be of one beam
NUSCENES_WIDTH_PX = 1600  # of the images that published lengths in pixels are for


class FrameError(ValueError):
    """A frame that a corruption cannot work on: names the sample, the sensor and what is wrong or missing."""


@dataclass(frozen=True)
class Cloud:
    """One LiDAR sweep as recorded.

    Args:
        points: float32 [P, F], F >= 3: x, y, z (m, sensor frame of this sweep), intensity (0..255), ring.
        to_key: float64 [4, 4], this sweep's sensor frame to the keyframe's LiDAR frame.
        time: seconds (Unix).
        token: names the sweep; its file name serves.
    """

    points: np.ndarray
    to_key: np.ndarray = field(default_factory=lambda: np.eye(4))
    time: float = 0.0
    token: str = ""


@dataclass(frozen=True)
class View:
    """One camera image with its calibration.

    Args:
        camera: channel, as ``CAM_FRONT``.
        image: uint8 [h, w, 3], BGR, as recorded.
        cam2img: float64 [3, 3], pixels. ``lidar2cam``: float64 [4, 4], keyframe's LiDAR frame to camera frame (m).
        time: seconds (Unix).
    """

    camera: str
    image: np.ndarray
    cam2img: np.ndarray = field(default_factory=lambda: np.eye(3))
    lidar2cam: np.ndarray = field(default_factory=lambda: np.eye(4))
    time: float = 0.0

    @property
    def lidar2img(self) -> np.ndarray:
        """float64 [4, 4]: LiDAR frame (m) to (u d, v d, d, 1) in pixels."""
        projection = np.eye(4)
        projection[:3, :3] = self.cam2img
        return projection @ self.lidar2cam


class History(Protocol):
    """Earlier recordings of the scene that a keyframe belongs to. ``steps`` counts keyframes back; 0 is the frame."""

    def token(self, steps: int) -> str | None:
        """Sample token, None before the scene's first frame."""

    def clouds(self, steps: int) -> tuple[Cloud, ...]:
        """Key cloud and sweeps of an earlier keyframe; ``to_key`` leads to that earlier keyframe."""

    def view(self, steps: int, camera: str) -> View:
        """Image of an earlier keyframe, with that frame's calibration."""

    def view_sweep(self, steps: int, camera: str) -> View | None:
        """The image that many recordings of this camera back, sweeps included; None before the scene's first."""


@dataclass(frozen=True)
class Frame:
    """Raw data of one sample. Arrays are never written to in place: a corruption returns a new frame.

    Args:
        token: sample token.
        clouds: keyframe first, then its sweeps, nearest first; empty without LiDAR.
        views: the cameras there are, in the data set's order.
        boxes: float64 [N, 7], ground truth in the keyframe's LiDAR frame: gravity centre (m), l, w, h (m), yaw (rad,
            counter-clockwise from x); None where it is not known.
        history: earlier recordings, None where they are not known.
        state: which sensors are missing.
        lidar2ego: float64 [4, 4], LiDAR frame to the car's (x ahead, y left, z up; m); None where it is not known, and
            the LiDAR counts as mounted like nuScenes'.
    """

    token: str
    clouds: tuple[Cloud, ...] = ()
    views: tuple[View, ...] = ()
    boxes: np.ndarray | None = None
    history: History | None = None
    state: SensorState = SensorState.CLEAN
    lidar2ego: np.ndarray | None = None

    def with_images(self, change: Callable[[View], np.ndarray]) -> Frame:
        """Every view with the image that ``change`` makes of it."""
        return replace(self, views=tuple(replace(view, image=change(view)) for view in self.views))

    def with_points(self, change: Callable[[Cloud], np.ndarray]) -> Frame:
        """Every cloud with the points that ``change`` makes of it."""
        return replace(self, clouds=tuple(replace(cloud, points=change(cloud)) for cloud in self.clouds))


def native_scale(image: np.ndarray) -> float:
    """Width of an image over that of nuScenes' images.

    Lengths in pixels are multiplied by it, so that a blur covers the same angle in an image of another size. (The
    sources know no other size than nuScenes', where it is exactly 1.)
    """
    return image.shape[1] / NUSCENES_WIDTH_PX


# ---------------------------------------------------------------- all sweeps in the keyframe's coordinates


def merged_xyz(frame: Frame) -> np.ndarray:
    """float64 [sum P, 3]: the points of all clouds, in order, in the keyframe's LiDAR frame (m)."""
    parts = [to_key_xyz(cloud) for cloud in frame.clouds]
    return np.concatenate(parts) if parts else np.zeros((0, 3))


def to_key_xyz(cloud: Cloud) -> np.ndarray:
    """float64 [P, 3]: a cloud's points in the keyframe's LiDAR frame (m)."""
    return cloud.points[:, :3].astype(np.float64) @ cloud.to_key[:3, :3].T + cloud.to_key[:3, 3]


def split_like(frame: Frame, merged: np.ndarray) -> list[np.ndarray]:
    """An array over all points of a frame, cut into one array per cloud."""
    ends = np.cumsum([len(cloud.points) for cloud in frame.clouds])
    return np.split(merged, ends[:-1]) if len(ends) else []


def keep_merged(frame: Frame, keep: np.ndarray) -> Frame:
    """The frame with only the points where ``keep`` (bool [sum P]) is True."""
    parts = zip(frame.clouds, split_like(frame, keep), strict=True)
    return replace(frame, clouds=tuple(replace(cloud, points=cloud.points[mask]) for cloud, mask in parts))


def move_merged(frame: Frame, where: np.ndarray, xyz: np.ndarray) -> Frame:
    """The frame with some points moved.

    Args:
        where: bool [sum P], which points move; the others stay exactly as they are.
        xyz: float64 [sum where, 3], new positions in the keyframe's LiDAR frame (m).
    """
    moved = np.zeros((len(where), 3))
    moved[where] = xyz
    clouds = []
    masks, targets = split_like(frame, where), split_like(frame, moved)
    for cloud, mask, target in zip(frame.clouds, masks, targets, strict=True):
        if mask.any():
            back = np.linalg.inv(cloud.to_key)
            points = cloud.points.copy()
            points[mask, :3] = target[mask] @ back[:3, :3].T + back[:3, 3]
            cloud = replace(cloud, points=points)
        clouds.append(cloud)
    return replace(frame, clouds=tuple(clouds))


# ---------------------------------------------------------------- what a corruption may ask of a frame


def require(frame: Frame, needs: Sequence[str], corruption: str) -> None:
    """Raise FrameError unless the frame is sound and has what a corruption needs.

    Args:
        needs: of ``intensity``, ``ring``, ``boxes``, ``history``.
    """
    where = f"sample {frame.token}, corruption '{corruption}'"
    _check_sensors(frame, needs, where)
    if "ring" in needs:
        _check_beams(frame.clouds, f"{where}, LiDAR")
    if "boxes" in needs and frame.boxes is None:
        raise FrameError(f"{where}: needs ground-truth boxes, and this sample comes without annotations")
    if "boxes" in needs and not np.isfinite(frame.boxes).all():
        raise FrameError(f"{where}: a ground-truth box is not finite")
    if "history" in needs and frame.history is None:
        raise FrameError(
            f"{where}: needs earlier frames of the scene, and the info file does not have them (no 'scene_token'); "
            "make it with aqr-bench data"
        )


def require_result(frame: Frame, corruption: str) -> None:
    """Raise FrameError unless what a corruption has made of a frame is sound: it must not leave NaN to the detector."""
    _check_sensors(frame, (), f"sample {frame.token}, result of corruption '{corruption}'")


def _check_sensors(frame: Frame, needs: Sequence[str], where: str) -> None:
    for cloud in frame.clouds:
        _check_cloud(cloud, needs, f"{where}, LiDAR {cloud.token or 'cloud'}")
    for view in frame.views:
        _check_view(view, f"{where}, {view.camera}")


def _check_cloud(cloud: Cloud, needs: Sequence[str], where: str) -> None:
    points = cloud.points
    if points.ndim != 2 or points.shape[1] < 3:
        raise FrameError(f"{where}: points have shape {points.shape}, expected [P, 5]: x, y, z, intensity, ring")
    bad = int((~np.isfinite(points)).any(1).sum())
    if bad:
        raise FrameError(f"{where}: {bad} of {len(points)} points have a value that is not finite")
    if not np.isfinite(cloud.to_key).all():
        raise FrameError(f"{where}: its pose is not finite")
    if "intensity" in needs and points.shape[1] <= INTENSITY:
        raise FrameError(f"{where}: needs the intensity, column 3; the points have {points.shape[1]} columns")
    if "ring" in needs:
        if points.shape[1] <= RING:
            raise FrameError(f"{where}: needs the ring index, column 4; the points have {points.shape[1]} columns")
        ring = points[:, RING]
        if not ((ring >= 0) & (ring < MAX_RINGS) & (ring == np.floor(ring))).all():
            raise FrameError(
                f"{where}: needs the ring index in column 4, which has other values; corrupt the clouds before "
                "sweeps are merged, which puts the time lag in its place"
            )


def _check_beams(clouds: Sequence[Cloud], where: str) -> None:
    """Beams cannot be told apart by a column that is the same everywhere, as drivers without a ring index leave it."""
    points = sum(len(cloud.points) for cloud in clouds)
    rings = {float(cloud.points[:, RING].min()) for cloud in clouds if len(cloud.points)}
    rings |= {float(cloud.points[:, RING].max()) for cloud in clouds if len(cloud.points)}
    if points >= MIN_POINTS_OF_A_SCAN and len(rings) == 1:
        raise FrameError(
            f"{where}: needs the ring index, and column 4 is {rings.pop():g} for all {points} points; leave conditions "
            "that select beams out of the suite, or write the ring index into the files"
        )


def _check_view(view: View, where: str) -> None:
    image = view.image
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise FrameError(f"{where}: image is {image.dtype} {image.shape}, expected uint8 [h, w, 3]")
    if not (np.isfinite(view.cam2img).all() and np.isfinite(view.lidar2cam).all()):
        raise FrameError(f"{where}: its calibration is not finite")
