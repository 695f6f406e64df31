"""The thirteen tables of nuScenes v1.0: records of one scene, and the tables that all scenes share.

Field names and types are those of the published schema (nuscenes-devkit, docs/schema_nuscenes.md).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aqr_bench.world.classes import ATTRIBUTES, CATEGORIES, VISIBILITY, visibility_token
from aqr_bench.world.rig import CAMERAS, LIDAR_CHANNEL, LIDAR_TRANSLATION, LIDAR_YAW, lidar_pose, yaw_quaternion
from aqr_bench.world.scene import Scene, in_range, keyframe_times
from aqr_bench.world.spec import WorldSpec

TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)
EPOCH_US = 1_532_402_900_000_000  # July 2018; scene n of the world starts n minutes later
CHANNELS = (LIDAR_CHANNEL, *(camera.channel for camera in CAMERAS))
MAP_FILE = "maps/plain.png"
Record = dict[str, Any]


@dataclass
class TokenFactory:
    """Makes the tokens of a world: 32 hex digits that depend on its spec alone."""

    world_sha256: str

    def token(self, *parts: object) -> str:
        text = "|".join([self.world_sha256, *map(str, parts)])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass
class SceneTables:
    """Collects the records of one scene in the order of time."""

    spec: WorldSpec
    scene: Scene
    name: str
    records: dict[str, list[Record]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens = TokenFactory(self.spec.sha256)
        self.records = {table: [] for table in TABLES}
        self.start_us = EPOCH_US + (self.scene.split * 1000 + self.scene.index) * 60_000_000
        self.logfile = f"synthetic-{self.name}"
        self._last: dict[str, Record] = {}  # the newest sample_data of each channel
        self._tracks = _tracks(self.spec, self.scene)
        self._scene_records()

    def token(self, *parts: object) -> str:
        """Return a token that belongs to this scene."""
        return self.tokens.token(self.name, *parts)

    def timestamp(self, time_s: float) -> int:
        """Return a time of the scene in microseconds."""
        return self.start_us + round(time_s * 1e6)

    def filename(self, channel: str, time_s: float, keyframe: bool) -> str:
        """Return the path of a recording, relative to the root, named as in nuScenes."""
        ending = "pcd.bin" if channel == LIDAR_CHANNEL else "jpg"
        folder = "samples" if keyframe else "sweeps"
        return f"{folder}/{channel}/{self.logfile}__{channel}__{self.timestamp(time_s)}.{ending}"

    def add_recording(self, channel: str, frame: int, time_s: float, keyframe: bool) -> str:
        """Add a sample_data and its ego_pose and return its path; one between keyframes belongs to the later one."""
        timestamp = self.timestamp(time_s)
        token = self.token("sample_data", channel, timestamp)
        pose = self.scene.ego_pose(time_s)
        self.records["ego_pose"].append(
            {
                "token": token,
                "timestamp": timestamp,
                "rotation": yaw_quaternion(pose[2]),
                "translation": [float(pose[0]), float(pose[1]), 0.0],
            }
        )
        width, height = (0, 0) if channel == LIDAR_CHANNEL else self.spec.image_size
        record = {
            "token": token,
            "sample_token": self.token("sample", frame),
            "ego_pose_token": token,
            "calibrated_sensor_token": self.token("calibrated_sensor", channel),
            "timestamp": timestamp,
            "fileformat": "pcd" if channel == LIDAR_CHANNEL else "jpg",
            "is_key_frame": keyframe,
            "height": height,
            "width": width,
            "filename": self.filename(channel, time_s, keyframe),
            "prev": "",
            "next": "",
        }
        link(self._last.get(channel), record)
        self._last[channel] = record
        self.records["sample_data"].append(record)
        return record["filename"]

    def annotations(self, frame: int) -> list[tuple[int, Record]]:
        """Return the actor index and the unfinished record of every annotation of a keyframe.

        An object is annotated from the first to the last keyframe at which its centre is in range, whether or not a
        sensor sees it.
        """
        result = []
        for index, (first, last, poses) in self._tracks.items():
            if not first <= frame <= last:
                continue
            actor = self.scene.actors[index]
            length, width, height = (round(float(value), 3) for value in actor.size)
            x, y, yaw = poses[frame]
            record = {
                "token": self.token("annotation", index, frame),
                "sample_token": self.token("sample", frame),
                "instance_token": self.token("instance", index),
                "visibility_token": "1",
                "attribute_tokens": [self.tokens.token("attribute", actor.attribute)] if actor.attribute else [],
                "translation": [round(float(x), 3), round(float(y), 3), round(height / 2, 3)],
                "size": [width, length, height],
                "rotation": yaw_quaternion(yaw),
                "prev": self.token("annotation", index, frame - 1) if frame > first else "",
                "next": self.token("annotation", index, frame + 1) if frame < last else "",
                "num_lidar_pts": 0,
                "num_radar_pts": 0,
            }
            result.append((index, record))
        return result

    def add_annotations(
        self, annotated: list[tuple[int, Record]], points: np.ndarray, visible: np.ndarray, unoccluded: np.ndarray
    ) -> None:
        """Complete and add annotations: ``points`` (len,) of LiDAR, ``visible``, ``unoccluded`` (actors,) pixels."""
        for (index, record), count in zip(annotated, points, strict=True):
            share = visible[index] / unoccluded[index] if unoccluded[index] else 0.0
            self.records["sample_annotation"].append(
                record | {"num_lidar_pts": int(count), "visibility_token": visibility_token(share)}
            )

    def _scene_records(self) -> None:
        spec, frames = self.spec, self.spec.frames_per_scene
        surroundings = "straight road" if self.scene.roads.crossing is None else "crossing"
        conditions = self.scene.light.name
        if spec.rain_share:  # in nuScenes' spelling; worlds without rain keep theirs
            conditions = ("Rain, " if self.scene.rain else "") + conditions.capitalize()
        self.records["log"].append(
            {
                "token": self.token("log"),
                "logfile": self.logfile,
                "vehicle": "synthetic",
                "date_captured": "2018-07-24",
                "location": "synthetic-plain",
            }
        )
        self.records["scene"].append(
            {
                "token": self.token("scene"),
                "log_token": self.token("log"),
                "nbr_samples": frames,
                "first_sample_token": self.token("sample", 0),
                "last_sample_token": self.token("sample", frames - 1),
                "name": self.name,
                "description": f"Synthetic, {conditions}, {surroundings}, {self.scene.ego_speed:.1f} m/s",
            }
        )
        for frame, time_s in enumerate(keyframe_times(spec)):
            self.records["sample"].append(
                {
                    "token": self.token("sample", frame),
                    "timestamp": self.timestamp(time_s),
                    "prev": self.token("sample", frame - 1) if frame else "",
                    "next": self.token("sample", frame + 1) if frame + 1 < frames else "",
                    "scene_token": self.token("scene"),
                }
            )
        for channel in CHANNELS:
            camera = next((camera for camera in CAMERAS if camera.channel == channel), None)
            self.records["calibrated_sensor"].append(
                {
                    "token": self.token("calibrated_sensor", channel),
                    "sensor_token": self.tokens.token("sensor", channel),
                    "translation": list(camera.translation if camera else LIDAR_TRANSLATION),
                    "rotation": camera.quaternion if camera else yaw_quaternion(LIDAR_YAW),
                    "camera_intrinsic": camera.intrinsic(spec.image_size).tolist() if camera else [],
                }
            )
        for index, (first, last, _) in self._tracks.items():
            self.records["instance"].append(
                {
                    "token": self.token("instance", index),
                    "category_token": self.tokens.token("category", self.scene.actors[index].category),
                    "nbr_annotations": last - first + 1,
                    "first_annotation_token": self.token("annotation", index, first),
                    "last_annotation_token": self.token("annotation", index, last),
                }
            )


def _tracks(spec: WorldSpec, scene: Scene) -> dict[int, tuple[int, int, np.ndarray]]:
    """Return first and last annotated keyframe and the poses (K, 3) of each labelled actor that comes into range."""
    times = keyframe_times(spec)
    lidar = np.stack([lidar_pose(pose) for pose in scene.ego_pose(times)])
    tracks = {}
    for index, actor in enumerate(scene.actors):
        poses = actor.poses(times)
        inside = np.nonzero(in_range(spec, lidar, poses[:, :2]))[0]
        if actor.category and len(inside):
            tracks[index] = (int(inside[0]), int(inside[-1]), poses)
    return tracks


def link(previous: Record | None, record: Record) -> None:
    """Chain ``record`` behind ``previous``."""
    if previous is not None:
        previous["next"], record["prev"] = record["token"], previous["token"]


def world_tables(spec: WorldSpec, logs: list[Record]) -> dict[str, list[Record]]:
    """Return the tables that all scenes share."""
    tokens = TokenFactory(spec.sha256)
    return {
        "attribute": [{"token": tokens.token("attribute", n), "name": n, "description": d} for n, d in ATTRIBUTES],
        "category": [{"token": tokens.token("category", n), "name": n, "description": d} for n, d in CATEGORIES],
        "visibility": [
            {"token": token, "level": level, "description": f"visible share up to {upper:.0%}"}
            for token, level, upper in VISIBILITY
        ],
        "sensor": [
            {
                "token": tokens.token("sensor", channel),
                "channel": channel,
                "modality": "lidar" if channel == LIDAR_CHANNEL else "camera",
            }
            for channel in CHANNELS
        ],
        "map": [
            {
                "category": "semantic_prior",
                "token": tokens.token("map"),
                "filename": MAP_FILE,
                "log_tokens": [log["token"] for log in logs],
            }
        ],
    }
