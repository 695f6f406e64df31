"""One sample under a condition as files: damaged ones are written, the others are links to the source."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aqr_bench import compat

compat.prepare()

from mmdet3d.datasets.transforms import LoadPointsFromFile  # noqa: E402
from mmdet3d.registry import DATASETS  # noqa: E402
from mmengine.config import Config  # noqa: E402

from aqr_bench.atomic import atomic_write  # noqa: E402
from aqr_bench.corruptions import Cloud, Corruption, Frame, View  # noqa: E402
from aqr_bench.corruptions.frame import LIDAR  # noqa: E402
from aqr_bench.data.conditions import InputFingerprint, SensorCondition, update_results  # noqa: E402
from aqr_bench.data.corrupted_tables import is_rigid  # noqa: E402
from aqr_bench.data.raw_frames import POINT_COLUMNS, InfoFile, open_infos  # noqa: E402
from aqr_bench.data.transforms import (  # noqa: E402
    AddProjections,
    CheckFrame,
    LoadPoseCorrectedSweeps,
    LoadViewImages,
)
from aqr_bench.study.hashes import sha256_file  # noqa: E402

DATASET = Path(__file__).parents[1] / "cmt" / "configs" / "_base_" / "dataset.py"
BYTES_OF_A_LINK = 4096  # with its inode and its row in a table: more than any file system takes


class NotWritableError(Exception):
    """What a condition gives the detector cannot be held by files and tables of nuScenes."""


def not_writable_reason(corruption: Corruption) -> str | None:
    """Why a corruption cannot be written; None if nothing speaks against it before it is applied."""
    if any(part.parameters.get("form") == "absent" for part in corruption.parts or (corruption,)):
        return "its sensors are absent, and every nuScenes sample has files of all of them"
    return None


@dataclass(frozen=True)
class SampleWriter:
    """Writes samples of one condition; sent to worker processes.

    Args:
        condition: arguments of :class:`SensorCondition` that name it. ``seed``: of the benchmark.
        infos: info file of the source. ``source``: its root. ``out``: root that is written to.
        sweeps: LiDAR sweeps of a keyframe.
    """

    condition: Mapping[str, Any]
    infos: Path
    source: Path
    out: Path
    sweeps: int
    seed: int

    def size_bytes(self, index: int) -> int:
        """About what one sample takes on disk, whether or not the condition changes just this one."""
        step, results = _condition(self), _loaders(self.infos, self.source)[index]
        _, after = step.frames(results, step.condition, self.seed)
        changed, size = step.condition.changed_sensors, (self.sweeps + 8) * BYTES_OF_A_LINK
        if "lidar" in changed:
            size += sum(cloud.points.nbytes for cloud in after.clouds)
        if "camera" in changed:
            size += sum(len(_png(view.image)) for view in after.views)
        return size

    def __call__(self, index: int) -> dict[str, Any]:
        """Write one sample.

        Returns:
            As JSON: ``token``; ``files``: SHA-256 by path; ``fingerprint``: of its input; ``lidar``: keyframe and
            sweeps, each with ``file`` and, for sweeps, ``source`` (token of sample_data) or ``lidar2sensor`` and
            ``timestamp`` (s); ``cameras``: by channel ``file`` and, if changed, ``lidar2cam`` and ``cam2img``.
        Raises:
            NotWritableError: files and tables cannot hold it.
        """
        step, results = _condition(self), _loaders(self.infos, self.source)[index]
        before, after = step.frames(results, step.condition, self.seed)
        files = _Files(self.out, before.token)
        lidar = self._write_lidar(files, results, before, after)
        cameras = _write_cameras(files, results, before, after)
        results = update_results(results, before, after, self.sweeps)
        merge = LoadPoseCorrectedSweeps(sweeps_num=self.sweeps, use_dim=list(range(POINT_COLUMNS)), test_mode=True)
        for transform in (merge, AddProjections(), InputFingerprint()):
            results = transform(results)
        written = {"token": before.token, "files": files.sha256, "fingerprint": results["input_proof"]}
        return {**written, "lidar": lidar, "cameras": cameras}

    def _write_lidar(self, files: _Files, results: Mapping[str, Any], before: Frame, after: Frame) -> list[dict]:
        if not after.clouds or not len(after.clouds[0].points):
            raise NotWritableError(f"sample {after.token} has no LiDAR point in its keyframe")
        sources = [(before.clouds[0], results["lidar_points"]["lidar_path"], "")]
        for cloud, sweep in zip(before.clouds[1:], results["lidar_sweeps"], strict=False):  # at most self.sweeps
            sources.append((cloud, sweep["lidar_points"]["lidar_path"], sweep["sample_data_token"]))
        key = files.cloud(f"samples/{LIDAR}/{after.token}.pcd.bin", after.clouds[0], *sources[0][:2])
        recordings: list[dict] = [{"file": key}]
        for number, cloud in enumerate(after.clouds[1:], 1):
            name = f"sweeps/{LIDAR}/{after.token}_{number:02d}.pcd.bin"
            same = next((source for source in sources[1:] if _same_recording(cloud, source[0])), None)
            if same is not None:
                recordings.append({"file": files.cloud(name, cloud, *same[:2]), "source": same[2]})
            else:
                lidar2sensor = _lidar2sensor(open_infos(str(self.infos), str(self.source)), after.token, cloud)
                exact = {"lidar2sensor": lidar2sensor.tolist(), "timestamp": cloud.time}
                recordings.append({"file": files.cloud(name, cloud), "source": None, **exact})
        return recordings


def _write_cameras(files: _Files, results: Mapping[str, Any], before: Frame, after: Frame) -> dict[str, dict]:
    if [view.camera for view in after.views] != [view.camera for view in before.views]:
        raise NotWritableError(f"sample {after.token} has {len(after.views)} of {len(before.views)} images")
    recordings = {}
    for old, view in zip(before.views, after.views, strict=True):
        stem, source = f"samples/{view.camera}/{after.token}", results["images"][view.camera]["img_path"]
        recordings[view.camera] = recording = {"file": files.image(stem, view, old, source)}
        if not (np.array_equal(view.lidar2cam, old.lidar2cam) and np.array_equal(view.cam2img, old.cam2img)):
            if not is_rigid(view.lidar2cam):
                raise NotWritableError(
                    f"sample {after.token}: the pose of {view.camera} is no rotation and translation"
                )
            recording |= {"lidar2cam": view.lidar2cam.tolist(), "cam2img": view.cam2img.tolist()}
    return recordings


@functools.lru_cache(maxsize=1)
def _loaders(infos: Path, source: Path) -> Any:
    """mmdet3d's data set with the loaders of an evaluation, in each process once."""
    settings = Config.fromfile(DATASET).dataset
    settings |= {"data_root": str(source), "ann_file": str(infos), "test_mode": True, "serialize_data": False}
    loader = LoadPointsFromFile(coord_type="LIDAR", load_dim=POINT_COLUMNS, use_dim=POINT_COLUMNS)
    return DATASETS.build({**settings, "pipeline": [CheckFrame(), loader, LoadViewImages()]})


def _condition(writer: SampleWriter) -> SensorCondition:
    paths = {"ann_file": str(writer.infos), "data_root": str(writer.source)}
    return _built(json.dumps({**writer.condition, "seed": writer.seed, "sweeps_num": writer.sweeps, **paths}))


@functools.lru_cache(maxsize=1)
def _built(arguments: str) -> SensorCondition:
    return SensorCondition(**json.loads(arguments))


def _same_recording(a: Cloud, b: Cloud) -> bool:
    return a.token == b.token and a.time == b.time and np.array_equal(a.to_key, b.to_key)


def _lidar2sensor(infos: InfoFile, token: str, cloud: Cloud) -> np.ndarray:
    """The matrix of an info file that gives ``cloud.to_key`` to the last bit: of the scene's past, or its inverse."""
    steps = 0
    while (info := infos.entry_before(token, steps)) is not None:
        for sweep in info.get("lidar_sweeps", []):
            matrix = np.asarray(sweep["lidar_points"]["lidar2sensor"], np.float64)
            if np.array_equal(np.linalg.inv(matrix), cloud.to_key):
                return matrix
        steps += 1
    if not is_rigid(cloud.to_key):
        raise NotWritableError(f"sample {token}: the pose of a LiDAR sweep is no rigid motion")
    return np.linalg.inv(cloud.to_key)


@dataclass(frozen=True)
class _Files:
    """The files of one sample below a root, with their hashes."""

    out: Path
    token: str
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if Path(self.token).name != self.token:
            raise NotWritableError(f"sample token '{self.token}' is no file name")

    def cloud(self, name: str, cloud: Cloud, old: Cloud | None = None, source: str = "") -> str:
        """A LiDAR file; a link to its source where the points are those of ``old``."""
        points = cloud.points
        if points.shape[1] != POINT_COLUMNS or points.dtype != np.float32:
            raise NotWritableError(f"sample {self.token}: points are {points.dtype} {points.shape}, not float32 [P, 5]")
        if old is not None and np.array_equal(points, old.points):
            return self._link(name, source)
        return self._write(name, np.ascontiguousarray(points).tobytes())

    def image(self, stem: str, view: View, old: View, source: str) -> str:
        """An image: PNG, which decodes to these very pixels; a link to its source where they are those of ``old``."""
        if np.array_equal(view.image, old.image):
            return self._link(stem + Path(source).suffix, source)
        return self._write(f"{stem}.png", _png(view.image))

    def _write(self, name: str, content: bytes) -> str:
        with atomic_write(self.out / name) as temporary:
            temporary.write_bytes(content)
        self.sha256[name] = hashlib.sha256(content).hexdigest()
        return name

    def _link(self, name: str, source: str) -> str:
        with atomic_write(self.out / name) as temporary:
            temporary.unlink(missing_ok=True)
            os.symlink(Path(source).resolve(), temporary)
        self.sha256[name] = sha256_file(Path(source))
        return name


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
