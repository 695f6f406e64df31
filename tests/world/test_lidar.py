"""The LiDAR: where its points lie, what hides what, and that culling loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
from ray_reference import cast

from aqr_bench.world import lidar
from aqr_bench.world.geometry import Solids, rotate
from aqr_bench.world.rig import LIDAR_TRANSLATION, beam_elevations
from aqr_bench.world.scene import simulate
from aqr_bench.world.spec import WorldSpec

EXACT = WorldSpec.from_dict({"range_noise_m": 0, "dropout": [0, 0], "half_return_m": 10_000})


def scan(scene, spec, time_s=0.0, dropout=0.0):
    """Return points (N, 3) and yawless ego-frame coordinates (N, 3), rings, owners and the solids of a scan."""
    solids = scene.solids(time_s).relative_to(scene.ego_pose(time_s))
    cloud, owner = lidar.scan(solids, scene.intensity, dropout, spec, np.random.default_rng(3))
    ego = np.stack([cloud[:, 1], -cloud[:, 0], cloud[:, 2]], -1) + LIDAR_TRANSLATION
    return cloud, ego, owner, solids


def signed_distance(points, solids, part):
    """Return the distance (N,) of points to the surface of a cuboid, negative inside."""
    local = points - solids.center[part]
    local = np.abs(np.concatenate([rotate(local[:, :2], -solids.yaw[part]), local[:, 2:]], 1)) - solids.half[part]
    return np.linalg.norm(np.maximum(local, 0), axis=1) + np.minimum(local.max(1), 0)


def test_fields_of_a_cloud(stage):
    cloud, ego, owner, _ = scan(stage({"at": (10, 0), "size": (4, 2, 2)}), WorldSpec())
    assert cloud.dtype == np.float32 and cloud.shape[1] == 5
    assert set(np.unique(cloud[:, 4])) <= set(range(32))
    assert cloud[:, 3].min() >= 0 and cloud[:, 3].max() <= 255 and cloud[:, 3].std() > 1
    assert np.linalg.norm(cloud[:, :3], axis=1).max() < 70.5
    elevation = np.arctan2(cloud[:, 2], np.hypot(cloud[:, 0], cloud[:, 1]))
    near = np.linalg.norm(cloud[:, :3], axis=1) > 3
    np.testing.assert_allclose(elevation[near], beam_elevations(32)[cloud[near, 4].astype(int)], atol=1e-3)
    assert np.abs(np.median(ego[owner == lidar.GROUND, 2])) < 0.01
    box = cloud[owner == 0]
    assert (box[:, 1] > 5).all() and np.abs(box[:, 0]).max() < 2  # ahead is +y in the LiDAR frame


@pytest.mark.parametrize("seed", [0, 1])
def test_points_lie_on_the_surface_of_their_object(seed):
    spec = WorldSpec.from_dict({"seed": seed, "train_scenes": 1, "val_scenes": 0})
    scene = simulate(spec, 0, 0)
    _, ego, owner, solids = scan(scene, spec, 1.0)
    assert (owner >= 0).sum() > 500
    for actor in np.unique(owner[owner >= 0]):
        hits = ego[owner == actor]
        off = np.min([np.abs(signed_distance(hits, solids, p)) for p in np.nonzero(solids.owner == actor)[0]], 0)
        assert off.max() < 6 * spec.range_noise_m
        if len(off) > 100:
            assert np.median(off) < 1.5 * spec.range_noise_m
    ground = ego[owner == lidar.GROUND]
    for part in range(len(solids)):
        assert (signed_distance(ground, solids, part) > -0.2).all()


def test_a_wall_hides_what_is_behind_it(stage):
    wall = {"at": (10, 0), "size": (0.5, 30, 6)}
    behind = {"at": (20, 0), "size": (4, 2, 2)}
    _, ego, owner, _ = scan(stage(wall, behind), EXACT)
    assert (owner == 0).sum() > 1000
    assert not (owner == 1).any()
    shadow = (ego[:, 0] > 10.3) & (np.abs(ego[:, 1]) < 0.7 * ego[:, 0])
    assert not shadow.any()
    _, _, alone, _ = scan(stage(behind), EXACT)
    assert (alone == 0).sum() > 30


def test_a_low_wall_hides_only_what_is_low(stage):
    low, tall = {"at": (10, 0), "size": (0.3, 20, 1.2)}, {"at": (16, 0), "size": (1, 4, 4)}
    _, ego, owner, _ = scan(stage(low, tall), EXACT)
    seen = ego[owner == 1]
    assert len(seen) > 30
    sight_line = 1.84 - (1.84 - 1.2) * (15.5 - 0.94) / (10.15 - 0.94)  # over the far top edge of the wall
    assert seen[:, 2].min() >= sight_line - 1e-3


@pytest.mark.parametrize("position", [(8, 0), (-9, 0.1), (-12, -4), (3, -6), (0.9, 7), (2.2, 0), (-30, 25)])
@pytest.mark.parametrize("yaw", [0.0, 0.6, 2.9])
def test_culling_by_angle_loses_no_hit(stage, position, yaw):
    scene = stage({"at": position, "size": (1.8, 0.9, 2.5), "yaw": yaw})
    _, ego, owner, solids = scan(scene, EXACT)
    azimuth = (np.arange(720) + np.random.default_rng(3).random()) * (2 * np.pi / 720) - np.pi
    level, height = np.cos(beam_elevations(32))[:, None], np.sin(beam_elevations(32))[:, None]
    rays = np.stack(np.broadcast_arrays(level * np.cos(azimuth), level * np.sin(azimuth), height)).astype(np.float32)
    origin = np.array(LIDAR_TRANSLATION)
    distance, *_ = cast(origin, rays, solids.center[0], solids.yaw[0], solids.half[0])
    hit = np.isfinite(distance)
    above = origin[2] + rays[2][hit] * distance[hit] > 0.1  # at its foot the rough ground may come first
    assert (ego[owner == 0, 2] > 0.1).sum() == above.sum() > 0


@pytest.mark.parametrize(
    ("reflectance", "distance", "share"), [(10, 26, 15 / 16), (10, 52, 0.5), (5, 52, 0.29), (2.5, 26, 0.5)]
)
def test_dark_and_far_surfaces_return_fewer_pulses(reflectance, distance, share):
    """Half of the pulses come back at half_return_m from a surface of reflectance 10 that faces the LiDAR."""
    origin = np.array(LIDAR_TRANSLATION)
    center = np.array([[origin[0] + distance + 0.1, 0.0, 2.0]])
    wall = Solids(center, np.zeros(1), np.array([[0.1, distance / 8, 2.0]]), np.array([0]))
    spec = WorldSpec.from_dict({"range_noise_m": 0, "azimuths": 8192, "beams": 64})
    counts = []
    for intensity in (reflectance, 1e9):
        _, owner = lidar.scan(wall, np.array([intensity], float), 0.0, spec, np.random.default_rng(3))
        counts.append((owner == 0).sum())
    assert counts[1] > 1000
    assert counts[0] / counts[1] == pytest.approx(share, abs=0.03)


def test_a_dark_vehicle_fades_with_distance():
    """From simulation to points: the share of pulses that a dark vehicle loses grows with its distance."""
    lost = {}
    for spec in (WorldSpec.from_dict({"dark_share": share, "seed": 5}) for share in (0.0, 1.0)):
        for index in range(3):
            scene = simulate(spec, 0, index)
            solids = scene.solids(0.0).relative_to(scene.ego_pose(0.0))
            counts = []
            for scan_spec in (spec, EXACT):
                _, owner = lidar.scan(solids, scene.intensity, 0.0, scan_spec, np.random.default_rng(3))
                counts.append(np.bincount(owner[owner >= 0], minlength=len(scene.actors)))
            for number, actor in enumerate(scene.actors):
                distance = np.hypot(*(actor.start[:2] - scene.ego_start[:2]))
                if actor.class_name in ("car", "truck", "bus", "trailer") and counts[1][number]:
                    far = distance > 22
                    lost.setdefault((spec.dark_share, far), []).append(counts[0][number] / counts[1][number])
    mean = {key: np.mean(shares) for key, shares in lost.items()}
    assert mean[0.0, False] > 0.95 and mean[0.0, True] > 0.8
    assert mean[1.0, True] < 0.65 < mean[1.0, False]


def test_dropout_and_noise_do_what_they_say(stage):
    scene = stage({"at": (10, 0), "size": (0.5, 30, 6)})
    full, *_ = scan(scene, EXACT)
    thinned, *_ = scan(scene, EXACT, dropout=0.3)
    assert 0.67 < len(thinned) / len(full) < 0.73
    _, ego, owner, _ = scan(scene, WorldSpec.from_dict({"range_noise_m": 0.1}))
    ray = ego[owner == 0] - LIDAR_TRANSLATION
    error = np.linalg.norm(ray, axis=1) * (1 - (9.75 - 0.94) / ray[:, 0])
    assert 0.09 < error.std() < 0.11
