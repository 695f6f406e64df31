"""One small world for all tests of the data room, with its info files and database; nobody writes into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

VERSION = "v1.0-mini"


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A nuScenes root of two train scenes and one val scene, two keyframes each."""
    folder = tmp_path_factory.mktemp("data") / "world"
    spec = dict(version=VERSION, train_scenes=2, val_scenes=1, frames_per_scene=2, seed=75)  # it lacks a class
    write_world(WorldSpec.from_dict(spec), folder)
    return folder


@pytest.fixture(scope="session")
def nusc(world):
    from aqr_bench.data.infos import open_nuscenes

    return open_nuscenes(world, VERSION)


@pytest.fixture(scope="session")
def infos(nusc) -> dict[str, list[dict]]:
    """Info entries by split; copy before a change."""
    from aqr_bench.data.infos import build_infos

    return build_infos(nusc)


@pytest.fixture(scope="session")
def database(world, infos) -> tuple[Path, dict[str, int]]:
    """(folder of info files and ground-truth database, its number of objects of each class), by one process."""
    from aqr_bench.data.gt_database import build_database
    from aqr_bench.data.infos import write_infos

    folder = world.parent / "infos"
    write_infos(infos, folder, VERSION)
    return folder, build_database(folder, world, folder)
