"""mmdet3d without any class of ours: its converter of nuScenes tables, its data set, its loaders, its metric."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from aqr_bench import compat
from aqr_bench.data.complete_scenes import CHANNELS

compat.prepare()

import mmdet3d  # noqa: E402
import torch  # noqa: E402
from mmdet3d.datasets import NuScenesDataset  # noqa: E402  the original: ours replaces it in the registry alone
from mmdet3d.evaluation import NuScenesMetric  # noqa: E402
from mmdet3d.registry import TRANSFORMS  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402

VERSION = "v1.0-mini"
INFOS = "nuscenes_infos_val.pkl"
POINTS = {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5}
IMAGES = {"type": "LoadMultiViewImageFromFiles"}
# CenterPoint's.
SWEEPS = {"type": "LoadPointsFromMultiSweeps", "sweeps_num": 9, "use_dim": [0, 1, 2, 3, 4], "test_mode": True}
SWEEPS |= {"pad_empty_sweeps": True, "remove_close": True}


def convert(root: Path, folder: Path) -> Path:
    """The val info file that mmdet3d's own tools make of a root, in ``folder``; the root stays as it is."""
    linked = folder / "data" / "nuscenes"  # the tools have this path in them
    linked.mkdir(parents=True)
    for entry in root.iterdir():
        (linked / entry.name).symlink_to(entry)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        _tool("nuscenes_converter").create_nuscenes_infos("./data/nuscenes", "nuscenes", VERSION, max_sweeps=10)
        _tool("update_infos_to_v2").update_nuscenes_infos(f"data/nuscenes/{INFOS}", str(folder))
    return folder / INFOS


def dataset(root: Path, infos: Path, steps: Sequence[Any], classes: Sequence[str], kind: type = NuScenesDataset) -> Any:
    """mmdet3d's data set of a root, or another ``kind`` of the same arguments."""
    prefix = {channel: f"samples/{channel}" for channel in CHANNELS[1:]}
    prefix |= {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP"}
    where = {"data_root": str(root), "ann_file": str(infos), "data_prefix": prefix}
    where["serialize_data"] = False  # it would collect garbage, which takes a second
    what = {"modality": {"use_lidar": True, "use_camera": True}, "metainfo": {"classes": list(classes)}}
    with contextlib.redirect_stdout(io.StringIO()):
        pipeline = [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in steps]
        return kind(**where, **what, pipeline=pipeline, test_mode=True, box_type_3d="LiDAR")


def evaluate(model: Any, data: Any, out: Path) -> tuple[dict[str, float], dict[str, list[dict]]]:
    """Scores by mmdet3d's NuScenesMetric, by their short names, and the detections of the submission by sample."""
    metric = NuScenesMetric(data_root=data.data_root, ann_file=data.ann_file, jsonfile_prefix=str(out))
    metric.dataset_meta = {**data.metainfo, "version": VERSION}
    with torch.no_grad():
        for index in range(len(data)):
            batch = pseudo_collate([data[index]])
            metric.process(batch, [sample.to_dict() for sample in model.test_step(batch)])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        scores = metric.evaluate(len(data))
    (submission,) = out.rglob("results_nusc.json")
    scores = {key.rpartition("/")[2]: value for key, value in scores.items()}
    return scores, json.loads(submission.read_text())["results"]


def _tool(name: str) -> ModuleType:
    path = Path(mmdet3d.__file__).parent / ".mim" / "tools" / "dataset_converters" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"mmdet3d_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
