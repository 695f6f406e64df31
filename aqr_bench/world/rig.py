"""The sensors and where they sit: a LiDAR and six cameras placed much as on nuScenes' cars.

Ego frame: origin on the ground under the rear axle, x forward, y left, z up. Camera frame: x right, y down, z forward.
LiDAR frame: x right, y forward, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIDAR_CHANNEL = "LIDAR_TOP"
LIDAR_TRANSLATION = (0.94, 0.0, 1.84)
LIDAR_YAW = -np.pi / 2
LIDAR_ELEVATION_DEG = (-30.67, 10.67)  # lowest and highest beam of a Velodyne HDL-32E
EGO_LENGTH_M, EGO_WIDTH_M, EGO_CENTER_M = 4.1, 1.8, 1.4  # the centre lies ahead of the rear axle


@dataclass(frozen=True)
class CameraMount:
    """A pinhole camera: position in the ego frame (m), heading and horizontal field of view (degrees)."""

    channel: str
    translation: tuple[float, float, float]
    yaw_deg: float
    fov_deg: float

    @property
    def quaternion(self) -> list[float]:
        """Rotation from the camera frame to the ego frame as (w, x, y, z)."""
        half = np.deg2rad(self.yaw_deg) / 2
        return multiply((np.cos(half), 0.0, 0.0, np.sin(half)), (0.5, -0.5, 0.5, -0.5))

    @property
    def axes(self) -> np.ndarray:
        """Rotation matrix (3, 3) from the camera frame to the ego frame; columns are right, down, forward."""
        cos, sin = np.cos(np.deg2rad(self.yaw_deg)), np.sin(np.deg2rad(self.yaw_deg))
        return np.array([[sin, 0, cos], [-cos, 0, sin], [0, -1, 0]])

    def intrinsic(self, image_size: tuple[int, int]) -> np.ndarray:
        """Camera matrix (3, 3) in pixels for images of ``image_size`` (width, height)."""
        width, height = image_size
        focal = width / 2 / np.tan(np.deg2rad(self.fov_deg) / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


CAMERAS = (
    CameraMount("CAM_FRONT", (1.70, 0.0, 1.51), 0, 70),
    CameraMount("CAM_FRONT_RIGHT", (1.55, -0.49, 1.50), -55, 70),
    CameraMount("CAM_FRONT_LEFT", (1.52, 0.49, 1.51), 55, 70),
    CameraMount("CAM_BACK", (0.03, 0.0, 1.58), 180, 110),
    CameraMount("CAM_BACK_LEFT", (1.04, 0.48, 1.59), 110, 70),
    CameraMount("CAM_BACK_RIGHT", (1.01, -0.48, 1.56), -110, 70),
)


def multiply(a: tuple[float, ...], b: tuple[float, ...]) -> list[float]:
    """Return the Hamilton product of two quaternions (w, x, y, z) as plain floats."""
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    product = (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )
    return [float(value) for value in product]


def yaw_quaternion(yaw: float) -> list[float]:
    """Return the rotation by ``yaw`` radians about z as (w, x, y, z)."""
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def beam_elevations(beams: int) -> np.ndarray:
    """Return the elevations (beams,) of the LiDAR's rings in radians, ring 0 lowest."""
    return np.deg2rad(np.linspace(*LIDAR_ELEVATION_DEG, beams))


def lidar_pose(ego_pose: np.ndarray) -> np.ndarray:
    """Return (x, y, yaw) of the LiDAR's position with the ego's heading, for an ego pose (x, y, yaw)."""
    x, y, yaw = ego_pose
    return np.array([x + LIDAR_TRANSLATION[0] * np.cos(yaw), y + LIDAR_TRANSLATION[0] * np.sin(yaw), yaw])
