"""Small worlds with their info files: each is written once for a whole test run and shared between its processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
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


def replace(path: Path, content: bytes) -> None:
    """Put other bytes in a file's place, so that what is linked to it stays as it was."""
    path.unlink()
    path.write_bytes(content)
