"""nuScenes tables of a data set under a condition: a chain of recordings for each sample, and changed calibrations.

The sweeps of a sample are corrupted with it, so the same recording can differ from sample to sample. Each keyframe of
the LiDAR therefore has its own chain of sweeps (``prev``), with files named after the sample. Images between keyframes
are not part of a condition, and are left out rather than passed on without damage.

Tables hold rotations as quaternions and times in microseconds. Where this rounds a changed pose or time (by less than
1e-9 m and 1 us), the row of sample_data also has the exact values under ``exact``, which our info files take over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from aqr_bench.corruptions.frame import LIDAR
from aqr_bench.data.complete_scenes import CHANNELS
from aqr_bench.data.infos import EXACT, sensor_poses

RIGID_TOLERANCE = 1e-6  # of the entries of R^T R - I
Row = dict[str, Any]
Tables = dict[str, list[Row]]
# Keys that nuscenes-devkit adds to the rows of the files.
_ADDED = {"sample": ("anns", "data"), "sample_data": ("sensor_modality", "channel"), "sample_annotation": ("category_name",)}  # fmt: skip  # noqa: E501


def is_rigid(matrix: np.ndarray) -> bool:
    """Whether a transform [4, 4] is a rotation and a translation."""
    rotation = matrix[:3, :3]
    orthonormal = np.abs(rotation.T @ rotation - np.eye(3)).max() < RIGID_TOLERANCE and np.linalg.det(rotation) > 0
    return bool(orthonormal) and np.array_equal(matrix[3], [0, 0, 0, 1])


def corrupted_tables(nusc: Any, scenes: Sequence[str], written: Mapping[str, Mapping[str, Any]]) -> Tables:
    """The tables that differ from the source's, with the samples of some scenes only.

    Args:
        nusc: the source. ``scenes``: their names.
        written: by sample token, as ``WrittenSample`` in ``data.corrupted_root`` has it.
    """
    scene_rows = [scene for scene in nusc.scene if scene["name"] in set(scenes)]
    scene_tokens = {scene["token"] for scene in scene_rows}
    samples = [sample for sample in nusc.sample if sample["scene_token"] in scene_tokens]
    annotations = [nusc.get("sample_annotation", token) for sample in samples for token in sample["anns"]]
    instances = {annotation["instance_token"] for annotation in annotations}
    sensors = _SensorRows(nusc)
    sensors.copy_others({sample["token"] for sample in samples})
    for sample in samples:
        sensors.add_lidar(sample, written[sample["token"]]["lidar"])
        for channel in CHANNELS[1:]:
            sensors.add_camera(sample, channel, written[sample["token"]]["cameras"][channel])
    return {
        "scene": scene_rows,
        "sample": _as_in_files("sample", samples),
        "sample_annotation": _as_in_files("sample_annotation", annotations),
        "instance": [row for row in nusc.instance if row["token"] in instances],
        **sensors.tables(),
    }


class _SensorRows:
    """Rows of sample_data, ego_pose and calibrated_sensor as they are gathered."""

    def __init__(self, nusc: Any) -> None:
        self._nusc = nusc
        self._data: list[Row] = []
        self._poses: dict[str, Row] = {}
        self._calibrations = {row["token"]: row for row in nusc.calibrated_sensor}
        self._last: dict[tuple[str, str], Row] = {}  # the last keyframe of each camera in each scene

    def tables(self) -> Tables:
        data = _as_in_files("sample_data", self._data)
        calibrations = list(self._calibrations.values())
        return {"sample_data": data, "ego_pose": list(self._poses.values()), "calibrated_sensor": calibrations}

    def _add(self, row: Row) -> Row:
        self._data.append(row)
        if row["ego_pose_token"] not in self._poses:
            self._poses[row["ego_pose_token"]] = self._nusc.get("ego_pose", row["ego_pose_token"])
        return row

    def copy_others(self, samples: set[str]) -> None:
        """Recordings of sensors that no condition concerns, such as radars."""
        for row in self._nusc.sample_data:
            if row["channel"] not in CHANNELS and row["sample_token"] in samples:
                self._add(row)

    def add_lidar(self, sample: Row, recordings: Sequence[Mapping[str, Any]]) -> None:
        """The keyframe and its sweeps, nearest first; each is linked to the next one in time."""
        key = self._nusc.get("sample_data", sample["data"][LIDAR])
        later: Row = self._add(key | {"filename": recordings[0]["file"], "prev": "", "next": ""})
        for number, recording in enumerate(recordings[1:], 1):
            token = _token(sample["token"], LIDAR, number)
            row = key | {"token": token, "filename": recording["file"], "is_key_frame": False}
            row |= {"prev": "", "next": later["token"]}
            if recording["source"] is not None:
                source = self._nusc.get("sample_data", recording["source"])
                row |= {name: source[name] for name in ("ego_pose_token", "calibrated_sensor_token", "timestamp")}
            else:
                exact = {"lidar2sensor": recording["lidar2sensor"], "timestamp": recording["timestamp"]}
                row |= {"ego_pose_token": token, "timestamp": round(recording["timestamp"] * 1e6), EXACT: exact}
                self._poses[token] = self._sweep_pose(key, row, np.array(recording["lidar2sensor"]))
            later["prev"] = token
            later = self._add(row)

    def _sweep_pose(self, key: Row, row: Row, lidar2sensor: np.ndarray) -> Row:
        """The ego pose at which a LiDAR mounted as now would have recorded a sweep."""
        lidar2ego, ego2global = sensor_poses(self._nusc, key)
        pose = ego2global @ lidar2ego @ np.linalg.inv(lidar2sensor) @ np.linalg.inv(lidar2ego)
        return {"token": row["token"], "timestamp": row["timestamp"], **_pose(pose)}

    def add_camera(self, sample: Row, channel: str, recording: Mapping[str, Any]) -> None:
        """The keyframe of a camera, linked to the one before in its scene."""
        source = self._nusc.get("sample_data", sample["data"][channel])
        suffix = recording["file"].rpartition(".")[2]
        row = source | {"filename": recording["file"], "fileformat": suffix, "prev": "", "next": ""}
        if "lidar2cam" in recording:
            token = _token(sample["token"], channel, "calibration")
            row |= {"calibrated_sensor_token": token, EXACT: {"lidar2cam": recording["lidar2cam"]}}
            self._calibrations[token] = self._calibration(sample, source, recording) | {"token": token}
        last = self._last.get((sample["scene_token"], channel))
        if last is not None and last["sample_token"] == sample["prev"]:
            last["next"], row["prev"] = row["token"], last["token"]
        self._last[sample["scene_token"], channel] = self._add(row)

    def _calibration(self, sample: Row, source: Row, recording: Mapping[str, Any]) -> Row:
        lidar2ego, ego2global = sensor_poses(self._nusc, self._nusc.get("sample_data", sample["data"][LIDAR]))
        _, camera_ego2global = sensor_poses(self._nusc, source)
        lidar2camera_ego = np.linalg.inv(camera_ego2global) @ ego2global @ lidar2ego
        cam2ego = lidar2camera_ego @ np.linalg.inv(np.array(recording["lidar2cam"]))
        before = self._nusc.get("calibrated_sensor", source["calibrated_sensor_token"])
        return before | {**_pose(cam2ego), "camera_intrinsic": recording["cam2img"]}


def _pose(matrix: np.ndarray) -> Row:
    """Rotation (w, x, y, z) and translation (m) of a rigid transform."""
    x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat().tolist()
    return {"rotation": [w, x, y, z], "translation": matrix[:3, 3].tolist()}


def _token(*parts: object) -> str:
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def _as_in_files(table: str, rows: Iterable[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in _ADDED[table]} for row in rows]
