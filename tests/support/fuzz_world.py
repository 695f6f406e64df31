"""The smallest world with its info files, written once, and copies of it that may be spoiled."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path

from aqr_bench.data.__main__ import main as prepare
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

SPEC = dict(version="v1.0-mini", train_scenes=1, val_scenes=1, frames_per_scene=2, objects_per_frame=3, half_range_m=20)
SIZES = dict(image_size=[48, 32], beams=4, azimuths=64)


@functools.cache
def small_world() -> Path:
    """A folder with ``world/`` and ``infos/``; it is not to be written to."""
    folder = Path(tempfile.mkdtemp(prefix="aqr-bench-fuzz-"))
    write_world(WorldSpec.from_dict(SPEC | SIZES), folder / "world", workers=1, quiet=True)
    root, out = str(folder / "world"), str(folder / "infos")
    assert prepare(["--version", "v1.0-mini", "--root", root, "--out", out, "--quiet"]) == 0
    return folder


def linked_copy(source: Path, target: Path) -> Path:
    """A copy made of hard links; a file in it is spoiled by being replaced, never by being written into."""
    shutil.copytree(source, target, copy_function=os.link)
    return target


def replace(path: Path, content: bytes) -> None:
    """Put other bytes in a file's place, so that what is linked to it stays whole."""
    path.unlink()
    path.write_bytes(content)
