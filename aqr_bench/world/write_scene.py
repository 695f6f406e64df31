"""Write one scene: run its sensors at their times, write the recordings and return the table records."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from aqr_bench.atomic import write_text
from aqr_bench.world import lidar, rays
from aqr_bench.world.camera import render
from aqr_bench.world.geometry import rotate
from aqr_bench.world.rig import CAMERAS, LIDAR_CHANNEL, LIDAR_TRANSLATION, lidar_pose
from aqr_bench.world.scene import Scene, simulate, stream, sweep_times
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.tables import Record, SceneTables

_LIDAR_STREAM, _CAMERA_STREAM = 1, 2


def write_scene(spec: WorldSpec, split: int, index: int, name: str, root: Path) -> dict:
    """Simulate and write scene ``index`` of a split under ``root``; all folders must exist.

    Returns ``records`` (table name to list), ``files_sha256`` over paths and contents, ``labels`` (how many objects,
    distractors and pieces of scenery), ``files`` and ``bytes``.
    """
    scene = simulate(spec, split, index)
    tables = SceneTables(spec, scene, name)
    digest = hashlib.sha256()
    counts = {"files": 0, "bytes": 0}

    def save(filename: str, content: bytes) -> None:
        (root / filename).write_bytes(content)
        digest.update(f"{filename}\0{len(content)}\0".encode())
        digest.update(content)
        counts["files"] += 1
        counts["bytes"] += len(content)

    lidar_times, camera_times = (sweep_times(spec, sweeps) for sweeps in (spec.lidar_sweeps, spec.camera_sweeps))
    for frame in range(spec.frames_per_scene):
        annotated = tables.annotations(frame)
        for sweep, time_s in enumerate(lidar_times[frame]):
            rng = stream(spec, split, index, _LIDAR_STREAM, frame, sweep)
            solids = scene.solids(time_s).relative_to(scene.ego_pose(time_s))
            points, _ = lidar.scan(solids, scene.intensity, scene.dropout, spec, rng, scene.rain)
            filename = tables.add_recording(LIDAR_CHANNEL, frame, time_s, sweep == spec.lidar_sweeps)
            save(filename, points.tobytes())
        inside = points_inside(points[:, :3], [record for _, record in annotated], lidar_pose(scene.ego_pose(time_s)))
        for sweep, time_s in enumerate(camera_times[frame]):
            rng = stream(spec, split, index, _CAMERA_STREAM, frame, sweep)
            pose = scene.ego_pose(time_s)
            solids = scene.solids(time_s).relative_to(pose)
            images, visible, unoccluded = render(scene, solids, pose, spec.image_size, rng)
            for camera, image in zip(CAMERAS, images, strict=True):
                filename = tables.add_recording(camera.channel, frame, time_s, sweep == spec.camera_sweeps)
                save(filename, encode_jpeg(image, spec.jpeg_quality))
        tables.add_annotations(annotated, inside, visible, unoccluded)
    records = {table: rows for table, rows in tables.records.items() if rows}
    return {"records": records, "files_sha256": digest.hexdigest(), "labels": _labels(scene), **counts}


def points_inside(points: np.ndarray, boxes: list[Record], pose: np.ndarray) -> np.ndarray:
    """Count (B,) the LiDAR points (N, 3) inside annotated boxes; ``pose`` is ``rig.lidar_pose`` at the same time.

    The stored float32 points and the rounded boxes are used, so the counts equal those of nuscenes-devkit's
    points_in_box on the written files.
    """
    ahead, left, height = points[:, 1].astype(float), -points[:, 0].astype(float), points[:, 2].astype(float)
    world = np.empty((len(points), 3))
    world[:, :2] = pose[:2] + rotate(np.stack([ahead, left], -1), pose[2])
    world[:, 2] = height + LIDAR_TRANSLATION[2]
    center = np.array([box["translation"] for box in boxes], float).reshape(-1, 3)
    half = np.array([box["size"] for box in boxes], float).reshape(-1, 3)[:, [1, 0, 2]] / 2
    yaw = 2 * np.array([np.arctan2(box["rotation"][3], box["rotation"][0]) for box in boxes])
    return rays.count_inside(world, center, np.stack([np.cos(yaw), np.sin(yaw)], -1), np.ascontiguousarray(half))


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Return an RGB image (H, W, 3) uint8 as a JPEG file."""
    encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return data.tobytes()


def run(spec: WorldSpec, split: int, index: int, name: str, root: str, result: str) -> str:
    """Write a scene in a worker process, and its result atomically to the file ``result``."""
    cv2.setNumThreads(1)
    outcome = write_scene(spec, split, index, name, Path(root))
    write_text(result, json.dumps(outcome, separators=(",", ":")))
    return name


def _labels(scene: Scene) -> dict[str, int]:
    return {
        "objects": sum(actor.category is not None for actor in scene.actors),
        "distractors": sum(actor.category is None for actor in scene.actors),
        "scenery": len(scene.scenery),
    }
