"""Small worlds with their info files: each is written once for a whole test run and shared between its processes."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared_files import shared_folder

from aqr_bench.data.__main__ import main as write_infos
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world


def shared_world(**spec: Any) -> Path:
    """A folder with ``world/`` and ``infos/`` of a world of these settings; it is not to be written to."""
    spec = {"version": "v1.0-mini", **spec}

    def write(folder: Path) -> None:
        write_world(WorldSpec.from_dict(spec), folder / "world", workers=1, quiet=True)
        paths = ["--root", str(folder / "world"), "--out", str(folder / "infos")]
        assert write_infos(["--version", spec["version"], *paths, "--quiet"]) == 0

    name = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]
    return shared_folder(f"world-{name}", write)


def copy_infos(folder: Path, **spec: Any) -> Path:
    """Copies of the info files of a shared world, beside which a test may write; returns ``folder``."""
    source = shared_world(**spec)
    shutil.copytree(source / "infos", folder, dirs_exist_ok=True)
    summary = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps({**summary, "root": os.path.relpath(source / "world", folder)}))
    return folder


def smallest_world() -> Path:
    """A shared world of two scenes, two keyframes each."""
    sizes = dict(half_range_m=20, image_size=[48, 32], beams=4, azimuths=64)
    return shared_world(train_scenes=1, val_scenes=1, frames_per_scene=2, objects_per_frame=3, **sizes)


def linked_copy(source: Path, target: Path) -> Path:
    """A copy made of hard links; a file in it is spoiled by being replaced, never by being written into."""
    return shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)


def with_tables_to_edit(world: Path, root: Path, version: str = "v1.0-mini") -> Path:
    """The world with tables of its own, which a test may change; sensor files and maps are links."""
    shutil.copytree(world / version, root / version)
    for name in ("samples", "sweeps", "maps"):
        (root / name).symlink_to(world / name)
    return root


# Names of a recording in layouts that are not nuScenes': (scene, channel, number in its folder, suffix) to a path.
LAYOUTS: dict[str, Callable[[int, str, int, str], str]] = {
    # As Lyft's: keyframes and sweeps side by side, all cameras in one folder.
    "lyft": lambda scene, channel, number, suffix: (
        f"train_{'lidar' if channel == 'LIDAR_TOP' else 'images'}/host-a{scene}_{channel.lower()}_{number}{suffix}"
    ),
    # As T4's: equal base names in the folders of all sensors.
    "t4": lambda scene, channel, number, suffix: f"data/{channel}/{number:05d}{suffix}",
    # A folder for each drive, and equal base names in all of them.
    "drives": lambda scene, channel, number, suffix: f"drive-{scene}/{channel.lower()}/{number:04d}{suffix}",
}


def in_layout(world: Path, root: Path, layout: str, version: str = "v1.0-mini") -> Path:
    """The world with its files at the paths of ``LAYOUTS``, as links; nothing is at nuScenes' paths."""
    shutil.copytree(world / version, root / version)
    (root / "maps").symlink_to(world / "maps")
    tables = {name: json.loads((root / version / f"{name}.json").read_text()) for name in ("sample", "sample_data")}
    tokens = list(dict.fromkeys(sample["scene_token"] for sample in tables["sample"]))
    scene = {sample["token"]: tokens.index(sample["scene_token"]) for sample in tables["sample"]}
    for row in tables["sample_data"]:
        before, number = Path(row["filename"]), 0
        while True:
            name = LAYOUTS[layout](scene[row["sample_token"]], before.parts[1], number, before.suffix)
            if not os.path.lexists(root / name):
                break
            number += 1
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(world / before, root / name)
        row["filename"] = name
    (root / version / "sample_data.json").write_text(json.dumps(tables["sample_data"]))
    return root


def as_test_split(world: Path, root: Path, version: str = "v1.0-mini") -> Path:
    """The world as nuScenes publishes its test split: version v1.0-test, scenes of that split, nothing annotated."""
    from nuscenes.utils.splits import create_splits_scenes

    with_tables_to_edit(world, root, version)
    tables = (root / version).rename(root / "v1.0-test")
    for name in ("instance", "sample_annotation"):
        (tables / f"{name}.json").write_text("[]")
    scenes = json.loads((tables / "scene.json").read_text())
    for scene, name in zip(scenes, create_splits_scenes()["test"], strict=False):
        scene["name"] = name
    (tables / "scene.json").write_text(json.dumps(scenes))
    return root


def link_tables(folder: Path, root: Path, version: str = "v1.0-mini") -> Path:
    """A root with the tables as links and empty map masks, which nuscenes-devkit asks for and nothing opens."""
    (root / version).mkdir(parents=True)
    (root / "maps").mkdir()
    for table in (folder / version).iterdir():
        (root / version / table.name).symlink_to(table)
    for mask in json.loads((folder / version / "map.json").read_text()):
        (root / mask["filename"]).touch()
    return root


def as_mmdet3d_writes(infos: dict) -> dict:
    """Our info file without what mmdet3d's has not: scenes, the samples before, images between keyframes."""
    infos = copy.deepcopy(infos)
    for entry in infos["data_list"]:
        for key in ("scene_token", "prev"):
            del entry[key]
        for view in entry["images"].values():
            for key in ("sweeps", "height", "width"):
                del view[key]
        if not entry["lidar_sweeps"]:
            del entry["lidar_sweeps"]
    return infos


def replace(path: Path, content: bytes) -> None:
    """Put other bytes in a file's place, so that what is linked to it stays as it was."""
    path.unlink()
    path.write_bytes(content)
