"""Raw sensor data of a sample: from mmdet3d's info entries and pipeline results to a Frame, and its scene's past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from aqr_bench.compat import load_safe_pickle
from aqr_bench.corruptions import Cloud, Frame, View
from aqr_bench.data.sensor_files import sensor_file
from aqr_bench.errors import UserError, reading
from aqr_bench.foreign_files import HEAD_BYTES, old_infos, placeholder

REMEDY = "Make it again: aqr-bench data"
# None of these can occur inside the coded picture of a JPEG file: a 0xff there is followed by 0x00 or a restart marker.
START_OF_IMAGE, START_OF_SCAN, END_OF_IMAGE = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
COLUMN_NAMES = ("x", "y", "z", "intensity", "ring")  # of a nuScenes point on disk
POINT_COLUMNS = len(COLUMN_NAMES)


SWEEP_CLOUDS = "sweep_clouds"  # key of a sample in the pipeline, between SensorCondition and LoadPoseCorrectedSweeps


class BadFrameError(RuntimeError):
    """A file of the data set cannot be used; the message names it."""


@dataclass(frozen=True)
class SweepClouds:
    """What ``results[SWEEP_CLOUDS]`` holds: raw sweeps after a condition, to be merged by LoadPoseCorrectedSweeps.

    Args:
        limit: so many sweeps were loaded where the sample has them (``SensorCondition.sweeps_num``).
        clouds: nearest in time first, each in the coordinates of its own scan; none where the LiDAR is removed.
    """

    limit: int
    clouds: tuple[Cloud, ...]


def read_cloud(path: str | Path, load_dim: int = POINT_COLUMNS, finite: bool = True) -> np.ndarray:
    """Points [P, load_dim] float32 of a LiDAR file.

    Args:
        finite: refuse points that are not finite, see :func:`raise_if_not_finite`.
    Raises:
        BadFrameError: the file is missing, cut short or has such points; the message names it.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise BadFrameError(f"LiDAR file cannot be read: {path} ({error})") from error
    if (kind := placeholder(content[:HEAD_BYTES].tobytes())) is not None:
        raise BadFrameError(f"LiDAR file is {kind.name}: {path}. {kind.remedy}")
    if content.size % (4 * load_dim):
        raise BadFrameError(f"LiDAR file is cut short: {path} has {content.size} bytes, no multiple of {4 * load_dim}")
    points = content.view(np.float32).reshape(-1, load_dim)
    if finite:
        raise_if_not_finite(points, path)
    return points


def raise_if_not_finite(points: np.ndarray, path: str | Path) -> None:
    """BadFrameError for points [P, F] of a LiDAR file with a value that is NaN or infinite.

    They are not dropped: a single one makes every feature of its frame NaN, and a coordinate that is lost in training
    but not in evaluation, or the other way round, would be a difference between the two that nobody asked for.
    """
    finite = np.isfinite(points)
    if finite.all():
        return
    bad = np.flatnonzero(~finite.all(1))
    column = int(np.argmin(finite[bad[0]]))
    name = COLUMN_NAMES[column] if column < POINT_COLUMNS else f"column {column}"
    raise BadFrameError(
        f"LiDAR file has points that are not finite: {path}, {len(bad)} of {len(points)} (the first is point {bad[0]}, "
        f"its {name} is {points[bad[0], column]}); write it without them"
    )


def read_image(path: str | Path) -> np.ndarray:
    """Image [h, w, 3] uint8, BGR, pixels as in the file: like the pipeline's loader, without any rotation of Exif.

    Raises:
        BadFrameError: the file is missing, cut short or cannot be decoded; the message names it.
    """
    content = _checked_image(path)
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:  # a header that claims more pixels than OpenCV takes
        image = None
    if image is None:
        kind = placeholder(content)
        fault = "cannot be decoded" if kind is None else f"is {kind.name}"
        raise BadFrameError(f"image {fault}: {path}, {len(content)} bytes")
    return image


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels as recorded, from the file's header; BadFrameError where there is none."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadFrameError(f"image cannot be decoded: {path} ({error})") from error


def check_jpeg(path: str | Path) -> None:
    """Raise BadFrameError for a JPEG file that is missing or damaged (:func:`jpeg_fault`); others are not opened."""
    if _is_jpeg(path):
        _checked_image(path)


def jpeg_fault(content: bytes) -> str:
    """What shows a JPEG file to be damaged before it is decoded; '' if nothing does.

    OpenCV gives no image for such a file or, depending on its version and on where it reads from, one that is grey
    where the rest is missing.
    """
    if (kind := placeholder(content)) is not None:
        return kind.name
    if not content.startswith(START_OF_IMAGE):
        return f"no JPEG (the first bytes are '{content[:2].hex()}', not 'ffd8')"
    if content.rfind(END_OF_IMAGE) <= content.rfind(START_OF_SCAN):
        return "cut short (no end-of-image marker)"
    return ""


def _is_jpeg(path: str | Path) -> bool:
    return Path(path).suffix.lower() in (".jpg", ".jpeg")


def _checked_image(path: str | Path) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadFrameError(f"image cannot be read: {path} ({error.strerror})") from error
    fault = jpeg_fault(content) if _is_jpeg(path) else ""
    if fault:
        raise BadFrameError(f"image is {fault}: {path}, {len(content)} bytes")
    return content


def sweep_clouds(sweeps: Sequence[Mapping[str, Any]], paths: Sequence[str | Path]) -> tuple[Cloud, ...]:
    """The sweeps of an info entry as clouds, read from ``paths``."""
    return tuple(
        Cloud(
            points=read_cloud(path),
            to_key=np.linalg.inv(np.asarray(sweep["lidar_points"]["lidar2sensor"], dtype=np.float64)),
            time=float(sweep["timestamp"]),
            token=Path(path).name,
        )
        for sweep, path in zip(sweeps, paths, strict=True)
    )


def mounting(lidar_points: Mapping[str, Any] | None) -> np.ndarray | None:
    """float64 [4, 4], LiDAR frame to the car's, of an info entry; None where it does not have it."""
    matrix = (lidar_points or {}).get("lidar2ego")
    return None if matrix is None else np.asarray(matrix, dtype=np.float64)


def view_of(camera: str, info: Mapping[str, Any], image: np.ndarray) -> View:
    """One camera of an info entry with its image."""
    return View(
        camera=camera,
        image=image,
        cam2img=np.asarray(info["cam2img"], dtype=np.float64)[:3, :3],
        lidar2cam=np.asarray(info["lidar2cam"], dtype=np.float64),
        time=float(info.get("timestamp", 0.0)),
    )


def read_info_file(path: str | Path, remedy: str = REMEDY) -> Any:
    """What an info file holds; UserError where it is no plain data, or of mmdet3d 0.x."""
    content = load_safe_pickle(path, "info file", remedy)
    if (kind := old_infos(content)) is not None:
        raise UserError(f"{path} is {kind.name}", kind.remedy)
    return content


class InfoFile:
    """Samples of an info file with their files, as ``aqr-bench data`` writes them or in one flat folder.

    Args:
        path: info file (.pkl). ``root``: that of the data set, which the names of its files are relative to.
        flat: all files lie in ``root`` itself, side by side.
    """

    def __init__(self, path: str | Path, root: str | Path, flat: bool = False) -> None:
        self.path, self.root, self.flat = Path(path), Path(root), flat
        loaded = read_info_file(path, REMEDY)
        with self._reading():
            self.infos: list[dict] = list(loaded["data_list"])
            self._index = {info["token"]: index for index, info in enumerate(self.infos)}

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "mmdet3d info file", REMEDY)

    def index(self, token: str) -> int:
        """Position of a sample; UserError if the file does not have it."""
        if token not in self._index:
            raise UserError(f"{self.path} has no sample '{token}'")
        return self._index[token]

    def entry_before(self, token: str, steps: int) -> dict | None:
        """The entry ``steps`` keyframes before a sample in its scene, None before the scene's first."""
        for _ in range(steps):
            token = self.infos[self.index(token)]["prev"]
            if not token or token not in self._index:
                return None
        return self.infos[self.index(token)]

    def lidar_path(self, info: Mapping[str, Any]) -> Path:
        """The keyframe's LiDAR file."""
        return self._path(info, "LIDAR_TOP", info["lidar_points"]["lidar_path"])

    def image_path(self, info: Mapping[str, Any], camera: str) -> Path:
        """The keyframe's image of a camera."""
        return self._path(info, camera, info["images"][camera]["img_path"])

    def sweep_path(self, info: Mapping[str, Any], channel: str, name: str) -> Path:
        """A recording of the LiDAR or a camera before the keyframe, as the entry names it."""
        return self._path(info, channel, name, keyframe=False)

    def _path(self, info: Mapping[str, Any], channel: str, name: str, keyframe: bool = True) -> Path:
        return self.root / Path(name).name if self.flat else sensor_file(info, self.root, channel, name, keyframe)

    def clouds(self, info: Mapping[str, Any], sweeps: int) -> tuple[Cloud, ...]:
        """Key cloud and up to so many sweeps."""
        path = self.lidar_path(info)
        key = Cloud(read_cloud(path), np.eye(4), float(info["timestamp"]), path.name)
        earlier = info.get("lidar_sweeps", [])[:sweeps]
        paths = [self.sweep_path(info, "LIDAR_TOP", s["lidar_points"]["lidar_path"]) for s in earlier]
        return (key, *sweep_clouds(earlier, paths))

    def view(self, info: Mapping[str, Any], camera: str) -> View:
        """The keyframe's view of a camera."""
        if camera not in info["images"]:
            raise BadFrameError(f"sample {info['token']} of {self.path} has no camera {camera}")
        return view_of(camera, info["images"][camera], read_image(self.image_path(info, camera)))

    def frame(self, index: int, sweeps: int = 10) -> Frame:
        """Everything about one sample."""
        with self._reading():
            return self._frame(self.infos[index], sweeps)

    def _frame(self, info: Mapping[str, Any], sweeps: int) -> Frame:
        boxes = [i["bbox_3d"][:7] for i in info.get("instances", []) if i["bbox_label_3d"] >= 0]
        return Frame(
            token=info["token"],
            clouds=self.clouds(info, sweeps),
            views=tuple(self.view(info, camera) for camera in info["images"]),
            boxes=np.asarray(boxes, dtype=np.float64).reshape(-1, 7) if "instances" in info else None,
            history=SceneHistory(self, info["token"], sweeps) if "scene_token" in info else None,
            lidar2ego=mounting(info["lidar_points"]),
        )


class SceneHistory:
    """Earlier recordings of a sample's scene, read from an info file when they are asked for.

    Args:
        token: the sample. ``sweeps``: maximum number of LiDAR sweeps per keyframe.
    """

    def __init__(self, infos: InfoFile, token: str, sweeps: int) -> None:
        self._infos, self._token, self._sweeps = infos, token, sweeps

    def _entry(self, steps: int) -> dict:
        info = self._infos.entry_before(self._token, steps)
        assert info is not None, f"{steps} keyframes before {self._token} there is none: ask for its token first"
        return info

    def token(self, steps: int) -> str | None:
        info = self._infos.entry_before(self._token, steps)
        return None if info is None else info["token"]

    def clouds(self, steps: int) -> tuple[Cloud, ...]:
        return self._infos.clouds(self._entry(steps), self._sweeps)

    def view(self, steps: int, camera: str) -> View:
        return self._infos.view(self._entry(steps), camera)

    def view_sweep(self, steps: int, camera: str) -> View | None:
        info = self._entry(0)
        earlier = info["images"][camera].get("sweeps", [])
        if steps > len(earlier):
            return None
        if not steps:
            return self._infos.view(info, camera)
        sweep = earlier[steps - 1]
        image = read_image(self._infos.sweep_path(info, camera, sweep["img_path"]))
        view = view_of(camera, info["images"][camera], image)
        return View(view.camera, view.image, view.cam2img, view.lidar2cam, float(sweep["timestamp"]))


@lru_cache(maxsize=4)
def open_infos(path: str, root: str) -> InfoFile:
    """An info file, read once per process."""
    return InfoFile(path, root)
