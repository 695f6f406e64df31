"""nuScenes tables to mmdet3d 1.4 info files (info_version 1.1): the same for the synthetic world and for nuScenes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from aqr_bench.atomic import atomic_write
from aqr_bench.data.complete_scenes import CHANNELS, require_channels
from aqr_bench.data.sensor_files import with_short_names
from aqr_bench.errors import UserError, nearest, reading
from aqr_bench.foreign_files import misplaced_tables, placeholder
from aqr_bench.metrics.splits import FILE, read_splits
from aqr_bench.study.vocabulary import IGNORE, Vocabulary

CAMERAS = CHANNELS[1:]
# mmdet3d 1.4's label order: NuScenesDataset reads labels by position in this tuple.
INFO_CLASSES = (
    "car", "truck", "trailer", "bus", "construction_vehicle",
    "bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier",
)  # fmt: skip
EXACT = "exact"  # key of a row of sample_data that ``data.corrupted_tables`` wrote: values that tables would round
CHECK = "See what is wrong: aqr-bench data check --root ROOT."


def open_nuscenes(root: str | Path, version: str, vocabulary: Vocabulary | None = None, scoring: bool = False) -> Any:
    """Load nuscenes-devkit's NuScenes, or raise UserError naming what is missing.

    ``vocabulary``: of a data set with custom names; the tables have nuScenes' names then, wherever they are read.
    ``scoring``: only to score detections, see ``data.scoring_tables``.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"nuScenes root not found: {root}",
            f"Set data.root in the tier file to the folder that holds {version}/, samples/ and sweeps/.",
        )
    if (misplaced := misplaced_tables(root, (version,))) is not None:
        raise UserError(f"no tables of version '{version}' in {root}: {misplaced.name}", misplaced.remedy)
    if not (root / version).is_dir():
        versions = ", ".join(sorted(p.name for p in root.glob("v1.0-*"))) or "none"
        raise UserError(
            f"no tables of version '{version}' in {root} (it has: {versions})", "Set data.version in the tier file."
        )
    from aqr_bench.data.scoring_tables import NuScenes, ScoringTables  # late: the devkit takes a second or two

    tables = ScoringTables if scoring else NuScenes
    with reading(root / version, "the nuScenes tables", CHECK), _without_map_masks():
        try:
            nusc = tables(version=version, dataroot=str(root), verbose=False)
        except ValueError as error:
            damage, remedy = _damaged_table(root / version)
            if not damage:
                raise
            raise UserError(f"the nuScenes tables in {root / version} do not load: {damage}", remedy) from error
        _translate(nusc, vocabulary or Vocabulary())
    return nusc


@contextmanager
def _without_map_masks() -> Iterator[None]:
    """Open tables without the images of map.json: the devkit refuses a root that lacks them, and nothing reads them."""
    from nuscenes import nuscenes as devkit

    mask = devkit.MapMask
    devkit.MapMask = lambda path, resolution: None
    try:
        yield
    finally:
        devkit.MapMask = mask


def _translate(nusc: Any, vocabulary: Vocabulary) -> None:
    """Replace names of categories and attributes; UserError for one that the tables do not have."""
    for key, table, mapping in (
        ("categories", nusc.category, vocabulary.categories),
        ("attributes", nusc.attribute, vocabulary.attributes),
    ):
        names = {row["name"] for row in table}
        for name in mapping:
            if name not in names:
                raise UserError(f"data.{key}: the tables of {nusc.dataroot} have no '{name}'{nearest(name, names)}")
        for row in table:
            row["name"] = mapping.get(row["name"], row["name"])
    ignored = {row["token"] for row in nusc.attribute if row["name"] == IGNORE}
    for annotation in nusc.sample_annotation if vocabulary.as_dict() else ():
        name = annotation["category_name"]
        annotation["category_name"] = vocabulary.categories.get(name, name)
        annotation["attribute_tokens"] = [t for t in annotation["attribute_tokens"] if t not in ignored]


def _damaged_table(folder: Path) -> tuple[str, str]:
    """The first table that is no JSON and the position of the error, and a remedy; the devkit names no table."""
    for path in sorted(folder.glob("*.json")):
        content = path.read_bytes()
        try:
            json.loads(content)
        except ValueError as error:
            if (kind := placeholder(content)) is not None:
                return f"{path.name} is {kind.name}", kind.remedy
            return f"{path.name} is damaged ({error})", "Restore it, or make the data set again."
    return "", ""


def build_infos(nusc: Any, max_sweeps: int = 10, quiet: bool = True) -> dict[str, list[dict]]:
    """Infos of the train and val split, in the order of the sample table.

    Args:
        nusc: nuscenes-devkit NuScenes of version v1.0-mini, v1.0-trainval or v1.0-test, whose scenes are ``val``.
        max_sweeps: maximum number of LiDAR sweeps before the keyframe.
    Returns:
        ``{"train": [...], "val": [...]}``; boxes in the LiDAR frame: gravity centre, l, w, h, yaw counter-clockwise
        from x (mmdet3d 1.x), velocity in m/s in the LiDAR frame. Files as ``data.sensor_files`` has them.
    Raises:
        UserError: a version without a train and val split, no scene of val, a sample without a channel. The train
            split may be missing: val is enough to evaluate.
    """
    splits = read_splits(nusc.dataroot, nusc.version)
    names = {role: set(split.scenes) for role, split in splits.items()}
    infos: dict[str, list[dict]] = {"train": [], "val": []}
    with reading(f"{nusc.dataroot} ({nusc.version})", "the nuScenes tables", CHECK):
        scene_name = {scene["token"]: scene["name"] for scene in nusc.scene}
        for sample in tqdm(nusc.sample, desc="infos", disable=True if quiet else None):
            for split, members in names.items():
                if scene_name[sample["scene_token"]] in members:
                    infos[split].append(_sample_info(nusc, sample, len(infos[split]), max_sweeps))
    if not infos["val"]:
        where = f"{nusc.dataroot} ({nusc.version})"
        raise UserError(
            f"no scene of {where} belongs to the {splits['val'].label}: nothing can be evaluated",
            f"Add scenes of it, or name those of your own splits in {nusc.version}/{FILE} (docs/extend.md).",
        )
    return infos


def write_infos(
    infos: dict[str, list[dict]], out: str | Path, version: str, vocabulary: Vocabulary | None = None
) -> dict[str, Path]:
    """Write ``infos_train.pkl`` and ``infos_val.pkl`` atomically; return their paths.

    ``vocabulary``: that the tables were opened with. It also decides how detections are scored, so the files carry it.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    names = {} if vocabulary is None else vocabulary.as_dict()
    metainfo = {
        "categories": {name: i for i, name in enumerate(INFO_CLASSES)},
        "dataset": "nuscenes",
        "version": version,
        "info_version": "1.1",
        **({"vocabulary": names} if names else {}),
    }
    paths = {}
    for split, entries in infos.items():
        paths[split] = out / f"infos_{split}.pkl"
        payload = pickle.dumps({"metainfo": metainfo, "data_list": entries}, protocol=4)
        with atomic_write(paths[split]) as temporary:
            temporary.write_bytes(payload)
    return paths


def lidar_to_image(cam2img: Any, lidar2cam: Any) -> np.ndarray:
    """Projection [4, 4] float64 of a camera as an info file has it: LiDAR frame (metres) to (u d, v d, d, 1) in pixels.

    Args:
        cam2img: intrinsic matrix, 3 x 3 or larger.
        lidar2cam: 4 x 4.
    """
    intrinsic = np.eye(4)
    intrinsic[: len(cam2img), : len(cam2img[0])] = cam2img
    return intrinsic @ np.asarray(lidar2cam, dtype=np.float64)


def _matrix(rotation: Iterable[float], translation: Iterable[float]) -> np.ndarray:
    from pyquaternion import Quaternion

    matrix = np.eye(4)
    matrix[:3, :3] = Quaternion(list(rotation)).rotation_matrix
    matrix[:3, 3] = list(translation)
    return matrix


def sensor_poses(nusc: Any, sample_data: dict) -> tuple[np.ndarray, np.ndarray]:
    """(sensor to ego, ego to global) at the time of a sample_data record."""
    sensor = nusc.get("calibrated_sensor", sample_data["calibrated_sensor_token"])
    pose = nusc.get("ego_pose", sample_data["ego_pose_token"])
    return _matrix(sensor["rotation"], sensor["translation"]), _matrix(pose["rotation"], pose["translation"])


def _sample_info(nusc: Any, sample: dict, index: int, max_sweeps: int) -> dict:
    require_channels(sample)
    lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
    lidar2ego, ego2global = sensor_poses(nusc, lidar)
    global2lidar = np.linalg.inv(ego2global @ lidar2ego)
    images = {}
    for camera in CAMERAS:
        record = nusc.get("sample_data", sample["data"][camera])
        cam2ego, cam_ego2global = sensor_poses(nusc, record)
        lidar2cam = (np.linalg.inv(cam_ego2global @ cam2ego) @ ego2global @ lidar2ego).tolist()
        intrinsic = nusc.get("calibrated_sensor", record["calibrated_sensor_token"])["camera_intrinsic"]
        images[camera] = {
            "img_path": record["filename"],
            "height": record["height"],
            "width": record["width"],
            "cam2img": intrinsic,
            "lidar2cam": record.get(EXACT, {}).get("lidar2cam", lidar2cam),
            "cam2ego": cam2ego.tolist(),
            "sample_data_token": record["token"],
            "timestamp": record["timestamp"] / 1e6,
            "sweeps": _image_sweeps(nusc, record, max_sweeps),
        }
    info = {
        "sample_idx": index,
        "token": sample["token"],
        "scene_token": sample["scene_token"],
        "prev": sample["prev"],
        "timestamp": sample["timestamp"] / 1e6,
        "ego2global": ego2global.tolist(),
        "lidar_points": {
            "lidar_path": lidar["filename"],
            "num_pts_feats": 5,
            "lidar2ego": lidar2ego.tolist(),
        },
        "images": images,
        "lidar_sweeps": _sweeps(nusc, lidar, global2lidar, max_sweeps),
        "instances": [_instance(nusc, token, global2lidar) for token in sample["anns"]],
    }
    return with_short_names(info)


def _sweeps(nusc: Any, lidar: dict, global2lidar: np.ndarray, max_sweeps: int) -> list[dict]:
    """Sweeps before the keyframe, nearest first; ``lidar2sensor`` maps keyframe LiDAR to sweep LiDAR coordinates."""
    sweeps: list[dict] = []
    while len(sweeps) < max_sweeps and lidar["prev"]:
        lidar = nusc.get("sample_data", lidar["prev"])
        lidar2ego, ego2global = sensor_poses(nusc, lidar)
        lidar2sensor = np.linalg.inv(global2lidar @ ego2global @ lidar2ego).tolist()
        exact = lidar.get(EXACT, {})
        sweeps.append(
            {
                "timestamp": exact.get("timestamp", lidar["timestamp"] / 1e6),
                "sample_data_token": lidar["token"],
                "ego2global": ego2global.tolist(),
                "lidar_points": {
                    "lidar_path": lidar["filename"],
                    "lidar2ego": lidar2ego.tolist(),
                    "lidar2sensor": exact.get("lidar2sensor", lidar2sensor),
                },
            }
        )
    return sweeps


def _image_sweeps(nusc: Any, record: dict, max_sweeps: int) -> list[dict]:
    """Images of a camera before the keyframe's, nearest first, earlier keyframes included."""
    sweeps: list[dict] = []
    while len(sweeps) < max_sweeps and record["prev"]:
        record = nusc.get("sample_data", record["prev"])
        sweeps.append({"img_path": record["filename"], "timestamp": record["timestamp"] / 1e6})
    return sweeps


def _instance(nusc: Any, token: str, global2lidar: np.ndarray) -> dict:
    from nuscenes.eval.detection.utils import category_to_detection_name
    from pyquaternion import Quaternion

    annotation = nusc.get("sample_annotation", token)
    centre = global2lidar @ np.append(annotation["translation"], 1.0)
    heading = global2lidar[:3, :3] @ Quaternion(annotation["rotation"]).rotation_matrix[:, 0]
    velocity = global2lidar[:3, :3] @ np.append(nusc.box_velocity(token)[:2], 0.0)
    width, length, height = annotation["size"]
    name = category_to_detection_name(annotation["category_name"])
    label = INFO_CLASSES.index(name) if name in INFO_CLASSES else -1
    return {
        "bbox_3d": [*centre[:3].tolist(), length, width, height, float(np.arctan2(heading[1], heading[0]))],
        "bbox_label": label,
        "bbox_label_3d": label,
        "velocity": velocity[:2].tolist(),
        "num_lidar_pts": annotation["num_lidar_pts"],
        "num_radar_pts": annotation["num_radar_pts"],
        "bbox_3d_isvalid": annotation["num_lidar_pts"] + annotation["num_radar_pts"] > 0,
    }
