"""Suite occluded_nuscenes: the LiDAR occlusions of Occluded nuScenes (arXiv:2510.18552): points, regions, sectors.

Its camera occlusions (dirt, water blur, scratches, soiling) are published as images, without code or all their numbers;
its radar occlusions concern no sensor of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aqr_bench.corruptions.frame import LIDAR, Frame, keep_merged, merged_xyz
from aqr_bench.corruptions.lidar import noise
from aqr_bench.corruptions.registry import Apply, Corruption, RandomStream

Parameters = Mapping[str, Any]
# Directions in the car's frame (x ahead, y left), degrees counter-clockwise.
_DIRECTIONS_DEG = {"front": 0.0, "back": 180.0, "left": 90.0, "right": -90.0}
# Of nuScenes' LiDAR, whose y axis points ahead: for frames that do not have their own.
_LIDAR2EGO = np.array([[0, 1, 0, 0.94], [-1, 0, 0, 0], [0, 0, 1, 1.84], [0, 0, 0, 1]], np.float64)


def _point_drop(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    rng = stream(frame.token, LIDAR)
    return frame.with_points(lambda cloud: noise.drop_points(cloud.points, rng, p["dropped_share"]))


def _region(frame: Frame, _stream: RandomStream, p: Parameters) -> Frame:
    """Without the half space on one side of the car's origin."""
    angle = np.radians(p["direction_deg"])
    return keep_merged(frame, ~(_car_xy(frame) @ np.round([np.cos(angle), np.sin(angle)]) > 0))


def _sector(frame: Frame, _stream: RandomStream, p: Parameters) -> Frame:
    """Without a sector about the car's origin."""
    xy = _car_xy(frame)
    off = (np.degrees(np.arctan2(xy[:, 1], xy[:, 0])) - p["direction_deg"] + 180) % 360 - 180
    return keep_merged(frame, np.abs(off) > p["width_deg"] / 2)


def _car_xy(frame: Frame) -> np.ndarray:
    """float64 [sum P, 2]: all points in the car's frame at the keyframe, x ahead and y left (m)."""
    lidar2ego = _LIDAR2EGO if frame.lidar2ego is None else np.asarray(frame.lidar2ego, np.float64)
    return merged_xyz(frame) @ lidar2ego[:2, :3].T + lidar2ego[:2, 3]


# ---------------------------------------------------------------- entries

_SCRIPT = "Occluded nuScenes (arXiv:2510.18552): D2ICE-Automotive-Research/nuScenes-Camera-Radar-LiDAR-Occlusion"
_CLOSE = "acts on all points; the original's loader takes those near the sensor away before"


def _entry(
    name: str, severity: int, summary: str, apply: Apply, where: str, parameters: Parameters, *deviations: str
) -> Corruption:
    source = f"{_SCRIPT}:lidar_occlusion_script.py, {where}"
    numbers = {**parameters, "sweeps": "all"}
    return Corruption(
        name, "occluded_nuscenes", severity, "lidar", summary, numbers, source, apply, (*deviations, _CLOSE)
    )


CORRUPTIONS: tuple[Corruption, ...] = (
    *(
        _entry(
            "point_drop",
            severity,
            f"{share:.0%} of the points of every sweep dropped",
            _point_drop,
            "get_lidar_data",
            {"dropped_share": share},
            "drawn by sample; the original sets the same seed for each sample",
        )
        for severity, share in enumerate((0.6, 0.7, 0.8, 0.9), 1)
    ),
    *(
        _entry(
            f"region_{side}",
            0,
            f"no point on the {side} side of the car's origin",
            _region,
            "drop_spatial_region",
            {"direction_deg": angle},
        )
        for side, angle in _DIRECTIONS_DEG.items()
    ),
    *(
        _entry(
            f"sector_{side}",
            0,
            f"no point in 90 degrees around {side}",
            _sector,
            "drop_angle_based_region",
            {"direction_deg": angle, "width_deg": 90.0},
        )
        for side, angle in _DIRECTIONS_DEG.items()
    ),
)
