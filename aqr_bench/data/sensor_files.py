"""Where the files lie that an info file names: in nuScenes' folders by base name, or at any path below the root.

mmdet3d's info files hold base names, and its data set puts ``samples/CHANNEL`` or ``sweeps/CHANNEL`` before them. The
entry of a sample with a file anywhere else says so (``path_base: data_root``), and then names all of its files as the
tables do: relative to the root.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

PATH_BASE, DATA_ROOT = "path_base", "data_root"


def sensor_file(info: Mapping[str, Any], root: Path, channel: str, name: str, keyframe: bool = True) -> Path:
    """The file that an info entry names as a recording of ``channel``, a keyframe's or an earlier one's."""
    if info.get(PATH_BASE) == DATA_ROOT:
        return root / name
    is_sample = keyframe or "samples" in name  # as mmdet3d tells an earlier keyframe among the sweeps from the others
    return root / ("samples" if is_sample else "sweeps") / channel / PurePosixPath(name).name


def with_short_names(info: dict[str, Any]) -> dict[str, Any]:
    """The entry as mmdet3d has it where all files lie in nuScenes' folders; else marked, and with names as they are.

    Args:
        info: an entry whose files are all named relative to the root; it is changed.
    """
    recordings = [("LIDAR_TOP", info["lidar_points"]["lidar_path"], True)]
    recordings += [("LIDAR_TOP", sweep["lidar_points"]["lidar_path"], False) for sweep in info["lidar_sweeps"]]
    for camera, view in info["images"].items():
        recordings.append((camera, view["img_path"], True))
        recordings += [(camera, sweep["img_path"], False) for sweep in view["sweeps"]]
    root = Path()
    if any(sensor_file(info, root, channel, name, keyframe) != Path(name) for channel, name, keyframe in recordings):
        return info | {PATH_BASE: DATA_ROOT}
    for named, key in [(info["lidar_points"], "lidar_path"), *((view, "img_path") for view in info["images"].values())]:
        named[key] = PurePosixPath(named[key]).name
    return info
