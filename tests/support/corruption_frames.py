"""Frames for corruption tests: small made-up ones, one of real size, the real keyframe; and a history in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aqr_bench.corruptions import Cloud, Frame, View
from aqr_bench.corruptions.suites.missing_sensors import CAMERAS

# Directions of the cameras in the LiDAR frame (x right, y forward): yaw of the optical axis.
YAWS = dict(zip(CAMERAS, np.deg2rad([145, 90, 35, 200, 270, 340]), strict=True))


def calibration(camera: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(cam2img [3, 3], lidar2cam [4, 4]) of a camera 1.5 m from the LiDAR, 65 degrees wide."""
    yaw = YAWS[camera]
    forward, down = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([0.0, 0.0, -1.0])
    rotation = np.stack([np.cross(down, forward), down, forward])
    lidar2cam = np.eye(4)
    lidar2cam[:3, :3], lidar2cam[:3, 3] = rotation, -rotation @ (1.5 * forward)
    focal = width / 2 / np.tan(np.deg2rad(65) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]), lidar2cam


def make_cloud(rng, count: int, turn: float = 0.0, token: str = "key", rings: int = 32) -> Cloud:
    """Points on a cylinder-like scene, 32 rings from -30 to +10 degrees; ``turn`` (rad) sets the pose of a sweep."""
    ring = rng.integers(0, rings, count)
    azimuth, distance = rng.uniform(-np.pi, np.pi, count), rng.uniform(2, 60, count)
    elevation = np.deg2rad(-30 + 40 * ring / 31)
    xyz = np.stack([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], 1)
    points = np.concatenate([xyz * distance[:, None], rng.integers(0, 256, (count, 1)), ring[:, None]], 1)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pose[:3, 3] = [0.1, -8 * turn, 0.0]
    return Cloud(points.astype(np.float32), pose if turn else np.eye(4), 1000.0 - turn, token)


def make_frame(
    seed: int = 0,
    points: int = 200,
    sweeps: int = 2,
    size: tuple[int, int] = (18, 32),
    cameras: tuple[str, ...] = CAMERAS,
    boxes: int = 4,
    token: str | None = None,
) -> Frame:
    """A frame of random content; boxes stand around points of the key cloud, so they are not empty."""
    rng = np.random.default_rng(seed)
    clouds = tuple(make_cloud(rng, points, 0.02 * k, f"sweep{k}" if k else "key") for k in range(sweeps + 1))
    views = tuple(
        View(c, rng.integers(1, 255, (*size, 3), dtype=np.uint8), *calibration(c, *size), 1000.0) for c in cameras
    )
    centres = clouds[0].points[:boxes, :3].astype(np.float64)
    shapes = rng.uniform([3.5, 1.6, 1.4], [5.0, 2.0, 2.0], (len(centres), 3))
    truth = np.concatenate([centres, shapes, rng.uniform(-np.pi, np.pi, (len(centres), 1))], 1)
    token = f"token{seed}" if token is None else token
    return Frame(token, clouds, views, truth, MemoryHistory((token,)))


def real_size_frame(sweeps: int = 10) -> Frame:
    """35k points a cloud and six 900 x 1600 images with structure, as nuScenes has them."""
    frame = make_frame(points=35_000, sweeps=sweeps, size=(90, 160), boxes=30)
    import cv2

    return frame.with_images(lambda view: cv2.resize(view.image, (1600, 900), interpolation=cv2.INTER_CUBIC))


@dataclass(frozen=True)
class MemoryHistory:
    """History of made-up frames: ``tokens`` names this frame, then earlier ones, nearest first."""

    tokens: tuple[str, ...]

    def _frame(self, steps: int) -> Frame:
        return make_frame(seed=100 + steps, token=self.tokens[steps])

    def token(self, steps: int) -> str | None:
        return self.tokens[steps] if steps < len(self.tokens) else None

    def clouds(self, steps: int) -> tuple[Cloud, ...]:
        return self._frame(steps).clouds

    def view(self, steps: int, camera: str) -> View:
        return next(view for view in self._frame(steps).views if view.camera == camera)

    def view_sweep(self, steps: int, camera: str) -> View | None:
        return self.view(steps, camera) if steps < len(self.tokens) else None


def real_keyframe(folder: Path) -> Frame:
    """The real nuScenes keyframe of the shared folder: one cloud, six views, boxes; no sweeps, no history."""
    import cv2

    from aqr_bench.compat import load_safe_pickle

    info = load_safe_pickle(next(folder.glob("*.pkl")))["data_list"][0]
    points = np.fromfile(folder / info["lidar_points"]["lidar_path"], np.float32).reshape(-1, 5)
    views = tuple(
        View(
            camera,
            cv2.imread(str(folder / view["img_path"])),
            np.asarray(view["cam2img"], np.float64)[:3, :3],
            np.asarray(view["lidar2cam"], np.float64),
        )
        for camera, view in info["images"].items()
    )
    boxes = np.array([i["bbox_3d"][:7] for i in info["instances"]], np.float64)
    return Frame(info["token"], (Cloud(points, token="key"),), views, boxes, MemoryHistory((info["token"],)))
