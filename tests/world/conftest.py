"""A tiny world, written once per session, and small scenes put together by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aqr_bench.world.actor import Actor
from aqr_bench.world.light import Light
from aqr_bench.world.scene import Scene
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

TINY = {"version": "v1.0-mini", "train_scenes": 2, "val_scenes": 2, "frames_per_scene": 3, "seed": 64}


@pytest.fixture(scope="session")
def tiny_spec() -> WorldSpec:
    return WorldSpec.from_dict(TINY)


@pytest.fixture(scope="session")
def tiny_root(tiny_spec, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world") / "tiny"
    write_world(tiny_spec, root)
    return root


@pytest.fixture(scope="session")
def nusc(tiny_root):
    from nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(tiny_root), verbose=False)


@pytest.fixture
def stage():
    """Return a function that builds a scene, at noon, without noise, out of plain boxes around a standing car."""

    def build(*boxes: dict, sun=(0.0, 0.0, 1.0), ego=(0.0, 0.0, 0.0)) -> Scene:
        actors = []
        for box in boxes:
            size = np.array(box["size"], float)
            texture = np.broadcast_to(np.array(box.get("colour", (0.5, 0.5, 0.5)), np.float32), (1, 6, 16, 16, 3))
            actors.append(
                Actor(
                    class_name="bus",
                    category="vehicle.bus.rigid",
                    attribute="vehicle.parked",
                    size=size,
                    start=np.array([*box["at"], box.get("yaw", 0.0)], float),
                    speed=0.0,
                    yaw_rate=0.0,
                    parts=np.array([[0, 0, size[2] / 2, *(size / 2)]]),
                    textures=box.get("textures", texture),
                    intensity=np.array([50.0]),
                )
            )
        grey = np.full(3, 0.5)
        light = Light(False, 1.0, np.array(sun), 1.0, 1.0, grey, grey, grey, grey, 0.0)
        return Scene(0, 0, np.array(ego, float), 0.0, 0.0, light, 0.0, tuple(actors))

    return build
