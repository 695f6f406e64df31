"""The ground-truth database: objects of the train split cropped from points and images, for gt_sampling."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from aqr_bench import compat

compat.prepare()

from mmdet3d.datasets.transforms import LoadPointsFromFile  # noqa: E402
from mmdet3d.structures import LiDARInstance3DBoxes  # noqa: E402
from mmdet3d.structures.ops import box_np_ops  # noqa: E402

from aqr_bench.atomic import atomic_write  # noqa: E402
from aqr_bench.data.infos import INFO_CLASSES, lidar_to_image  # noqa: E402
from aqr_bench.data.raw_frames import read_image, read_info_file  # noqa: E402
from aqr_bench.data.sensor_files import sensor_file  # noqa: E402
from aqr_bench.data.transforms import CheckFrame, LoadPoseCorrectedSweeps  # noqa: E402
from aqr_bench.errors import UserError  # noqa: E402

DBINFOS = "dbinfos_train.pkl"
FOLDER = "gt_database"
PARTS = ("points", "images")
MIN_CROP_PX = 10


def build_database(
    infos_folder: str | Path,
    data_root: str | Path,
    out: str | Path,
    workers: int = 1,
    sweeps: int = 10,
    quiet: bool = True,
) -> dict[str, int]:
    """Write ``gt_database/`` and ``dbinfos_train.pkl``; a database that is there already is replaced.

    Everything is written under other names first and the pkl last: where it is missing, no run has finished.
    The bytes do not depend on ``workers``.

    Args:
        infos_folder: holds ``infos_train.pkl`` as ``write_infos`` leaves it.
        data_root: nuScenes root: samples/, sweeps/.
        out: folder for the database.
        workers: processes; each takes one frame at a time.
        sweeps: LiDAR sweeps before the keyframe that are added to it (the official database has 10).
        quiet: show no progress.
    Returns:
        Number of objects of each class, in the order of INFO_CLASSES.
    Raises:
        UserError: info file missing, damaged or with other classes; ``gt_database`` holds something else.
        BadFrameError: a file of the data set is missing or cut short; the message names it.
    """
    frames = _train_frames(Path(infos_folder) / "infos_train.pkl")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _raise_if_foreign(out / FOLDER)
    (out / DBINFOS).unlink(missing_ok=True)
    partial = out / f"{FOLDER}.partial"
    if partial.exists():
        shutil.rmtree(partial)
    for part in PARTS:
        (partial / part).mkdir(parents=True)
    job = _Job(Path(data_root).resolve(), partial.resolve(), sweeps)
    entries: dict[str, list[dict]] = {name: [] for name in INFO_CLASSES}
    bar = tqdm(_cut_frames(job, frames, workers), desc="database", total=len(frames), disable=True if quiet else None)
    for cut in bar:
        for entry in cut:
            entries[entry["name"]].append(_canonical(entry))
    if (out / FOLDER).exists():
        shutil.rmtree(out / FOLDER)
    os.replace(partial, out / FOLDER)
    with atomic_write(out / DBINFOS) as temporary:
        temporary.write_bytes(pickle.dumps(entries, protocol=4))
    return {name: len(objects) for name, objects in entries.items()}


def project_boxes(
    corners: np.ndarray, lidar2img: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axis-aligned image rectangles of boxes.

    Args:
        corners: [n, 8, 3] metres, LiDAR frame.
        lidar2img: [4, 4], LiDAR frame to pixels.
        width, height: image size in pixels.
    Returns:
        rectangles: [n, 4] int64 left, top, right, bottom (the last two exclusive), clipped to the image; empty where
            a box lies outside of it. Without meaning where a corner is not in front of the camera.
        depth: [n] mean depth of the corners, metres.
        in_front: [n] bool, all eight corners have a positive depth.
    """
    homogeneous = np.concatenate([corners, np.ones_like(corners[..., :1])], -1).astype(np.float64)
    projected = homogeneous @ np.asarray(lidar2img, dtype=np.float64).T
    depth = projected[..., 2]
    in_front = (depth > 0).all(-1)
    pixels = projected[..., :2] / np.where(depth > 0, depth, 1.0)[..., None]
    limits = (width, height)
    low, high = np.clip(pixels.min(1), 0, limits), np.clip(pixels.max(1), 0, limits)
    # Both ends are rounded down, so that on average a rectangle is neither wider nor narrower than the box.
    return np.concatenate([low, high], -1).astype(np.int64), depth.mean(-1), in_front


@dataclass(frozen=True)
class _Job:
    """What is the same for all frames. ``out`` holds points/ and images/."""

    data_root: Path
    out: Path
    sweeps: int

    def __call__(self, info: dict) -> list[dict]:
        """Write the objects of one frame; return their entries in the order of its instances."""
        results = _with_paths(info, self.data_root)
        cloud = _load_cloud(results, self.sweeps)
        views = {
            camera: (read_image(view["img_path"]), lidar_to_image(view["cam2img"], view["lidar2cam"]))
            for camera, view in results["images"].items()
        }
        # A box without a return of LiDAR or radar in the keyframe is not trained on either (use_valid_flag).
        valid = [
            (index, instance)
            for index, instance in enumerate(info["instances"])
            if instance["bbox_label_3d"] >= 0 and instance.get("bbox_3d_isvalid", True)
        ]
        if not valid:
            return []
        lags = tuple(info["timestamp"] - sweep["timestamp"] for sweep in info.get("lidar_sweeps", [])[: self.sweeps])
        boxes = _bottom_boxes([instance for _, instance in valid])
        corners = boxes.corners.numpy()
        boxes = boxes.tensor.numpy()
        inside = box_np_ops.points_in_rbbox(cloud, boxes[:, :7])
        entries = []
        for row, (index, instance) in enumerate(valid):
            points = cloud[inside[:, row]]
            if not len(points):
                continue
            name = INFO_CLASSES[instance["bbox_label_3d"]]
            stem = f"{info['token']}_{name}_{index}"
            points[:, :3] -= boxes[row, :3]
            points.astype(np.float32).tofile(self.out / "points" / f"{stem}.bin")
            camera, crop = _best_crop(corners[row : row + 1], views)
            if crop is not None and not cv2.imwrite(str(self.out / "images" / f"{stem}.png"), crop):
                raise OSError(f"cannot write {self.out / 'images' / stem}.png")
            entries.append(
                {
                    "name": name,
                    "path": f"{FOLDER}/points/{stem}.bin",
                    "image_path": f"{FOLDER}/images/{stem}.png" if crop is not None else "",
                    "box3d_lidar": boxes[row].copy(),
                    "num_points_in_gt": len(points),
                    "difficulty": 0,
                    "image_idx": info["token"],
                    "gt_idx": index,
                    "image_crop_key": camera,
                    # How many sweeps were merged at most, and the lags (s) of those that were there.
                    "sweeps": self.sweeps,
                    "sweep_lags": lags,
                }
            )
        return entries


def _train_frames(path: Path) -> list[dict]:
    remedy = "Run: aqr-bench data --tier TIER --root ROOT --out " + str(path.parent)
    content = read_info_file(path, remedy)
    try:
        categories, frames = content["metainfo"]["categories"], content["data_list"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no info file of mmdet3d 1.x ({error!r})", remedy) from error
    if categories != {name: label for label, name in enumerate(INFO_CLASSES)}:
        message = f"{path}: metainfo.categories is {categories}, not the order {', '.join(INFO_CLASSES)}"
        raise UserError(message, remedy)
    return frames


def _raise_if_foreign(folder: Path) -> None:
    """Raise UserError unless the folder is a ground-truth database, which may be replaced."""
    if folder.exists() and (not folder.is_dir() or any(entry.name not in PARTS for entry in folder.iterdir())):
        raise UserError(f"{folder} holds more than points/ and images/; choose another --out")


def _cut_frames(job: _Job, frames: list[dict], workers: int) -> Iterator[list[dict]]:
    """Entries of each frame, in the order of the frames."""
    if min(workers, len(frames)) <= 1:
        yield from map(job, frames)
        return
    with compat.spawn_pool(min(workers, len(frames)), compat.use_one_thread) as pool:
        yield from pool.map(job, frames)


def _canonical(entry: dict) -> dict:
    """The same entry out of shared strings and data types.

    Pickle writes an object once and refers to it afterwards, and what a worker returns is made of copies: without this
    the bytes would depend on the number of workers.
    """
    entry = {sys.intern(key): sys.intern(value) if isinstance(value, str) else value for key, value in entry.items()}
    # By way of a list: an array made from an array keeps that one's copy of the data type.
    return entry | {"box3d_lidar": np.array(entry["box3d_lidar"].tolist(), dtype=np.float32)}


def _with_paths(info: dict, root: Path) -> dict:
    """The parts of an info that the loading transforms read, with the paths that NuScenesDataset gives them."""

    def cloud(points: dict, keyframe: bool) -> dict:
        return points | {"lidar_path": str(sensor_file(info, root, "LIDAR_TOP", points["lidar_path"], keyframe))}

    sweeps = [
        sweep | {"lidar_points": cloud(sweep["lidar_points"], keyframe=False)} for sweep in info.get("lidar_sweeps", [])
    ]
    images = {
        camera: view | {"img_path": str(sensor_file(info, root, camera, view["img_path"]))}
        for camera, view in info.get("images", {}).items()
    }
    return {
        "token": info["token"],
        "timestamp": info["timestamp"],
        "lidar_points": cloud(info["lidar_points"], keyframe=True),
        "lidar_sweeps": sweeps,
        "images": images,
    }


def _load_cloud(results: dict, sweeps: int) -> np.ndarray:
    """[n, 5] float32: x, y, z in metres in the keyframe's LiDAR frame, intensity, time lag in seconds."""
    columns = [0, 1, 2, 3, 4]
    for transform in (
        CheckFrame(),
        LoadPointsFromFile(coord_type="LIDAR", load_dim=5, use_dim=columns),
        LoadPoseCorrectedSweeps(sweeps_num=sweeps, use_dim=columns, remove_close=True, test_mode=True),
    ):
        results = transform(results)
    return results["points"].tensor.numpy()


def _bottom_boxes(instances: list[dict]) -> LiDARInstance3DBoxes:
    """[n, 9] boxes at their bottom centres, from gravity centres; unknown velocities become 0."""
    rows = np.array([[*i["bbox_3d"], *i.get("velocity", (0.0, 0.0))] for i in instances], dtype=np.float32)
    rows[:, 7:] = np.nan_to_num(rows[:, 7:], nan=0.0)
    return LiDARInstance3DBoxes(rows, box_dim=9, origin=(0.5, 0.5, 0.5))


def _best_crop(corners: np.ndarray, views: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[str, np.ndarray | None]:
    """(camera, crop) where the box's clipped rectangle is largest; ('', None) if none is large enough.

    Unlike the official code, which keeps the last camera and asks one corner only whether it is in front.
    """
    best, crop, largest = "", None, 0
    for camera, (image, lidar2img) in views.items():
        rectangles, _, in_front = project_boxes(corners, lidar2img, image.shape[1], image.shape[0])
        left, top, right, bottom = rectangles[0]
        if not in_front[0] or min(right - left, bottom - top) < MIN_CROP_PX:
            continue
        if (right - left) * (bottom - top) > largest:
            best, crop, largest = camera, image[top:bottom, left:right], (right - left) * (bottom - top)
    return best, crop
