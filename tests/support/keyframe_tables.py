"""nuScenes tables of one real keyframe, from its info entry."""

from __future__ import annotations

import numpy as np
from pyquaternion import Quaternion

SCENE = "scene-0061"  # the keyframe is from its first sample
CATEGORIES = (
    "vehicle.car",
    "vehicle.truck",
    "vehicle.trailer",
    "vehicle.bus.rigid",
    "vehicle.construction",
    "vehicle.bicycle",
    "vehicle.motorcycle",
    "human.pedestrian.adult",
    "movable_object.trafficcone",
    "movable_object.barrier",
    "static_object.bicycle_rack",
)  # fmt: skip; in the order of mmdet3d's labels, the last one for -1


def pose(matrix) -> dict:
    """Rotation and translation of a 4 x 4 matrix that went through float32."""
    matrix = np.asarray(matrix, np.float64)
    left, _, right = np.linalg.svd(matrix[:3, :3])
    return {"rotation": Quaternion(matrix=left @ right).elements.tolist(), "translation": matrix[:3, 3].tolist()}


def keyframe_tables(info: dict) -> dict[str, list[dict]]:
    """The thirteen tables of one sample, from mmdet3d's info entry."""
    sample, time = info["token"], round(info["timestamp"] * 1e6)
    lidar2ego, ego2global = (np.array(m) for m in (info["lidar_points"]["lidar2ego"], info["ego2global"]))
    lidar2global = ego2global @ lidar2ego
    lidar = {"name": info["lidar_points"]["lidar_path"], "to_ego": lidar2ego, "to_global": ego2global, "time": time}
    recordings = {"LIDAR_TOP": lidar}
    for channel, view in info["images"].items():
        # The info has no ego pose at the time of the image; it follows from the projection.
        to_global = lidar2global @ np.linalg.inv(view["lidar2cam"]) @ np.linalg.inv(view["cam2ego"])
        when = round(view["timestamp"] * 1e6)
        recordings[channel] = {
            "name": view["img_path"],
            "to_ego": view["cam2ego"],
            "to_global": to_global,
            "time": when,
        }
    tables: dict[str, list[dict]] = {
        "attribute": [],
        "category": [{"token": f"category{i}", "name": name} for i, name in enumerate(CATEGORIES)],
        "visibility": [{"token": "4", "level": "v80-100"}],
        "log": [{"token": "log", "logfile": "n015-2018-07-24-11-22-45+0800", "location": "singapore-onenorth"}],
        "map": [{"token": "map", "filename": "maps/plain.png", "log_tokens": ["log", "a log that is elsewhere"]}],
        "scene": [{"token": "scene", "name": SCENE, "log_token": "log", "nbr_samples": 1}],
        "sample": [{"token": sample, "timestamp": time, "prev": "", "next": "", "scene_token": "scene"}],
    }
    tables["scene"][0] |= {"first_sample_token": sample, "last_sample_token": sample, "description": "Parked truck"}
    tables |= {name: [] for name in ("sensor", "calibrated_sensor", "ego_pose", "sample_data")}
    for channel, recording in recordings.items():
        camera = channel != "LIDAR_TOP"
        tables["sensor"].append(
            {"token": f"s {channel}", "channel": channel, "modality": "camera" if camera else "lidar"}
        )
        matrix = info["images"][channel]["cam2img"] if camera else []
        tables["calibrated_sensor"].append(
            {"token": f"c {channel}", "sensor_token": f"s {channel}", "camera_intrinsic": matrix}
            | pose(recording["to_ego"])
        )
        tables["ego_pose"].append(
            {"token": f"d {channel}", "timestamp": recording["time"]} | pose(recording["to_global"])
        )
        tables["sample_data"].append(
            {
                "token": f"d {channel}",
                "sample_token": sample,
                "ego_pose_token": f"d {channel}",
                "calibrated_sensor_token": f"c {channel}",
                "timestamp": recording["time"],
                "fileformat": "jpg" if camera else "pcd",
                "is_key_frame": True,
                "height": 900 * camera,
                "width": 1600 * camera,
                "filename": f"samples/{channel}/{recording['name']}",
                "prev": "",
                "next": "",
            }
        )
    tables |= {"instance": [], "sample_annotation": []}
    for i, instance in enumerate(info["instances"]):
        x, y, z, length, width, height, yaw = instance["bbox_3d"]
        box = np.eye(4)
        box[:3, :3], box[:3, 3] = Quaternion(axis=[0, 0, 1], angle=yaw).rotation_matrix, (x, y, z)
        tables["instance"].append(
            {
                "token": f"i{i}",
                "category_token": f"category{instance['bbox_label_3d'] % len(CATEGORIES)}",
                "nbr_annotations": 1,
                "first_annotation_token": f"a{i}",
                "last_annotation_token": f"a{i}",
            }
        )
        tables["sample_annotation"].append(
            {
                "token": f"a{i}",
                "sample_token": sample,
                "instance_token": f"i{i}",
                "visibility_token": "4",
                "attribute_tokens": [],
                "size": [width, length, height],
                "prev": "",
                "next": "",
                "num_lidar_pts": int(instance["num_lidar_pts"]),
                "num_radar_pts": int(instance["num_radar_pts"]),
            }
            | pose(lidar2global @ box)
        )
    return tables
