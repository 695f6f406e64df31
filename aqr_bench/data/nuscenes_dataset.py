"""mmdet3d's NuScenesDataset for every layout of the files; registered in the place of the original."""

from __future__ import annotations

import os
from pathlib import Path

from aqr_bench import compat

compat.prepare()

from mmdet3d.datasets import NuScenesDataset as Original  # noqa: E402
from mmdet3d.registry import DATASETS  # noqa: E402

from aqr_bench.data.sensor_files import DATA_ROOT, PATH_BASE  # noqa: E402


@DATASETS.register_module(force=True)
class NuScenesDataset(Original):
    """As mmdet3d 1.4's, and for samples that name their files relative to the root (see ``data.sensor_files``).

    The original joins what an entry names to the folders of nuScenes, and of a sweep it takes the base name only.
    Where no prefix of ``data_prefix`` names a folder, all files lie side by side in ``data_root``.
    """

    def parse_data_info(self, info: dict) -> list[dict] | dict:
        flat = set(self.data_prefix.values()) == {os.path.join(self.data_root, "")}
        if not flat and info.get(PATH_BASE) != DATA_ROOT:
            return super().parse_data_info(info)
        named = [(info["lidar_points"], "lidar_path")] if "lidar_points" in info else []
        named += [(view, "img_path") for view in info.get("images", {}).values() if "img_path" in view]
        named += [(sweep["lidar_points"], "lidar_path") for sweep in info.get("lidar_sweeps", [])]
        root = Path(self.data_root)
        paths = [str(root / (Path(entry[key]).name if flat else entry[key])) for entry, key in named]
        parsed = super().parse_data_info(info)
        for (entry, key), path in zip(named, paths, strict=True):
            entry[key] = path
        if "lidar_path" in info:
            info["lidar_path"] = info["lidar_points"]["lidar_path"]
        if self.default_cam_key is not None and "img_path" in info:
            info["img_path"] = info["images"][self.default_cam_key]["img_path"]
        return parsed
