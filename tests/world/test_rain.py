"""Scenes in the rain: the dry scene's streets and objects, seen worse by both sensors, and named in the tables."""

from __future__ import annotations

import numpy as np
import pytest

from aqr_bench.metrics.slices import SCENE_SLICES, scene_condition
from aqr_bench.world import lidar
from aqr_bench.world.camera import render
from aqr_bench.world.scene import Scene, simulate, stream
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.tables import SceneTables

LIGHT = {"night_share": 0.3, "dusk_share": 0.3, "image_size": [88, 48]}
DRY, RAIN = (WorldSpec.from_dict({**LIGHT, "rain_share": share}) for share in (0.0, 1.0))
HALF = WorldSpec.from_dict({**LIGHT, "rain_share": 0.5, "objects_per_frame": 1, "clutter": 0})  # quick to simulate
INDICES = range(4)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Scene, Scene]]:
    return [(simulate(DRY, 0, index), simulate(RAIN, 0, index)) for index in INDICES]


def cloud(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Ranges (N,) in metres and owners (N,) of one scan."""
    solids = scene.solids(0.0).relative_to(scene.ego_pose(0.0))
    rng = stream(DRY, 0, scene.index, 1, 0, 0)
    points, owners = lidar.scan(solids, scene.intensity, scene.dropout, DRY, rng, scene.rain)
    return np.linalg.norm(points[:, :3], axis=1), owners


def images(scene: Scene) -> np.ndarray:
    pose = scene.ego_pose(0.0)
    solids = scene.solids(0.0).relative_to(pose)
    return np.array(render(scene, solids, pose, DRY.image_size, stream(DRY, 0, scene.index, 2, 0, 0))[0])


def test_worlds_without_rain_are_what_they_were():
    assert "rain_share" not in DRY.as_dict() and WorldSpec.from_dict(DRY.as_dict()) == DRY
    assert WorldSpec().sha256 == "001815dc61d34f9c1a13a900f50a700341ded0410177aedc13fe1a0ab3c1df27"
    assert RAIN.as_dict()["rain_share"] == 1 and WorldSpec.from_dict(RAIN.as_dict()) == RAIN
    assert RAIN.sha256 != DRY.sha256


def test_rain_changes_the_weather_and_nothing_else(pairs):
    for dry, wet in pairs:
        assert wet.rain and not dry.rain and wet.light.name == dry.light.name
        for one, other in zip(dry.actors + dry.scenery, wet.actors + wet.scenery, strict=True):
            np.testing.assert_array_equal(one.start, other.start)
            np.testing.assert_array_equal(one.textures, other.textures)
    assert 5 < sum(simulate(HALF, 0, index).rain for index in range(24)) < 19


def test_the_lidar_sees_less_far_away_and_drops_near_the_car(pairs):
    for dry, wet in pairs:
        (before, owner_before), (after, owner_after) = cloud(dry), cloud(wet)
        far = [(ranges > 25).sum() for ranges in (before, after)]
        assert far[1] < 0.85 * far[0]
        assert (owner_after >= 0).sum() < (owner_before >= 0).sum()
        near = [
            ((ranges < 12) & (owner == lidar.GROUND)).sum()
            for ranges, owner in ((before, owner_before), (after, owner_after))
        ]
        assert near[1] > near[0] + 50
        np.testing.assert_array_equal(after, cloud(wet)[0])


def test_images_are_darker_with_less_contrast(pairs):
    for dry, wet in pairs:
        before, after = images(dry), images(wet)
        assert 5 < after.mean() < 0.9 * before.mean() and after.std() < 0.9 * before.std()
        np.testing.assert_array_equal(after, images(wet))


def test_descriptions_have_the_words_of_nuscenes():
    seen = set()
    for index in range(12):
        scene = simulate(HALF, 1, index)
        (row,) = SceneTables(HALF, scene, "scene-0001").records["scene"]
        light, rain = (names[scene_condition(key, row["description"])] for key, names in SCENE_SLICES.items())
        assert (light, rain) == (scene.light.name, "rain" if scene.rain else "dry")
        assert ("Rain" in row["description"], "Night" in row["description"]) == (scene.rain, scene.light.night)
        seen.add((light, rain))
    assert len(seen) >= 4
    (row,) = SceneTables(DRY, simulate(DRY, 1, 0), "scene-0001").records["scene"]
    assert row["description"].startswith(f"Synthetic, {simulate(DRY, 1, 0).light.name}, ")
