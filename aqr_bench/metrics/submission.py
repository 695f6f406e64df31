"""Detections as a nuScenes submission: boxes from the LiDAR frame to the global one, attributes from speeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from aqr_bench.whole import write_text

MODALITY = {"use_camera": True, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
MOVING_M_S = 0.2  # mmdet3d's threshold: faster things get the attribute of a moving one
VEHICLES = frozenset(["car", "truck", "construction_vehicle", "bus", "trailer"])
CYCLES = frozenset(["bicycle", "motorcycle"])
# What mmdet3d gives a class whatever its speed says, but for the cases in :func:`attribute`.
DEFAULT_ATTRIBUTES = {
    **dict.fromkeys(("car", "truck", "trailer", "construction_vehicle"), "vehicle.parked"),
    **dict.fromkeys(("motorcycle", "bicycle"), "cycle.without_rider"),
    **dict.fromkeys(("barrier", "traffic_cone"), ""),
    "bus": "vehicle.moving",
    "pedestrian": "pedestrian.moving",
}


def attribute(name: str, speed_m_s: float) -> str:
    """Attribute of a detection by its class and speed, as mmdet3d 1.4's NuScenesMetric chooses it."""
    if speed_m_s > MOVING_M_S:
        if name in VEHICLES:
            return "vehicle.moving"
        return "cycle.with_rider" if name in CYCLES else DEFAULT_ATTRIBUTES[name]
    if name == "pedestrian":
        return "pedestrian.standing"
    return "vehicle.stopped" if name == "bus" else DEFAULT_ATTRIBUTES[name]


def sample_detections(
    token: str,
    boxes_n9: np.ndarray,
    scores_n: np.ndarray,
    labels_n: np.ndarray,
    names: Sequence[str],
    lidar2ego: np.ndarray,
    ego2global: np.ndarray,
    class_range: Mapping[str, float],
) -> list[dict[str, Any]]:
    """The submission's entries of one sample.

    Args:
        boxes_n9: gravity centre, l, w, h, yaw, vx, vy; LiDAR frame, metres.
        names: class names by label.
        lidar2ego, ego2global: 4 x 4.
        class_range: metres around the ego vehicle in which detections of a class count; those beyond are left out.
    """
    boxes = np.asarray(boxes_n9, np.float64)
    lidar2ego, ego2global = np.asarray(lidar2ego, np.float64), np.asarray(ego2global, np.float64)
    ego = boxes[:, :3] @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]
    limit = np.array([class_range[name] for name in names])[labels_n] if len(boxes) else np.zeros(0)
    kept = np.nonzero(np.hypot(ego[:, 0], ego[:, 1]) <= limit)[0]
    if not len(kept):
        return []
    turn = ego2global[:3, :3] @ lidar2ego[:3, :3]
    centre = ego[kept] @ ego2global[:3, :3].T + ego2global[:3, 3]
    velocity = np.concatenate([boxes[kept, 7:9], np.zeros((len(kept), 1))], 1) @ turn.T
    rotation = (Rotation.from_matrix(turn) * Rotation.from_euler("z", boxes[kept, 6:7])).as_quat()[:, [3, 0, 1, 2]]
    speed = np.hypot(velocity[:, 0], velocity[:, 1])
    entries = []
    for row, index in enumerate(kept):
        name = names[labels_n[index]]
        length, width, height = boxes[index, 3:6].tolist()
        entries.append(
            {
                "sample_token": token,
                "translation": centre[row].tolist(),
                "size": [width, length, height],
                "rotation": rotation[row].tolist(),
                "velocity": velocity[row, :2].tolist(),
                "detection_name": name,
                "detection_score": float(scores_n[index]),
                "attribute_name": attribute(name, float(speed[row])),
            }
        )
    return entries


def write_submission(path: Path, results: Mapping[str, list[dict[str, Any]]]) -> Path:
    """Write the submission, whole or not at all; ``results`` maps sample tokens to entries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, json.dumps({"meta": MODALITY, "results": results}))
