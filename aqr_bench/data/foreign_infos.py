"""The val info file of mmdet3d 1.x (``nuscenes_infos_val.pkl``), taken for an evaluation where it fits the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aqr_bench.atomic import write_text
from aqr_bench.data.complete_scenes import CHANNELS
from aqr_bench.data.dataset import check_info_file, data_command, data_summary
from aqr_bench.data.infos import CHECK, INFO_CLASSES, write_infos
from aqr_bench.data.raw_frames import read_info_file
from aqr_bench.errors import UserError, join_names, quoted, reading, require_file, short
from aqr_bench.metrics.splits import TEST, VERSIONS, read_splits

SENSOR_KEYS = {"lidar_points": ("lidar_path", "lidar2ego"), "images": ("img_path", "cam2img", "lidar2cam")}


def import_infos(file: str | Path, out: str | Path) -> Path:
    """Write ``infos_val.pkl`` and ``data.json`` to ``out``, from an info file that lies in the root of its data set.

    The entries are taken as they are, with the scene and the sample before, which some conditions need, from the
    tables. Nothing can be trained on them.

    Args:
        file: as mmdet3d's ``tools/create_data.py`` leaves it, beside ``v1.0-trainval/``, ``samples/`` and ``sweeps/``.
    Returns:
        The folder ``out``.
    Raises:
        UserError: the file does not fit: what is wrong, and the command that makes info files from the tables.
    """
    file, out = require_file(file, "info file", "Give the nuscenes_infos_val.pkl of mmdet3d 1.x."), Path(out)
    check_info_file(file)
    content = read_info_file(file)
    version, root = content["metainfo"].get("version"), file.parent.resolve()
    known = version in VERSIONS and version != TEST
    remedy = f"Make info files from the tables: {data_command(root, version if known else None)}"
    if not known:
        raise UserError(f"{file}: its metainfo has version {quoted(version)}, which is none of nuScenes'", remedy)
    if not (root / version).is_dir():
        what = f"{file}: the tables are not beside it: no folder {root / version}"
        raise UserError(what, f"Move or link it to the root of the data set. Or: {remedy}")
    if (fault := _fault(content)) is not None:
        raise UserError(f"{file} cannot be used: {fault}", remedy)
    samples = _val_samples(root, version)
    tokens = [entry["token"] for entry in content["data_list"]]
    if len(set(tokens)) != len(tokens) or set(tokens) != samples.keys():
        other = len(set(tokens) - samples.keys())
        what = f"{len(tokens)} samples, {other} of them not of the val split, which has {len(samples)}"
        raise UserError(f"{file} does not fit the tables in {root / version}: it has {what}", remedy)
    entries = [{**entry, **samples[entry["token"]]} for entry in content["data_list"]]
    infos = {"train": [], "val": entries}
    paths = write_infos(infos, out, version)
    sweeps = max(len(entry.get("lidar_sweeps", ())) for entry in entries)
    write_text(out / "data.json", json.dumps(data_summary(root, version, out, infos, paths, sweeps), indent=1))
    return out


def _val_samples(root: Path, version: str) -> dict[str, dict[str, str]]:
    """By token of the samples of the val split: token of the scene and of the sample before, as our entries have."""
    names = set(read_splits(root, version)["val"].scenes)
    with reading(root / version, "the nuScenes tables", CHECK):
        rows = {name: json.loads((root / version / f"{name}.json").read_bytes()) for name in ("scene", "sample")}
        scenes = {scene["token"] for scene in rows["scene"] if scene["name"] in names}
        return {
            sample["token"]: {"scene_token": sample["scene_token"], "prev": sample["prev"]}
            for sample in rows["sample"]
            if sample["scene_token"] in scenes
        }


def _fault(content: Mapping[str, Any]) -> str | None:
    """What an info file has otherwise than the pipelines and the conditions need it; None if nothing."""
    categories = content["metainfo"].get("categories", content["metainfo"].get("CLASSES"))
    if isinstance(categories, Mapping):
        categories = sorted(categories, key=categories.get)
    if list(categories or ()) != list(INFO_CLASSES):
        return f"its classes are {quoted(categories, 160)}, and not nuScenes' ten in mmdet3d's order"
    for number, entry in enumerate(content["data_list"]):
        if missing := list(_missing_keys(entry)):
            return f"sample {number} ({short(entry.get('token'))}) has no {join_names(missing)}"
    return None


def _missing_keys(entry: Mapping[str, Any]) -> Iterator[str]:
    """Dotted keys that an entry lacks."""
    yield from (key for key in ("token", "timestamp", "ego2global", *SENSOR_KEYS) if key not in entry)
    parts = [("lidar_points", "lidar_points", entry.get("lidar_points"))]
    cameras = entry.get("images")
    if isinstance(cameras, Mapping):
        parts += [(f"images.{name}", "images", cameras.get(name)) for name in CHANNELS[1:]]
    for name, kind, part in parts:
        yield from (f"{name}.{key}" for key in SENSOR_KEYS[kind] if part is None or key not in part)
    for sweep in entry.get("lidar_sweeps", ()):
        if "timestamp" not in sweep or not {"lidar_path", "lidar2sensor"} <= sweep.get("lidar_points", {}).keys():
            yield "lidar_sweeps with timestamp, lidar_points.lidar_path and lidar_points.lidar2sensor"
            return
